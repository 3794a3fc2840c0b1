//! ConversionReview: what a webhook is asked, and what it answers, in both versions of it.

use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};

/// The version of a review.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// `v1`.
    V1,
    /// `v1beta1`.
    V1Beta1,
}

impl Version {
    /// The version of a name, if the server speaks it.
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            "v1" => Some(Self::V1),
            "v1beta1" => Some(Self::V1Beta1),
            _ => None,
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::V1 => "apiextensions.k8s.io/v1",
            Self::V1Beta1 => "apiextensions.k8s.io/v1beta1",
        }
    }
}

/// The question.
pub fn write(version: Version, uid: &str, to: &str, objects: &[Value]) -> Bytes {
    let review = json!({
        "kind": "ConversionReview", "apiVersion": version.as_str(),
        "request": {"uid": uid, "desiredAPIVersion": to, "objects": objects},
    });
    review.to_string().into()
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Review {
    api_version: String,
    kind: String,
    response: Option<Response>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Response {
    uid: String,
    converted_objects: Option<Vec<Value>>,
    result: Outcome,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Outcome {
    status: Option<String>,
    message: Option<String>,
}

/// The converted objects of an answer.
///
/// # Errors
/// What the webhook says, or what is wrong with its answer.
pub fn read(version: Version, uid: &str, answer: &[u8]) -> Result<Vec<Value>, String> {
    let unreadable = |error| format!("couldn't get version/kind; json parse error: {error}");
    let review: Review = serde_json::from_slice(answer).map_err(unreadable)?;
    let is_known = matches!(
        review.api_version.as_str(),
        "apiextensions.k8s.io/v1" | "apiextensions.k8s.io/v1beta1"
    );
    if !is_known || review.kind != "ConversionReview" {
        let (kind, version) = (review.kind, review.api_version);
        return Err(format!(
            "no kind {kind:?} is registered for version {version:?} in scheme"
        ));
    }
    if version == Version::V1 && review.api_version != version.as_str() {
        let (wanted, got) = (version.as_str(), review.api_version);
        return Err(format!(
            "expected webhook response of {wanted}, Kind=ConversionReview, got {got}, Kind=ConversionReview"
        ));
    }
    let response = review.response.ok_or("no response provided")?;
    // The older version was never asked for this.
    if version == Version::V1 && response.uid != uid {
        let got = response.uid;
        return Err(format!("expected response.uid={uid:?}, got {got:?}"));
    }
    let status = response.result.status.unwrap_or_default();
    if status != "Success" {
        let message = response.result.message.unwrap_or_default();
        return Err(match message.is_empty() {
            false => message,
            true => format!("response.result.status was '{status}', not 'Success'"),
        });
    }
    Ok(response.converted_objects.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(version: &str, response: Value) -> Vec<u8> {
        let review =
            json!({"kind": "ConversionReview", "apiVersion": version, "response": response});
        review.to_string().into_bytes()
    }

    #[test]
    fn an_answer_is_to_this_question_and_of_its_version() {
        let good = json!({"uid": "u", "result": {"status": "Success"}, "convertedObjects": [1]});
        let (new, old) = ("apiextensions.k8s.io/v1", "apiextensions.k8s.io/v1beta1");
        let read_new = |response: &Value| read(Version::V1, "u", &answer(new, response.clone()));
        assert_eq!(read_new(&good), Ok(vec![1.into()]));
        let mut other = good.clone();
        other["uid"] = "x".into();
        assert_eq!(
            read_new(&other),
            Err(r#"expected response.uid="u", got "x""#.to_owned())
        );
        // The older version does not tell whose answer it is.
        let read_old = read(Version::V1Beta1, "u", &answer(old, other));
        assert_eq!(read_old, Ok(vec![1.into()]));
        assert!(read(Version::V1, "u", &answer(old, good)).is_err());
        let refused = json!({"uid": "u", "result": {"status": "Failed"}});
        assert_eq!(
            read_new(&refused),
            Err("response.result.status was 'Failed', not 'Success'".to_owned())
        );
    }
}
