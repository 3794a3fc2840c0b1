//! gzip of large answers, as kube-apiserver does it: what is longer than 128 KiB, for clients that name gzip.
//!
//! Streams stay streams: the beginning of a body is looked at, and the rest is compressed as it is pulled.

use std::io::Write;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use flate2::Compression;
use flate2::write::GzEncoder;
use futures::{Stream, StreamExt, stream};
use http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_LENGTH, VARY};
use http::{HeaderMap, HeaderValue};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::request::{RequestInfo, Verb};
use crate::response::{Answer, Body, BodyError};

/// Bodies up to this size are sent as they are.
pub const THRESHOLD: usize = 128 * 1024;
/// The fastest level, which is Kubernetes' choice: higher ones cost several times as much for a few per cent.
const LEVEL: u32 = 1;
/// Bodies compressed at a time. Each holds about 300 KiB of a compressor's state for as long as its client reads; beyond,
/// answers are sent as they are, which every client takes.
pub const COMPRESSED_AT_ONCE_MAX: usize = 64;

/// The compressors that may run.
#[derive(Debug, Clone)]
pub struct Compressors(Arc<Semaphore>);

impl Default for Compressors {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(COMPRESSED_AT_ONCE_MAX)))
    }
}

/// Whether an answer may be compressed: what is about resources and is no stream, and the large pages.
pub fn is_meant(info: &RequestInfo, headers: &HeaderMap) -> bool {
    let is_discovery = || matches!(info.path.split('/').nth(1), Some("api" | "apis"));
    let is_large = || matches!(info.path.as_str(), "/openapi/v2" | "/metrics");
    let may = match info.is_resource {
        true => info.verb != Verb::Watch,
        false => is_discovery() || is_large(),
    };
    may && takes_gzip(headers)
}

/// Only the plain name counts, without a quality.
fn takes_gzip(headers: &HeaderMap) -> bool {
    let accepted = headers.get(ACCEPT_ENCODING).and_then(|v| v.to_str().ok());
    accepted.is_some_and(|text| text.split(',').any(|token| token.trim() == "gzip"))
}

impl Compressors {
    /// Compresses an answer if it is long enough.
    ///
    /// # Errors
    /// When the body breaks off at its beginning.
    pub async fn apply(&self, answer: Answer) -> Result<Answer, BodyError> {
        if answer.headers().contains_key(CONTENT_ENCODING) {
            return Ok(answer);
        }
        let (mut parts, body) = answer.into_parts();
        let size = http_body::Body::size_hint(&body);
        if size.upper().is_some_and(|upper| upper <= THRESHOLD as u64) {
            return Ok(Answer::from_parts(parts, body));
        }
        let mut rest = body.into_data_stream();
        let mut begun: Vec<Bytes> = Vec::new();
        let mut length = 0;
        while length <= THRESHOLD {
            let Some(piece) = rest.next().await else {
                let whole: BytesMut = begun.into_iter().flatten().collect();
                let body = crate::response::full(whole);
                return Ok(Answer::from_parts(parts, body));
            };
            let piece = piece?;
            length += piece.len();
            begun.push(piece);
        }
        let pieces = stream::iter(begun.into_iter().map(Ok)).chain(rest);
        let Ok(permit) = self.0.clone().try_acquire_owned() else {
            let frames = pieces.map(|piece| piece.map(Frame::data));
            let body = StreamBody::new(frames).boxed_unsync();
            return Ok(Answer::from_parts(parts, body));
        };
        parts.headers.remove(CONTENT_LENGTH);
        let gzip = HeaderValue::from_static("gzip");
        parts.headers.insert(CONTENT_ENCODING, gzip);
        let vary = HeaderValue::from_static("Accept-Encoding");
        parts.headers.append(VARY, vary);
        Ok(Answer::from_parts(parts, compressed(pieces, permit)))
    }
}

struct Compressing<S> {
    pieces: S,
    encoder: Option<GzEncoder<Vec<u8>>>,
    _permit: OwnedSemaphorePermit,
}

fn compressed(
    pieces: impl Stream<Item = Result<Bytes, BodyError>> + Send + Unpin + 'static,
    permit: OwnedSemaphorePermit,
) -> Body {
    let state = Compressing {
        pieces,
        encoder: Some(GzEncoder::new(Vec::new(), Compression::new(LEVEL))),
        _permit: permit,
    };
    let frames = stream::try_unfold(state, |mut state| async move {
        while let Some(encoder) = &mut state.encoder {
            let out = match state.pieces.next().await {
                Some(piece) => {
                    encoder.write_all(&piece?)?;
                    std::mem::take(encoder.get_mut())
                }
                None => match state.encoder.take() {
                    Some(encoder) => encoder.finish()?,
                    None => Vec::new(),
                },
            };
            if !out.is_empty() {
                return Ok::<_, BodyError>(Some((Frame::data(Bytes::from(out)), state)));
            }
        }
        Ok(None)
    });
    StreamBody::new(frames).boxed_unsync()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::response;

    fn answer(length: usize) -> Answer {
        let pieces = stream::repeat(Ok(Bytes::from_static(&[b'x'; 1000]))).take(length / 1000);
        response::answer(200, "application/json", response::try_stream(pieces))
    }

    async fn length(answer: Answer) -> usize {
        let body = answer.into_body().collect().await;
        body.expect("a whole body").to_bytes().len()
    }

    #[tokio::test]
    async fn beyond_a_number_of_compressors_answers_are_plain() {
        let compressors = Compressors::default();
        let large = 2 * THRESHOLD / 1000 * 1000;
        let mut held = Vec::new();
        for _ in 0..COMPRESSED_AT_ONCE_MAX {
            let compressed = compressors.apply(answer(large)).await.expect("an answer");
            assert_eq!(compressed.headers()[CONTENT_ENCODING], "gzip");
            held.push(compressed);
        }
        let plain = compressors.apply(answer(large)).await.expect("an answer");
        assert!(!plain.headers().contains_key(CONTENT_ENCODING));
        assert_eq!(length(plain).await, large);
        // One that has been read gives its place to the next, and so does one whose client has gone.
        let read = held.pop().expect("one");
        assert!(length(read).await < large / 10);
        let next = compressors.apply(answer(large)).await.expect("an answer");
        assert_eq!(next.headers()[CONTENT_ENCODING], "gzip");
        drop(next);
        let next = compressors.apply(answer(large)).await.expect("an answer");
        assert_eq!(next.headers()[CONTENT_ENCODING], "gzip");
    }

    #[tokio::test]
    async fn what_is_short_stays_as_it_is() {
        let compressors = Compressors::default();
        let short = compressors.apply(answer(100_000)).await.expect("an answer");
        assert!(!short.headers().contains_key(CONTENT_ENCODING));
        assert_eq!(length(short).await, 100_000);
    }
}
