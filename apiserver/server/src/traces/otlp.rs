//! The part of the OpenTelemetry protocol that is spoken here, as
//! <https://github.com/open-telemetry/opentelemetry-proto> has it.

/// Where spans are sent to, over gRPC.
pub const EXPORT_PATH: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";

/// A batch of spans.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ExportRequest {
    /// By who made them.
    #[prost(message, repeated, tag = "1")]
    pub resource_spans: Vec<ResourceSpans>,
}

/// What the collector says; nothing that is looked at.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ExportResponse {}

/// Spans of one process.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ResourceSpans {
    /// The process.
    #[prost(message, optional, tag = "1")]
    pub resource: Option<Resource>,
    /// By what made them in it.
    #[prost(message, repeated, tag = "2")]
    pub scope_spans: Vec<ScopeSpans>,
}

/// A process.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Resource {
    /// What is known of it.
    #[prost(message, repeated, tag = "1")]
    pub attributes: Vec<KeyValue>,
}

/// Spans of one part of a program.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ScopeSpans {
    /// The spans.
    #[prost(message, repeated, tag = "2")]
    pub spans: Vec<Span>,
}

/// One piece of work.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Span {
    /// What it belongs to.
    #[prost(bytes = "vec", tag = "1")]
    pub trace_id: Vec<u8>,
    /// Its own.
    #[prost(bytes = "vec", tag = "2")]
    pub span_id: Vec<u8>,
    /// What it is a part of; empty for none.
    #[prost(bytes = "vec", tag = "4")]
    pub parent_span_id: Vec<u8>,
    /// Its name.
    #[prost(string, tag = "5")]
    pub name: String,
    /// [`SERVER`] or [`CLIENT`].
    #[prost(int32, tag = "6")]
    pub kind: i32,
    /// When it began, in nanoseconds.
    #[prost(fixed64, tag = "7")]
    pub start_time_unix_nano: u64,
    /// When it ended.
    #[prost(fixed64, tag = "8")]
    pub end_time_unix_nano: u64,
    /// What is known of it.
    #[prost(message, repeated, tag = "9")]
    pub attributes: Vec<KeyValue>,
    /// Other traces that it has to do with.
    #[prost(message, repeated, tag = "13")]
    pub links: Vec<Link>,
    /// Whether it failed.
    #[prost(message, optional, tag = "15")]
    pub status: Option<SpanStatus>,
}

/// The work answers somebody.
pub const SERVER: i32 = 2;
/// The work asks somebody.
pub const CLIENT: i32 = 3;

/// Another trace.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Link {
    /// The trace.
    #[prost(bytes = "vec", tag = "1")]
    pub trace_id: Vec<u8>,
    /// The span in it.
    #[prost(bytes = "vec", tag = "2")]
    pub span_id: Vec<u8>,
}

/// Whether a span failed.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SpanStatus {
    /// [`FAILED`], or 0 for whatever.
    #[prost(int32, tag = "3")]
    pub code: i32,
}

/// It failed.
pub const FAILED: i32 = 2;

/// Something that is known.
#[derive(Clone, PartialEq, prost::Message)]
pub struct KeyValue {
    /// What it is.
    #[prost(string, tag = "1")]
    pub key: String,
    /// Its value.
    #[prost(message, optional, tag = "2")]
    pub value: Option<AnyValue>,
}

/// A value.
#[derive(Clone, PartialEq, prost::Message)]
pub struct AnyValue {
    /// The value.
    #[prost(oneof = "Value", tags = "1, 3")]
    pub value: Option<Value>,
}

/// The kinds of values that are used here.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Value {
    /// A text.
    #[prost(string, tag = "1")]
    Text(String),
    /// A number.
    #[prost(int64, tag = "3")]
    Number(i64),
}

impl KeyValue {
    fn of(key: &str, value: Value) -> Self {
        Self {
            key: key.to_owned(),
            value: Some(AnyValue { value: Some(value) }),
        }
    }

    /// A text.
    pub fn text(key: &str, text: impl Into<String>) -> Self {
        Self::of(key, Value::Text(text.into()))
    }

    /// A number.
    pub fn number(key: &str, number: i64) -> Self {
        Self::of(key, Value::Number(number))
    }
}
