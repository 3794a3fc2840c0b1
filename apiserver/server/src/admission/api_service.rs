//! What the server itself serves is available from the beginning.

use corral_api::k8s::kube_aggregator::pkg::apis::apiregistration::v1::{
    APIService, APIServiceCondition,
};
use corral_api::time::Time;
use corral_kinds::Object;
use corral_kinds::apiregistration::api_service::AVAILABLE;

use super::{Action, Attributes};

pub(super) fn admit(attributes: &Attributes<'_>, object: &mut Object) {
    if attributes.action != Action::Create || !attributes.subresource.is_empty() {
        return;
    }
    let Some(service) = object.get_mut::<APIService>() else {
        return;
    };
    if service
        .spec
        .as_ref()
        .is_some_and(|spec| spec.service.is_some())
    {
        return;
    }
    let condition = APIServiceCondition {
        type_: AVAILABLE.to_owned(),
        status: "True".to_owned(),
        last_transition_time: Some(Time(attributes.cx.now)),
        reason: Some("Local".to_owned()),
        message: Some("Local APIServices are always available".to_owned()),
    };
    let status = service.status.get_or_insert_default();
    status.conditions = Some(vec![condition]);
}
