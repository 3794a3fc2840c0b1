//! Kubernetes protobuf as answers: objects, lists and events of a watch, made of stored JSON.

use std::sync::Arc;

use bytes::Bytes;
use corral_api::status::Status;
use corral_kinds::kind::Names;
use corral_kinds::protobuf::{self, Encoder, Layout, TAIL, varint_size};
use serde::Deserialize;

use crate::object::Stored;

/// Bytes of a list that are put together before they go out.
const PIECE_BYTES: usize = 64 * 1024;
/// Objects that are measured before others get a turn.
const MEASURED_AT_ONCE: usize = 128;

#[derive(Deserialize)]
struct TypeMeta<'a> {
    #[serde(rename = "apiVersion", default, borrow)]
    api_version: std::borrow::Cow<'a, str>,
    #[serde(default, borrow)]
    kind: std::borrow::Cow<'a, str>,
}

/// An object with its envelope; `None` for types that have no messages.
pub fn object(json: &[u8]) -> Option<Bytes> {
    let meta: TypeMeta<'_> = serde_json::from_slice(json).ok()?;
    let layout = Layout::of_type(&meta.api_version, &meta.kind)?;
    match protobuf::encode(&layout, &meta.api_version, &meta.kind, json) {
        Ok(bytes) => Some(bytes.into()),
        Err(error) => {
            tracing::error!(kind = %meta.kind, %error, "an object cannot be made a protobuf message");
            None
        }
    }
}

/// How the objects of a collection are shown.
#[derive(Clone)]
pub struct Shown {
    layout: Arc<Layout>,
    api_version: String,
    kind: String,
    /// Whether the messages are those of the whole objects, whose sizes are remembered.
    is_whole: bool,
}

impl Shown {
    /// Whole objects of a kind.
    pub fn whole(layout: Arc<Layout>, names: &Names<'_>) -> Self {
        Self {
            layout,
            api_version: names.api_version(),
            kind: names.kind.to_owned(),
            is_whole: true,
        }
    }

    /// Their metadata.
    pub fn metadata(meta_version: &str) -> Self {
        Self {
            layout: Layout::partial(),
            api_version: meta_version.to_owned(),
            kind: "PartialObjectMetadata".to_owned(),
            is_whole: false,
        }
    }

    /// One object with its envelope.
    ///
    /// # Errors
    /// 500 when the JSON is not of the kind.
    pub fn object(&self, json: &[u8]) -> Result<Bytes, Status> {
        let message = protobuf::encode(&self.layout, &self.api_version, &self.kind, json);
        message.map(Bytes::from).map_err(Status::internal)
    }

    /// An event of a watch.
    ///
    /// # Errors
    /// 500 when the JSON is not of the kind.
    pub fn event(&self, event: &str, json: &[u8]) -> Result<Bytes, Status> {
        Ok(protobuf::watch_frame(event, &self.object(json)?).into())
    }

    /// A list, piece by piece. Its length is needed before its first item, so that items whose size is not known yet are
    /// encoded twice the first time that they are listed, and never held.
    ///
    /// # Errors
    /// 500 when an object is not of the kind.
    pub async fn list(
        self,
        metadata: &serde_json::Value,
        items: Vec<Arc<Stored>>,
    ) -> Result<impl Iterator<Item = Result<Bytes, Status>> + Send + use<>, Status> {
        let mut encoder = Encoder::new();
        let head = metadata.to_string();
        let head = encoder.message(&Layout::list_metadata(), head.as_bytes());
        let mut first = Vec::new();
        protobuf::put_sized(&mut first, 1, head.map_err(Status::internal)?);
        let mut size = first.len();
        let mut sizes = Vec::with_capacity(if self.is_whole { 0 } else { items.len() });
        for (index, item) in items.iter().enumerate() {
            let length = self.size(&mut encoder, item)?;
            if !self.is_whole {
                sizes.push(length);
            }
            size += 1 + varint_size(length.into()) + length as usize;
            if index % MEASURED_AT_ONCE == MEASURED_AT_ONCE - 1 {
                tokio::task::yield_now().await;
            }
        }
        let list = format!("{}List", self.kind);
        let mut start = protobuf::head(&self.api_version, &list, size);
        start.extend_from_slice(&first);
        Ok(self.pieces(encoder, start, items, sizes))
    }

    fn size(&self, encoder: &mut Encoder, item: &Stored) -> Result<u32, Status> {
        let known = item.message_size();
        if let Some(size) = known.filter(|_| self.is_whole) {
            return Ok(size);
        }
        let message = encoder.message(&self.layout, &item.json);
        let size = message.map_err(Status::internal)?.len();
        let size = u32::try_from(size).map_err(Status::internal)?;
        if self.is_whole {
            item.remember_message_size(size);
        }
        Ok(size)
    }

    fn pieces(
        self,
        mut encoder: Encoder,
        start: Vec<u8>,
        items: Vec<Arc<Stored>>,
        sizes: Vec<u32>,
    ) -> impl Iterator<Item = Result<Bytes, Status>> + Send + use<> {
        let mut items = items.into_iter().enumerate();
        let mut piece = Some(start);
        std::iter::from_fn(move || {
            let mut out = piece.take()?;
            while out.len() < PIECE_BYTES {
                let Some((index, item)) = items.next() else {
                    out.extend_from_slice(TAIL);
                    return Some(Ok(out.into()));
                };
                let expected = sizes.get(index).copied().or_else(|| item.message_size());
                let message = match encoder.message(&self.layout, &item.json) {
                    Ok(message) => message,
                    Err(error) => return Some(Err(Status::internal(error))),
                };
                // The length has been told: another one would make all that follows unreadable.
                if expected != u32::try_from(message.len()).ok() {
                    return Some(Err(Status::internal("the size of a message has changed")));
                }
                protobuf::put_sized(&mut out, 2, message);
            }
            piece = Some(Vec::with_capacity(PIECE_BYTES + 8192));
            Some(Ok(out.into()))
        })
    }
}
