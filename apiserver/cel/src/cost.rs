//! What expressions cost: estimated when they are checked, counted while they are evaluated.

pub(crate) mod actual;
pub(crate) mod estimate;

/// The cost of a code point that is looked at once.
const TRAVERSAL: f64 = 0.1;
/// The cost of a code point of a pattern for each unit of text.
const PATTERN: f64 = 0.25;
/// An authorization check; two fit into the cost of one expression.
const CHECK_COST: u64 = 350_000;
