//! `/exec` and `/attach`: a process's streams as those of a client, over WebSocket or SPDY/3.1 ([`client`]).

mod client;
#[cfg(test)]
mod tests;

use std::os::fd::OwnedFd;
use std::pin::pin;
use std::time::Duration;

use corral_shim::protocol::{ErrorKind, ExitRecord};
use futures::future::BoxFuture;
use http::{Request, StatusCode};
use hyper::body::Incoming;
use serde_json::json;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use self::client::{
    Client, Listener, RESIZE, STATUS, STDERR, STDIN, STDOUT, Said, Streams, hear_messages,
};
use super::socket::{Carrier, Handshake, Incomings, Outgoing, Protocols, handshake};
use super::{Answer, Query, Refusal, Server, container};
use crate::node::uid;
use crate::runtime::{Error as RuntimeError, ExecSpec, Session};
use crate::streams;

const PROTOCOLS: Protocols<'_> = Protocols {
    websocket: &[FIFTH_PROTOCOL, FOURTH_PROTOCOL, FIRST_PROTOCOL],
    spdy: &[
        FOURTH_PROTOCOL,
        THIRD_PROTOCOL,
        "v2.channel.k8s.io",
        FIRST_PROTOCOL,
    ],
};

/// Over WebSocket, a client can end its input.
const FIFTH_PROTOCOL: &str = "v5.channel.k8s.io";

/// The end is told as a Status, with the exit code; before, errors are text, and success is not told.
const FOURTH_PROTOCOL: &str = "v4.channel.k8s.io";

/// Terminals have sizes.
const THIRD_PROTOCOL: &str = "v3.channel.k8s.io";

/// The oldest one, which a client without any means, too.
const FIRST_PROTOCOL: &str = "channel.k8s.io";

/// How the end of a session is told.
#[derive(Clone, Copy)]
struct Ending {
    /// Whether the exit code matters to the client.
    code: bool,
    /// Whether the client knows no Status.
    plain: bool,
    /// How long more output is awaited before it.
    drain_max: Duration,
}

impl Ending {
    async fn tell(self, client: &Client, status: &serde_json::Value) {
        let message = status["message"].as_str().unwrap_or_default();
        let told = match (self.plain, status["status"] == "Success") {
            (false, _) => status.to_string(),
            (true, true) => return,
            (true, false) => message.to_owned(),
        };
        // A client that has gone needs no word.
        let _ = client.tell(STATUS, told.as_bytes()).await;
    }
}

fn is_plain(handshake: &Handshake) -> bool {
    !matches!(handshake.protocol, Some(FIFTH_PROTOCOL | FOURTH_PROTOCOL))
}

/// How long a client may take to open its streams, as at a kubelet.
const STREAMS_TIMEOUT: Duration = Duration::from_secs(30);

/// How many pieces of input wait for the process; the client is not heard further while they do.
const PIECES_MAX: usize = 16;

/// How long a process may take for what a client that has gone said last.
const LAST_WORDS_MAX: Duration = Duration::from_secs(5);

/// The longest piece of a terminal's size that waits for its rest.
const SIZE_LEN_MAX: usize = 1 << 10;

/// How much output goes into one message.
const PIECE_LEN: usize = 32 << 10;

/// How long output is still awaited after the end: a background process may hold the pipe for ever. What is there by
/// then is told however slowly the client takes it.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);

/// How much output there may be by then: a pipe holds no more, unless root has made it larger.
const PIPE_LEN_MAX: usize = 1 << 20;

/// Sets the size of the terminal.
type Resize = Box<dyn Fn(Size) -> BoxFuture<'static, ()> + Send + Sync>;

/// The size of a terminal.
#[derive(Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Size {
    width: u16,
    height: u16,
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
    let terms = Terms::of(&handshake, &spec, true);
    let server = server.clone();
    Ok(handshake.accept(move |incoming, outgoing| {
        let begin = async move {
            let session = server.node.runtime.exec(&uid, &id, &spec).await?;
            let resize = resizer(server, uid, id, session.pid);
            Ok((session, resize))
        };
        converse(incoming, outgoing, terms, begin)
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
    let terms = Terms::of(&handshake, &spec, false);
    let server = server.clone();
    Ok(handshake.accept(move |incoming, outgoing| {
        let begin = async move {
            let session = server.node.runtime.attach(&uid, &id, &spec).await?;
            Ok((session, resizer(server, uid, id, None)))
        };
        converse(incoming, outgoing, terms, begin)
    }))
}

fn resizer(server: Server, uid: String, id: String, pid: Option<i32>) -> Resize {
    Box::new(move |size| {
        let (server, uid, id) = (server.clone(), uid.clone(), id.clone());
        Box::pin(async move {
            let runtime = &server.node.runtime;
            let resized = runtime.resize(&uid, &id, pid, size.width, size.height);
            if let Err(error) = resized.await {
                tracing::debug!(%error, "a terminal was not resized");
            }
        })
    })
}

/// What was agreed on with the client.
struct Terms {
    carrier: Carrier,
    /// The channels that the client has to open, if it opens any.
    wanted: Vec<u8>,
    /// How long it may take over that.
    opening_max: Duration,
    ending: Ending,
}

impl Terms {
    fn of(handshake: &Handshake, spec: &ExecSpec, code: bool) -> Self {
        let has_sizes = matches!(handshake.protocol, Some(FOURTH_PROTOCOL | THIRD_PROTOCOL));
        let channels = [
            (true, STATUS),
            (spec.stdin, STDIN),
            (spec.stdout, STDOUT),
            (spec.stderr, STDERR),
            (spec.terminal && has_sizes, RESIZE),
        ];
        let wanted = channels.into_iter().filter(|(is_wanted, _)| *is_wanted);
        Self {
            carrier: handshake.carrier,
            wanted: wanted.map(|(_, channel)| channel).collect(),
            opening_max: STREAMS_TIMEOUT,
            ending: Ending {
                code,
                plain: is_plain(handshake),
                drain_max: DRAIN_TIMEOUT,
            },
        }
    }
}

/// Hears a client, begins the session when all its streams are there, and serves it.
async fn converse(
    incoming: Incomings,
    outgoing: Outgoing,
    terms: Terms,
    begin: impl Future<Output = Result<(Session, Resize), RuntimeError>>,
) {
    let (said, heard) = mpsc::channel(PIECES_MAX);
    let (mut listener, streams) = match terms.carrier {
        Carrier::WebSocket => (tokio::spawn(hear_messages(incoming, said)), Ok(None)),
        Carrier::Spdy => {
            let (opened, streams) = oneshot::channel();
            let listener = Listener::new(outgoing.clone(), terms.wanted, opened, said);
            let listener = tokio::spawn(listener.hear(incoming));
            (
                listener,
                all_open(streams, terms.opening_max).await.map(Some),
            )
        }
    };
    if let Ok(streams) = streams {
        let client = Client::new(outgoing, streams);
        match begin.await {
            Ok((session, resize)) => {
                let gone = async {
                    let _ = (&mut listener).await;
                };
                serve(session, resize, gone, heard, &client, terms.ending).await;
            }
            // The client has been promised a stream by now, so the failure is told on it.
            Err(error) => finish(&client, terms.ending, &failure(&error)).await,
        }
    }
    listener.abort();
    // Whoever is aborted still holds a queue until it has ended; the writer waits for that.
    if !listener.is_finished() {
        let _ = listener.await;
    }
}

async fn all_open(streams: oneshot::Receiver<Streams>, max: Duration) -> Result<Streams, ()> {
    let opened = tokio::time::timeout(max, streams).await;
    opened.ok().and_then(Result::ok).ok_or_else(|| {
        tracing::debug!("a client did not open the streams of a session");
    })
}

/// Tells how a session ended, after the ends of its output.
async fn finish(client: &Client, ending: Ending, status: &serde_json::Value) {
    client.end(STDOUT).await;
    client.end(STDERR).await;
    ending.tell(client, status).await;
    client.close().await;
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

/// Serves a session until it ends or the client has `gone`.
async fn serve(
    session: Session,
    resize: Resize,
    gone: impl Future<Output = ()>,
    heard: mpsc::Receiver<Said>,
    client: &Client,
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
    let late = CancellationToken::new();
    let connected = connect(stdin, stdout, stderr, terminal, client, &late);
    let (input, mut outputs) = match connected {
        Ok(connected) => connected,
        Err(error) => {
            tracing::debug!(%error, "the streams of a session cannot be used");
            return;
        }
    };
    let mut reader = tokio::spawn(read(heard, input, resize));
    let mut gone = pin!(gone);
    let end = tokio::select! {
        end = exit => Some(end),
        () = client.closed() => None,
        () = &mut gone => {
            let _ = tokio::time::timeout(LAST_WORDS_MAX, &mut reader).await;
            None
        }
    };
    if let Some(end) = end {
        let status = match end {
            Ok(exit) if ending.code => outcome(&exit),
            Ok(_) => success(),
            Err(_) => failure(&RuntimeError::Lost),
        };
        let all = tokio::time::timeout(ending.drain_max, ended(&mut outputs));
        if all.await.is_err() {
            late.cancel();
        }
        tokio::select! {
            () = ended(&mut outputs) => finish(client, ending, &status).await,
            () = gone => {}
        }
    }
    outputs.abort_all();
    reader.abort();
    // Whoever is aborted still holds a queue until it has ended; the writer waits for that.
    ended(&mut outputs).await;
    if !reader.is_finished() {
        let _ = reader.await;
    }
}

/// What the client's input is written to.
enum Input {
    Pipe(tokio::net::unix::pipe::Sender),
    Terminal(std::sync::Arc<AsyncFd<OwnedFd>>),
    None,
}

type Outputs = tokio::task::JoinSet<()>;

async fn ended(outputs: &mut Outputs) {
    while outputs.join_next().await.is_some() {}
}

fn connect(
    stdin: Option<OwnedFd>,
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
    terminal: Option<OwnedFd>,
    client: &Client,
    late: &CancellationToken,
) -> std::io::Result<(Input, Outputs)> {
    let mut outputs = Outputs::new();
    if let Some(terminal) = terminal {
        streams::set_nonblocking(&terminal)?;
        let terminal = std::sync::Arc::new(crate::sys::register(terminal)?);
        outputs.spawn(copy_terminal(
            terminal.clone(),
            client.clone(),
            late.clone(),
        ));
        return Ok((Input::Terminal(terminal), outputs));
    }
    for (fd, channel) in [(stdout, STDOUT), (stderr, STDERR)] {
        if let Some(fd) = fd {
            outputs.spawn(copy_pipe(
                streams::reader(fd)?,
                channel,
                client.clone(),
                late.clone(),
            ));
        }
    }
    let input = match stdin {
        Some(fd) => Input::Pipe(streams::writer(fd)?),
        None => Input::None,
    };
    Ok((input, outputs))
}

/// Tells what comes out of a pipe until it ends, or what it still holds when it is `late`.
async fn copy_pipe(
    mut pipe: tokio::net::unix::pipe::Receiver,
    channel: u8,
    client: Client,
    late: CancellationToken,
) {
    let mut piece = vec![0; PIECE_LEN];
    while !late.is_cancelled() {
        let read = tokio::select! {
            read = pipe.read(&mut piece) => read,
            () = late.cancelled() => break,
        };
        match read {
            Ok(n) if n > 0 && client.tell(channel, &piece[..n]).await => {}
            _ => return,
        }
    }
    let mut left = PIPE_LEN_MAX;
    while let (1.., Ok(n @ 1..)) = (left, pipe.try_read(&mut piece)) {
        left = left.saturating_sub(n);
        if !client.tell(channel, &piece[..n]).await {
            return;
        }
    }
}

/// The same for a terminal.
async fn copy_terminal(
    terminal: std::sync::Arc<AsyncFd<OwnedFd>>,
    client: Client,
    late: CancellationToken,
) {
    let mut piece = vec![0; PIECE_LEN];
    while !late.is_cancelled() {
        let ready = tokio::select! {
            ready = terminal.readable() => ready,
            () = late.cancelled() => break,
        };
        let Ok(mut ready) = ready else { return };
        match ready.try_io(|fd| nix::unistd::read(fd.get_ref(), &mut piece).map_err(Into::into)) {
            Ok(Ok(n)) if n > 0 => {
                if !client.tell(STDOUT, &piece[..n]).await {
                    return;
                }
            }
            // The end of a terminal is an I/O error.
            Ok(_) => return,
            Err(_) => {}
        }
    }
    let mut left = PIPE_LEN_MAX;
    while let (1.., Ok(n @ 1..)) = (left, nix::unistd::read(terminal.get_ref(), &mut piece)) {
        left = left.saturating_sub(n);
        if !client.tell(STDOUT, &piece[..n]).await {
            return;
        }
    }
}

/// Takes what the client says until it is gone.
async fn read(mut heard: mpsc::Receiver<Said>, mut input: Input, resize: Resize) {
    let mut sizes = Sizes::default();
    while let Some(said) = heard.recv().await {
        match said {
            Said::Input(bytes) => input = write(input, &bytes).await,
            Said::InputEnd => input = Input::None,
            Said::Resize(bytes) => {
                for size in sizes.take(&bytes) {
                    resize(size).await;
                }
            }
        }
    }
}

/// Sizes of a terminal, which may arrive in pieces.
#[derive(Default)]
struct Sizes {
    rest: Vec<u8>,
}

impl Sizes {
    fn take(&mut self, bytes: &[u8]) -> Vec<Size> {
        self.rest.extend_from_slice(bytes);
        let mut values = serde_json::Deserializer::from_slice(&self.rest).into_iter::<Size>();
        let (mut sizes, mut read) = (Vec::new(), 0);
        for value in values.by_ref() {
            match value {
                Ok(size) => sizes.push(size),
                Err(error) if error.is_eof() => break,
                Err(error) => {
                    tracing::debug!(%error, "a size of a terminal cannot be read");
                    read = self.rest.len();
                    break;
                }
            }
        }
        self.rest.drain(..read.max(values.byte_offset()));
        if self.rest.len() > SIZE_LEN_MAX {
            self.rest.clear();
        }
        sizes
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
