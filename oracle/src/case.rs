//! A request, and what was answered.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A request of the corpus.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// What is tried, unique in the corpus: `pods/create/spec.containers[0].image/null`.
    pub name: String,
    /// The HTTP method.
    pub method: String,
    /// Path and query.
    pub path: String,
    /// The type of the body; empty without one.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub content: String,
    /// What the answer may be; empty for JSON.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub accept: String,
    /// The body, as it is sent: it may be no JSON at all.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub body: String,
    /// Whether it is asked again while what it is about is not there: a kind takes a moment to be served.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub patient: bool,
    /// The code at which it is no longer asked again: what it is about takes a moment to have an effect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<u16>,
    /// Whether later requests depend on this one, so that the order matters.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ordered: bool,
}

/// An answer, after [`crate::normalise`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// The HTTP status.
    pub code: u16,
    /// The type of the body.
    pub content: String,
    /// Texts of `Warning` headers, in their order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// The body; a string if it is no JSON.
    pub body: Value,
}

impl Answer {
    /// What stands for no answer at all.
    pub fn none() -> Self {
        Self {
            code: 0,
            content: String::new(),
            warnings: Vec::new(),
            body: Value::Null,
        }
    }
}

/// A request with the peer's answer.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Pair {
    /// What was asked.
    pub request: Request,
    /// What kube-apiserver answered.
    pub answer: Answer,
}
