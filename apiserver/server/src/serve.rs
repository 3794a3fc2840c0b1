//! The listener: TLS, HTTP/1.1 and HTTP/2, and bounds on what a connection may cost.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::gather::{Gathered, Served};
use self::patience::Patient;
use self::together::{Streams, Together};
use crate::Shared;
use crate::authn::x509::Peer;
use crate::chain::{self, Origin};
use crate::response;

mod gather;
pub(crate) mod patience;
mod together;

/// Connections open at a time. Each costs some tens of kilobytes; 50,000 nodes need one or two each.
pub const CONNECTIONS_MAX: usize = 120_000;
/// How long a client may take for the TLS handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// The types of the records with which a client of TLS begins: an alert or a handshake.
const RECORDS: [u8; 2] = [21, 22];
/// By which requests without TLS are known, as servers in Go know them: by as much as the head of a record of TLS has.
const PLAIN: [&[u8; 5]; 5] = [b"GET /", b"HEAD ", b"POST ", b"PUT /", b"OPTIO"];
/// What such a client is told.
const PLAIN_ANSWER: &[u8] =
    b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n";
/// How long such a client may take to close its end.
const PLAIN_PATIENCE: Duration = Duration::from_secs(1);
/// Bytes of the head of one request.
pub const HEADER_BYTES_MAX: usize = 64 * 1024;
/// Requests at a time on one HTTP/2 connection; clients in Go open another one beyond.
const STREAMS_MAX: u32 = 250;
/// Streams that a client may reset before they are answered; more is an attack.
const RESETS_MAX: usize = 100;
/// Bytes buffered for each request whose client does not read.
const SEND_BUFFER: usize = 64 * 1024;
/// How long requests that last, and connections, may take to end once everything else is answered after the server was told
/// to stop.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// The ends of a request's connection.
#[derive(Debug, Clone, Copy)]
pub struct Ends {
    /// The client's address.
    pub client: IpAddr,
    /// The server's.
    pub server: IpAddr,
}

/// Accepts connections until told to stop, then lets open requests end.
pub async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    let stop = shared.stop.clone();
    let max = shared.flow.bounds().connections;
    let free = Arc::new(Semaphore::new(max));
    let tasks = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let tcp = match accepted {
            Ok((tcp, _)) => tcp,
            Err(error) => {
                // Out of descriptors, most likely: wait for some to be closed.
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let Ok(permit) = free.clone().try_acquire_owned() else {
            tracing::warn!(max, "too many connections, refusing one");
            continue;
        };
        let acceptor = TlsAcceptor::from(shared.tls.config.load_full());
        let shared = shared.clone();
        tasks.spawn(async move {
            let _permit = permit;
            shared.metrics.connections.inc();
            connection(tcp, acceptor, shared.clone()).await;
            shared.metrics.connections.dec();
        });
    }
    drop(listener);
    // Everything that was accepted is answered, in the time that it has anyway.
    shared.open.close();
    let _ = tokio::time::timeout(chain::REQUEST_TIMEOUT, shared.open.wait()).await;
    tasks.close();
    let _ = tokio::time::timeout(DRAIN_TIMEOUT, tasks.wait()).await;
}

/// Makes TLS of a connection, or tells a client that does not speak it.
async fn handshake(
    mut tcp: TcpStream,
    acceptor: TlsAcceptor,
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut first = [0; 1];
    tcp.peek(&mut first).await?;
    if RECORDS.contains(&first[0]) {
        return acceptor.accept(tcp).await;
    }
    let mut words = [0; 5];
    tcp.read_exact(&mut words).await?;
    if PLAIN.contains(&&words) {
        tcp.write_all(PLAIN_ANSWER).await?;
    }
    tcp.shutdown().await?;
    // Closing before all of it has come would take back what was told.
    let mut rest = tokio::io::sink();
    let request = &mut tcp.take(HEADER_BYTES_MAX as u64);
    let _ = tokio::time::timeout(PLAIN_PATIENCE, tokio::io::copy(request, &mut rest)).await;
    Err(std::io::ErrorKind::InvalidData.into())
}

async fn connection(tcp: TcpStream, acceptor: TlsAcceptor, shared: Arc<Shared>) {
    // Small answers must not wait for more.
    let _ = tcp.set_nodelay(true);
    let (Ok(client), Ok(server)) = (tcp.peer_addr(), tcp.local_addr()) else {
        return;
    };
    let ends = Ends {
        client: client.ip().to_canonical(),
        server: server.ip().to_canonical(),
    };
    let Ok(Ok(tls)) = tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake(tcp, acceptor)).await
    else {
        shared.metrics.handshake_errors.inc();
        return;
    };
    let peer = Arc::new(Peer::new(tls.get_ref().1.peer_certificates()));
    let stop: CancellationToken = shared.stop.clone();
    let (head_time, patience) = {
        let bounds = shared.flow.bounds();
        (bounds.head_time, bounds.patience)
    };
    let begun = Arc::new(AtomicBool::new(false));
    let begins = begun.clone();
    let connection = Gathered::new(Patient::new(tls, patience));
    let (gathered, streams) = (connection.clone(), Streams::default());
    let together = Together::new(&streams);
    let service = service_fn(move |mut request: http::Request<hyper::body::Incoming>| {
        begins.store(true, Ordering::Relaxed);
        let (shared, peer) = (shared.clone(), peer.clone());
        request.extensions_mut().insert(ends);
        if request.headers().contains_key(http::header::UPGRADE) {
            gathered.go_direct();
            let upgrade = hyper::upgrade::on(&mut request);
            request.extensions_mut().insert(upgrade);
        }
        let is_head = request.method() == http::Method::HEAD;
        async move {
            let answer = chain::serve(shared, request, Origin::Connection(peer)).await;
            // Over HTTP/2 hyper would send the body, which clients take for a breach of the protocol.
            Ok::<_, std::convert::Infallible>(match is_head {
                true => response::without_body(answer),
                false => answer,
            })
        }
    });
    let mut builder = auto::Builder::new(streams);
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(head_time)
        .max_buf_size(HEADER_BYTES_MAX)
        .keep_alive(true);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(u32::try_from(HEADER_BYTES_MAX).unwrap_or(u32::MAX))
        .max_pending_accept_reset_streams(RESETS_MAX)
        .max_local_error_reset_streams(RESETS_MAX)
        .max_send_buf_size(SEND_BUFFER)
        .initial_stream_window_size(1024 * 1024)
        .initial_connection_window_size(4 * 1024 * 1024)
        .keep_alive_interval(Duration::from_secs(30));
    let stream = TokioIo::new(connection.clone());
    let serving = builder.serve_connection_with_upgrades(stream, service);
    let mut served = Served::new(serving, connection, together);
    let silence = tokio::time::sleep(head_time);
    tokio::select! {
        () = &mut served => return,
        () = stop.cancelled() => served.serving().graceful_shutdown(),
        // Which version of HTTP a client speaks is read without a time, and so are the first frames of HTTP/2.
        () = silence => {
            if !begun.load(Ordering::Relaxed) {
                return;
            }
            tokio::select! {
                () = &mut served => return,
                () = stop.cancelled() => served.serving().graceful_shutdown(),
            }
        }
    }
    served.await;
}
