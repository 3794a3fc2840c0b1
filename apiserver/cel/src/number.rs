//! Numbers of several types beside each other.

use std::cmp::Ordering;

const TWO_63: f64 = 9_223_372_036_854_775_808.0;
const TWO_64: f64 = 18_446_744_073_709_551_616.0;

/// The whole number within 64 bits that a floating-point one is.
#[allow(clippy::cast_possible_truncation)]
pub(crate) fn whole(d: f64) -> Option<i64> {
    (d.fract() == 0.0 && (-TWO_63..TWO_63).contains(&d)).then_some(d as i64)
}

/// The whole number towards zero, if it lies well within 64 bits.
#[allow(clippy::cast_possible_truncation)]
pub(crate) fn to_int(d: f64) -> Option<i64> {
    (d > -TWO_63 && d < TWO_63).then_some(d as i64)
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
pub(crate) fn to_uint(d: f64) -> Option<u64> {
    ((0.0..TWO_64).contains(&d)).then_some(d as u64)
}

/// The nearest floating-point number.
#[allow(clippy::cast_precision_loss)]
pub(crate) fn of_int(i: i64) -> f64 {
    i as f64
}

#[allow(clippy::cast_precision_loss)]
pub(crate) fn of_uint(u: u64) -> f64 {
    u as f64
}

fn doubles(a: f64, b: f64) -> Ordering {
    a.partial_cmp(&b).unwrap_or(Ordering::Equal)
}

pub(crate) fn compare_double_int(d: f64, i: i64) -> Ordering {
    if d < -TWO_63 {
        Ordering::Less
    } else if d > TWO_63 {
        Ordering::Greater
    } else {
        doubles(d, of_int(i))
    }
}

pub(crate) fn compare_double_uint(d: f64, u: u64) -> Ordering {
    if d < 0.0 {
        Ordering::Less
    } else if d > TWO_64 {
        Ordering::Greater
    } else {
        doubles(d, of_uint(u))
    }
}

pub(crate) fn compare_int_uint(i: i64, u: u64) -> Ordering {
    u64::try_from(i).map_or(Ordering::Less, |i| i.cmp(&u))
}

/// A cost or size times a factor, rounded up, at most what fits.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
pub(crate) fn times(n: u64, factor: f64) -> u64 {
    let product = (of_uint(n) * factor).ceil();
    if product >= TWO_64 {
        u64::MAX
    } else {
        product as u64
    }
}

/// The same rounded down.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
pub(crate) fn times_down(n: u64, factor: f64) -> u64 {
    let product = of_uint(n) * factor;
    if product >= TWO_64 {
        u64::MAX
    } else {
        product as u64
    }
}
