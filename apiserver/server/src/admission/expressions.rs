//! Expressions of webhooks and policies, and what a request brings them.

use std::borrow::Cow;

use corral_api::k8s::api::admissionregistration::v1::MatchCondition;
use corral_api::status::Status;
use corral_cel::Budget;
use corral_cel::Value as CelValue;
use corral_cel::Version;
use corral_cel::admission::{
    CompileError, Compiler, Evaluation, Expression, Inputs, Options, Returns,
};
use corral_cel::authorizer;
use serde_json::{Map, Value};

use super::matching::Seen;
use super::request::Request;
use super::rights::Rights;

/// An expression, or why it can't be used: that is told when it would be evaluated.
pub type Compiled = Result<Expression, CompileError>;

/// What a stored expression may use.
pub const VERSION: Version = Version::NEWEST;

/// What of a Namespace expressions see.
const NAMESPACE_METADATA: [&str; 12] = [
    "name",
    "generateName",
    "namespace",
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "labels",
    "annotations",
    "finalizers",
];

/// A request as expressions see it.
pub struct Subject<'a> {
    /// The object as it is to become; null when it is deleted.
    pub object: Cow<'a, Value>,
    old: Cow<'a, Value>,
    request: Value,
    resource: authorizer::Resource,
    namespace: Option<Value>,
}

impl<'a> Subject<'a> {
    /// A request in the version in which a webhook or a policy sees it.
    ///
    /// # Errors
    /// 500 when its objects are not converted.
    pub async fn new(
        request: &Request<'_>,
        seen: &Seen,
        object: &'a Value,
        old: &'a Value,
    ) -> Result<Self, Status> {
        let (group, _, resource) = request.resource.clone();
        Ok(Self {
            object: seen.view(request, object).await?,
            old: seen.view(request, old).await?,
            request: request.described(seen),
            resource: authorizer::Resource {
                group,
                resource,
                subresource: request.subresource.to_owned(),
                namespace: request.namespace.clone(),
                name: request.name.clone(),
                ..Default::default()
            },
            namespace: None,
        })
    }

    /// The same with the namespace of the object, of which policies see a part.
    pub fn in_namespace(mut self, namespace: Option<&Value>) -> Self {
        self.namespace = namespace.map(|given| {
            let metadata = NAMESPACE_METADATA.iter().filter_map(|key| {
                let value = given["metadata"].get(*key)?;
                Some(((*key).to_owned(), value.clone()))
            });
            let metadata: Map<String, Value> = metadata.collect();
            let mut shown = Map::from_iter([("metadata".to_owned(), Value::from(metadata))]);
            for part in ["spec", "status"] {
                if let Some(value) = given.get(part) {
                    shown.insert(part.to_owned(), value.clone());
                }
            }
            Value::from(shown)
        });
        self
    }

    /// With the object as another expression has left it.
    pub fn with_object(&mut self, object: Value) {
        self.object = Cow::Owned(object);
    }

    /// What an evaluation takes.
    pub fn inputs<'s>(&'s self, rights: &'s Rights<'s>, params: Option<&'s Value>) -> Inputs<'s> {
        let present = |value: &'s Value| (!value.is_null()).then_some(value);
        Inputs {
            object: present(&self.object),
            old_object: present(&self.old),
            request: Some(&self.request),
            params,
            namespace: self.namespace.as_ref(),
            authorizer: Some((rights, &self.resource)),
        }
    }
}

/// What an expression gives.
///
/// # Errors
/// The outer error is that all together cost too much, the inner one what is wrong with this one.
pub fn evaluate<'a>(
    evaluation: &Evaluation<'a, '_>,
    compiled: &Compiled,
    budget: &mut Budget,
) -> Result<Result<CelValue<'a>, String>, String> {
    let expression = match compiled {
        Ok(expression) => expression,
        Err(error) => return Ok(Err(format!("compilation error: {error}"))),
    };
    match evaluation.evaluate(expression, budget) {
        Ok(value) => Ok(Ok(value)),
        Err(failure) if failure.is_out_of_budget() => Err(failure.to_string()),
        Err(failure) => Ok(Err(failure.to_string())),
    }
}

/// Conditions that must hold of a request before it is looked at further.
pub struct Conditions {
    compiler: Compiler,
    list: Vec<Compiled>,
}

impl Conditions {
    /// Those of a webhook.
    pub fn of_webhook(list: &[MatchCondition]) -> Self {
        let options = Options {
            authorizer: true,
            ..Options::default()
        };
        Self::of_policy(&Compiler::new(VERSION), options, list)
    }

    /// Those of a policy, which may use its variables.
    pub fn of_policy(compiler: &Compiler, options: Options, list: &[MatchCondition]) -> Self {
        let compile =
            |one: &MatchCondition| compiler.compile(&one.expression, Returns::Condition, options);
        Self {
            compiler: compiler.clone(),
            list: list.iter().map(compile).collect(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Whether all hold. One that does not makes what is wrong with others no matter.
    ///
    /// # Errors
    /// What went wrong.
    pub async fn hold(
        &self,
        rights: &Rights<'_>,
        subject: &Subject<'_>,
        params: Option<&Value>,
    ) -> Result<bool, String> {
        if self.is_empty() {
            return Ok(true);
        }
        let inputs = Inputs {
            namespace: None,
            ..subject.inputs(rights, params)
        };
        rights.settle(|| self.hold_with(inputs)).await
    }

    fn hold_with(&self, inputs: Inputs<'_>) -> Result<bool, String> {
        let evaluation = Evaluation::new(&self.compiler, inputs);
        let mut budget = Budget::of_match_conditions();
        let mut values = Vec::new();
        for compiled in &self.list {
            values.push(evaluate(&evaluation, compiled, &mut budget)?);
        }
        let mut wrong = Vec::new();
        for value in values {
            match value {
                Ok(value) if value.as_bool() == Some(false) => return Ok(false),
                Ok(_) => {}
                Err(why) if wrong.contains(&why) => {}
                Err(why) => wrong.push(why),
            }
        }
        match wrong.as_slice() {
            [] => Ok(true),
            [one] => Err(one.clone()),
            several => Err(format!("[{}]", several.join(", "))),
        }
    }
}
