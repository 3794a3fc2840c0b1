//! Match conditions of a service that decides: expressions that say what it is asked about.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use corral_cel::{Budget, DeclType, Env, Program, Type, Value, Version};
use serde_json::{Value as Json, json};

use super::Access;
use super::config::MatchCondition;
use crate::authn::User;

/// Conditions of one service, as in kube-apiserver.
const CONDITIONS_MAX: usize = 64;

/// The conditions of one service, compiled.
pub(super) struct Conditions(Vec<Program>);

impl Conditions {
    /// Compiles conditions.
    ///
    /// # Errors
    /// The first mistake, with its place.
    pub(super) fn compile(conditions: &[MatchCondition]) -> Result<Self, String> {
        if conditions.len() > CONDITIONS_MAX {
            return Err(format!(
                "matchConditions: Too many: must have at most {CONDITIONS_MAX} items"
            ));
        }
        let env = Env::new(Version::NEWEST).with_data("request", &review_type());
        let compile = |(index, condition): (usize, &MatchCondition)| {
            let text = &condition.expression;
            let told = |why: &dyn std::fmt::Display| {
                format!("matchConditions[{index}].expression: Invalid value: {text:?}: {why}")
            };
            if text.trim().is_empty() {
                return Err(format!(
                    "matchConditions[{index}].expression: Required value"
                ));
            }
            let program = env
                .compile(text)
                .map_err(|issues| told(&format!("compilation failed: {issues}")))?;
            if let Some(error) = program.constant_error() {
                return Err(told(&error));
            }
            match program.output_type() {
                Type::Bool => Ok(program),
                other => Err(told(&format!("must evaluate to bool, not {other:?}"))),
            }
        };
        let programs = conditions.iter().enumerate().map(compile);
        Ok(Self(programs.collect::<Result<_, _>>()?))
    }

    /// Whether all hold. One that does not makes what is wrong with others no matter.
    ///
    /// # Errors
    /// What went wrong with the first that could not be evaluated.
    pub(super) fn hold(&self, user: &User, access: &Access) -> Result<bool, String> {
        if self.0.is_empty() {
            return Ok(true);
        }
        let request = request(user, access);
        let activation = HashMap::from([("request", Value::of_json(&request))]);
        let mut budget = Budget::of_match_conditions();
        let mut wrong = None;
        for program in &self.0 {
            match program.evaluate(&activation, &mut budget) {
                _ if budget.is_overdrawn() => {
                    return Err("the match conditions cost more than they may".to_owned());
                }
                Ok(value) if value.as_bool() == Some(false) => return Ok(false),
                Ok(_) => {}
                Err(error) => {
                    wrong.get_or_insert_with(|| error.to_string());
                }
            }
        }
        wrong.map_or(Ok(true), Err)
    }
}

fn object(name: &str, fields: &[(&str, DeclType)]) -> DeclType {
    let fields = fields
        .iter()
        .map(|(name, t)| ((*name).to_owned(), t.clone()));
    DeclType::object_of(name, BTreeMap::from_iter(fields))
}

fn review_type() -> Arc<DeclType> {
    let text = || DeclType::of(Type::String);
    let texts = || DeclType::of(Type::list(Type::String));
    // The fields of a requirement are known when it is evaluated only: a list of objects has no bounds here.
    let requirements = || DeclType::of(Type::list(Type::Dyn));
    let selector = |name: &str| {
        object(
            name,
            &[("rawSelector", text()), ("requirements", requirements())],
        )
    };
    let resource = object(
        "kubernetes.ResourceAttributes",
        &[
            ("namespace", text()),
            ("verb", text()),
            ("group", text()),
            ("version", text()),
            ("resource", text()),
            ("subresource", text()),
            ("name", text()),
            (
                "fieldSelector",
                selector("kubernetes.FieldSelectorAttributes"),
            ),
            (
                "labelSelector",
                selector("kubernetes.LabelSelectorAttributes"),
            ),
        ],
    );
    let path = object(
        "kubernetes.NonResourceAttributes",
        &[("path", text()), ("verb", text())],
    );
    let extra = DeclType::of(Type::map(Type::String, Type::list(Type::String)));
    Arc::new(object(
        "kubernetes.SubjectAccessReviewSpec",
        &[
            ("resourceAttributes", resource),
            ("nonResourceAttributes", path),
            ("user", text()),
            ("groups", texts()),
            ("extra", extra),
            ("uid", text()),
        ],
    ))
}

/// What is asked, with every text that a review may hold.
fn request(user: &User, access: &Access) -> Json {
    let mut request = json!({
        "user": user.name, "uid": user.uid, "groups": user.groups, "extra": user.extra,
    });
    if access.resource.is_empty() {
        request["nonResourceAttributes"] = json!({"path": access.path, "verb": access.verb});
        return request;
    }
    let mut resource = json!({
        "namespace": access.namespace, "verb": access.verb, "group": access.group, "version": access.version,
        "resource": access.resource, "subresource": access.subresource, "name": access.name,
    });
    for (name, requirements) in [
        ("fieldSelector", &access.fields),
        ("labelSelector", &access.labels),
    ] {
        if !requirements.is_empty() {
            resource[name] = json!({"requirements": requirements});
        }
    }
    request["resourceAttributes"] = resource;
    request
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conditions(texts: &[&str]) -> Result<Conditions, String> {
        let conditions = texts.iter().map(|text| MatchCondition {
            expression: (*text).to_owned(),
        });
        Conditions::compile(&conditions.collect::<Vec<_>>())
    }

    #[test]
    fn conditions_say_what_is_asked_about() {
        let user = User::new("jane", &["devs"]);
        let pods = Access {
            verb: "list".into(),
            resource: "pods".into(),
            namespace: "a".into(),
            ..Access::default()
        };
        let path = Access {
            verb: "get".into(),
            path: "/version".into(),
            ..Access::default()
        };
        let both = conditions(&[
            "has(request.resourceAttributes)",
            "'devs' in request.groups",
        ]);
        let both = both.expect("valid");
        assert_eq!(
            (both.hold(&user, &pods), both.hold(&user, &path)),
            (Ok(true), Ok(false))
        );
        // What is not there is an error, unless another condition does not hold.
        let wrong = conditions(&["request.resourceAttributes.namespace == 'a'"]).expect("valid");
        assert_eq!(wrong.hold(&user, &pods), Ok(true));
        assert!(wrong.hold(&user, &path).is_err());
        let saved = conditions(&[
            "request.resourceAttributes.namespace == 'a'",
            "request.user == 'joe'",
        ]);
        assert_eq!(saved.expect("valid").hold(&user, &path), Ok(false));
        assert_eq!(conditions(&[]).expect("valid").hold(&user, &path), Ok(true));
    }

    #[test]
    fn what_is_no_condition_is_refused() {
        for bad in ["", "request.user", "request.typo == 'a'", "1 +", "object.x"] {
            assert!(conditions(&[bad]).is_err(), "{bad}");
        }
    }
}
