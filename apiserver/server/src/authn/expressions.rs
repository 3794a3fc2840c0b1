//! Expressions of an issuer's configuration: what claims mean, and what must hold of them and of users.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use corral_cel::{Budget, DeclType, Env, Program, Type, Value, Version};
use serde_json::{Map, Value as Json, json};

use super::User;
use super::config::Jwt;

/// A rule, and what is told where it does not hold.
struct Rule {
    program: Program,
    message: String,
}

/// The expressions of one issuer, compiled.
pub(super) struct Expressions {
    rules: Vec<Rule>,
    username: Option<Program>,
    groups: Option<Program>,
    uid: Option<Program>,
    extra: Vec<(String, Program)>,
    user_rules: Vec<Rule>,
}

impl Expressions {
    /// Compiles the expressions of an issuer.
    ///
    /// # Errors
    /// The first mistake, with its place.
    pub(super) fn compile(jwt: &Jwt) -> Result<Self, String> {
        let claims =
            Env::new(Version::NEWEST).with_variable("claims", Type::map(Type::String, Type::Dyn));
        let users = Env::new(Version::NEWEST).with_data("user", &user_type());
        let texts = [
            Type::String,
            Type::list(Type::String),
            Type::list(Type::Dyn),
        ];
        let of_claims = |place: &str, text: &str, types: &[Type]| match text {
            "" => Ok(None),
            text => compile(&claims, place, text, types).map(Some),
        };
        let mut rules = Vec::new();
        for (index, rule) in jwt.claim_validation_rules.iter().enumerate() {
            let place = format!("claimValidationRules[{index}].expression");
            if let Some(program) = of_claims(&place, &rule.expression, &[Type::Bool])? {
                rules.push(Rule::new(program, &rule.message, &rule.expression));
            }
        }
        let mut user_rules = Vec::new();
        for (index, rule) in jwt.user_validation_rules.iter().enumerate() {
            let place = format!("userValidationRules[{index}].expression");
            let program = compile(&users, &place, &rule.expression, &[Type::Bool])?;
            user_rules.push(Rule::new(program, &rule.message, &rule.expression));
        }
        let mappings = &jwt.claim_mappings;
        let mut extra = Vec::new();
        for (index, mapping) in mappings.extra.iter().enumerate() {
            let place = format!("claimMappings.extra[{index}].valueExpression");
            let program = compile(&claims, &place, &mapping.value_expression, &texts)?;
            extra.push((mapping.key.clone(), program));
        }
        check_email(jwt)?;
        let one = &texts[..1];
        let place = |name| format!("claimMappings.{name}.expression");
        Ok(Self {
            rules,
            username: of_claims(&place("username"), &mappings.username.expression, one)?,
            groups: of_claims(&place("groups"), &mappings.groups.expression, &texts)?,
            uid: of_claims(&place("uid"), &mappings.uid.expression, one)?,
            extra,
            user_rules,
        })
    }

    /// Whether the claims are as they must be.
    ///
    /// # Errors
    /// Why not.
    pub(super) fn check_claims(&self, claims: &Claims) -> Result<(), String> {
        let mut budget = Budget::of_request();
        self.rules
            .iter()
            .try_for_each(|rule| rule.check("claims", &claims.0, &mut budget))
    }

    /// Puts in what expressions say of the user.
    ///
    /// # Errors
    /// When one does not give what it must.
    pub(super) fn complete(&self, user: &mut User, claims: &Claims) -> Result<(), String> {
        let mut budget = Budget::of_request();
        let mut texts =
            |program: &Program| evaluate(program, "claims", &claims.0, &mut budget, told_texts);
        if let Some(program) = &self.username {
            user.name = one(texts(program)?)?;
            if user.name.is_empty() {
                return Err("an empty username via CEL expression is not allowed".to_owned());
            }
        }
        if let Some(program) = &self.groups {
            let groups = texts(program)?;
            user.groups
                .splice(0..0, groups.into_iter().filter(|g| !g.is_empty()));
        }
        if let Some(program) = &self.uid {
            user.uid = one(texts(program)?)?;
        }
        for (key, program) in &self.extra {
            let values: Vec<String> = texts(program)?
                .into_iter()
                .filter(|v| !v.is_empty())
                .collect();
            if !values.is_empty() {
                user.extra.insert(key.clone(), values);
            }
        }
        Ok(())
    }

    /// Whether the user is as it must be.
    ///
    /// # Errors
    /// Why not.
    pub(super) fn check_user(&self, user: &User) -> Result<(), String> {
        if self.user_rules.is_empty() {
            return Ok(());
        }
        let json = json!({
            "username": user.name, "uid": user.uid, "groups": user.groups, "extra": user.extra,
        });
        let mut budget = Budget::of_request();
        self.user_rules
            .iter()
            .try_for_each(|rule| rule.check("user", &json, &mut budget))
    }
}

/// The claims of a token.
pub(super) struct Claims(Json);

impl Claims {
    pub(super) fn new(claims: &Map<String, Json>) -> Self {
        Self(Json::Object(claims.clone()))
    }
}

fn user_type() -> Arc<DeclType> {
    let text = || DeclType::of(Type::String);
    let texts = Type::list(Type::String);
    let fields = [
        ("username".to_owned(), text()),
        ("uid".to_owned(), text()),
        ("groups".to_owned(), DeclType::of(texts.clone())),
        (
            "extra".to_owned(),
            DeclType::of(Type::map(Type::String, texts)),
        ),
    ];
    Arc::new(DeclType::object_of(
        "kubernetes.UserInfo",
        BTreeMap::from(fields),
    ))
}

fn compile(env: &Env, place: &str, text: &str, types: &[Type]) -> Result<Program, String> {
    let told = |why: &dyn std::fmt::Display| format!("{place}: Invalid value: {text:?}: {why}");
    let program = env
        .compile(text)
        .map_err(|issues| told(&format!("compilation failed: {issues}")))?;
    if let Some(error) = program.constant_error() {
        return Err(told(&error));
    }
    let found = program.output_type();
    // What claims hold is known only when there are some.
    match *found == Type::Dyn || types.contains(found) {
        true => Ok(program),
        false => Err(told(&format!("must evaluate to {types:?}, not {found:?}"))),
    }
}

/// An address that nobody has verified must not name a user.
fn check_email(jwt: &Jwt) -> Result<(), String> {
    let uses = |text: &str| {
        text.match_indices("claims.email").any(|(at, found)| {
            let next = text[at + found.len()..].chars().next();
            next.is_none_or(|c| c != '_' && !c.is_alphanumeric())
        })
    };
    let mappings = &jwt.claim_mappings;
    let extra = mappings.extra.iter().map(|extra| &extra.value_expression);
    let rules = jwt
        .claim_validation_rules
        .iter()
        .map(|rule| &rule.expression);
    let username = &mappings.username.expression;
    let mut all = extra.chain(rules).chain([username]);
    match uses(username) && !all.any(|text| text.contains("claims.email_verified")) {
        true => Err(format!(
            "claimMappings.username.expression: Invalid value: {username:?}: claims.email_verified must be used in \
             claimMappings.username.expression or claimMappings.extra[*].valueExpression or \
             claimValidationRules[*].expression when claims.email is used in claimMappings.username.expression"
        )),
        false => Ok(()),
    }
}

impl Rule {
    fn new(program: Program, message: &str, expression: &str) -> Self {
        let message = match message {
            "" => format!("validation expression '{expression}' failed"),
            message => message.to_owned(),
        };
        Self { program, message }
    }

    fn check(&self, variable: &str, data: &Json, budget: &mut Budget) -> Result<(), String> {
        let holds = evaluate(&self.program, variable, data, budget, |value| {
            value.as_bool()
        });
        match holds? {
            true => Ok(()),
            false => Err(self.message.clone()),
        }
    }
}

fn evaluate<T>(
    program: &Program,
    variable: &str,
    data: &Json,
    budget: &mut Budget,
    read: impl Fn(&Value<'_>) -> Option<T>,
) -> Result<T, String> {
    let activation = HashMap::from([(variable, Value::of_json(data))]);
    let value = program
        .evaluate(&activation, budget)
        .map_err(|error| error.to_string())?;
    if budget.is_overdrawn() {
        return Err("the expressions cost more than they may".to_owned());
    }
    read(&value).ok_or_else(|| "an expression gives a value of another type".to_owned())
}

/// A text, a list of texts, or nothing.
fn told_texts(value: &Value<'_>) -> Option<Vec<String>> {
    match value {
        Value::Null => Some(Vec::new()),
        Value::List(list) => list
            .iter()
            .map(|item| item.ok()?.as_str().map(str::to_owned))
            .collect(),
        value => value.as_str().map(|text| vec![text.to_owned()]),
    }
}

fn one(texts: Vec<String>) -> Result<String, String> {
    match <[String; 1]>::try_from(texts) {
        Ok([text]) => Ok(text),
        Err(_) => Err("an expression does not give one text".to_owned()),
    }
}
