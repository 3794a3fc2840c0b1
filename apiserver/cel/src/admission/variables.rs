//! Evaluating the expressions of a webhook or policy for one request.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::Value as Json;

use super::{AUTHORIZER, Compiler, Expression, REQUEST_RESOURCE, VARIABLES};
use crate::authorizer::{Authorizer, AuthorizerValue, Resource};
use crate::budget::{Budget, CALL_COST_MAX};
use crate::escape::unescape;
use crate::eval::Activation;
use crate::value::{Entries, Evaluated, EvaluationError, Map, Value};

/// How deep variables may lie in each other, each of which needs the last one: all are evaluated on one stack.
const NESTED_MAX: usize = 64;

/// What a request brings.
#[derive(Clone, Copy, Default)]
pub struct Inputs<'a> {
    /// The object as it is to become; none when it is deleted.
    pub object: Option<&'a Json>,
    /// The object as it is; none when it is created.
    pub old_object: Option<&'a Json>,
    /// An `AdmissionRequest` without its objects.
    pub request: Option<&'a Json>,
    /// The parameters of a policy.
    pub params: Option<&'a Json>,
    /// The namespace; none for a resource that is in none.
    pub namespace: Option<&'a Json>,
    /// Who decides what the user of the request may do, and the resource of the request.
    pub authorizer: Option<(&'a dyn Authorizer, &'a Resource)>,
}

/// Why an expression gave no value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    message: String,
    out_of_budget: bool,
}

impl Failure {
    /// Whether the budget was too small: then no other expression is to be evaluated.
    pub fn is_out_of_budget(&self) -> bool {
        self.out_of_budget
    }
}

/// What variables of the policy gave, and what that cost since it was last asked.
#[derive(Default)]
struct State<'a> {
    values: HashMap<String, Evaluated<'a>>,
    cost: u64,
    /// How many variables are being evaluated, each for the last one.
    nested: usize,
}

/// One request, for which expressions of one compiler are evaluated. Variables of the policy are evaluated once, when
/// the first expression needs them.
pub struct Evaluation<'a, 'c> {
    compiler: &'c Compiler,
    inputs: Inputs<'a>,
    state: Mutex<State<'a>>,
}

impl<'a, 'c> Evaluation<'a, 'c> {
    /// Of the expressions of a compiler with what a request brings.
    pub fn new(compiler: &'c Compiler, inputs: Inputs<'a>) -> Self {
        Self {
            compiler,
            inputs,
            state: Mutex::default(),
        }
    }

    /// Evaluates an expression that this compiler made.
    ///
    /// # Errors
    /// [`Failure`] in kube-apiserver's words.
    pub fn evaluate(
        &self,
        expression: &Expression,
        budget: &mut Budget,
    ) -> Result<Value<'a>, Failure> {
        let outcome = expression.program.run(self, budget.call_max());
        let variables = std::mem::take(&mut self.state().cost);
        if !budget.take(variables) || !budget.take(outcome.cost) {
            return Err(Failure {
                message: "validation failed due to running out of cost budget, no further validation rules will be run".to_owned(),
                out_of_budget: true,
            });
        }
        outcome.value.map_err(|e| Failure {
            message: format!("expression '{}' resulted in error: {e}", expression.text),
            out_of_budget: false,
        })
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State<'a>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The value of a variable of the policy; `None` if there is none of that name.
    fn composed(&self, name: &str) -> Option<Evaluated<'a>> {
        let variables = self.compiler.variables.iter().flatten();
        let (_, compiled) = variables.clone().find(|(own, _)| **own == *name)?;
        if let Some(known) = self.state().values.get(name) {
            return Some(known.clone());
        }
        let value = match compiled {
            Err(e) => Err(EvaluationError::new(format!(
                "composited variable {name:?} fails to compile: {e}"
            ))),
            Ok(_) if self.state().nested >= NESTED_MAX => Err(EvaluationError::new(format!(
                "composited variable {name:?} fails to evaluate: more than {NESTED_MAX} variables need each other"
            ))),
            Ok(expression) => {
                self.state().nested += 1;
                let outcome = expression.program.run(self, CALL_COST_MAX);
                let mut state = self.state();
                state.nested -= 1;
                state.cost = state.cost.saturating_add(outcome.cost);
                outcome.value.map_err(|e| {
                    EvaluationError::new(format!(
                        "composited variable {name:?} fails to evaluate: {e}"
                    ))
                })
            }
        };
        self.state().values.insert(name.to_owned(), value.clone());
        Some(value)
    }

    /// All variables of the policy, for an expression that wants more than a field.
    fn all(&self) -> Evaluated<'a> {
        let mut entries = Entries::default();
        for (name, _) in self.compiler.variables.iter().flatten() {
            if let Some(value) = self.composed(name) {
                entries.set(Value::text(name.clone()), value?);
            }
        }
        Ok(Value::Map(Map::Entries(Arc::new(entries))))
    }
}

impl<'a> Activation<'a> for Evaluation<'a, '_> {
    fn variable(&self, name: &str) -> Option<Evaluated<'a>> {
        let data = |json: Option<&'a Json>| json.map_or(Value::Null, Value::of_json);
        let inputs = &self.inputs;
        Some(Ok(match name {
            "object" => data(inputs.object),
            "oldObject" => data(inputs.old_object),
            "request" => data(inputs.request),
            "params" => data(inputs.params),
            "namespaceObject" => data(inputs.namespace),
            AUTHORIZER => Value::Authorizer(AuthorizerValue::new(inputs.authorizer?.0)),
            REQUEST_RESOURCE => {
                let (authorizer, resource) = inputs.authorizer?;
                Value::Authorizer(AuthorizerValue::of_resource(authorizer, resource.clone()))
            }
            VARIABLES if self.compiler.variables.is_some() => return Some(self.all()),
            _ => return None,
        }))
    }

    fn lazy_field(&self, variable: &str, field: &str) -> Option<Option<Evaluated<'a>>> {
        if variable != VARIABLES {
            return None;
        }
        Some(unescape(field).and_then(|name| self.composed(&name)))
    }
}
