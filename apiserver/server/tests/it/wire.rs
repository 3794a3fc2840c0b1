//! Wire formats: what clients ask for by `Accept` and `Content-Type` is what they get.

use std::io::Read;

use bytes::Bytes;
use corral_kinds::all;
use corral_kinds::protobuf::{self, Layout};
use corral_kinds::schema::{self, Node};
use corral_server::compress;
use corral_server::flow::Bounds;
use futures::{SinkExt, StreamExt};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{self, Message};

use crate::fixture::{Fixture, body_of, config_map, send};

const CMS: &str = "/api/v1/namespaces/default/configmaps";
const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

struct Told {
    code: u16,
    headers: http::HeaderMap,
    body: Bytes,
}

impl Told {
    fn media_type(&self) -> &str {
        self.headers["content-type"].to_str().expect("text")
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("JSON")
    }

    /// The type and the message of an answer in protobuf.
    fn envelope(&self) -> protobuf::Envelope<'_> {
        assert_eq!(self.media_type(), PROTOBUF);
        protobuf::envelope(&self.body).expect("an envelope")
    }
}

async fn ask(
    fixture: &Fixture,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: impl Into<Bytes>,
) -> Told {
    let mut connection = fixture.connect().await;
    let headers: Vec<_> = headers.iter().map(|(k, v)| (*k, (*v).to_owned())).collect();
    let answer = send(&mut connection, method, path, &headers, body).await;
    let (parts, body) = answer.into_parts();
    Told {
        code: parts.status.as_u16(),
        headers: parts.headers,
        body: body.collect().await.expect("a whole body").to_bytes(),
    }
}

async fn get(fixture: &Fixture, path: &str, accept: &str) -> Told {
    ask(fixture, "GET", path, &[("accept", accept)], "").await
}

/// The ConfigMaps in two forms, of one moment: a list tells the revision of the whole store, where the server itself writes
/// now and then.
async fn at_once(fixture: &Fixture, one: &str, json: &str) -> (Told, Told) {
    loop {
        let before = get(fixture, CMS, json).await;
        let told = get(fixture, CMS, one).await;
        let after = get(fixture, CMS, json).await;
        if before.body == after.body {
            return (told, after);
        }
    }
}

fn config_maps() -> Node {
    schema::of(all::resource("", "v1", "configmaps").expect("served"))
}

fn encoded(json: &Value) -> Vec<u8> {
    let layout = Layout::of_node(&config_maps()).expect("messages");
    protobuf::encode(&layout, "v1", "ConfigMap", json.to_string().as_bytes()).expect("encodes")
}

#[tokio::test]
async fn objects_lists_and_failures_come_in_protobuf() {
    let fixture = Fixture::start().await;
    let headers = [("content-type", PROTOBUF), ("accept", PROTOBUF)];
    let created = ask(
        &fixture,
        "POST",
        CMS,
        &headers,
        encoded(&config_map("a", "1")),
    )
    .await;
    assert_eq!(created.code, 201);
    assert_eq!(created.envelope().kind, "ConfigMap");
    let plain = fixture.get(&format!("{CMS}/a")).await.body;
    assert_eq!(plain["data"]["key"], "1");

    let one = get(&fixture, &format!("{CMS}/a"), PROTOBUF).await;
    assert_eq!(one.body, encoded(&plain));

    let missing = get(&fixture, &format!("{CMS}/none"), PROTOBUF).await;
    assert_eq!(
        (missing.code, missing.envelope().kind.as_str()),
        (404, "Status")
    );

    // Twice: the first list measures its items, the second knows their sizes.
    for _ in 0..2 {
        let both = format!("{PROTOBUF}, application/json");
        let (list, json) = at_once(&fixture, &both, "application/json").await;
        let listed = Layout::of_type("v1", "ConfigMapList").expect("a list");
        let expected = protobuf::encode(&listed, "v1", "ConfigMapList", &json.body);
        assert_eq!(list.body, expected.expect("encodes"));
    }

    let partial = format!("{PROTOBUF};as=PartialObjectMetadata;g=meta.k8s.io;v=v1");
    let one = get(&fixture, &format!("{CMS}/a"), &partial).await;
    assert_eq!(one.envelope().kind, "PartialObjectMetadata");
    let partials = format!("{PROTOBUF};as=PartialObjectMetadataList;g=meta.k8s.io;v=v1");
    let json = partials.replace(PROTOBUF, "application/json");
    let (list, json) = at_once(&fixture, &partials, &json).await;
    let layout = Layout::of_type("meta.k8s.io/v1", "PartialObjectMetadataList").expect("one");
    let expected = protobuf::encode(
        &layout,
        "meta.k8s.io/v1",
        "PartialObjectMetadataList",
        &json.body,
    );
    assert_eq!(list.body, expected.expect("encodes"));

    let options = json!({"apiVersion": "v1", "kind": "DeleteOptions", "gracePeriodSeconds": 0});
    let layout = Layout::of_type("v1", "DeleteOptions").expect("one");
    let options = protobuf::encode(
        &layout,
        "v1",
        "DeleteOptions",
        options.to_string().as_bytes(),
    );
    let path = format!("{CMS}/a");
    let gone = ask(
        &fixture,
        "DELETE",
        &path,
        &headers,
        options.expect("encodes"),
    )
    .await;
    assert_eq!((gone.code, gone.envelope().kind.as_str()), (200, "Status"));
    for path in ["/api", "/api/v1", "/apis", "/apis/apps", "/apis/apps/v1"] {
        assert!(
            get(&fixture, path, PROTOBUF)
                .await
                .envelope()
                .kind
                .starts_with("API")
        );
    }
}

#[tokio::test]
async fn a_list_longer_than_a_piece_is_whole() {
    let fixture = Fixture::start().await;
    for index in 0..40 {
        let name = format!("large-{index}");
        let created = fixture.config_map(&name, &"x".repeat(10_000)).await;
        assert_eq!(created.code, 201);
    }
    let (list, json) = at_once(&fixture, PROTOBUF, "application/json").await;
    let layout = Layout::of_type("v1", "ConfigMapList").expect("a list");
    let expected = protobuf::encode(&layout, "v1", "ConfigMapList", &json.body).expect("encodes");
    assert_eq!(list.body, expected);
}

/// The frames of a watch until the server ends it.
fn frames(body: &[u8]) -> Vec<Bytes> {
    let mut rest = body;
    let mut out = Vec::new();
    while let Some((length, tail)) = rest.split_first_chunk::<4>() {
        let (frame, tail) = tail.split_at(u32::from_be_bytes(*length) as usize);
        out.push(Bytes::copy_from_slice(frame));
        rest = tail;
    }
    assert!(rest.is_empty());
    out
}

#[tokio::test]
async fn a_watch_comes_in_frames() {
    let fixture = Fixture::start().await;
    fixture.config_map("a", "1").await;
    let plain = fixture.get(&format!("{CMS}/a")).await.body;
    let version = plain["metadata"]["resourceVersion"].as_str().expect("text");
    let path = format!(
        "{CMS}?watch=1&timeoutSeconds=1&allowWatchBookmarks=1&sendInitialEvents=1&fieldSelector=metadata.name%3Da\
         &resourceVersionMatch=NotOlderThan&resourceVersion={version}"
    );
    let told = get(&fixture, &path, &format!("{PROTOBUF};stream=watch")).await;
    assert_eq!(told.media_type(), format!("{PROTOBUF};stream=watch"));
    let frames = frames(&told.body);
    let added = protobuf::watch_frame("ADDED", &encoded(&plain));
    assert_eq!(frames[0], added[4..]);
    assert!(frames[1].starts_with(b"\x0a\x08BOOKMARK"));
    let partial = format!("{PROTOBUF};as=PartialObjectMetadata;g=meta.k8s.io;v=v1;stream=watch");
    let told = get(&fixture, &path, &partial).await;
    let found = told.body.windows(21).any(|w| w == b"PartialObjectMetadata");
    assert!(found);
}

#[tokio::test]
async fn what_cannot_be_made_is_refused() {
    let fixture = Fixture::start().await;
    let table = format!("{PROTOBUF};as=Table;g=meta.k8s.io;v=v1");
    let refused = get(&fixture, CMS, &table).await;
    assert_eq!(
        (refused.code, refused.media_type()),
        (406, "application/json")
    );
    assert_eq!(
        refused.json()["message"],
        "only the following media types are accepted: application/json, application/yaml, \
         application/vnd.kubernetes.protobuf"
    );
    let one = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
    assert_eq!(
        get(&fixture, CMS, one).await.json()["message"],
        "you requested PartialObjectMetadata, but the requested object is a list (*core.ConfigMapList)"
    );
    let cbor = get(&fixture, CMS, "application/cbor").await;
    assert_eq!(cbor.code, 406);
    let path = format!("{CMS}?watch=1&timeoutSeconds=1");
    let yaml = get(&fixture, &path, "application/yaml").await;
    assert_eq!((yaml.code, yaml.media_type()), (406, "application/yaml"));
    let headers = [("content-type", "application/cbor")];
    assert_eq!(ask(&fixture, "POST", CMS, &headers, "x").await.code, 415);
    let version = get(&fixture, "/version", PROTOBUF).await;
    assert_eq!(
        (version.code, version.envelope().kind.as_str()),
        (406, "Status")
    );
}

#[tokio::test]
async fn people_get_indented_json() {
    let fixture = Fixture::start().await;
    fixture.config_map("a", "1").await;
    let list = ask(&fixture, "GET", CMS, &[("user-agent", "curl/8")], "").await;
    let value = list.json();
    let indented = b"{\n  \"kind\": \"ConfigMapList\",\n  \"apiVersion\": \"v1\",\n";
    assert!(list.body.starts_with(indented));
    assert_eq!(value["items"][0]["data"]["key"], "1");
    let path = format!("{CMS}?pretty=false");
    let plain = ask(&fixture, "GET", &path, &[("user-agent", "curl/8")], "").await;
    assert!(plain.body.starts_with(b"{\"kind\":"));
}

fn unpacked(told: &Told) -> Vec<u8> {
    assert_eq!(told.headers["content-encoding"], "gzip");
    assert_eq!(told.headers["vary"], "Accept-Encoding");
    let mut out = Vec::new();
    let mut reader = flate2::read::GzDecoder::new(&*told.body);
    reader.read_to_end(&mut out).expect("gzip");
    out
}

#[tokio::test]
async fn large_answers_are_compressed_for_those_who_take_it() {
    let fixture = Fixture::start().await;
    let large = "x".repeat(compress::THRESHOLD + 1);
    fixture.config_map("large", &large).await;
    fixture.config_map("small", "1").await;
    for path in [format!("{CMS}/large"), CMS.to_owned()] {
        for accept in ["application/json", PROTOBUF, "application/yaml"] {
            let told = |encoding: &'static str| {
                let headers = [("accept", accept), ("accept-encoding", encoding)];
                let (fixture, path) = (&fixture, &path);
                async move { ask(fixture, "GET", path, &headers, "").await }
            };
            let plain = told("identity").await;
            assert!(!plain.headers.contains_key("content-encoding"));
            for encoding in ["gzip", "deflate, gzip"] {
                assert_eq!(
                    unpacked(&told(encoding).await),
                    plain.body,
                    "{path} {accept}"
                );
            }
            let weighed = told("gzip;q=1").await;
            assert!(!weighed.headers.contains_key("content-encoding"));
        }
    }
    let headers = [("accept-encoding", "gzip")];
    let small = ask(&fixture, "GET", &format!("{CMS}/small"), &headers, "").await;
    assert!(!small.headers.contains_key("content-encoding"));
    let path = format!("{CMS}?watch=1&timeoutSeconds=1");
    let watch = ask(&fixture, "GET", &path, &headers, "").await;
    assert!(!watch.headers.contains_key("content-encoding"));
}

type Socket = WebSocketStream<tokio_rustls::client::TlsStream<tokio::net::TcpStream>>;

/// Opens a watch over a WebSocket; answers how the server refuses it otherwise.
async fn socket(
    fixture: &Fixture,
    query: &str,
    headers: &[(&str, &str)],
) -> Result<(Socket, Option<String>), u16> {
    let uri = format!("ws://localhost{CMS}?watch=1&{query}");
    let mut request = uri.into_client_request().expect("a request");
    for (name, value) in headers {
        let name: http::HeaderName = name.parse().expect("a name");
        request
            .headers_mut()
            .insert(name, value.parse().expect("a value"));
    }
    let stream = fixture.connect_raw().await;
    match tokio_tungstenite::client_async(request, stream).await {
        Ok((socket, answer)) => {
            let protocol = answer.headers().get("sec-websocket-protocol");
            let protocol = protocol.map(|p| p.to_str().expect("text").to_owned());
            Ok((socket, protocol))
        }
        Err(tungstenite::Error::Http(answer)) => Err(answer.status().as_u16()),
        Err(other) => panic!("{other}"),
    }
}

#[tokio::test]
async fn a_watch_goes_over_a_websocket() {
    let fixture = Fixture::start().await;
    fixture.config_map("a", "1").await;
    let plain = fixture.get(&format!("{CMS}/a")).await.body;
    let origin = ("origin", "https://example.com");
    let only = "fieldSelector=metadata.name%3Da&resourceVersion=0";

    let (mut text, protocol) = socket(&fixture, only, &[origin]).await.expect("open");
    assert_eq!(protocol, None);
    let message = text.next().await.expect("a message").expect("whole");
    let event: Value = serde_json::from_str(message.to_text().expect("text")).expect("JSON");
    assert_eq!(event, json!({"type": "ADDED", "object": plain}));
    // A client's words are passed over, and its pings answered.
    text.send(Message::text("hello")).await.expect("sent");
    text.send(Message::Ping(Bytes::from_static(b"there?")))
        .await
        .expect("sent");
    let pong = text.next().await.expect("a message").expect("whole");
    assert_eq!(pong, Message::Pong(Bytes::from_static(b"there?")));
    let changed = json!({"data": {"key": "2"}});
    fixture
        .patch(&format!("{CMS}/a"), "merge-patch+json", changed)
        .await;
    let message = text.next().await.expect("a message").expect("whole");
    assert!(
        message
            .to_text()
            .expect("text")
            .starts_with("{\"type\":\"MODIFIED\"")
    );

    let plain = fixture.get(&format!("{CMS}/a")).await.body;
    let headers = [
        origin,
        ("accept", PROTOBUF),
        ("sec-websocket-protocol", "base64.binary.k8s.io"),
    ];
    let query = format!("{only}&timeoutSeconds=1");
    let (mut binary, protocol) = socket(&fixture, &query, &headers).await.expect("open");
    assert_eq!(protocol.as_deref(), Some("base64.binary.k8s.io"));
    let message = binary.next().await.expect("a message").expect("whole");
    let event = protobuf::watch_frame("ADDED", &encoded(&plain));
    assert_eq!(
        message,
        Message::binary(event[protobuf::FRAME_LENGTH..].to_vec())
    );
    let end = binary.next().await.expect("a message").expect("whole");
    assert!(matches!(end, Message::Close(Some(frame)) if frame.code == CloseCode::Normal));

    assert_eq!(socket(&fixture, only, &[]).await.err(), Some(403));
    let several = [origin, ("sec-websocket-protocol", "a, b")];
    assert_eq!(socket(&fixture, only, &several).await.err(), Some(400));
    let yaml = [origin, ("accept", "application/yaml")];
    assert_eq!(socket(&fixture, only, &yaml).await.err(), Some(406));
}

#[tokio::test]
async fn watches_over_websockets_count_as_long_as_they_last() {
    let bounds = Bounds {
        long_running: 2,
        ..Default::default()
    };
    let fixture = Fixture::start_within(bounds).await;
    let origin = ("origin", "https://example.com");
    let mut open = Vec::new();
    for _ in 0..2 {
        open.push(socket(&fixture, "", &[origin]).await.expect("open"));
    }
    assert_eq!(socket(&fixture, "", &[origin]).await.err(), Some(429));
    assert_eq!(fixture.config_map("other", "1").await.code, 201);
    open.pop();
    // The server notices the end of a connection in its own time.
    while socket(&fixture, "", &[origin]).await.is_err() {
        tokio::task::yield_now().await;
    }
}

/// Clients that speak HTTP/2 take a body of such an answer for a breach of the protocol.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_answer_to_head_has_no_body_over_http_2_either() {
    let fixture = Fixture::start().await;
    fixture.config_map("c", "a value").await;
    let io = TokioIo::new(fixture.connect_raw().await);
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), io)
        .await
        .expect("HTTP/2");
    tokio::spawn(connection);
    for (path, code) in [
        (format!("{CMS}/c"), 405),
        (CMS.to_owned(), 405),
        ("/apis/none.example.com/v1/things".to_owned(), 404),
        ("/apis/apps".to_owned(), 200),
        ("/openapi/v2".to_owned(), 200),
    ] {
        let request = http::Request::head(format!("https://localhost{path}"));
        let request = request.body(Full::new(Bytes::new())).expect("a request");
        let answer = sender.send_request(request).await.expect("an answer");
        assert_eq!(answer.status(), code, "{path}");
        assert!(answer.headers().contains_key("content-type"), "{path}");
        let body = answer.into_body().collect().await.expect("an end");
        assert!(body.to_bytes().is_empty(), "{path}");
    }
}

/// Expectations are answers of kube-apiserver v1.36.3.
#[tokio::test]
async fn json_for_programs_ends_with_its_line_and_what_people_read_is_indented() {
    let fixture = Fixture::start().await;
    fixture.config_map("a", "1").await;
    let table = "application/json;as=Table;v=v1;g=meta.k8s.io";
    let partial = "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io";
    let aggregated = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
    let one = format!("{CMS}/a");
    for (path, accept, end) in [
        (one.as_str(), "application/json", "}\n"),
        (&one, table, "}\n"),
        (&one, partial, "}\n"),
        (&format!("{CMS}/b"), "application/json", "\"code\":404}\n"),
        (CMS, "application/json", "]}\n"),
        ("/apis", "application/json", "}\n"),
        ("/apis", aggregated, "}\n"),
        (&format!("{one}?pretty=1"), "application/json", "\n}"),
        ("/version", "application/json", "\n}"),
        ("/", "application/json", "\n  ]\n}"),
        ("/openapi/v3", "application/json", "}}"),
    ] {
        let told = get(&fixture, path, accept).await;
        let text = String::from_utf8_lossy(&told.body).into_owned();
        assert!(text.ends_with(end), "{path} {accept} {text:?}");
        assert!(!text.ends_with("\n\n"), "{path}");
    }
}

/// Expectations are answers of kube-apiserver v1.36.3.
#[tokio::test]
async fn halves_of_surrogate_pairs_and_more_documents_are_read_as_go_reads_them() {
    let fixture = Fixture::start().await;
    let mut connection = fixture.connect().await;
    let mut made = async |kind: &str, body: &'static str| {
        let headers = [("content-type", format!("application/{kind}"))];
        let path = format!("{CMS}?dryRun=All");
        let answer = send(&mut connection, "POST", &path, &headers, body).await;
        let body = body_of(answer).await;
        serde_json::from_slice::<Value>(&body).expect("JSON")
    };
    let halves = made(
        "json",
        r#"{"metadata":{"name":"q"},"data":{"a":"x\ud800y","b":"\ud800\ud83d\ude00"}}"#,
    );
    assert_eq!(
        halves.await["data"],
        json!({"a": "x\u{fffd}y", "b": "\u{fffd}😀"})
    );
    for body in [
        "metadata:\n  name: q\n---\nmetadata:\n  name: r\n",
        "metadata:\n  name: q\n---\n",
        "# c\n---\nmetadata:\n  name: q\n--- \n: broken [",
    ] {
        assert_eq!(made("yaml", body).await["metadata"]["name"], "q", "{body}");
    }
    let nothing = made("yaml", "---\n---\nmetadata:\n  name: q\n").await;
    assert_eq!(nothing["code"], 422);
}

/// Expectations are answers of kube-apiserver v1.36.3, but for the descriptions.
#[tokio::test]
async fn a_scale_comes_as_a_table_and_kinds_without_columns_tell_when_they_were_made() {
    let fixture = Fixture::start().await;
    let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "a", "image": "x"}]}});
    let spec =
        json!({"replicas": 2, "selector": {"matchLabels": {"a": "b"}}, "template": template});
    let deployments = "/apis/apps/v1/namespaces/default/deployments";
    let capacities = "/apis/storage.k8s.io/v1/namespaces/default/csistoragecapacities";
    let addresses = "/apis/networking.k8s.io/v1/ipaddresses";
    for (path, object) in [
        (
            deployments,
            json!({"metadata": {"name": "d"}, "spec": spec}),
        ),
        (
            capacities,
            json!({"metadata": {"name": "c"}, "storageClassName": "s", "capacity": "1Gi"}),
        ),
    ] {
        assert_eq!(fixture.create(path, object).await.code, 201);
    }
    let scale = format!("{deployments}/d/scale");
    let columns = async |path: &str| {
        let told = get(
            &fixture,
            path,
            "application/json;as=Table;v=v1;g=meta.k8s.io",
        )
        .await;
        let table: Value = serde_json::from_slice(&told.body).expect("JSON");
        let columns = table["columnDefinitions"].as_array().cloned();
        let columns = columns.unwrap_or_default().into_iter();
        let columns = columns.map(|column| format!("{} {}", column["name"], column["type"]));
        let columns = columns.collect::<Vec<_>>().join(", ").replace('"', "");
        (columns, table["rows"][0]["cells"].clone())
    };
    let (told, cells) = columns(&scale).await;
    assert_eq!(
        told,
        "Name string, Desired integer, Available integer, Age string"
    );
    assert_eq!((&cells[0], &cells[1]), (&json!("d"), &json!(2)));
    assert_eq!(columns(capacities).await.0, "Name string, Created At date");
    assert_eq!(columns(addresses).await.0, "Name string, ParentRef string");
}
