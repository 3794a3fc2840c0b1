//! Evaluating a validating policy with one set of parameters.

use std::time::{Duration, Instant};

use corral_cel::Budget;
use corral_cel::Value as CelValue;
use corral_cel::admission::{Evaluation, Inputs};

use super::compiled::{Note, Policy, Validation};
use crate::admission::expressions::evaluate;

/// Bytes of a message that an expression makes; a longer one is not told.
const MESSAGE_SIZE_MAX: usize = 5 * 1024;
/// The reason where a rule names none.
const REASON_DEFAULT: &str = "Invalid";

/// What a rule says.
pub enum Verdict {
    /// It is kept.
    Kept,
    /// It is broken.
    Broken {
        /// What to tell.
        message: String,
        /// Why, in the words of a Status.
        reason: String,
    },
    /// It could not be evaluated.
    Failed(String),
}

/// What a rule says, and how long that took.
pub struct Finding {
    /// What.
    pub verdict: Verdict,
    /// How long.
    pub took: Duration,
}

/// What a policy says.
#[derive(Default)]
pub struct Findings {
    /// One for each rule; or one for all that tells why they could not be evaluated.
    pub rules: Vec<Finding>,
    /// Keys and values for the audit log.
    pub notes: Vec<(String, Result<String, String>)>,
}

impl Findings {
    /// Nothing but why nothing could be evaluated.
    pub fn failed(why: String) -> Self {
        Self {
            rules: vec![Finding {
                verdict: Verdict::Failed(why),
                took: Duration::ZERO,
            }],
            notes: Vec::new(),
        }
    }
}

/// Evaluates the rules of a policy whose conditions hold.
pub fn find(
    policy: &Policy,
    validations: &[Validation],
    notes: &[Note],
    inputs: Inputs<'_>,
) -> Findings {
    let mut budget = Budget::of_request();
    let rules = match rules(policy, validations, inputs, &mut budget) {
        Ok(rules) => rules,
        Err(why) => return Findings::failed(why),
    };
    let without_authorizer = Inputs {
        authorizer: None,
        ..inputs
    };
    match noted(policy, notes, without_authorizer) {
        Ok(notes) => Findings { rules, notes },
        Err(why) => Findings::failed(why),
    }
}

/// The outer error is that the rules cost too much together.
fn rules(
    policy: &Policy,
    validations: &[Validation],
    inputs: Inputs<'_>,
    budget: &mut Budget,
) -> Result<Vec<Finding>, String> {
    let evaluation = Evaluation::new(&policy.compiler, inputs);
    let mut values = Vec::new();
    for validation in validations {
        let started = Instant::now();
        let value = evaluate(&evaluation, &validation.condition, budget)?;
        values.push((value.map(|value| value.as_bool()), started.elapsed()));
    }
    let broken = |(value, _): &(Result<Option<bool>, String>, _)| *value != Ok(Some(true));
    if !values.iter().any(broken) {
        let kept = values.into_iter().map(|(_, took)| Finding {
            verdict: Verdict::Kept,
            took,
        });
        return Ok(kept.collect());
    }
    let messages = messages(policy, validations, inputs, budget);
    let found = values
        .into_iter()
        .enumerate()
        .map(|(index, (value, took))| {
            let verdict = match (value, &messages) {
                (Err(why), _) => Verdict::Failed(why),
                (Ok(_), Err(why)) => Verdict::Failed(format!("failed messageExpression: {why}")),
                (Ok(Some(true)), Ok(_)) => Verdict::Kept,
                (Ok(_), Ok(messages)) => {
                    broken_rule(&validations[index], messages[index].as_deref())
                }
            };
            Finding { verdict, took }
        });
    Ok(found.collect())
}

fn broken_rule(validation: &Validation, message: Option<&str>) -> Verdict {
    let given = Some(validation.message.as_str()).filter(|text| !text.is_empty());
    let message = message.or(given).map_or_else(
        || format!("failed expression: {}", validation.text),
        str::to_owned,
    );
    let reason = validation.reason.as_deref().unwrap_or(REASON_DEFAULT);
    Verdict::Broken {
        message,
        reason: reason.to_owned(),
    }
}

/// The messages that expressions make, where they make good ones.
fn messages(
    policy: &Policy,
    validations: &[Validation],
    inputs: Inputs<'_>,
    budget: &mut Budget,
) -> Result<Vec<Option<String>>, String> {
    let inputs = Inputs {
        authorizer: None,
        ..inputs
    };
    let evaluation = Evaluation::new(&policy.compiler, inputs);
    let mut messages = Vec::new();
    for validation in validations {
        let Some(compiled) = &validation.message_expression else {
            messages.push(None);
            continue;
        };
        let value = evaluate(&evaluation, compiled, budget)?;
        let text = value.ok();
        let text = text.as_ref().and_then(CelValue::as_str).map(str::trim);
        let good = |text: &&str| {
            !text.is_empty() && text.len() <= MESSAGE_SIZE_MAX && !text.contains('\n')
        };
        messages.push(text.filter(good).map(str::to_owned));
    }
    Ok(messages)
}

/// An annotation's key, and its value or why there is none.
type Noted = (String, Result<String, String>);

/// What goes to the audit log. What is empty does not.
fn noted(policy: &Policy, notes: &[Note], inputs: Inputs<'_>) -> Result<Vec<Noted>, String> {
    let evaluation = Evaluation::new(&policy.compiler, inputs);
    let mut budget = Budget::of_request();
    let mut found = Vec::new();
    for note in notes {
        let value = evaluate(&evaluation, &note.value, &mut budget)?;
        let value = match value {
            Err(why) => Err(why),
            Ok(value) => match value.as_str().map(str::trim) {
                None | Some("") => continue,
                Some(text) => Ok(text.to_owned()),
            },
        };
        found.push((note.key.clone(), value));
    }
    Ok(found)
}
