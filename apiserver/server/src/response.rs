//! Answers: bodies, media types and `Status`.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use corral_api::status::Status;
use futures::{Stream, StreamExt};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, ETAG, IF_NONE_MATCH, RETRY_AFTER, VARY};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Body as _, Frame};
use prometheus::Histogram;
use serde::Serialize;
use serde_json::Value;

use crate::audit::Told;
use crate::decode::Format;
use crate::negotiate::Representation;
use crate::{pretty, wire};

/// What can go wrong while a body is sent.
pub type BodyError = Box<dyn std::error::Error + Send + Sync>;
/// The body of an answer: whole, or a stream that is pulled as the client reads.
pub type Body = UnsyncBoxBody<Bytes, BodyError>;
/// An answer.
pub type Answer = Response<Body>;

/// A body that is there already.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into())
        .map_err(|never| match never {})
        .boxed_unsync()
}

/// A body that comes piece by piece.
pub fn stream(pieces: impl Stream<Item = Bytes> + Send + 'static) -> Body {
    StreamBody::new(pieces.map(|piece| Ok(Frame::data(piece)))).boxed_unsync()
}

/// A body that comes piece by piece, or breaks off.
pub fn try_stream(pieces: impl Stream<Item = Result<Bytes, Status>> + Send + 'static) -> Body {
    let pieces = pieces.map(|piece| piece.map(Frame::data).map_err(BodyError::from));
    StreamBody::new(pieces).boxed_unsync()
}

/// A body that keeps something until it has been sent, or is dropped.
pub fn holding(body: Body, kept: impl Send + Unpin + 'static) -> Body {
    /// Looked through rather than wrapped as a stream: a watch tells thousands of events through several of these.
    struct Holding<K> {
        body: Body,
        _kept: K,
    }
    impl<K: Unpin> http_body::Body for Holding<K> {
        type Data = Bytes;
        type Error = BodyError;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
            Pin::new(&mut self.body).poll_frame(cx)
        }
    }
    Holding { body, _kept: kept }.boxed_unsync()
}

/// A body whose bytes are observed once it has been sent, or is dropped.
pub fn counted(body: Body, sizes: Histogram) -> Body {
    struct Sent(Histogram, usize);
    impl Sent {
        fn add(&mut self, bytes: usize) {
            self.1 += bytes;
        }
    }
    impl Drop for Sent {
        fn drop(&mut self) {
            self.0.observe(self.1 as f64);
        }
    }
    let mut sent = Sent(sizes, 0);
    let pieces = body.into_data_stream().map(move |piece| {
        sent.add(piece.as_ref().map_or(0, Bytes::len));
        piece.map(Frame::data)
    });
    StreamBody::new(pieces).boxed_unsync()
}

/// An answer with a media type.
pub fn answer(code: u16, media: &'static str, body: Body) -> Answer {
    let mut answer = Response::new(body);
    *answer.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    answer
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(media));
    answer
}

/// The answer to HEAD: all but the body, and how long that would be if it is known.
pub fn without_body(mut answer: Answer) -> Answer {
    // What others answered to HEAD has none already.
    let size = answer.body().size_hint().exact().filter(|size| *size > 0);
    if let Some(size) = size {
        answer.headers_mut().insert(CONTENT_LENGTH, size.into());
    }
    *answer.body_mut() = full("");
    answer
}

/// Plain text.
pub fn text(code: u16, text: impl Into<Bytes>) -> Answer {
    answer(code, "text/plain; charset=utf-8", full(text))
}

/// A document that is no object of the API.
pub fn document(value: &impl Serialize) -> Answer {
    match serde_json::to_vec(value) {
        Ok(bytes) => answer(200, Format::Json.media_type(), full(bytes)),
        Err(error) => status(&Status::internal(error), Representation::default()),
    }
}

/// JSON ends with its line, as Go writes it where it does not indent.
fn ended(bytes: Bytes) -> Bytes {
    if bytes.ends_with(b"\n") {
        return bytes;
    }
    [&bytes[..], b"\n"].concat().into()
}

/// JSON bytes in the representation that the client wants.
pub fn json(code: u16, representation: Representation, bytes: Bytes) -> Answer {
    let bytes = match representation.format {
        Format::Json if !representation.pretty => ended(bytes),
        _ => bytes,
    };
    let mut answer = encoded(code, representation, bytes.clone());
    answer.extensions_mut().insert(Told(bytes));
    answer
}

fn encoded(code: u16, representation: Representation, bytes: Bytes) -> Answer {
    let media = representation.format.media_type();
    match representation.format {
        Format::Json if representation.pretty => answer(code, media, full(pretty::indent(&bytes))),
        Format::Json => answer(code, media, full(bytes)),
        Format::Protobuf => match wire::object(&bytes) {
            Some(message) => answer(code, media, full(message)),
            // Negotiation offers protobuf only where there are messages; what came wrong out of the store is seen in JSON.
            None => answer(code, Format::Json.media_type(), full(bytes)),
        },
        Format::Yaml => {
            let value: Value = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
            let text = serde_saphyr::to_string(&value).unwrap_or_default();
            answer(code, media, full(text))
        }
    }
}

/// Anything that serialises.
pub fn object(code: u16, representation: Representation, value: &impl Serialize) -> Answer {
    match serde_json::to_vec(value) {
        Ok(bytes) => json(code, representation, bytes.into()),
        Err(error) => status(&Status::internal(error), representation),
    }
}

/// What clients keep until it has another tag, unless the client says that it has it.
pub fn tagged(headers: &HeaderMap, tag: &str, make: impl FnOnce() -> Answer) -> Answer {
    let tag = format!("\"{tag}\"");
    let has = headers.get(IF_NONE_MATCH);
    let has = has.and_then(|value| value.to_str().ok());
    let known = has.is_some_and(|tags| tags.split(',').any(|known| known.trim() == tag));
    let mut answer = match known {
        true => not_modified(),
        false => make(),
    };
    let headers = answer.headers_mut();
    if let Ok(tag) = HeaderValue::from_str(&tag) {
        headers.insert(ETAG, tag);
    }
    headers.insert(VARY, HeaderValue::from_static("Accept"));
    answer
}

/// What a client is answered that has the document already. Caches take the headers over, so that none may tell of another
/// form.
fn not_modified() -> Answer {
    let mut same = answer(304, "", full(""));
    same.headers_mut().remove(CONTENT_TYPE);
    same
}

/// What a path that leads nowhere is answered with, as kube-apiserver does.
pub fn no_page() -> Answer {
    let mut nowhere = answer(
        404,
        "text/plain; charset=utf-8",
        full("404 page not found\n"),
    );
    let headers = nowhere.headers_mut();
    headers.insert(
        "x-content-type-options",
        HeaderValue::from_static("nosniff"),
    );
    nowhere
}

/// A `Status` with its code and `Retry-After`.
pub fn status(status: &Status, representation: Representation) -> Answer {
    let bytes = serde_json::to_vec(status).unwrap_or_default();
    let mut answer = json(status.code, representation, bytes.into());
    let retry = status.details.as_ref().map_or(0, |d| d.retry_after_seconds);
    if retry > 0 {
        answer
            .headers_mut()
            .insert(RETRY_AFTER, HeaderValue::from(retry));
    }
    answer
}
