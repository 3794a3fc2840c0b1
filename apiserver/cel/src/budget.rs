//! What evaluation may cost.

/// The most that one evaluation of one expression may cost, unless its caller says otherwise.
pub const CALL_COST_MAX: u64 = 1_000_000;
/// The budget of all rules of one custom resource, or of one policy binding, for one request.
pub const REQUEST_COST_MAX: u64 = 10_000_000;
/// The budget of all match conditions of one webhook or policy binding for one request.
pub const MATCH_CONDITIONS_COST_MAX: u64 = 2_500_000;

/// What is left of a budget that several evaluations share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    call_max: u64,
    /// What is left; `None` once an evaluation wanted more than there was.
    left: Option<u64>,
}

impl Budget {
    /// A budget of this much in all, with [`CALL_COST_MAX`] for one evaluation.
    pub fn new(total: u64) -> Self {
        Self {
            call_max: CALL_COST_MAX,
            left: Some(total),
        }
    }

    /// The same with another limit for one evaluation.
    pub fn with_call_max(self, call_max: u64) -> Self {
        Self { call_max, ..self }
    }

    /// The budget of the rules of one object.
    pub fn of_request() -> Self {
        Self::new(REQUEST_COST_MAX)
    }

    /// The budget of match conditions.
    pub fn of_match_conditions() -> Self {
        Self::new(MATCH_CONDITIONS_COST_MAX)
    }

    /// The most that one evaluation may cost.
    pub fn call_max(&self) -> u64 {
        self.call_max
    }

    /// What is left; `None` when it was overdrawn.
    pub fn left(&self) -> Option<u64> {
        self.left
    }

    /// Whether an evaluation wanted more than there was.
    pub fn is_overdrawn(&self) -> bool {
        self.left.is_none()
    }

    /// Takes what an evaluation cost; false, and overdrawn from then on, if there isn't that much.
    pub fn take(&mut self, cost: u64) -> bool {
        self.left = self.left.and_then(|left| left.checked_sub(cost));
        self.left.is_some()
    }

    /// Nothing is evaluated any more.
    pub fn exhaust(&mut self) {
        self.left = None;
    }
}
