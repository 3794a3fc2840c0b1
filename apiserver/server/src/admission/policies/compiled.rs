//! Policies and their bindings as they are evaluated: read and compiled when they have changed.

use std::collections::BTreeMap;
use std::sync::Arc;

use corral_api::k8s::api::admissionregistration::v1::{
    MatchCondition, MatchResources, MutatingAdmissionPolicy, MutatingAdmissionPolicyBinding,
    Mutation, ParamKind, ParamRef, ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding,
    Validation as ApiValidation, Variable,
};
use corral_cel::admission::{Compiler, Options, Returns};
use corral_storage::Revision;

use crate::admission::derived::Derived;
use crate::admission::expressions::{Compiled, Conditions, VERSION};
use crate::admission::matching::Criteria;
use crate::admission::request::Phase;
use crate::api::Api;
use crate::cacher::snapshot::Objects;
use crate::object::Stored;

const GROUP: &str = "admissionregistration.k8s.io";

/// A rule of a validating policy.
pub struct Validation {
    /// What must hold.
    pub condition: Compiled,
    /// The text of it.
    pub text: String,
    /// What to say where it doesn't.
    pub message: String,
    /// The same, to be evaluated.
    pub message_expression: Option<Compiled>,
    /// Why it is refused, in the words of a Status.
    pub reason: Option<String>,
}

/// Something for the audit log.
pub struct Note {
    /// The part of its key after the policy's name.
    pub key: String,
    /// Its value.
    pub value: Compiled,
}

/// A change of a mutating policy.
pub enum Change {
    /// A JSON patch.
    Patch(Compiled),
    /// Fields to apply.
    Configuration(Compiled),
}

/// What a policy is for.
pub enum Purpose {
    /// Refusing what breaks rules.
    Validate {
        /// The rules.
        validations: Vec<Validation>,
        /// For the audit log.
        notes: Vec<Note>,
    },
    /// Changing objects.
    Mutate {
        /// The changes, in their order.
        changes: Vec<Change>,
        /// Whether it is asked once more when others have changed the object after it.
        again: bool,
    },
}

/// A policy.
pub struct Policy {
    /// Its name.
    pub name: String,
    /// The version that was read.
    pub revision: Revision,
    /// What it is about; nothing can be told without.
    pub criteria: Option<Criteria>,
    /// Whether what goes wrong with it lets writes pass.
    pub ignores_failures: bool,
    /// The kind of its parameters.
    pub params: Option<ParamKind>,
    /// Holds its variables.
    pub compiler: Compiler,
    /// What must hold before it is evaluated.
    pub conditions: Conditions,
    /// What it is for.
    pub purpose: Purpose,
}

/// What puts a policy into effect.
pub struct Binding {
    /// Its name.
    pub name: String,
    /// What it is about; everything where there are none.
    pub criteria: Option<Criteria>,
    /// Which parameters the policy is evaluated with.
    pub params: Option<ParamRef>,
    /// What becomes of a rule that is broken.
    pub actions: Vec<String>,
}

/// A policy with all that bind it.
pub struct Bound {
    /// The policy.
    pub policy: Arc<Policy>,
    /// The bindings; there is one at least.
    pub bindings: Vec<Arc<Binding>>,
}

/// The policies of one kind that are in effect, in the order of their names.
#[derive(Default)]
pub struct Policies(Derived<2, Vec<Bound>>);

impl Policies {
    /// The policies as the caches know them.
    pub fn current(&self, api: &Api, phase: Phase) -> Arc<Vec<Bound>> {
        let objects = |plural: &str| {
            let resource = api.resource(GROUP, plural);
            resource.map(|resource| resource.cacher.snapshot().objects)
        };
        let (Some(policies), Some(bindings)) =
            (objects(policies_of(phase)), objects(bindings_of(phase)))
        else {
            return Arc::default();
        };
        if policies.is_empty() || bindings.is_empty() {
            return Arc::default();
        }
        self.0
            .of([policies, bindings], |[policies, bindings], before| {
                bound(phase, policies, bindings, before.map_or(&[], Vec::as_slice))
            })
    }
}

fn policies_of(phase: Phase) -> &'static str {
    match phase {
        Phase::Validating => "validatingadmissionpolicies",
        Phase::Mutating => "mutatingadmissionpolicies",
    }
}

fn bindings_of(phase: Phase) -> &'static str {
    match phase {
        Phase::Validating => "validatingadmissionpolicybindings",
        Phase::Mutating => "mutatingadmissionpolicybindings",
    }
}

/// What does not read is not there: it did not pass validation.
fn bound(phase: Phase, policies: &Objects, bindings: &Objects, before: &[Bound]) -> Vec<Bound> {
    let mut by_policy: BTreeMap<String, Vec<Arc<Binding>>> = BTreeMap::new();
    for stored in bindings.values() {
        if let Some((policy, binding)) = binding(phase, stored) {
            by_policy.entry(policy).or_default().push(Arc::new(binding));
        }
    }
    let mut bound = Vec::new();
    for stored in policies.values() {
        let name = stored.key.as_str().rsplit('/').next().unwrap_or_default();
        let Some(bindings) = by_policy.remove(name) else {
            continue;
        };
        let known = before
            .iter()
            .find(|known| known.policy.name == name && known.policy.revision == stored.revision);
        let policy = match known {
            Some(known) => Some(known.policy.clone()),
            None => policy(phase, stored).map(Arc::new),
        };
        bound.extend(policy.map(|policy| Bound { policy, bindings }));
    }
    bound
}

fn binding(phase: Phase, stored: &Stored) -> Option<(String, Binding)> {
    let binding =
        |name: Option<String>, resources: Option<&MatchResources>, params, actions| Binding {
            name: name.unwrap_or_default(),
            criteria: resources.map(Criteria::of_policy),
            params,
            actions,
        };
    match phase {
        Phase::Validating => {
            let read: ValidatingAdmissionPolicyBinding = read(stored)?;
            let (name, spec) = (read.metadata.name, read.spec);
            let actions = spec.validation_actions;
            let resources = spec.match_resources.as_ref();
            Some((
                spec.policy_name,
                binding(name, resources, spec.param_ref, actions),
            ))
        }
        Phase::Mutating => {
            let read: MutatingAdmissionPolicyBinding = read(stored)?;
            let (name, spec) = (read.metadata.name, read.spec?);
            let resources = spec.match_resources.as_ref();
            let made = binding(name, resources, spec.param_ref, Vec::new());
            Some((spec.policy_name?, made))
        }
    }
}

fn read<T: serde::de::DeserializeOwned>(stored: &Stored) -> Option<T> {
    serde_json::from_slice(&stored.json).ok()
}

/// What both kinds of policies have.
struct Common<'a> {
    name: Option<String>,
    constraints: Option<&'a MatchResources>,
    failure_policy: Option<&'a str>,
    params: Option<ParamKind>,
    conditions: &'a [MatchCondition],
    variables: &'a [Variable],
}

impl Common<'_> {
    fn compile(
        self,
        stored: &Stored,
        purpose: impl FnOnce(&Compiler, Options) -> Purpose,
    ) -> Policy {
        let options = Options {
            params: self.params.is_some(),
            authorizer: true,
            patch_types: false,
        };
        let mut compiler = Compiler::of_policy(VERSION);
        for variable in self.variables {
            // One that does not compile fails when it is used.
            let _ = compiler.add_variable(&variable.name, &variable.expression, options);
        }
        Policy {
            name: self.name.unwrap_or_default(),
            revision: stored.revision,
            criteria: self.constraints.map(Criteria::of_policy),
            ignores_failures: self.failure_policy == Some("Ignore"),
            params: self.params,
            conditions: Conditions::of_policy(&compiler, options, self.conditions),
            purpose: purpose(&compiler, options),
            compiler,
        }
    }
}

fn policy(phase: Phase, stored: &Stored) -> Option<Policy> {
    match phase {
        Phase::Validating => {
            let read: ValidatingAdmissionPolicy = read(stored)?;
            let spec = read.spec?;
            let common = Common {
                name: read.metadata.name,
                constraints: spec.match_constraints.as_ref(),
                failure_policy: spec.failure_policy.as_deref(),
                params: spec.param_kind.clone(),
                conditions: spec.match_conditions.as_deref().unwrap_or_default(),
                variables: spec.variables.as_deref().unwrap_or_default(),
            };
            Some(common.compile(stored, |compiler, options| {
                Purpose::Validate {
                    validations: spec
                        .validations
                        .iter()
                        .flatten()
                        .map(|given| validation(given, compiler, options))
                        .collect(),
                    notes: spec
                        .audit_annotations
                        .iter()
                        .flatten()
                        .map(|given| Note {
                            key: given.key.clone(),
                            value: compiler.compile(
                                &given.value_expression,
                                Returns::Note,
                                options,
                            ),
                        })
                        .collect(),
                }
            }))
        }
        Phase::Mutating => {
            let read: MutatingAdmissionPolicy = read(stored)?;
            let spec = read.spec?;
            let common = Common {
                name: read.metadata.name,
                constraints: spec.match_constraints.as_ref(),
                failure_policy: spec.failure_policy.as_deref(),
                params: spec.param_kind.clone(),
                conditions: spec.match_conditions.as_deref().unwrap_or_default(),
                variables: spec.variables.as_deref().unwrap_or_default(),
            };
            Some(common.compile(stored, |compiler, options| {
                Purpose::Mutate {
                    changes: spec
                        .mutations
                        .iter()
                        .flatten()
                        .filter_map(|given| change(given, compiler, options))
                        .collect(),
                    again: spec.reinvocation_policy.as_deref() == Some("IfNeeded"),
                }
            }))
        }
    }
}

fn validation(given: &ApiValidation, compiler: &Compiler, options: Options) -> Validation {
    let of_message = Options {
        authorizer: false,
        ..options
    };
    let message = given.message_expression.as_deref();
    let message = message.filter(|text| !text.is_empty());
    Validation {
        condition: compiler.compile(&given.expression, Returns::Condition, options),
        text: given.expression.trim().to_owned(),
        message: given
            .message
            .as_deref()
            .unwrap_or_default()
            .trim()
            .to_owned(),
        message_expression: message.map(|text| compiler.compile(text, Returns::Text, of_message)),
        reason: given.reason.clone(),
    }
}

fn change(given: &Mutation, compiler: &Compiler, options: Options) -> Option<Change> {
    let options = Options {
        patch_types: true,
        ..options
    };
    let compile = |text: &Option<String>, returns| {
        compiler.compile(text.as_deref().unwrap_or_default(), returns, options)
    };
    match given.patch_type.as_str() {
        "JSONPatch" => {
            let text = &given.json_patch.as_ref()?.expression;
            Some(Change::Patch(compile(text, Returns::JsonPatch)))
        }
        _ => {
            let text = &given.apply_configuration.as_ref()?.expression;
            let compiled = compile(text, Returns::ApplyConfiguration);
            Some(Change::Configuration(compiled))
        }
    }
}
