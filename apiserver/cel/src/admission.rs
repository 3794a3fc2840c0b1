//! Expressions of admission webhooks and admission policies: their variables, the types that they must have, and
//! their evaluation for one request.
//!
//! A [`Compiler`] makes [`Expression`]s; an [`Evaluation`] evaluates them with the [`Inputs`] of a request. What goes
//! wrong is told in kube-apiserver's words, for a status ([`CompileError`]) or for the answer to the request
//! ([`Failure`]).

pub mod patch;
mod variables;

use std::sync::{Arc, OnceLock};

use crate::decl::DeclType;
use crate::env::{Env, Program};
use crate::types::Type;
use crate::version::Version;

pub use variables::{Evaluation, Failure, Inputs};

const VARIABLES: &str = "variables";
const VARIABLES_TYPE: &str = "kubernetes.variables";
const AUTHORIZER: &str = "authorizer";
const REQUEST_RESOURCE: &str = "authorizer.requestResource";

/// Which variables there are besides `object`, `oldObject`, `request` and `namespaceObject`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Options {
    /// `params`, which may be `null`.
    pub params: bool,
    /// `authorizer` and `authorizer.requestResource`.
    pub authorizer: bool,
    /// The types and functions of mutations.
    pub patch_types: bool,
}

/// What an expression must give.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Returns {
    /// A truth value: match conditions and validations.
    Condition,
    /// A text: message expressions.
    Text,
    /// A text or `null`: audit annotations.
    Note,
    /// A list of `JSONPatch`.
    JsonPatch,
    /// An `Object`.
    ApplyConfiguration,
    /// Anything: variables.
    Any,
}

impl Returns {
    fn types(self) -> Vec<Type> {
        match self {
            Self::Condition => vec![Type::Bool],
            Self::Text => vec![Type::String],
            Self::Note => vec![Type::String, Type::Null],
            Self::JsonPatch => vec![Type::list(Type::object(crate::mutation::JSON_PATCH))],
            Self::ApplyConfiguration => vec![Type::object(crate::mutation::OBJECT)],
            Self::Any => Vec::new(),
        }
    }

    /// What is wrong with an expression of this type.
    fn check(self, got: &Type) -> Result<(), CompileError> {
        let wanted = self.types();
        let detail = match wanted.as_slice() {
            [] => return Ok(()),
            types if types.contains(got) => return Ok(()),
            [one] => format!(
                "must evaluate to {} but got {}",
                one.declared(),
                got.declared()
            ),
            types => {
                let names: Vec<String> = types.iter().map(Type::declared).collect();
                format!(
                    "must evaluate to one of [{}] but got {}",
                    names.join(" "),
                    got.declared()
                )
            }
        };
        Err(CompileError {
            detail,
            internal: false,
        })
    }
}

/// Why an expression can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct CompileError {
    /// What kube-apiserver says, such as `compilation failed: ERROR: <input>:1:1: …`.
    pub detail: String,
    /// Whether it answers so with an internal error, and not with an invalid field.
    pub internal: bool,
}

/// A compiled expression.
#[derive(Debug, Clone)]
pub struct Expression {
    text: Arc<str>,
    program: Program,
}

impl Expression {
    /// What was compiled.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The type of what it gives.
    pub fn output_type(&self) -> &Type {
        self.program.output_type()
    }
}

/// A variable of a policy, and what became of its expression.
type Variable = (Arc<str>, Result<Expression, CompileError>);

/// Compiles the expressions of one webhook or of one policy.
#[derive(Debug, Clone)]
pub struct Compiler {
    version: Version,
    /// The policy's variables in their order; `None` where there can be none.
    variables: Option<Vec<Variable>>,
}

impl Compiler {
    /// For webhooks, and the match conditions of a policy when it is written: without `variables`.
    pub fn new(version: Version) -> Self {
        Self {
            version,
            variables: None,
        }
    }

    /// For a policy: with `variables`, of which there are none yet.
    pub fn of_policy(version: Version) -> Self {
        Self {
            version,
            variables: Some(Vec::new()),
        }
    }

    /// Adds a variable of the policy, for the expressions that are compiled from then on. One that doesn't compile is
    /// there, too, and fails when it is evaluated.
    ///
    /// # Errors
    /// Why it doesn't compile.
    pub fn add_variable(
        &mut self,
        name: &str,
        text: &str,
        options: Options,
    ) -> Result<(), CompileError> {
        let compiled = self.compile(text, Returns::Any, options);
        let result = compiled.as_ref().map(|_| ()).map_err(Clone::clone);
        let variables = self.variables.get_or_insert_default();
        variables.retain(|(own, _)| **own != *name);
        variables.push((Arc::from(name), compiled));
        result
    }

    /// Compiles an expression.
    ///
    /// # Errors
    /// Why it can't be used.
    pub fn compile(
        &self,
        text: &str,
        returns: Returns,
        options: Options,
    ) -> Result<Expression, CompileError> {
        let invalid = |detail: String| CompileError {
            detail,
            internal: false,
        };
        let program = self
            .env(options)
            .compile(text)
            .map_err(|issues| invalid(format!("compilation failed: {issues}")))?;
        returns.check(program.output_type())?;
        if *program.output_type() == crate::mutation::unknown_field() {
            return Err(CompileError {
                detail: "unexpected compilation error: missing type conversion to proto: "
                    .to_owned(),
                internal: true,
            });
        }
        if let Some(why) = program.constant_error() {
            return Err(CompileError {
                detail: format!("program instantiation failed: {why}"),
                internal: true,
            });
        }
        Ok(Expression {
            text: Arc::from(text),
            program,
        })
    }

    fn env(&self, options: Options) -> Env {
        let mut env = with_request(Env::new(self.version))
            .with_variable("object", Type::Dyn)
            .with_variable("oldObject", Type::Dyn);
        if options.params {
            env = env.with_variable("params", Type::Dyn);
        }
        if options.authorizer {
            env = with_authorizer(env).with_variable(
                REQUEST_RESOURCE,
                Type::object("kubernetes.authorization.ResourceCheck"),
            );
        }
        if options.patch_types {
            env = env.with_mutation();
        }
        match &self.variables {
            Some(variables) => {
                let types = variables.iter().map(|(name, compiled)| {
                    let t = compiled.as_ref().ok().map(Expression::output_type);
                    (&**name, t.cloned())
                });
                with_variables(env, types)
            }
            None => env,
        }
    }
}

fn with_authorizer(env: Env) -> Env {
    env.with_variable(
        AUTHORIZER,
        Type::object("kubernetes.authorization.Authorizer"),
    )
}

/// The variables of a policy, each with its type if that is known.
fn with_variables<'v>(env: Env, types: impl Iterator<Item = (&'v str, Option<Type>)>) -> Env {
    let fields = types.map(|(name, t)| {
        let t = t.as_ref().map_or(Type::Dyn, field_type);
        (name.to_owned(), DeclType::of(t))
    });
    env.with_data(
        VARIABLES,
        &Arc::new(DeclType::object_of(VARIABLES_TYPE, fields)),
    )
}

/// How kube-apiserver declares a variable whose expression has a type: what isn't data can be anything.
fn field_type(t: &Type) -> Type {
    match t {
        Type::List(item) => Type::list(field_type(item)),
        Type::Map(entry) => Type::map(field_type(&entry.0), field_type(&entry.1)),
        Type::Bool
        | Type::Bytes
        | Type::Double
        | Type::Duration
        | Type::Int
        | Type::Null
        | Type::String
        | Type::Timestamp
        | Type::Uint => t.clone(),
        _ => Type::Dyn,
    }
}

/// Checks the expressions of a policy against the types of the resources that it matches, for the warnings in its
/// status.
#[derive(Debug, Clone)]
pub struct TypeChecker {
    env: Env,
    variables: Vec<(String, Option<Type>)>,
}

impl TypeChecker {
    /// For resources of a type, `None` if it isn't known; objects of the type have names ([`DeclType::named`]).
    /// `params` is `None` for a policy without parameters, and holds their type if that is known.
    pub fn new(
        version: Version,
        object: Option<&Arc<DeclType>>,
        params: Option<Option<&Arc<DeclType>>>,
    ) -> Self {
        let with = |env: Env, name: &str, t: Option<&Arc<DeclType>>| match t {
            Some(t) => env.with_data(name, t),
            None => env.with_variable(name, Type::Dyn),
        };
        let mut env = with_authorizer(with_request(Env::new(version)));
        env = with(env, "object", object);
        env = with(env, "oldObject", object);
        if let Some(params) = params {
            env = with(env, "params", params);
        }
        Self {
            env,
            variables: Vec::new(),
        }
    }

    /// Adds a variable of the policy; of one that doesn't compile nothing is known.
    pub fn add_variable(&mut self, name: &str, text: &str) {
        let compiled = self.env().compile(text).ok();
        let t = compiled.map(|program| program.output_type().clone());
        self.variables.retain(|(own, _)| own != name);
        self.variables.push((name.to_owned(), t));
    }

    /// What is wrong with an expression.
    pub fn check(&self, text: &str) -> Option<String> {
        self.env()
            .compile(text)
            .err()
            .map(|issues| issues.to_string())
    }

    fn env(&self) -> Env {
        let types = self.variables.iter().map(|(n, t)| (n.as_str(), t.clone()));
        with_variables(self.env.clone(), types)
    }
}

fn with_request(env: Env) -> Env {
    static TYPES: OnceLock<(Arc<DeclType>, Arc<DeclType>)> = OnceLock::new();
    let (request, namespace) =
        TYPES.get_or_init(|| (Arc::new(request_type()), Arc::new(namespace_type())));
    env.with_data("request", request)
        .with_data("namespaceObject", namespace)
}

fn object(name: &str, fields: &[(&str, DeclType)]) -> DeclType {
    let fields = fields.iter().map(|(n, t)| ((*n).to_owned(), t.clone()));
    DeclType::object_of(&format!("kubernetes.{name}"), fields)
}

fn of(t: Type) -> DeclType {
    DeclType::of(t)
}

fn texts(names: &[&'static str]) -> Vec<(&'static str, DeclType)> {
    names.iter().map(|n| (*n, of(Type::String))).collect()
}

fn request_type() -> DeclType {
    let kind = object("GroupVersionKind", &texts(&["group", "version", "kind"]));
    let resource = object(
        "GroupVersionResource",
        &texts(&["group", "version", "resource"]),
    );
    let extra = Type::map(Type::String, Type::list(Type::String));
    let mut user = texts(&["username", "uid"]);
    user.push(("groups", of(Type::list(Type::String))));
    user.push(("extra", of(extra)));
    let mut fields = texts(&[
        "subResource",
        "requestSubResource",
        "name",
        "namespace",
        "operation",
    ]);
    fields.extend([
        ("kind", kind.clone()),
        ("resource", resource.clone()),
        ("requestKind", kind),
        ("requestResource", resource),
        ("userInfo", object("UserInfo", &user)),
        ("dryRun", of(Type::Bool)),
        ("options", of(Type::Dyn)),
    ]);
    object("AdmissionRequest", &fields)
}

fn namespace_type() -> DeclType {
    let strings = || of(Type::list(Type::String));
    let map = || of(Type::map(Type::String, Type::String));
    let spec = object("NamespaceSpec", &[("finalizers", strings())]);
    let mut condition = texts(&["status", "type", "message", "reason"]);
    condition.push(("lastTransitionTime", of(Type::Timestamp)));
    let condition = object("NamespaceCondition", &condition);
    let status = object(
        "NamespaceStatus",
        &[
            ("conditions", DeclType::list(condition, 0)),
            ("phase", of(Type::String)),
        ],
    );
    let mut metadata = texts(&[
        "name",
        "generateName",
        "namespace",
        "UID",
        "resourceVersion",
    ]);
    metadata.extend([
        ("labels", map()),
        ("annotations", map()),
        ("creationTimestamp", of(Type::Timestamp)),
        ("deletionTimestamp", of(Type::Timestamp)),
        ("deletionGracePeriodSeconds", of(Type::Int)),
        ("generation", of(Type::Int)),
        ("finalizers", strings()),
    ]);
    object(
        "Namespace",
        &[
            ("metadata", object("NamespaceMetadata", &metadata)),
            ("spec", spec),
            ("status", status),
        ],
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::budget::Budget;
    use crate::schema::declared_type;

    const VERSION: Version = Version::new(1, 36);

    #[test]
    fn expressions_are_checked_against_the_types_of_resources() {
        let schema = json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {
            "replicas": {"type": "integer"}, "created": {"type": "string", "format": "date-time"}}}}});
        let t = declared_type(&schema, true).map(|t| Arc::new(t.named("Deployment")));
        let mut checker = TypeChecker::new(VERSION, t.as_ref(), Some(None));
        checker.add_variable("n", "object.spec.replicas + 1");
        checker.add_variable("bad", "object.spec.nope");
        for fine in [
            "object.spec.replicas > 1 && oldObject.spec.replicas < 3",
            "object.spec.created.getFullYear() == 2020",
            "variables.n == 2 && variables.bad == 'anything'",
            "params.anything == 1",
            "request.operation",
            "authorizer.path('/').check('get').allowed()",
            "object.metadata.name",
        ] {
            assert_eq!(checker.check(fine), None, "{fine}");
        }
        assert_eq!(
            checker.check("object.spec.nope == 1").as_deref(),
            Some(
                "ERROR: <input>:1:12: undefined field 'nope'\n | object.spec.nope == 1\n | ...........^"
            )
        );
        assert_eq!(
            checker.check("variables.n == 'x'").as_deref(),
            Some(
                "ERROR: <input>:1:13: found no matching overload for '_==_' applied to '(int, string)'\n | variables.n == 'x'\n | ............^"
            )
        );
        // Which kind of resource it is isn't known, and there are no parameters.
        let checker = TypeChecker::new(VERSION, None, None);
        assert_eq!(checker.check("object.spec.nope == 1"), None);
        let issues = checker.check("params.x").unwrap_or_default();
        assert!(issues.contains("undeclared reference to 'params' (in container '')"));
    }

    #[test]
    fn variables_that_need_each_other_end_before_the_stack_does() {
        let evaluate = |n: usize| {
            let mut compiler = Compiler::of_policy(VERSION);
            let add = |compiler: &mut Compiler, name: &str, text: &str| {
                compiler.add_variable(name, text, Options::default())
            };
            add(&mut compiler, "v0", "1").expect("a variable");
            for index in 1..n {
                let text = format!("variables.v{} + 1", index - 1);
                add(&mut compiler, &format!("v{index}"), &text).expect("a variable");
            }
            let text = format!("variables.v{} == {n}", n - 1);
            let expression = compiler.compile(&text, Returns::Condition, Options::default());
            let evaluation = Evaluation::new(&compiler, Inputs::default());
            let value = evaluation.evaluate(
                &expression.expect("an expression"),
                &mut Budget::new(1_000_000),
            );
            value.map(|value| matches!(value, crate::value::Value::Bool(true)))
        };
        assert_eq!(evaluate(64), Ok(true));
        let refused = evaluate(600).expect_err("too deep").to_string();
        assert!(
            refused.contains("more than 64 variables need each other"),
            "{refused}"
        );
    }

    #[test]
    fn webhooks_have_no_variables() {
        let compiler = Compiler::new(VERSION);
        let options = Options {
            authorizer: true,
            ..Options::default()
        };
        let compile = |text| compiler.compile(text, Returns::Condition, options);
        assert!(compile("request.dryRun && object.x == 1").is_ok());
        let refused = compile("variables.x == 1")
            .map(|_| ())
            .map_err(|e| e.detail);
        assert_eq!(
            refused,
            Err("compilation failed: ERROR: <input>:1:1: undeclared reference to 'variables' (in container '')\n | variables.x == 1\n | ^".to_owned())
        );
        let wrong = compile("1").map(|_| ());
        assert_eq!(
            wrong.map_err(|e| (e.detail, e.internal)),
            Err(("must evaluate to bool but got int".to_owned(), false))
        );
    }
}
