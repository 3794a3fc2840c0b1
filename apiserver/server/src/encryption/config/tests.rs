use super::*;

const SECRET: &str = "MTIzNDU2Nzg5MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTI=";

fn parse(resources: &str) -> Result<Vec<Rule>, String> {
    let text = format!("apiVersion: {API_VERSION}\nkind: {KIND}\nresources:\n{resources}");
    EncryptionConfiguration::parse(&text)
}

fn with_providers(providers: &str) -> Result<Vec<Rule>, String> {
    parse(&format!(
        "- resources: [secrets]\n  providers: [{providers}]"
    ))
}

fn with_resources(resources: &str) -> Result<Vec<Rule>, String> {
    parse(&format!(
        "- resources: [{resources}]\n  providers: [{{identity: {{}}}}]"
    ))
}

#[test]
fn providers_and_keys_keep_their_order() {
    let rules = with_providers(&format!(
        "{{aesgcm: {{keys: [{{name: a, secret: {SECRET}}}, {{name: b, secret: {SECRET}}}]}}}}, {{aescbc: {{keys: [{{name: c, secret: \
         {SECRET}}}]}}}}, {{secretbox: {{keys: [{{name: d, secret: {SECRET}}}]}}}}, {{kms: {{apiVersion: v2, name: vault, endpoint: \
         'unix:///run/kms.sock', timeout: 5s}}}}, {{identity: {{}}}}"
    ))
    .expect("valid");
    let [rule] = rules.as_slice() else {
        panic!("one rule")
    };
    assert_eq!(rule.resources, ["secrets"]);
    let [
        Provider::AesGcm(gcm),
        Provider::AesCbc(cbc),
        Provider::Secretbox(boxed),
        Provider::Kms(kms),
        Provider::Identity,
    ] = rule.providers.as_slice()
    else {
        panic!("{rule:?}")
    };
    let names: Vec<&str> = gcm.iter().map(|key| key.name.as_str()).collect();
    assert_eq!(names, ["a", "b"]);
    assert_eq!(gcm[0].secret, b"12345678901234567890123456789012");
    assert_eq!((cbc.len(), boxed.len()), (1, 1));
    assert_eq!(
        (kms.name.as_str(), kms.timeout),
        ("vault", Duration::from_secs(5))
    );
}

#[test]
fn names_of_resources_are_taken_as_kubernetes_takes_them() {
    let rules = with_resources("secrets., deployments.apps, '*.batch'").expect("valid");
    assert_eq!(
        rules[0].resources,
        ["secrets", "deployments.apps", "*.batch"]
    );
    assert_eq!(with_resources("'*.'").expect("valid")[0].resources, ["*."]);
    assert_eq!(
        with_resources("'*.*'").expect("valid")[0].resources,
        ["*.*"]
    );
    for (names, why) in [
        ("'*'", STAR),
        ("Secrets", RESOURCE_NAME),
        ("serviceipallocations", NOT_REST),
        ("events.events.k8s.io", EVENTS),
        ("deployments.extensions", EXTENSIONS),
        ("'secrets.*'", ACROSS_GROUPS),
        ("secrets, secrets", DUPLICATE),
        ("secrets, '*.'", OVERLAP),
        ("deployments.apps, '*.*'", OVERLAP),
    ] {
        let error = with_resources(names).expect_err(names);
        assert!(error.contains(why), "{names}: {error}");
    }
}

#[test]
fn what_is_wrong_is_told_without_the_keys() {
    let key = |secret: &str| format!("{{secretbox: {{keys: [{{name: a, secret: {secret}}}]}}}}");
    for (providers, why) in [
        (
            key("c2hvcnQtYW5kLXNlY3JldA=="),
            "resources[0].providers[0].secretbox.keys[0].secret: Invalid value: \"REDACTED\": secret is not of the expected length, got 16",
        ),
        (
            key("not~base64~and~secret"),
            "resources[0].providers[0].secretbox.keys[0].secret: Invalid value: \"REDACTED\": secrets must be base64 encoded",
        ),
        (
            "{aescbc: {keys: []}}".to_owned(),
            "resources[0].providers[0].aescbc.keys: Required value: at least one keys is required",
        ),
        (
            format!("{{aescbc: {{keys: [{{secret: {SECRET}}}]}}}}"),
            "resources[0].providers[0].aescbc.keys[0].name: Required value: name is a mandatory field for a key",
        ),
        ("{}".to_owned(), NO_PROVIDER),
        (
            "{identity: {}, secretbox: {keys: []}}".to_owned(),
            MORE_THAN_ONE,
        ),
        (
            "{kms: {name: a, endpoint: 'unix:///a'}}".to_owned(),
            KMS_V1,
        ),
        (
            "{kms: {apiVersion: v2, name: 'a:b', endpoint: 'tcp://a', cachesize: 5, timeout: 0s}}".to_owned(),
            "unsupported scheme \"tcp\" for KMS provider, only unix is supported",
        ),
        (
            "{kms: {apiVersion: v2, name: a, endpoint: 'unix:///a'}}, {kms: {apiVersion: v2, name: a, endpoint: 'unix:///b'}}"
                .to_owned(),
            "duplicate KMS provider name a, names must be unique",
        ),
    ] {
        let error = with_providers(&providers).expect_err(&providers);
        assert!(error.contains(why), "{providers}: {error}");
        assert!(!error.contains("c2hvcnQ") && !error.contains("~base64~"), "{error}");
    }
}

#[test]
fn a_file_that_is_no_configuration_is_refused_without_its_text() {
    for text in [
        format!("kind: {KIND}\nsecret: {SECRET}"),
        format!("apiVersion: {API_VERSION}\nkind: Pod"),
        format!("apiVersion: {API_VERSION}\nkind: {KIND}"),
        format!(
            "apiVersion: {API_VERSION}\nkind: {KIND}\nresources:\n- resources: [secrets]\n  providers:\n  - aesgcm: {SECRET}"
        ),
        format!("{SECRET}: ["),
        String::new(),
    ] {
        let error = match EncryptionConfiguration::parse(&text) {
            Ok(_) => panic!("{text}"),
            Err(error) => error,
        };
        assert!(!error.contains(SECRET), "{error}");
    }
}
