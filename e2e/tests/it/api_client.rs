//! A small client of the API that knows several servers, and goes to the next one when one breaks off.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use corral_e2e::{Cluster, WAIT_MAX};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde_json::Value;

/// How long a server may be silent before it counts as gone. Bookmarks come more often to watches.
const SILENCE_MAX: Duration = Duration::from_secs(15);
/// Between attempts when no server answers.
const RETRY_AFTER: Duration = Duration::from_millis(20);

type Stream = BufReader<StreamOwned<ClientConnection, TcpStream>>;

/// Servers and the right to use them.
#[derive(Clone)]
pub struct Servers {
    endpoints: Arc<[SocketAddr]>,
    tls: Arc<ClientConfig>,
}

impl Servers {
    /// The servers of one store, with the administrator's certificate of the first.
    pub fn of(clusters: &[&Cluster]) -> Self {
        let endpoints = clusters.iter().map(|cluster| {
            let url = cluster.server();
            let address = url.strip_prefix("https://").expect("a URL");
            address.parse().expect("an address")
        });
        let text = std::fs::read_to_string(clusters[0].kubeconfig()).expect("a kubeconfig");
        let config: Value = serde_saphyr::from_str(&text).expect("YAML");
        let pem = |value: &Value| {
            let text = value.as_str().expect("base64");
            STANDARD.decode(text).expect("base64")
        };
        let user = &config["users"][0]["user"];
        let ca = pem(&config["clusters"][0]["cluster"]["certificate-authority-data"]);
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_slice(&ca).expect("PEM"))
            .expect("an authority");
        let certificate = pem(&user["client-certificate-data"]);
        let certificates = CertificateDer::pem_slice_iter(&certificate)
            .collect::<Result<Vec<_>, _>>()
            .expect("PEM");
        let key = PrivateKeyDer::from_pem_slice(&pem(&user["client-key-data"])).expect("PEM");
        let tls = ClientConfig::builder()
            .with_root_certificates(roots)
            .with_client_auth_cert(certificates, key)
            .expect("a certificate and its key");
        Self {
            endpoints: endpoints.collect(),
            tls: Arc::new(tls),
        }
    }

    /// A client that begins at one of them.
    pub fn client(&self, first: usize) -> Client {
        Client {
            servers: self.clone(),
            at: first,
            open: None,
            moves: 0,
        }
    }
}

/// A client of one of the servers at a time.
pub struct Client {
    servers: Servers,
    at: usize,
    open: Option<Stream>,
    /// How often it went to the next server.
    pub moves: usize,
}

impl Client {
    /// One attempt. After a failure nobody knows whether it was carried out; the next attempt goes to the next server.
    pub fn call(
        &mut self,
        method: &str,
        path: &str,
        body: Option<&Value>,
    ) -> io::Result<(u16, Value)> {
        let answer = self.attempt(method, path, body);
        if answer.is_err() {
            self.go_on();
        }
        answer
    }

    /// As many attempts as it takes, and whether there were several.
    pub fn insist(&mut self, method: &str, path: &str, body: Option<&Value>) -> (u16, Value, bool) {
        let deadline = Instant::now() + WAIT_MAX;
        let mut again = false;
        loop {
            match self.call(method, path, body) {
                Ok((code, value)) => return (code, value, again),
                Err(error) => assert!(Instant::now() < deadline, "{method} {path}: {error}"),
            }
            again = true;
            std::thread::sleep(RETRY_AFTER);
        }
    }

    /// Lines of an answer that goes on, until it breaks off.
    pub fn stream(&mut self, path: &str, mut line: impl FnMut(&str) -> bool) -> io::Result<()> {
        let outcome = self.read_stream(path, &mut line);
        self.open = None;
        if outcome.is_err() {
            self.go_on();
        }
        outcome
    }

    fn read_stream(&mut self, path: &str, line: &mut impl FnMut(&str) -> bool) -> io::Result<()> {
        let mut stream = self.send("GET", path, None)?;
        let head = Head::read(&mut stream)?;
        assert_eq!(head.code, 200, "{path}");
        let mut waiting = Vec::new();
        while let Some(chunk) = chunk(&mut stream)? {
            waiting.extend(chunk);
            while let Some(end) = waiting.iter().position(|byte| *byte == b'\n') {
                let whole: Vec<u8> = waiting.drain(..=end).collect();
                if !line(&String::from_utf8_lossy(&whole)) {
                    return Ok(());
                }
            }
        }
        Err(io::ErrorKind::UnexpectedEof.into())
    }

    fn go_on(&mut self) {
        self.open = None;
        self.at += 1;
        self.moves += 1;
    }

    fn attempt(
        &mut self,
        method: &str,
        path: &str,
        body: Option<&Value>,
    ) -> io::Result<(u16, Value)> {
        let mut stream = self.send(method, path, body)?;
        let head = Head::read(&mut stream)?;
        let mut text = Vec::new();
        match head.length {
            Some(length) => {
                text.resize(length, 0);
                stream.read_exact(&mut text)?;
            }
            None => {
                while let Some(chunk) = chunk(&mut stream)? {
                    text.extend(chunk);
                }
            }
        }
        self.open = Some(stream);
        let value = serde_json::from_slice(&text).map_err(io::Error::other)?;
        Ok((head.code, value))
    }

    fn send(&mut self, method: &str, path: &str, body: Option<&Value>) -> io::Result<Stream> {
        let mut stream = match self.open.take() {
            Some(stream) => stream,
            None => self.connect()?,
        };
        let body = body.map(Value::to_string).unwrap_or_default();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: corral\r\naccept: application/json\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.get_mut().write_all(request.as_bytes())?;
        stream.get_mut().flush()?;
        Ok(stream)
    }

    fn connect(&self) -> io::Result<Stream> {
        let endpoints = &self.servers.endpoints;
        let address = endpoints[self.at % endpoints.len()];
        let socket = TcpStream::connect(address)?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(SILENCE_MAX))?;
        let name = ServerName::from(address.ip());
        let tls =
            ClientConnection::new(self.servers.tls.clone(), name).map_err(io::Error::other)?;
        Ok(BufReader::new(StreamOwned::new(tls, socket)))
    }
}

struct Head {
    code: u16,
    /// Without it the body comes in chunks.
    length: Option<usize>,
}

impl Head {
    fn read(stream: &mut Stream) -> io::Result<Self> {
        let malformed = || io::Error::other("no HTTP");
        let status = line(stream)?;
        let code = status.split(' ').nth(1).and_then(|code| code.parse().ok());
        let mut head = Self {
            code: code.ok_or_else(malformed)?,
            length: None,
        };
        loop {
            let header = line(stream)?.to_lowercase();
            if header.is_empty() {
                return Ok(head);
            }
            if let Some(length) = header.strip_prefix("content-length:") {
                head.length = Some(length.trim().parse().map_err(io::Error::other)?);
            }
        }
    }
}

/// A line without its end. The end of the stream is a failure.
fn line(stream: &mut Stream) -> io::Result<String> {
    let mut line = String::new();
    match stream.read_line(&mut line)? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(line.trim_end().to_owned()),
    }
}

/// The next piece of a body; nothing at its end.
fn chunk(stream: &mut Stream) -> io::Result<Option<Vec<u8>>> {
    let length = usize::from_str_radix(&line(stream)?, 16).map_err(io::Error::other)?;
    let mut chunk = vec![0; length];
    stream.read_exact(&mut chunk)?;
    line(stream)?;
    Ok((length > 0).then_some(chunk))
}
