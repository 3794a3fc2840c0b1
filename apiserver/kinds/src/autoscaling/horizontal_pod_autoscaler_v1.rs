//! `HorizontalPodAutoscaler` as its first version had it: it knows the CPU only, and carries the rest in annotations.

use corral_api::field::FieldError;
use corral_api::k8s::api::autoscaling::{v1, v2};
use jiff::Timestamp;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::convert::{to_v1, to_v2};
use super::horizontal_pod_autoscaler::HorizontalPodAutoscalerKind as Newer;
use crate::fill;
use crate::kind::{Column, Kind, Names};

/// `autoscaling/v1 HorizontalPodAutoscaler`; its rules are those of `v2`.
pub struct HorizontalPodAutoscalerKind;

fn typed<T: Serialize, U: DeserializeOwned + Default>(
    object: &T,
    convert: impl FnOnce(Value) -> Value,
) -> U {
    let value = serde_json::to_value(object).unwrap_or_default();
    serde_json::from_value(convert(value)).unwrap_or_default()
}

fn newer(object: &v1::HorizontalPodAutoscaler) -> v2::HorizontalPodAutoscaler {
    typed(object, to_v2)
}

impl Kind for HorizontalPodAutoscalerKind {
    type Object = v1::HorizontalPodAutoscaler;

    const NAMES: Names<'static> = Names {
        version: "v1",
        ..Newer::NAMES
    };
    const STATUS: bool = true;
    const CONVERTS: bool = true;
    const STORAGE_VERSION: (&'static str, &'static str) = ("autoscaling", "v2");

    fn to_stored(value: Value) -> Value {
        to_v2(value)
    }

    fn from_stored(value: Value) -> Value {
        to_v1(value)
    }

    fn default(scaler: &mut v1::HorizontalPodAutoscaler) {
        fill::absent(&mut scaler.spec.min_replicas, 1);
        // What is measured has its default in the newer form, which knows the annotations.
        *scaler = typed(&newer(scaler), to_v1);
    }

    fn prepare_create(scaler: &mut v1::HorizontalPodAutoscaler) {
        let mut newest = newer(scaler);
        newest.status = None;
        *scaler = typed(&newest, to_v1);
    }

    /// A part of the status is in annotations, which an update of the rest does not change.
    fn prepare_update(new: &mut v1::HorizontalPodAutoscaler, old: &v1::HorizontalPodAutoscaler) {
        let mut newest = newer(new);
        newest.status = newer(old).status;
        *new = typed(&newest, to_v1);
    }

    fn prepare_status_update(
        new: &mut v1::HorizontalPodAutoscaler,
        old: &v1::HorizontalPodAutoscaler,
    ) {
        let mut newest = newer(new);
        newest.spec = newer(old).spec;
        *new = typed(&newest, to_v1);
    }

    fn validate(scaler: &v1::HorizontalPodAutoscaler) -> Vec<FieldError> {
        Newer::validate(&newer(scaler))
    }

    fn validate_update(
        new: &v1::HorizontalPodAutoscaler,
        old: &v1::HorizontalPodAutoscaler,
    ) -> Vec<FieldError> {
        Newer::validate_update(&newer(new), &newer(old))
    }

    fn validate_status_update(
        new: &v1::HorizontalPodAutoscaler,
        old: &v1::HorizontalPodAutoscaler,
    ) -> Vec<FieldError> {
        Newer::validate_status_update(&newer(new), &newer(old))
    }

    fn warnings(scaler: &v1::HorizontalPodAutoscaler) -> Vec<String> {
        Newer::warnings(&newer(scaler))
    }

    fn columns() -> Vec<Column> {
        Newer::columns()
    }

    fn cells(scaler: &v1::HorizontalPodAutoscaler, now: Timestamp) -> Vec<Value> {
        Newer::cells(&newer(scaler), now)
    }
}
