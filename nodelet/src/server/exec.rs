//! `/exec` and `/attach`: a process's streams as channels of a WebSocket.
//!
//! Every binary message begins with a channel: 0 stdin, 1 stdout, 2 stderr, 3 the final status, 4 terminal size, and
//! with `v5.channel.k8s.io` 255, whose payload names a channel that the client closes.

use std::os::fd::OwnedFd;
use std::time::Duration;

use corral_shim::protocol::{ErrorKind, ExitRecord};
use futures::StreamExt;
use http::{Request, StatusCode};
use hyper::body::Incoming;
use serde_json::json;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_tungstenite::tungstenite::Message;

use super::socket::{Handshake, Incomings, Outgoing, handshake};
use super::{Answer, Query, Refusal, Server, container};
use crate::node::uid;
use crate::runtime::{Error as RuntimeError, ExecSpec, Session};
use crate::streams;

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const STATUS: u8 = 3;
const RESIZE: u8 = 4;
const CLOSE: u8 = 255;

/// The subprotocols, the best first.
const PROTOCOLS: [&str; 3] = ["v5.channel.k8s.io", "v4.channel.k8s.io", FIRST_PROTOCOL];

/// The oldest one, which a client without any means, too: errors are text, and success is not told.
const FIRST_PROTOCOL: &str = "channel.k8s.io";

/// How the end of a session is told.
#[derive(Clone, Copy)]
struct Ending {
    /// Whether the exit code matters to the client.
    code: bool,
    /// Whether the client knows no Status.
    plain: bool,
}

impl Ending {
    async fn tell(self, outgoing: &Outgoing, status: &serde_json::Value) {
        let message = status["message"].as_str().unwrap_or_default();
        let told = match (self.plain, status["status"] == "Success") {
            (false, _) => status.to_string(),
            (true, true) => return,
            (true, false) => message.to_owned(),
        };
        // A client that has gone needs no word.
        let _ = outgoing.channel(STATUS, told.as_bytes()).await;
    }
}

fn is_plain(handshake: &Handshake) -> bool {
    matches!(handshake.protocol, None | Some(FIRST_PROTOCOL))
}

/// How much output goes into one message.
const PIECE_LEN: usize = 32 << 10;

/// How long output is still awaited after the end: a background process may hold the pipe for ever.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);

/// Where resize requests go.
#[derive(Clone)]
struct Resizer {
    server: Server,
    uid: String,
    id: String,
    pid: Option<i32>,
}

pub(super) async fn exec(
    server: &Server,
    request: &mut Request<Incoming>,
    namespace: &str,
    pod: &str,
    name: &str,
    query: &Query,
) -> Result<Answer, Refusal> {
    let (uid, id) = running(server, namespace, pod, name)?;
    let spec = ExecSpec {
        command: query.all("command"),
        ..streams_of(query)
    };
    if spec.command.is_empty() {
        return Err(Refusal::bad_request(
            "you must specify at least 1 command for the container",
        ));
    }
    let handshake = handshake(request, &PROTOCOLS)?;
    let session = server.node.runtime.exec(&uid, &id, &spec).await;
    let ending = Ending {
        code: true,
        plain: is_plain(&handshake),
    };
    let server = server.clone();
    Ok(handshake.accept(move |incoming, outgoing| async move {
        match session {
            Ok(session) => {
                let resizer = Resizer {
                    server,
                    uid,
                    id,
                    pid: session.pid,
                };
                serve(session, resizer, incoming, outgoing, ending).await;
            }
            // The client has been promised a stream by now, so the failure is told on it.
            Err(error) => {
                ending.tell(&outgoing, &failure(&error)).await;
                outgoing.close().await;
            }
        }
    }))
}

pub(super) async fn attach(
    server: &Server,
    request: &mut Request<Incoming>,
    namespace: &str,
    pod: &str,
    name: &str,
    query: &Query,
) -> Result<Answer, Refusal> {
    let (uid, id) = running(server, namespace, pod, name)?;
    let spec = streams_of(query);
    let handshake = handshake(request, &PROTOCOLS)?;
    let attached = server.node.runtime.attach(&uid, &id, &spec).await;
    let session = attached.map_err(|error| Refusal::internal(&error))?;
    let resizer = Resizer {
        server: server.clone(),
        uid,
        id,
        pid: None,
    };
    let ending = Ending {
        code: false,
        plain: is_plain(&handshake),
    };
    Ok(handshake
        .accept(move |incoming, outgoing| serve(session, resizer, incoming, outgoing, ending)))
}

fn running(
    server: &Server,
    namespace: &str,
    pod: &str,
    name: &str,
) -> Result<(String, String), Refusal> {
    let view = server.pod(namespace, pod)?;
    let found = container(&view, name)?;
    let missing = || {
        Refusal::new(
            StatusCode::NOT_FOUND,
            format!("unable to upgrade connection: container not found ({name:?})"),
        )
    };
    let id = found.running().ok_or_else(missing)?.to_owned();
    Ok((uid(&view.pod), id))
}

fn streams_of(query: &Query) -> ExecSpec {
    let terminal = query.on(&["tty"]);
    ExecSpec {
        command: Vec::new(),
        terminal,
        stdin: query.on(&["input", "stdin"]),
        stdout: query.on(&["output", "stdout"]),
        // A terminal has one output.
        stderr: query.on(&["error", "stderr"]) && !terminal,
        // Nobody can come back to a terminal; other commands run on, as they do in Kubernetes.
        kill_on_drop: terminal,
    }
}

async fn serve(
    session: Session,
    resizer: Resizer,
    incoming: Incomings,
    outgoing: Outgoing,
    ending: Ending,
) {
    let Session {
        stdin,
        stdout,
        stderr,
        terminal,
        exit,
        ..
    } = session;
    let (input, mut outputs) = match connect(stdin, stdout, stderr, terminal, &outgoing) {
        Ok(connected) => connected,
        Err(error) => {
            tracing::debug!(%error, "the streams of a session cannot be used");
            return;
        }
    };
    let reader = tokio::spawn(read(incoming, input, resizer));
    let client = outgoing.clone();
    let end = tokio::select! {
        end = exit => Some(end),
        () = client.closed() => None,
    };
    drop(client);
    if let Some(end) = end {
        let all = async { while outputs.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(DRAIN_TIMEOUT, all).await;
        let status = match end {
            Ok(exit) if ending.code => outcome(&exit),
            Ok(_) => success(),
            Err(_) => failure(&RuntimeError::Lost),
        };
        ending.tell(&outgoing, &status).await;
        outgoing.close().await;
    }
    outputs.abort_all();
    reader.abort();
    // Whoever is aborted still holds a queue until it has ended; the writer waits for that.
    while outputs.join_next().await.is_some() {}
    let _ = reader.await;
}

/// What the client's input is written to.
enum Input {
    Pipe(tokio::net::unix::pipe::Sender),
    Terminal(std::sync::Arc<AsyncFd<OwnedFd>>),
    None,
}

type Outputs = tokio::task::JoinSet<()>;

fn connect(
    stdin: Option<OwnedFd>,
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
    terminal: Option<OwnedFd>,
    outgoing: &Outgoing,
) -> std::io::Result<(Input, Outputs)> {
    let mut outputs = Outputs::new();
    if let Some(terminal) = terminal {
        streams::set_nonblocking(&terminal)?;
        let terminal = std::sync::Arc::new(crate::sys::register(terminal)?);
        outputs.spawn(copy_terminal(terminal.clone(), outgoing.clone()));
        return Ok((Input::Terminal(terminal), outputs));
    }
    for (fd, channel) in [(stdout, STDOUT), (stderr, STDERR)] {
        if let Some(fd) = fd {
            outputs.spawn(copy_pipe(streams::reader(fd)?, channel, outgoing.clone()));
        }
    }
    let input = match stdin {
        Some(fd) => Input::Pipe(streams::writer(fd)?),
        None => Input::None,
    };
    Ok((input, outputs))
}

async fn copy_pipe(mut pipe: tokio::net::unix::pipe::Receiver, channel: u8, outgoing: Outgoing) {
    let mut piece = vec![0; PIECE_LEN];
    while let Ok(n) = pipe.read(&mut piece).await {
        if n == 0 || !outgoing.channel(channel, &piece[..n]).await {
            return;
        }
    }
}

async fn copy_terminal(terminal: std::sync::Arc<AsyncFd<OwnedFd>>, outgoing: Outgoing) {
    let mut piece = vec![0; PIECE_LEN];
    loop {
        let Ok(mut ready) = terminal.readable().await else {
            return;
        };
        match ready.try_io(|fd| nix::unistd::read(fd.get_ref(), &mut piece).map_err(Into::into)) {
            Ok(Ok(n)) if n > 0 => {
                if !outgoing.channel(STDOUT, &piece[..n]).await {
                    return;
                }
            }
            // The end of a terminal is an I/O error.
            Ok(_) => return,
            Err(_) => {}
        }
    }
}

/// Takes the client's messages until it is gone.
async fn read(mut incoming: Incomings, mut input: Input, resizer: Resizer) {
    while let Some(Ok(message)) = incoming.next().await {
        let bytes = match message {
            Message::Binary(bytes) => bytes,
            // Browsers and some clients send text; the channel is then the first character's byte.
            Message::Text(text) => text.into(),
            Message::Close(_) => return,
            _ => continue,
        };
        let Some((channel, payload)) = bytes.split_first() else {
            continue;
        };
        match *channel {
            STDIN => input = write(input, payload).await,
            RESIZE => resizer.resize(payload).await,
            CLOSE if payload == [STDIN] => input = Input::None,
            _ => {}
        }
    }
}

/// Writes input; what cannot be written to any more is let go.
async fn write(mut input: Input, bytes: &[u8]) -> Input {
    let open = match &mut input {
        Input::None => true,
        Input::Pipe(pipe) => pipe.write_all(bytes).await.is_ok(),
        Input::Terminal(terminal) => write_terminal(terminal, bytes).await,
    };
    if open { input } else { Input::None }
}

async fn write_terminal(terminal: &AsyncFd<OwnedFd>, mut bytes: &[u8]) -> bool {
    while !bytes.is_empty() {
        let Ok(mut ready) = terminal.writable().await else {
            return false;
        };
        match ready.try_io(|fd| nix::unistd::write(fd.get_ref(), bytes).map_err(Into::into)) {
            Ok(Ok(n)) => bytes = &bytes[n..],
            Ok(Err(_)) => return false,
            Err(_) => {}
        }
    }
    true
}

impl Resizer {
    async fn resize(&self, payload: &[u8]) {
        #[derive(serde::Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Size {
            width: u16,
            height: u16,
        }
        let Ok(size) = serde_json::from_slice::<Size>(payload) else {
            return;
        };
        let runtime = &self.server.node.runtime;
        if let Err(error) = runtime
            .resize(&self.uid, &self.id, self.pid, size.width, size.height)
            .await
        {
            tracing::debug!(%error, "a terminal was not resized");
        }
    }
}

fn success() -> serde_json::Value {
    json!({"metadata": {}, "status": "Success"})
}

fn outcome(exit: &ExitRecord) -> serde_json::Value {
    if exit.code == 0 {
        return success();
    }
    json!({
        "metadata": {},
        "status": "Failure",
        "message": format!("command terminated with non-zero exit code: exit code {}", exit.code),
        "reason": "NonZeroExitCode",
        "details": {"causes": [{"reason": "ExitCode", "message": exit.code.to_string()}]},
    })
}

fn failure(error: &RuntimeError) -> serde_json::Value {
    let message = crate::worker::chain(error);
    // A program that does not exist ends, for a shell, with 127; one that cannot be executed, with 126.
    if let RuntimeError::Refused {
        kind: ErrorKind::NotExecutable,
        ..
    } = error
    {
        let code = if message.contains("permission denied") {
            "126"
        } else {
            "127"
        };
        return json!({
            "metadata": {}, "status": "Failure", "reason": "NonZeroExitCode",
            "message": format!("command terminated with non-zero exit code: {message}"),
            "details": {"causes": [{"reason": "ExitCode", "message": code}]},
        });
    }
    json!({"metadata": {}, "status": "Failure", "reason": "InternalError", "code": 500, "message": message})
}
