//! `/containerLogs`: a container's log, as it is and as it grows.

use bytes::Bytes;
use futures::StreamExt;
use http::Response;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use jiff::{SignedDuration, Timestamp};
use tokio::sync::mpsc;

use super::{Answer, Query, Refusal, Server, container};
use crate::logs::{FOLLOW_INTERVAL, LogReader, Options};
use crate::pod::{ContainerState, Phase};
use crate::worker::PodView;

/// How many pieces of a log wait for a slow reader.
const PIECES_MAX: usize = 4;

pub(super) fn serve(
    server: &Server,
    namespace: &str,
    pod: &str,
    name: &str,
    query: &Query,
) -> Result<Answer, Refusal> {
    let view = server.pod(namespace, pod)?;
    let found = container(&view, name)?;
    let previous = query.on(&["previous"]);
    let id = instance(&view, found, previous)?;
    let options = options(query)?;
    let attempt = id
        .rsplit_once('-')
        .and_then(|(_, number)| number.parse().ok())
        .unwrap_or(0);
    let path = server
        .node
        .log_path(&crate::node::uid(&view.pod), name, attempt);
    let follow = options.follow && !previous;
    let reader = LogReader::new(&path, options);
    let (sender, receiver) = mpsc::channel(PIECES_MAX);
    let (server, namespace, pod, name) = (
        server.clone(),
        namespace.to_owned(),
        pod.to_owned(),
        name.to_owned(),
    );
    tokio::spawn(async move {
        let running = move || {
            let view = server.pod(&namespace, &pod).ok();
            let current = view.and_then(|view| {
                view.state
                    .container(&name)
                    .map(|found| found.running() == Some(id.as_str()))
            });
            current.unwrap_or(false) && !server.shutdown.is_cancelled()
        };
        copy(reader, follow, running, sender).await;
    });
    let frames = futures::stream::unfold(receiver, |mut receiver| async move {
        receiver
            .recv()
            .await
            .map(|piece: Bytes| (Ok(Frame::data(piece)), receiver))
    });
    let mut answer = Response::new(StreamBody::new(frames.boxed()).boxed_unsync());
    answer.headers_mut().insert(
        http::header::CONTENT_TYPE,
        http::HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    Ok(answer)
}

/// The instance whose log is meant.
fn instance(view: &PodView, found: &ContainerState, previous: bool) -> Result<String, Refusal> {
    let last = found
        .last
        .as_ref()
        .map(|ended| ended.id.clone())
        .filter(|id| !id.is_empty());
    let pod = view.pod.metadata.name.clone().unwrap_or_default();
    if previous {
        // While a container waits for its restart, the instance before it has just ended.
        let ended = match &found.phase {
            Phase::Ended(ended) if found.restarts == 0 && last.is_none() => Some(ended.id.clone()),
            _ => None,
        };
        let message = format!(
            "previous terminated container {:?} in pod {pod:?} not found",
            found.name
        );
        return last.or(ended).ok_or_else(|| Refusal::bad_request(message));
    }
    match &found.phase {
        Phase::Running { id, .. } => Ok(id.clone()),
        Phase::Ended(ended) => Ok(ended.id.clone()),
        Phase::Waiting { problem } => last.ok_or_else(|| {
            let why = problem
                .as_ref()
                .map_or("ContainerCreating", |problem| problem.reason.as_str());
            Refusal::bad_request(format!(
                "container {:?} in pod {pod:?} is waiting to start: {why}",
                found.name
            ))
        }),
        Phase::Starting => last.ok_or_else(|| {
            let message = format!(
                "container {:?} in pod {pod:?} is waiting to start: ContainerCreating",
                found.name
            );
            Refusal::bad_request(message)
        }),
    }
}

fn options(query: &Query) -> Result<Options, Refusal> {
    let number = |name: &str| -> Result<Option<i64>, Refusal> {
        match query.get(name) {
            None => Ok(None),
            Some(text) => match text.parse::<i64>() {
                Ok(number) if number >= 0 => Ok(Some(number)),
                _ => Err(Refusal::bad_request(format!("invalid {name}: {text:?}"))),
            },
        }
    };
    let since_time = match query.get("sinceTime") {
        None => None,
        Some(text) => Some(
            text.parse()
                .map_err(|_| Refusal::bad_request(format!("invalid sinceTime: {text:?}")))?,
        ),
    };
    let since = number("sinceSeconds")?
        .map(|seconds| Timestamp::now() - SignedDuration::from_secs(seconds));
    let size = |number: Option<i64>| number.and_then(|number| usize::try_from(number).ok());
    let stream = query
        .get("stream")
        .map(str::to_lowercase)
        .filter(|stream| stream != "all");
    Ok(Options {
        tail: size(number("tailLines")?),
        since: since.or(since_time),
        timestamps: query.on(&["timestamps"]),
        limit_bytes: size(number("limitBytes")?),
        stream,
        follow: query.on(&["follow"]),
    })
}

/// Sends a log piece by piece, and what is added to it while `running`.
async fn copy(
    mut reader: LogReader,
    follow: bool,
    running: impl Fn() -> bool,
    sender: mpsc::Sender<Bytes>,
) {
    let mut ended = false;
    while !reader.exhausted() {
        // Files are read on a thread of their own kind: a slow disk must not hold up the node.
        let outcome = tokio::task::spawn_blocking(move || {
            let bytes = reader.read();
            (reader, bytes)
        });
        let Ok((back, bytes)) = outcome.await else {
            return;
        };
        reader = back;
        match bytes {
            Ok(bytes) if !bytes.is_empty() => {
                if sender.send(Bytes::from(bytes)).await.is_err() {
                    return;
                }
                continue;
            }
            Ok(_) => {}
            Err(error) => {
                tracing::debug!(%error, "a log cannot be read");
                return;
            }
        }
        if !follow || ended {
            return;
        }
        // One more look after the end: the last lines are written before the end is known.
        ended = !running();
        if !ended {
            tokio::select! {
                () = tokio::time::sleep(FOLLOW_INTERVAL) => {}
                () = sender.closed() => return,
            }
        }
    }
}
