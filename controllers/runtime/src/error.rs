//! What can go wrong between a controller and the API.

use kube::core::Status;

/// An error of a reconcile; every kind of it is retried with back-off.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API refused or could not be reached.
    #[error("{}", api_text(.0))]
    Api(#[from] kube::Error),
    /// A request could not be built.
    #[error("request cannot be built")]
    Request(#[from] kube::core::request::Error),
    /// An object could not be encoded.
    #[error("object cannot be encoded")]
    Encode(#[from] serde_json::Error),
    /// Several steps of one plan failed; the first is named.
    #[error("{count} of {total} steps failed, first: {first}")]
    Steps {
        /// How many failed.
        count: usize,
        /// How many there were.
        total: usize,
        /// The first failure.
        first: Box<Error>,
    },
    /// What the object asks for is contradictory or unknown.
    #[error("{0}")]
    Invalid(String),
}

/// The server's own words; the client's form repeats them with the whole Status.
fn api_text(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    }
}

impl Error {
    /// The Status of the API's refusal.
    pub fn status(&self) -> Option<&Status> {
        match self {
            Self::Api(kube::Error::Api(status)) => Some(status),
            Self::Steps { first, .. } => first.status(),
            _ => None,
        }
    }

    /// The object was changed meanwhile, or is not the one that was meant.
    pub fn is_conflict(&self) -> bool {
        self.status().is_some_and(|s| s.reason == "Conflict")
    }

    /// The object is gone.
    pub fn is_not_found(&self) -> bool {
        self.status()
            .is_some_and(|s| s.reason == "NotFound" || s.code == 404)
    }

    /// An object of this name is there already.
    pub fn is_already_exists(&self) -> bool {
        self.status().is_some_and(|s| s.reason == "AlreadyExists")
    }

    /// The revision asked for is no longer kept.
    pub fn is_gone(&self) -> bool {
        self.status()
            .is_some_and(|s| s.code == 410 || s.reason == "Expired" || s.reason == "Gone")
    }

    /// The namespace is being deleted, so nothing can be created in it and trying again is pointless.
    pub fn is_namespace_terminating(&self) -> bool {
        self.status().is_some_and(|s| {
            s.details
                .as_ref()
                .is_some_and(|d| d.causes.iter().any(|c| c.reason == "NamespaceTerminating"))
                || (s.reason == "Forbidden" && s.message.contains("because it is being terminated"))
        })
    }

    /// The message as events show it: the API's own words where there are any.
    pub fn message(&self) -> String {
        self.status()
            .map_or_else(|| self.to_string(), |s| s.message.clone())
    }

    /// One error out of the outcomes of several steps.
    ///
    /// # Errors
    /// When at least one step failed.
    pub fn collect<T>(outcomes: Vec<Result<T, Self>>) -> Result<Vec<T>, Self> {
        let total = outcomes.len();
        let mut good = Vec::with_capacity(total);
        let mut bad = Vec::new();
        for outcome in outcomes {
            match outcome {
                Ok(value) => good.push(value),
                Err(error) => bad.push(error),
            }
        }
        let count = bad.len();
        match bad.into_iter().next() {
            None => Ok(good),
            Some(first) if total == 1 => Err(first),
            Some(first) => Err(Self::Steps {
                count,
                total,
                first: Box::new(first),
            }),
        }
    }
}
