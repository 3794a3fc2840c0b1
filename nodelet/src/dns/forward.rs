//! Asks the machine's resolvers for what is not the cluster's, and remembers their answers for a while.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Duration;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

use super::{PORT, Reply};

/// How long one resolver may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// Questions under way at once; each holds a socket. More are refused at once rather than queued.
const QUESTIONS_MAX: usize = 256;

/// Answers that are remembered, a few hundred bytes each.
const REMEMBERED_MAX: usize = 2048;

/// The longest time an answer is remembered, whatever it says itself.
const REMEMBER_MAX: Duration = Duration::from_secs(30);

/// How long it is remembered that a name does not exist.
const REMEMBER_NOTHING: Duration = Duration::from_secs(5);

/// The greatest answer over UDP that is asked for.
const UDP_MAX: u16 = 1232;

type Remembered = HashMap<(Name, RecordType), (Instant, Instant, Reply)>;

/// Asks other resolvers.
pub(super) struct Forwarder {
    own: IpAddr,
    configuration: PathBuf,
    port: u16,
    questions: Semaphore,
    /// Guards what is remembered: when it was asked, until when it holds, and the answer. Never held while waiting.
    remembered: Mutex<Remembered>,
}

impl Forwarder {
    /// Asks the resolvers in `/etc/resolv.conf`, never the address that this server itself listens on.
    pub(super) fn new(own: IpAddr) -> Self {
        Self {
            own,
            configuration: PathBuf::from("/etc/resolv.conf"),
            port: PORT,
            questions: Semaphore::new(QUESTIONS_MAX),
            remembered: Mutex::default(),
        }
    }

    /// What the world says.
    pub(super) async fn ask(&self, name: &Name, kind: RecordType) -> Reply {
        let key = (name.to_lowercase(), kind);
        if let Some(mut reply) = self.recall(&key) {
            // The spelling of the question is the client's own.
            for record in reply
                .answers
                .iter_mut()
                .filter(|record| record.name.to_lowercase() == key.0)
            {
                record.name = name.clone();
            }
            return reply;
        }
        let failed = Reply {
            code: ResponseCode::ServFail,
            ..Reply::default()
        };
        let Ok(_permit) = self.questions.try_acquire() else {
            return failed;
        };
        for server in self.servers().await {
            match timeout(PATIENCE, question(server, name, kind)).await {
                Ok(Ok(reply))
                    if !matches!(reply.code, ResponseCode::ServFail | ResponseCode::Refused) =>
                {
                    self.remember(key, &reply);
                    return reply;
                }
                Ok(Ok(_)) => {}
                Ok(Err(error)) => tracing::debug!(%server, %error, "a resolver did not answer"),
                Err(_) => tracing::debug!(%server, "a resolver did not answer in time"),
            }
        }
        failed
    }

    /// The resolvers, read anew each time: they change when the machine moves between networks.
    async fn servers(&self) -> Vec<SocketAddr> {
        let text = tokio::fs::read_to_string(&self.configuration)
            .await
            .unwrap_or_default();
        servers(&text)
            .into_iter()
            .filter(|ip| *ip != self.own)
            .map(|ip| (ip, self.port).into())
            .collect()
    }

    fn recall(&self, key: &(Name, RecordType)) -> Option<Reply> {
        let remembered = self.remembered.lock().expect("no panic while held");
        let (asked, until, reply) = remembered.get(key)?;
        let now = Instant::now();
        (now < *until).then(|| {
            let age = u32::try_from((now - *asked).as_secs()).unwrap_or(u32::MAX);
            let mut reply = reply.clone();
            for record in reply.answers.iter_mut().chain(&mut reply.authorities) {
                record.ttl = record.ttl.saturating_sub(age);
            }
            reply
        })
    }

    fn remember(&self, key: (Name, RecordType), reply: &Reply) {
        let shortest = reply.answers.iter().map(|record| record.ttl).min();
        let time = shortest.map_or(REMEMBER_NOTHING, |ttl| {
            Duration::from_secs(ttl.into()).min(REMEMBER_MAX)
        });
        let now = Instant::now();
        let mut remembered = self.remembered.lock().expect("no panic while held");
        if remembered.len() >= REMEMBERED_MAX {
            remembered.retain(|_, (_, until, _)| *until > now);
        }
        if remembered.len() < REMEMBERED_MAX && !time.is_zero() && !reply.truncated {
            remembered.insert(key, (now, now + time, reply.clone()));
        }
    }
}

/// The name servers of a resolver configuration; more than three are not used, as everywhere.
fn servers(configuration: &str) -> Vec<IpAddr> {
    let server = |line: &str| {
        let mut words = line.split_whitespace();
        (words.next() == Some("nameserver")).then(|| words.next()?.parse().ok())?
    };
    configuration.lines().filter_map(server).take(3).collect()
}

async fn question(server: SocketAddr, name: &Name, kind: RecordType) -> std::io::Result<Reply> {
    let id = rand::random();
    let mut message = Message::new(id, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(name.clone(), kind));
    let mut edns = Edns::new();
    edns.set_max_payload(UDP_MAX);
    message.edns = Some(edns);
    let bytes = message.to_vec().map_err(std::io::Error::other)?;
    let reply = over_udp(server, &bytes, id, name, kind).await?;
    if reply.metadata.truncation {
        return Ok(convert(over_tcp(server, &bytes, id).await?));
    }
    Ok(convert(reply))
}

fn convert(message: Message) -> Reply {
    Reply {
        code: message.metadata.response_code,
        authoritative: false,
        truncated: message.metadata.truncation,
        answers: message.answers,
        authorities: message.authorities,
    }
}

async fn over_udp(
    server: SocketAddr,
    bytes: &[u8],
    id: u16,
    name: &Name,
    kind: RecordType,
) -> std::io::Result<Message> {
    let any: SocketAddr = if server.is_ipv4() {
        ([0; 4], 0).into()
    } else {
        ([0_u16; 8], 0).into()
    };
    // A socket of its own with a port that the kernel chooses, connected: nobody else can slip in an answer easily.
    let socket = UdpSocket::bind(any).await?;
    socket.connect(server).await?;
    socket.send(bytes).await?;
    let mut buffer = vec![0; usize::from(u16::MAX)];
    loop {
        let length = socket.recv(&mut buffer).await?;
        let Ok(message) = Message::from_vec(&buffer[..length]) else {
            continue;
        };
        let asked = |query: &Query| query.name() == name && query.query_type() == kind;
        if message.metadata.id == id && message.queries.iter().all(asked) {
            return Ok(message);
        }
    }
}

async fn over_tcp(server: SocketAddr, bytes: &[u8], id: u16) -> std::io::Result<Message> {
    let mut stream = TcpStream::connect(server).await?;
    let length = u16::try_from(bytes.len()).map_err(std::io::Error::other)?;
    stream.write_all(&length.to_be_bytes()).await?;
    stream.write_all(bytes).await?;
    let length = stream.read_u16().await?;
    let mut buffer = vec![0; usize::from(length)];
    stream.read_exact(&mut buffer).await?;
    let message = Message::from_vec(&buffer).map_err(std::io::Error::other)?;
    if message.metadata.id == id {
        Ok(message)
    } else {
        Err(std::io::Error::other("another question's answer"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolvers_are_read_from_the_configuration() {
        let text = "# one\nsearch x.example\nnameserver 192.0.2.1\nnameserver  ::1\nnameserver bad\noptions ndots:1\n";
        let expected: Vec<IpAddr> = vec![
            "192.0.2.1".parse().expect("an address"),
            "::1".parse().expect("an address"),
        ];
        assert_eq!(servers(text), expected);
    }

    #[tokio::test]
    async fn nobody_to_ask_is_a_failure_and_not_a_loop() {
        let directory = tempfile::tempdir().expect("a directory");
        let configuration = directory.path().join("resolv.conf");
        std::fs::write(&configuration, "nameserver 127.0.0.9\n").expect("writes");
        let mut forwarder = Forwarder::new("127.0.0.9".parse().expect("an address"));
        forwarder.configuration = configuration;
        let name = Name::from_ascii("example.org.").expect("a name");
        assert_eq!(
            forwarder.ask(&name, RecordType::A).await.code,
            ResponseCode::ServFail
        );
    }
}
