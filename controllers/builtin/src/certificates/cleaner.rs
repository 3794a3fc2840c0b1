//! Removes old requests: those that were decided after an hour, those that nobody decided or signed after a day, and
//! those whose certificate has expired.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use corral_api::k8s::api::certificates::v1::CertificateSigningRequest;
use corral_runtime::objects::Deletion;
use corral_runtime::{Action, Controller, Error, ObjectKey, Objects, Reconciler};
use jiff::Timestamp;
use x509_parser::pem::Pem;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{APPROVED, DENIED, FAILED, NAME, certificate, conditions};
use crate::context::Context;

/// How long a request is kept that has its certificate, was denied, or failed.
const DECIDED: Duration = Duration::from_secs(3600);
/// How long one is kept that nobody has decided about, or signed.
const PENDING: Duration = Duration::from_secs(24 * 3600);

/// When the request goes.
pub fn deadline(csr: &CertificateSigningRequest) -> Option<Timestamp> {
    let issued = certificate(csr);
    let mut found = Vec::new();
    if conditions(csr).next().is_none() {
        let created = csr.metadata.creation_timestamp.as_ref();
        found.extend(created.map(|time| time.0 + PENDING));
    }
    for condition in conditions(csr) {
        let kept = match (condition.type_.as_str(), issued) {
            (DENIED | FAILED, _) | (APPROVED, Some(_)) => DECIDED,
            (APPROVED, None) => PENDING,
            _ => continue,
        };
        let updated = condition.last_update_time.as_ref();
        found.extend(updated.map(|time| time.0 + kept));
        if condition.type_ == APPROVED {
            found.extend(issued.and_then(expiry));
        }
    }
    found.into_iter().min()
}

/// When the first of the certificates in PEM ends.
fn expiry(pem: &[u8]) -> Option<Timestamp> {
    let block = Pem::iter_from_buffer(pem).next()?.ok()?;
    let (_, certificate) = X509Certificate::from_der(&block.contents).ok()?;
    Timestamp::from_second(certificate.validity().not_after.timestamp()).ok()
}

struct Cleaner {
    requests: Objects<CertificateSigningRequest>,
}

/// Starts the controller.
pub fn start(context: &Context) {
    let requests = context.objects::<CertificateSigningRequest>(NAME);
    let controller = Controller::new("csrcleaner").watch(requests.cache());
    controller.run_planned(
        Cleaner { requests },
        1,
        Arc::clone(&context.clock),
        &context.metrics,
        &context.tasks,
    );
}

#[async_trait]
impl Reconciler for Cleaner {
    type World = Arc<CertificateSigningRequest>;
    type Plan = Option<Timestamp>;

    fn observe(&self, key: &ObjectKey) -> Option<Self::World> {
        self.requests.get(key)
    }

    fn plan(&self, csr: &Self::World, _now: Timestamp) -> Option<Timestamp> {
        deadline(csr)
    }

    async fn apply(
        &self,
        csr: &Self::World,
        deadline: Option<Timestamp>,
        now: Timestamp,
    ) -> Result<Action, Error> {
        if deadline.is_none_or(|deadline| now <= deadline) {
            return Ok(Action::at(deadline, now));
        }
        let deleted = self.requests.delete(csr, Deletion::default()).await;
        crate::ownership::gone_is_fine(deleted)?;
        Ok(Action::Done)
    }
}

#[cfg(test)]
mod tests {
    use corral_runtime::testing::object;
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn what_is_decided_goes_after_an_hour_and_what_is_not_after_a_day() {
        let hours = |conditions: Value| {
            let csr: CertificateSigningRequest = object(json!({
                "metadata": {"name": "a", "creationTimestamp": "2026-01-01T00:00:00Z"},
                "spec": {"request": "", "signerName": "a.b/c"}, "status": {"conditions": conditions},
            }));
            let start: Timestamp = "2026-01-01T00:00:00Z".parse().expect("a time");
            deadline(&csr).map(|time| (time.as_second() - start.as_second()) / 3600)
        };
        let at_one = |type_: &str| json!([{"type": type_, "status": "True", "lastUpdateTime": "2026-01-01T01:00:00Z"}]);
        assert_eq!(hours(json!([])), Some(24));
        assert_eq!(hours(at_one("Denied")), Some(2));
        assert_eq!(hours(at_one("Failed")), Some(2));
        assert_eq!(hours(at_one("Approved")), Some(25));
        assert_eq!(hours(at_one("Other")), None);
    }
}
