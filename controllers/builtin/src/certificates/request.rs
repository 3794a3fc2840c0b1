//! What a request asks for, and which of Kubernetes' own signers grants that.

use std::collections::BTreeSet;

use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::cri_attributes::ParsedCriAttribute;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::pem::Pem;
use x509_parser::prelude::FromDer;

const NODES: &str = "system:nodes";
const NODE_PREFIX: &str = "system:node:";

/// A name by which the holder is known besides its subject.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AlternativeName {
    Dns(String),
    Email(String),
    Uri(String),
    Ip(Vec<u8>),
}

impl AlternativeName {
    /// What it is called in errors.
    fn kind(&self) -> &'static str {
        match self {
            Self::Dns(_) => "DNS",
            Self::Email(_) => "Email",
            Self::Uri(_) => "URI",
            Self::Ip(_) => "IP",
        }
    }
}

/// What is asked for.
#[derive(Debug)]
pub struct Request {
    pub common_name: String,
    pub organizations: Vec<String>,
    pub names: Vec<AlternativeName>,
    /// The subject in DER.
    pub subject: Vec<u8>,
    /// The public key with its algorithm in DER.
    pub key: Vec<u8>,
}

impl Request {
    /// Reads PEM. The API has accepted the request, so that its signature is right.
    pub fn parse(pem: &[u8]) -> Result<Self, String> {
        let block = Pem::iter_from_buffer(pem).next();
        let block = block.ok_or("no PEM block")?.map_err(|e| e.to_string())?;
        let parsed = X509CertificationRequest::from_der(&block.contents);
        let (_, request) = parsed.map_err(|e| e.to_string())?;
        let info = &request.certification_request_info;
        let texts = |values: Vec<&str>| values.into_iter().map(str::to_owned).collect::<Vec<_>>();
        let common = info.subject.iter_common_name();
        let common = texts(common.filter_map(|v| v.as_str().ok()).collect());
        let organizations = info.subject.iter_organization();
        Ok(Self {
            // Of several the last counts, as for whoever reads the certificate.
            common_name: common.into_iter().next_back().unwrap_or_default(),
            organizations: texts(organizations.filter_map(|v| v.as_str().ok()).collect()),
            names: alternative_names(&request),
            subject: info.subject.as_raw().to_vec(),
            key: info.subject_pki.raw.to_vec(),
        })
    }
}

fn alternative_names(request: &X509CertificationRequest<'_>) -> Vec<AlternativeName> {
    let mut found = Vec::new();
    for attribute in request.certification_request_info.iter_attributes() {
        let ParsedCriAttribute::ExtensionRequest(asked) = attribute.parsed_attribute() else {
            continue;
        };
        for extension in &asked.extensions {
            let ParsedExtension::SubjectAlternativeName(names) = extension.parsed_extension()
            else {
                continue;
            };
            found.extend(names.general_names.iter().filter_map(|name| match name {
                GeneralName::DNSName(name) => Some(AlternativeName::Dns((*name).to_owned())),
                GeneralName::RFC822Name(name) => Some(AlternativeName::Email((*name).to_owned())),
                GeneralName::URI(name) => Some(AlternativeName::Uri((*name).to_owned())),
                GeneralName::IPAddress(bytes) => Some(AlternativeName::Ip(bytes.to_vec())),
                _ => None,
            }));
        }
    }
    found
}

/// Whether `usages` are those of a node's certificate; keys other than RSA encipher nothing.
fn usages_are(usages: &[String], purpose: &str) -> Result<(), String> {
    let given: BTreeSet<&str> = usages.iter().map(String::as_str).collect();
    let all = BTreeSet::from(["digital signature", "key encipherment", purpose]);
    let fewer = BTreeSet::from(["digital signature", purpose]);
    if given == all || given == fewer {
        return Ok(());
    }
    let list: Vec<&str> = all.into_iter().collect();
    Err(format!("usages did not match [{}]", list.join(" ")))
}

fn is_of_nodes(request: &Request) -> Result<(), String> {
    if request.organizations == [NODES] {
        return Ok(());
    }
    Err("subject organization is not system:nodes".to_owned())
}

fn names_a_node(request: &Request) -> Result<(), String> {
    if request.common_name.starts_with(NODE_PREFIX) {
        return Ok(());
    }
    Err("subject common name does not begin with system:node:".to_owned())
}

/// What keeps a request from being that of a node for its client certificate.
pub fn of_kubelet_client(request: &Request, usages: &[String]) -> Result<(), String> {
    is_of_nodes(request)?;
    // In the order in which Kubernetes complains.
    for what in ["DNS", "Email", "IP", "URI"] {
        if request.names.iter().any(|name| name.kind() == what) {
            return Err(format!("{what} subjectAltNames are not allowed"));
        }
    }
    names_a_node(request)?;
    usages_are(usages, "client auth")
}

/// What keeps a request from being that of a node for the certificate of its own server.
pub fn of_kubelet_serving(request: &Request, usages: &[String]) -> Result<(), String> {
    is_of_nodes(request)?;
    let has = |is: fn(&AlternativeName) -> bool| request.names.iter().any(is);
    if !has(|name| matches!(name, AlternativeName::Dns(_) | AlternativeName::Ip(_))) {
        return Err("DNS or IP subjectAltName is required".to_owned());
    }
    if has(|name| matches!(name, AlternativeName::Email(_))) {
        return Err("Email subjectAltNames are not allowed".to_owned());
    }
    if has(|name| matches!(name, AlternativeName::Uri(_))) {
        return Err("URI subjectAltNames are not allowed".to_owned());
    }
    usages_are(usages, "server auth")?;
    names_a_node(request)
}

/// What keeps usages from being those of a client of the API.
pub fn of_api_client(usages: &[String]) -> Result<(), String> {
    for usage in usages {
        let fits = matches!(
            usage.as_str(),
            "digital signature" | "key encipherment" | "client auth"
        );
        if !fits {
            return Err(format!("invalid usage for client certificate: {usage}"));
        }
    }
    if usages.iter().any(|usage| usage == "client auth") {
        return Ok(());
    }
    Err("missing required usage for client certificate: client auth".to_owned())
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};

    use super::*;

    #[test]
    fn of_several_common_names_the_last_counts() {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let names = &mut params.distinguished_name;
        names.push(DnType::CommonName, "system:node:n");
        // The builder keeps one of a kind: this is the same by its number.
        names.push(DnType::CustomDnType(vec![2, 5, 4, 3]), "admin");
        let key = KeyPair::generate().expect("a key");
        let made = params.serialize_request(&key).expect("a request");
        let pem = made.pem().expect("PEM");
        let read = Request::parse(pem.as_bytes()).expect("it is one");
        assert_eq!(read.common_name, "admin");
    }
}
