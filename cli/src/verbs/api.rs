//! Requests to the API, and its failures in words for people.

use anyhow::{Context, anyhow};
use corral_api::Status;
use futures::{AsyncBufReadExt, Stream, StreamExt, TryStreamExt};
use http::{Method, Request, Response};
use http_body_util::BodyExt;
use kube::client::Body;
use serde_json::Value;

/// Longest line of a watch or a log that is read.
const LINE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// What a request is refused with.
#[derive(Debug, thiserror::Error)]
#[error("Error from server{}: {}", reason(.0), .0.message)]
pub struct Refused(pub Status);

fn reason(status: &Status) -> String {
    let reason = serde_json::to_value(status.reason).ok();
    match reason.as_ref().and_then(Value::as_str) {
        Some("") | None => String::new(),
        Some(reason) => format!(" ({reason})"),
    }
}

/// The API.
#[derive(Clone)]
pub struct Api {
    client: kube::Client,
}

/// An answer that succeeded.
pub struct Answer {
    /// The HTTP code.
    pub code: u16,
    /// The body.
    pub value: Value,
    /// Warnings of the server.
    pub warnings: Vec<String>,
}

impl Api {
    /// Over a client.
    pub fn new(client: kube::Client) -> Self {
        Self { client }
    }

    /// The client, for what needs more than requests.
    pub fn client(&self) -> kube::Client {
        self.client.clone()
    }

    async fn send(&self, request: Request<Body>) -> anyhow::Result<Response<Body>> {
        let answer = self
            .client
            .send(request)
            .await
            .context("the server does not answer")?;
        if answer.status().is_success() {
            return Ok(answer);
        }
        let code = answer.status().as_u16();
        let bytes = answer.into_body().collect().await?.to_bytes();
        match serde_json::from_slice::<Status>(&bytes) {
            Ok(status) => Err(Refused(status).into()),
            Err(_) => Err(anyhow!(
                "the server answered {code}: {}",
                String::from_utf8_lossy(&bytes)
            )),
        }
    }

    /// GET with an `Accept` of one's own.
    pub async fn get_as(&self, path: &str, accept: &str) -> anyhow::Result<Value> {
        let request = Request::get(path)
            .header(http::header::ACCEPT, accept)
            .body(Body::empty())?;
        let bytes = self
            .send(request)
            .await?
            .into_body()
            .collect()
            .await?
            .to_bytes();
        serde_json::from_slice(&bytes).context("the server's answer is no JSON")
    }

    /// GET.
    pub async fn get(&self, path: &str) -> anyhow::Result<Value> {
        self.get_as(path, "application/json").await
    }

    /// A request with a body.
    pub async fn write(
        &self,
        method: Method,
        path: &str,
        content: &str,
        body: &Value,
    ) -> anyhow::Result<Answer> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(http::header::CONTENT_TYPE, content)
            .header(http::header::ACCEPT, "application/json")
            .body(Body::from(serde_json::to_vec(body)?))?;
        let answer = self.send(request).await?;
        let code = answer.status().as_u16();
        let warnings = answer.headers().get_all(http::header::WARNING).iter();
        let warnings = warnings
            .filter_map(|w| w.to_str().ok())
            .map(unquote)
            .collect();
        let bytes = answer.into_body().collect().await?.to_bytes();
        let value = serde_json::from_slice(&bytes).context("the server's answer is no JSON")?;
        Ok(Answer {
            code,
            value,
            warnings,
        })
    }

    /// GET of lines as they come.
    pub async fn lines(
        &self,
        path: &str,
        accept: &str,
    ) -> anyhow::Result<impl Stream<Item = anyhow::Result<String>> + Unpin> {
        let request = Request::get(path)
            .header(http::header::ACCEPT, accept)
            .body(Body::empty())?;
        let body = self.send(request).await?.into_body();
        let reader = body
            .into_data_stream()
            .map_err(std::io::Error::other)
            .into_async_read();
        let lines = futures::io::BufReader::new(reader).lines();
        Ok(Box::pin(lines.map(|line| {
            let line = line?;
            anyhow::ensure!(
                line.len() <= LINE_BYTES_MAX,
                "a line of the server is longer than {LINE_BYTES_MAX} bytes"
            );
            Ok(line)
        })))
    }

    /// GET of bytes as they come.
    pub async fn bytes(
        &self,
        path: &str,
    ) -> anyhow::Result<impl Stream<Item = anyhow::Result<bytes::Bytes>> + Unpin> {
        let request = Request::get(path).body(Body::empty())?;
        let body = self.send(request).await?.into_body();
        Ok(Box::pin(
            body.into_data_stream()
                .map(|piece| piece.map_err(anyhow::Error::from)),
        ))
    }
}

/// The text of a `Warning` header: `299 - "text"`.
fn unquote(header: &str) -> String {
    let text = header
        .split_once('"')
        .map_or(header, |(_, rest)| rest.strip_suffix('"').unwrap_or(rest));
    text.replace("\\\"", "\"").replace("\\\\", "\\")
}

/// Escapes a value for a query.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// Whether a failure is the server's word that something is not there.
pub fn is_not_found(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<Refused>()
        .is_some_and(|refused| refused.0.code == 404)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_and_queries_are_quoted_and_unquoted() {
        assert_eq!(
            unquote("299 - \"unknown field \\\"x\\\"\""),
            "unknown field \"x\""
        );
        assert_eq!(escape("a=b,c in (d)"), "a%3Db%2Cc%20in%20%28d%29");
    }
}
