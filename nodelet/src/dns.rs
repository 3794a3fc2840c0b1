//! Cluster DNS: answers for the cluster's domain from memory, and asks the machine's resolvers for the rest.
//!
//! Every node serves its own pods, on the address of its bridge. The records are a snapshot that is replaced whole
//! when Services or endpoints change; a query takes no lock that a change holds for long.
//!
//! Reading order: [`index`] (the records), [`forward`] (the rest of the world); here, the server.

pub mod forward;
pub mod index;

use std::net::SocketAddr;
use std::sync::{Arc, RwLock};
use std::time::Duration;

use async_trait::async_trait;
use hickory_proto::op::{Edns, MessageType, Metadata, OpCode, ResponseCode};
use hickory_proto::rr::rdata::{A, CNAME, PTR, SOA, SRV};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use hickory_server::Server;
use hickory_server::net::runtime::Time;
use hickory_server::server::{Request, RequestHandler, ResponseHandler, ResponseInfo};
use hickory_server::zone_handler::MessageResponseBuilder;
use tokio::net::{TcpListener, UdpSocket};
use tokio_util::sync::CancellationToken;

use forward::Forwarder;
pub use index::{Answer, Data, Index};

/// The port of DNS.
pub const PORT: u16 = 53;

/// How long an answer may be kept: short, because clients should notice changes of endpoints.
pub const TTL: u32 = 5;

/// The greatest answer over UDP to who says how much it takes: fits every path without fragments.
const UDP_MAX: u16 = 1232;

/// How long a TCP connection may say nothing.
const TCP_IDLE: Duration = Duration::from_secs(10);

/// Answers that wait for a slow TCP client.
const TCP_BUFFER: usize = 32;

/// How long the shutdown waits for answers under way.
const SHUTDOWN_MAX: Duration = Duration::from_secs(1);

/// Why DNS is not served.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address cannot be bound.
    #[error("cannot listen on {0}")]
    Bind(SocketAddr, #[source] std::io::Error),
}

/// The records that answers are made from; clones share them.
#[derive(Debug, Clone)]
pub struct Shared {
    /// Guards which snapshot is the present one; held to copy or replace a pointer.
    index: Arc<RwLock<Arc<Index>>>,
}

impl Shared {
    /// No records yet.
    pub fn new(domain: &str) -> Self {
        Self {
            index: Arc::new(RwLock::new(Arc::new(Index::build(&[], &[], domain)))),
        }
    }

    /// Replaces everything.
    pub fn replace(&self, index: Index) {
        *self
            .index
            .write()
            .unwrap_or_else(std::sync::PoisonError::into_inner) = Arc::new(index);
    }

    /// The present records.
    pub fn snapshot(&self) -> Arc<Index> {
        self.index
            .read()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .clone()
    }
}

/// Serves on an address until shutdown. Returns the address, whose port was chosen when 0 was given.
pub async fn serve(
    index: Shared,
    address: SocketAddr,
    shutdown: CancellationToken,
) -> Result<SocketAddr, Error> {
    let failed = |error| Error::Bind(address, error);
    let tcp = TcpListener::bind(address).await.map_err(failed)?;
    let bound = tcp.local_addr().map_err(failed)?;
    let udp = UdpSocket::bind(bound).await.map_err(failed)?;
    let mut server = Server::new(Handler {
        index,
        forwarder: Forwarder::new(bound.ip()),
    });
    server.register_socket(udp);
    server.register_listener(tcp, TCP_IDLE, TCP_BUFFER);
    tokio::spawn(async move {
        shutdown.cancelled().await;
        let _ = tokio::time::timeout(SHUTDOWN_MAX, server.shutdown_gracefully()).await;
    });
    Ok(bound)
}

struct Handler {
    index: Shared,
    forwarder: Forwarder,
}

/// What goes into a response.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Reply {
    pub(crate) code: ResponseCode,
    pub(crate) authoritative: bool,
    pub(crate) truncated: bool,
    pub(crate) answers: Vec<Record>,
    pub(crate) authorities: Vec<Record>,
}

#[async_trait]
impl RequestHandler for Handler {
    async fn handle_request<R: ResponseHandler, T: Time>(
        &self,
        request: &Request,
        mut sink: R,
    ) -> ResponseInfo {
        let reply = self.reply(request).await;
        let mut metadata = Metadata::response_from_request(&request.metadata);
        metadata.response_code = reply.code;
        metadata.authoritative = reply.authoritative;
        metadata.truncation = reply.truncated;
        metadata.recursion_available = true;
        let edns = request.edns.as_ref().map(|asked| {
            let mut edns = Edns::new();
            edns.set_max_payload(asked.max_payload().clamp(512, UDP_MAX));
            edns
        });
        let mut builder = MessageResponseBuilder::from_message_request(request);
        if let Some(edns) = &edns {
            builder.edns(edns);
        }
        let none: [Record; 0] = [];
        let response = builder.build(metadata, &reply.answers, &reply.authorities, &none, &none);
        match sink.send_response(response).await {
            Ok(info) => info,
            Err(error) => {
                tracing::debug!(%error, "a DNS client did not take its answer");
                let mut failed =
                    Metadata::new(request.metadata.id, MessageType::Response, OpCode::Query);
                failed.response_code = ResponseCode::ServFail;
                ResponseInfo::from(hickory_proto::op::Header {
                    metadata: failed,
                    counts: Default::default(),
                })
            }
        }
    }
}

impl Handler {
    async fn reply(&self, request: &Request) -> Reply {
        let refuse = |code| Reply {
            code,
            ..Reply::default()
        };
        if request.metadata.op_code != OpCode::Query {
            return refuse(ResponseCode::NotImp);
        }
        let Ok(info) = request.request_info() else {
            return refuse(ResponseCode::FormErr);
        };
        let query = info.query;
        if query.query_class() != DNSClass::IN {
            return refuse(ResponseCode::Refused);
        }
        let name = query.original().name();
        let index = self.index.snapshot();
        match local(&index, name, query.query_type()) {
            Some(mut reply) => {
                self.follow_alias(&index, &mut reply, query.query_type())
                    .await;
                reply
            }
            None => self.forwarder.ask(name, query.query_type()).await,
        }
    }

    /// An ExternalName leads outside: whoever asked for an address wants that of the other name, too.
    async fn follow_alias(&self, index: &Index, reply: &mut Reply, kind: RecordType) {
        if !matches!(kind, RecordType::A | RecordType::AAAA) {
            return;
        }
        let Some(RData::CNAME(target)) = reply.answers.first().map(|record| &record.data) else {
            return;
        };
        let further = match local(index, &target.0, kind) {
            // Once only: names of the cluster could lead in a circle.
            Some(further) => further,
            None => self.forwarder.ask(&target.0, kind).await,
        };
        reply.answers.extend(further.answers);
    }
}

/// The answer from the cluster's records, if the name is the cluster's.
fn local(index: &Index, name: &Name, kind: RecordType) -> Option<Reply> {
    let text = name.to_ascii().to_ascii_lowercase();
    let data = match index.answer(text.trim_end_matches('.'), kind) {
        Answer::Records(data) => data,
        Answer::NoData => return Some(negative(index, ResponseCode::NoError)),
        Answer::NoName => return Some(negative(index, ResponseCode::NXDomain)),
        Answer::Elsewhere => return None,
    };
    let answers = data.iter().filter_map(|data| record(name, data)).collect();
    Some(Reply {
        authoritative: true,
        answers,
        ..Reply::default()
    })
}

fn record(name: &Name, data: &Data) -> Option<Record> {
    let other = |text: &str| Name::from_ascii(format!("{text}.")).ok();
    let data = match data {
        Data::A(address) => RData::A(A(*address)),
        Data::Alias(target) => RData::CNAME(CNAME(other(target)?)),
        Data::Pointer(target) => RData::PTR(PTR(other(target)?)),
        Data::Service {
            port,
            weight,
            target,
        } => RData::SRV(SRV::new(0, *weight, *port, other(target)?)),
    };
    Some(Record::from_rdata(name.clone(), TTL, data))
}

fn negative(index: &Index, code: ResponseCode) -> Reply {
    let domain = index.domain();
    let name = |prefix: &str| Name::from_ascii(format!("{prefix}{domain}."));
    let soa = match (name(""), name("ns.dns."), name("hostmaster.")) {
        (Ok(zone), Ok(server), Ok(person)) => {
            let soa = SOA::new(server, person, index.serial(), 7200, 1800, 86400, TTL);
            Some(Record::from_rdata(zone, TTL, RData::SOA(soa)))
        }
        _ => None,
    };
    Reply {
        code,
        authoritative: true,
        authorities: soa.into_iter().collect(),
        ..Reply::default()
    }
}
