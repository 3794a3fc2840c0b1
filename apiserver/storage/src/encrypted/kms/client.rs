//! Calls of a plugin over its socket.

use std::time::Duration;

use prost::Message;
use tokio::time::timeout;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Request, Status};
use tonic_prost::ProstCodec;

use super::super::Failure;
use super::messages::{
    DecryptRequest, DecryptResponse, EncryptRequest, EncryptResponse, StatusRequest, StatusResponse,
};

/// Largest answer of a plugin: a key, its id and annotations are at most 34 KiB.
const ANSWER_BYTES_MAX: usize = 256 * 1024;

/// A connection to a plugin, made again when it breaks.
#[derive(Debug, Clone)]
pub(super) struct Client {
    channel: Channel,
    timeout: Duration,
}

impl Client {
    /// A client of the plugin that listens at a socket; it is reached when it is first needed.
    pub(super) fn new(endpoint: &str, timeout: Duration) -> Result<Self, String> {
        // Plugins of Go see this name where others see a host.
        let origin = Uri::from_static("http://localhost");
        let endpoint = Endpoint::from_shared(endpoint.to_owned())
            .map_err(|error| format!("failed to parse endpoint {endpoint:?}: {error}"))?
            .origin(origin);
        Ok(Self {
            channel: endpoint.connect_lazy(),
            timeout,
        })
    }

    pub(super) async fn status(&self) -> Result<StatusResponse, Failure> {
        let path = PathAndQuery::from_static("/v2.KeyManagementService/Status");
        self.call(path, StatusRequest {}).await
    }

    pub(super) async fn decrypt(
        &self,
        request: DecryptRequest,
    ) -> Result<DecryptResponse, Failure> {
        let path = PathAndQuery::from_static("/v2.KeyManagementService/Decrypt");
        self.call(path, request).await
    }

    pub(super) async fn encrypt(
        &self,
        request: EncryptRequest,
    ) -> Result<EncryptResponse, Failure> {
        let path = PathAndQuery::from_static("/v2.KeyManagementService/Encrypt");
        self.call(path, request).await
    }

    async fn call<A, B>(&self, path: PathAndQuery, message: A) -> Result<B, Failure>
    where
        A: Message + 'static,
        B: Message + Default + 'static,
    {
        let mut grpc = Grpc::new(self.channel.clone()).max_decoding_message_size(ANSWER_BYTES_MAX);
        let call = async {
            grpc.ready()
                .await
                .map_err(|error| Status::unavailable(error.to_string()))?;
            let mut request = Request::new(message);
            request.set_timeout(self.timeout);
            grpc.unary(request, path, ProstCodec::default()).await
        };
        let answer = match timeout(self.timeout, call).await {
            Ok(answer) => answer,
            Err(_) => Err(Status::deadline_exceeded("context deadline exceeded")),
        };
        answer
            .map(tonic::Response::into_inner)
            .map_err(|s| failure(&s))
    }
}

fn failure(status: &Status) -> Failure {
    let code = name(status.code());
    Failure {
        text: format!("rpc error: code = {code} desc = {}", status.message()),
        code: Some(code),
    }
}

/// Codes as Go writes them.
fn name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "Canceled",
        Code::Unknown => "Unknown",
        Code::InvalidArgument => "InvalidArgument",
        Code::DeadlineExceeded => "DeadlineExceeded",
        Code::NotFound => "NotFound",
        Code::AlreadyExists => "AlreadyExists",
        Code::PermissionDenied => "PermissionDenied",
        Code::ResourceExhausted => "ResourceExhausted",
        Code::FailedPrecondition => "FailedPrecondition",
        Code::Aborted => "Aborted",
        Code::OutOfRange => "OutOfRange",
        Code::Unimplemented => "Unimplemented",
        Code::Internal => "Internal",
        Code::Unavailable => "Unavailable",
        Code::DataLoss => "DataLoss",
        Code::Unauthenticated => "Unauthenticated",
    }
}
