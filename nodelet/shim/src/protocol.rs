//! What agent and shim say to each other: length-prefixed JSON frames on a unix socket.
//!
//! Every frame is a big-endian `u32` length followed by that many bytes of JSON. One connection carries one request;
//! descriptors travel with its first byte (`SCM_RIGHTS`). Most requests get one [`Response`] and the end of the
//! connection; [`Request::Exec`], [`Request::Attach`] and [`Request::Watch`] get several.
//!
//! A shim may be older or newer than the agent that talks to it, so fields are only ever added, each with a default,
//! unknown fields are ignored, and a request the shim does not know is answered with [`Response::Error`]. The agent
//! asks for [`Request::Ping`] first to learn the shim's [`VERSION`].

use serde::{Deserialize, Serialize};

/// The protocol spoken by this build; raised when a request or field is added.
pub const VERSION: u32 = 1;

/// The socket's name inside the pod directory.
pub const SOCKET: &str = "shim.sock";

/// The longest frame: an exec's arguments and environment are bounded by the kernel at 2 MiB in practice.
pub const FRAME_LEN_MAX: usize = 4 << 20;

/// The most descriptors in one request: stdin, stdout, stderr.
pub const FDS_MAX: usize = 3;

/// One question to a shim.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "camelCase")]
pub enum Request {
    /// Who are you? Answered by [`Response::Pong`].
    Ping,
    /// Create and start a container. Answered by [`Response::Started`] or [`Response::Error`].
    Start(Start),
    /// Run one more process in a running container. Descriptors: those that the flags name, in the order stdin,
    /// stdout, stderr; none with `terminal`. Answered by [`Response::Started`] (with the terminal's descriptor when
    /// there is one) and later [`Response::Exited`].
    Exec(Exec),
    /// Join a container's own streams. Descriptors as for `Exec`. Answered by [`Response::Done`], and by
    /// [`Response::Exited`] when the container ends.
    Attach(Attach),
    /// Set the size of a terminal. Answered by [`Response::Done`].
    Resize(Resize),
    /// Send a signal to a container. Answered by [`Response::Done`], also when it has ended already.
    Kill(Kill),
    /// Tell the state of every container. Answered by one [`Response::State`].
    State,
    /// Tell the state now and after every change, for as long as the connection lives.
    Watch,
    /// Forget an ended container and free its cgroup. Answered by [`Response::Done`].
    Delete {
        /// The container's id.
        id: String,
    },
    /// End the shim; refused while a container runs. Answered by [`Response::Done`].
    Shutdown,
}

/// Describes a container to start.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Start {
    /// Unique among all containers that this pod ever had.
    pub id: String,
    /// The directory with `config.json`; exit records are written into it.
    pub bundle: String,
    /// The cgroup path of the spec, for counting OOM kills and killing stragglers.
    pub cgroup: String,
    /// Where the output goes, in CRI log format.
    pub log: LogTarget,
    /// Whether the container has a terminal.
    #[serde(default)]
    pub terminal: bool,
    /// Whether the container's stdin stays open for attached clients.
    #[serde(default)]
    pub stdin: bool,
    /// Whether stdin is closed when the first attached client ends its own.
    #[serde(default)]
    pub stdin_once: bool,
}

/// A log file and its limits.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LogTarget {
    /// The file; rotated files get `.1`, `.2`… appended.
    pub path: String,
    /// A file that is at least so long is rotated.
    pub size_max: u64,
    /// How many files are kept, the current one included.
    pub files_max: u32,
}

/// Describes a process to run in a running container.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Exec {
    /// The container's id.
    pub id: String,
    /// The process as an OCI `process` object (args, env, cwd, user, capabilities, terminal).
    pub process: serde_json::Value,
    /// A descriptor for stdin is passed.
    #[serde(default)]
    pub stdin: bool,
    /// A descriptor for stdout is passed.
    #[serde(default)]
    pub stdout: bool,
    /// A descriptor for stderr is passed.
    #[serde(default)]
    pub stderr: bool,
    /// The process is killed when the connection of the request ends before it does.
    #[serde(default)]
    pub kill_on_close: bool,
}

/// Describes an attached client.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Attach {
    /// The container's id.
    pub id: String,
    /// A descriptor that the shim reads into the container's stdin is passed.
    #[serde(default)]
    pub stdin: bool,
    /// A descriptor for the container's output is passed.
    #[serde(default)]
    pub stdout: bool,
    /// A descriptor for the container's error output is passed.
    #[serde(default)]
    pub stderr: bool,
}

/// A new terminal size.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Resize {
    /// The container's id.
    pub id: String,
    /// The process id of an exec; the container's own terminal without it.
    #[serde(default)]
    pub exec: Option<i32>,
    /// Width in characters.
    pub columns: u16,
    /// Height in lines.
    pub rows: u16,
}

/// A signal for a container.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Kill {
    /// The container's id.
    pub id: String,
    /// The signal's number.
    pub signal: i32,
    /// Every process of the container's cgroup instead of its first process alone.
    #[serde(default)]
    pub all: bool,
}

/// One answer of a shim.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "response", rename_all = "camelCase")]
pub enum Response {
    /// Answers [`Request::Ping`].
    Pong {
        /// The shim's [`VERSION`].
        version: u32,
        /// The shim's process id.
        pid: u32,
    },
    /// The process runs.
    Started {
        /// Its process id as the shim sees it.
        pid: i32,
        /// When it started, RFC 3339 with nanoseconds.
        started_at: String,
    },
    /// The process ended.
    Exited {
        /// How.
        exit: ExitRecord,
    },
    /// The state of the pod.
    State {
        /// Every container that was not deleted.
        containers: Vec<ContainerState>,
    },
    /// The request was carried out.
    Done,
    /// The request could not be carried out.
    Error {
        /// Why, for people.
        message: String,
        /// Why, for programs.
        #[serde(default)]
        kind: ErrorKind,
    },
}

/// Why a request failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ErrorKind {
    /// The container is unknown, or has ended.
    NotRunning,
    /// The program does not exist or cannot be executed.
    NotExecutable,
    /// The request makes no sense to this shim.
    Invalid,
    /// Anything else.
    #[default]
    #[serde(other)]
    Other,
}

/// A container as its shim knows it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ContainerState {
    /// The container's id.
    pub id: String,
    /// Its first process; absent while it is being started.
    #[serde(default)]
    pub pid: Option<i32>,
    /// When it started.
    #[serde(default)]
    pub started_at: Option<String>,
    /// How it ended, once it has.
    #[serde(default)]
    pub exit: Option<ExitRecord>,
}

/// How a process ended. Also the content of `exit.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExitRecord {
    /// The exit code; 128 plus the signal's number when a signal ended it.
    pub code: i32,
    /// The signal that ended it.
    #[serde(default)]
    pub signal: Option<i32>,
    /// Whether the kernel killed a process of it for want of memory.
    #[serde(default)]
    pub oom_killed: bool,
    /// When it started.
    pub started_at: String,
    /// When it ended.
    pub finished_at: String,
}

/// A message as it goes over the wire.
pub fn encode<T: Serialize>(message: &T) -> Vec<u8> {
    let body = serde_json::to_vec(message).expect("protocol types always serialise");
    let length = u32::try_from(body.len()).expect("frames stay far below 4 GiB");
    let mut frame = length.to_be_bytes().to_vec();
    frame.extend_from_slice(&body);
    frame
}

/// The length of the body that these four bytes announce, if it is acceptable.
pub fn body_len(prefix: [u8; 4]) -> Option<usize> {
    let length = u32::from_be_bytes(prefix) as usize;
    (length <= FRAME_LEN_MAX).then_some(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_survives_the_wire() {
        let request = Request::Kill(Kill {
            id: "a".into(),
            signal: 15,
            all: false,
        });
        let frame = encode(&request);
        let length = body_len(frame[..4].try_into().expect("four bytes")).expect("short enough");
        assert_eq!(length, frame.len() - 4);
        assert_eq!(
            serde_json::from_slice::<Request>(&frame[4..]).expect("parses"),
            request
        );
    }

    #[test]
    fn fields_of_a_newer_peer_are_ignored() {
        let newer = r#"{"response":"pong","version":9,"pid":1,"colour":"red"}"#;
        assert_eq!(
            serde_json::from_str::<Response>(newer).expect("parses"),
            Response::Pong { version: 9, pid: 1 }
        );
        let kind: ErrorKind = serde_json::from_str(r#""brandNew""#).expect("falls back");
        assert_eq!(kind, ErrorKind::Other);
    }
}
