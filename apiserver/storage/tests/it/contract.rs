//! The contract on both backends.

use std::sync::Arc;

use corral_storage::conformance::{commit, create, next_event, revision_of};
use corral_storage::embedded::{EmbeddedConfig, EmbeddedMetrics, EmbeddedStore};
use corral_storage::etcd::{EtcdConfig, EtcdStore, EtcdTls};
use corral_storage::prefixed::PrefixedStore;
use corral_storage::{Error, Key, Storage};
use tempfile::TempDir;

use crate::etcd_server::EtcdServer;

pub async fn make_embedded() -> (Arc<dyn Storage>, TempDir) {
    let directory = TempDir::new().expect("temporary directory");
    let config = EmbeddedConfig::new(directory.path());
    let store = EmbeddedStore::open(config, EmbeddedMetrics::default()).expect("open");
    (store, directory)
}

pub async fn make_etcd() -> (Arc<dyn Storage>, EtcdServer) {
    let server = EtcdServer::start().await;
    let config = EtcdConfig::new(vec![server.endpoint()]);
    let store = EtcdStore::connect(config).await.expect("connect");
    (store, server)
}

pub async fn make_prefixed() -> (Arc<dyn Storage>, TempDir) {
    let (inner, directory) = make_embedded().await;
    (PrefixedStore::new(inner, "", "/elsewhere"), directory)
}

mod prefixed {
    corral_storage::storage_conformance!(crate::contract::make_prefixed);
}

#[tokio::test]
async fn keys_have_another_beginning_in_the_store_below() {
    let (inner, _directory) = make_embedded().await;
    let store = PrefixedStore::new(inner.clone(), "/registry", "/other/place");
    commit(&*store, vec![create("/registry/a", "1")]).await;
    let there = inner.get(&Key::from("/other/place/a")).await;
    assert!(there.expect("read").is_some());
    let again = store.commit(vec![create("/registry/a", "1")]).await;
    assert!(
        matches!(&again, Err(Error::Exists { key, .. }) if key.as_str() == "/registry/a"),
        "{again:?}"
    );
    let outside = store.get(&Key::from("/elsewhere")).await;
    assert!(matches!(outside, Err(Error::Invalid(_))));
}

mod embedded {
    corral_storage::storage_conformance!(crate::contract::make_embedded);
}

mod etcd {
    corral_storage::storage_conformance!(crate::contract::make_etcd);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_on_etcd_outlives_a_restart_of_the_server() {
    let mut server = EtcdServer::start().await;
    let config = EtcdConfig::new(vec![server.endpoint()]);
    let store = EtcdStore::connect(config).await.expect("connect");
    let first = commit(&*store, vec![create("/a", "1")]).await;
    let mut watch = store.watch("/", first).await.expect("watch");
    let second = commit(&*store, vec![create("/b", "2")]).await;
    assert_eq!(revision_of(&next_event(&mut watch).await), second);
    server.restart().await;
    // The client finds the way back by itself; until then it says that it cannot reach the store.
    let third = loop {
        match store.commit(vec![create("/c", "3")]).await {
            Ok(revision) => break revision,
            Err(Error::Unavailable(_)) => tokio::task::yield_now().await,
            // A commit without an answer may have happened.
            Err(Error::Exists { current, .. }) => break current,
            Err(error) => panic!("{error}"),
        }
    };
    assert_eq!(revision_of(&next_event(&mut watch).await), third);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcd_is_reached_over_tls_with_a_certificate_only() {
    let (server, tls) = EtcdServer::start_with_tls().await;
    let mut config = EtcdConfig::new(vec![server.endpoint()]);
    let ca_certificate = Some(tls.ca.into_bytes());
    config.tls = Some(EtcdTls {
        ca_certificate: ca_certificate.clone(),
        ..Default::default()
    });
    let nameless = EtcdStore::connect(config.clone()).await;
    assert!(nameless.is_err(), "etcd demands a certificate");
    config.tls = Some(EtcdTls {
        ca_certificate,
        client_identity: Some((tls.certificate.into_bytes(), tls.key.into_bytes())),
        server_name: None,
    });
    let store = EtcdStore::connect(config).await.expect("connect");
    let first = commit(&*store, vec![create("/a", "1")]).await;
    let mut watch = store.watch("/", first).await.expect("watch");
    let second = commit(&*store, vec![create("/b", "2")]).await;
    assert_eq!(revision_of(&next_event(&mut watch).await), second);
}
