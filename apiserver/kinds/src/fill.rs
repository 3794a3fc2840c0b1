//! Small steps that defaults are made of: fill a field that the client left empty.

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
