//! Small steps that defaults are made of: fill a field that the client left empty.

use std::collections::BTreeMap;

use corral_api::k8s::apimachinery::pkg::api::resource::Quantity as Wire;
use corral_api::quantity::Quantity;

/// Amounts finer than a thousandth are rounded up to one.
pub(crate) fn round_up(amounts: &mut Option<BTreeMap<String, Wire>>) {
    for wire in amounts.iter_mut().flat_map(BTreeMap::values_mut) {
        if let Ok(quantity) = Quantity::from_wire(wire) {
            let milli = Quantity::millis(quantity.milli_value());
            if milli != quantity && quantity < Quantity::units(i64::MAX / 1000) {
                *wire = milli.to_wire();
            }
        }
    }
}

/// Sets a text that is absent or empty.
pub(crate) fn text(slot: &mut Option<String>, value: &str) {
    if slot.as_ref().is_none_or(String::is_empty) {
        *slot = Some(value.to_owned());
    }
}

/// Sets a value that is absent.
pub(crate) fn absent<T>(slot: &mut Option<T>, value: T) {
    if slot.is_none() {
        *slot = Some(value);
    }
}

/// Sets a number for which zero means that it was not given.
pub(crate) fn zero(slot: &mut Option<i32>, value: i32) {
    if slot.unwrap_or(0) == 0 {
        *slot = Some(value);
    }
}

/// A list without items is none: what the store keeps does not tell them apart.
pub(crate) fn none_if_empty<T>(list: &mut Option<Vec<T>>) {
    if list.as_ref().is_some_and(Vec::is_empty) {
        *list = None;
    }
}
