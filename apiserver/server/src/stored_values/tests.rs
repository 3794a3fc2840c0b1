use corral_storage::conformance::{commit, create};
use corral_storage::embedded::{EmbeddedConfig, EmbeddedMetrics, EmbeddedStore};
use tempfile::TempDir;

use super::*;

async fn make() -> (Arc<dyn Storage>, TempDir) {
    let directory = TempDir::new().expect("temporary directory");
    let config = EmbeddedConfig::new(directory.path());
    let store = EmbeddedStore::open(config, EmbeddedMetrics::default()).expect("open");
    (StoredValues::over(store), directory)
}

mod contract {
    corral_storage::storage_conformance!(crate::stored_values::tests::make);
}

#[test]
fn json_in_another_order_becomes_canonical() {
    for (stored, shown) in [
        (
            "{\"kind\":\"A\",\"apiVersion\":\"v1\",\"metadata\":{\"name\":\"a\",\"resourceVersion\":\"5\"}}\n",
            "{\"apiVersion\":\"v1\",\"kind\":\"A\",\"metadata\":{\"name\":\"a\"}}",
        ),
        // Something that sorts before the metadata has metadata too.
        (
            "{\"apiVersion\":\"e.example/v1\",\"kind\":\"A\",\"a\":{\"metadata\":{}},\"metadata\":{\"name\":\"a\"}}",
            "{\"apiVersion\":\"e.example/v1\",\"kind\":\"A\",\"metadata\":{\"name\":\"a\"},\"a\":{\"metadata\":{}}}",
        ),
        ("{}", "{}"),
        ("{\"broken", "{\"broken"),
        ("default/name", "default/name"),
    ] {
        let own = own(Bytes::from(stored)).expect("converted");
        assert_eq!(own, shown);
    }
    let canonical = Bytes::from_static(b"{\"apiVersion\":\"v1\",\"kind\":\"A\",\"metadata\":{}}");
    let same = own(canonical.clone()).expect("converted");
    assert_eq!(same.as_ptr(), canonical.as_ptr(), "nothing was copied");
}

#[tokio::test]
async fn a_message_of_an_unknown_kind_is_told() {
    let directory = TempDir::new().expect("temporary directory");
    let config = EmbeddedConfig::new(directory.path());
    let inner = EmbeddedStore::open(config, EmbeddedMetrics::default()).expect("open");
    let message = protobuf::enclose("v9", "Thing", b"");
    let text = String::from_utf8(message).expect("text");
    let at = commit(&*inner, vec![create("/registry/things/a", &text)]).await;
    let store = StoredValues::over(inner);
    let error = store.get(&Key::from("/registry/things/a")).await;
    let Err(Error::Unreadable { revision, why, .. }) = error else {
        panic!("{error:?}")
    };
    assert_eq!(revision, at);
    assert_eq!(
        why,
        format!(
            "object not decodable revision={at}: no kind \"Thing\" is registered for version \"v9\""
        )
    );
}
