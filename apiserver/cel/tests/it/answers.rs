//! Every question in `tests/data/*.jsonl` gets the answer that is recorded there.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use corral_api::field::{FieldError, FieldPath};
use corral_cel::admission::{Compiler, Evaluation, Inputs, Options, Returns, patch};
use corral_cel::authorizer::{Authorizer, Check, Decision, Resource, Target};
use corral_cel::rules::Rules;
use corral_cel::schema::{View, declared_type};
use corral_cel::{Budget, Env, Evaluated, Type, Value, Version};
use serde_json::{Value as Json, json};

/// A value as the peer writes it.
fn show(value: &Value<'_>) -> String {
    let joined = |parts: Vec<String>| parts.join(", ");
    match value {
        Value::Uint(u) => format!("{u}u"),
        Value::Double(d) => format!("double({})", Value::Double(*d)),
        Value::String(s) => json!(**s).to_string(),
        Value::Bytes(b) => {
            let hex: String = b.iter().map(|b| format!("{b:02x}")).collect();
            format!("bytes({hex})")
        }
        Value::Duration(d) => format!("duration({d})"),
        Value::Timestamp(_) => format!("timestamp({value})"),
        Value::Optional(None) => "optional.none()".to_owned(),
        Value::Optional(Some(inner)) => format!("optional({})", show(inner)),
        Value::Type(_) => format!("type({value})"),
        Value::Quantity(_) => format!("quantity({value})"),
        Value::Ip(_) => format!("ip({value})"),
        Value::Cidr(_) => format!("cidr({value})"),
        Value::Url(url) => format!("url({url})"),
        Value::Semver(v) => format!("semver({v})"),
        Value::Format(f) => format!("format({f})"),
        Value::List(list) => format!("[{}]", joined(list.iter().map(|v| show_any(&v)).collect())),
        Value::Map(map) => {
            let mut parts: Vec<String> = map
                .iter()
                .map(|(k, v)| format!("{}: {}", show(&k), show_any(&v)))
                .collect();
            parts.sort();
            format!("{{{}}}", joined(parts))
        }
        other => other.to_string(),
    }
}

fn show_any(value: &Evaluated<'_>) -> String {
    match value {
        Ok(value) => show(value),
        Err(e) => format!("error({e})"),
    }
}

/// The fields of an answer that are set.
fn answer(question: &Json) -> Json {
    if question.get("rules").is_some() {
        answer_rules(question)
    } else if question.get("policy").is_some() {
        answer_policy(question)
    } else {
        answer_expression(question)
    }
}

fn answer_expression(question: &Json) -> Json {
    let minor = question["minor"].as_u64().unwrap_or(36);
    let version = Version::new(1, u16::try_from(minor).expect("a minor version"));
    let mut env = Env::new(version);
    let schema = question.get("schema");
    let view = schema.map(|s| View::of_schema(s, false));
    if let Some(schema) = schema {
        let t = declared_type(schema, false).expect("a type");
        env = env.with_data("self", &Arc::new(t.named("selfType")));
    }
    let mut variables: HashMap<&str, Value<'_>> = HashMap::new();
    let mut broken = None;
    if let Some(view) = &view {
        match view.view(question.get("self").unwrap_or(&Json::Null)) {
            Ok(value) => {
                variables.insert("self", value);
            }
            Err(e) => broken = Some(e),
        }
    }
    if let Some(vars) = question.get("vars").and_then(Json::as_object) {
        for (name, value) in vars {
            env = env.with_variable(name, Type::Dyn);
            variables.insert(name, Value::of_json(value));
        }
    }
    let program = match env.compile(question["expr"].as_str().unwrap_or("")) {
        Ok(program) => program,
        Err(issues) => return json!({"issues": issues.to_string(), "min": 0, "max": 0, "cost": 0}),
    };
    let estimated = program.estimated_cost();
    let mut out = json!({
        "type": program.output_type().to_string(),
        "min": estimated.min,
        "max": estimated.max,
        "cost": 0,
    });
    if let Some(e) = program.constant_error() {
        out["constant"] = json!(e);
        return out;
    }
    let mut budget = Budget::new(u64::MAX);
    let result = match broken {
        Some(e) => Err(e),
        None => program.evaluate(&variables, &mut budget),
    };
    out["cost"] = json!(u64::MAX - budget.left().unwrap_or(0));
    match result {
        Ok(value) => out["value"] = json!(show(&value)),
        Err(e) => out["error"] = json!(e.to_string()),
    }
    out
}

fn answer_rules(question: &Json) -> Json {
    let base = FieldPath::new("spec.validation.openAPIV3Schema");
    let (rules, problems) = Rules::compile(&question["rules"], true);
    if !problems.is_empty() {
        let texts: Vec<String> = problems
            .iter()
            .map(|p| p.below(&base).to_string())
            .collect();
        return json!({"min": 0, "max": 0, "cost": 0, "problems": texts});
    }
    let texts = |errors: &[FieldError]| -> Vec<String> {
        errors.iter().map(FieldError::to_string).collect()
    };
    let mut findings = Vec::new();
    for object in question["objects"].as_array().into_iter().flatten() {
        let total = object["budget"].as_u64().unwrap_or(10_000_000);
        let mut budget = Budget::new(total);
        let found = rules.validate(
            &FieldPath::root(),
            &object["new"],
            object.get("old"),
            &mut budget,
        );
        let mut finding = json!({
            "remaining": budget.left().and_then(|left| i64::try_from(left).ok()).unwrap_or(-1),
        });
        if !found.errors.is_empty() {
            finding["errors"] = json!(texts(&found.errors));
        }
        if !found.warnings.is_empty() {
            finding["warnings"] = json!(texts(&found.warnings));
        }
        findings.push(finding);
    }
    let mut out = json!({"min": 0, "max": 0, "cost": 0});
    if !findings.is_empty() {
        out["findings"] = json!(findings);
    }
    out
}

/// Allows what is on a list, as the peer's authorizer does.
struct Allower(Vec<String>);

impl Authorizer for Allower {
    fn check(&self, check: &Check) -> Decision {
        let user = match &check.service_account {
            Some((namespace, name)) => format!("system:serviceaccount:{namespace}:{name}"),
            None => "alice".to_owned(),
        };
        let verb = &check.verb;
        let asked = match &check.target {
            Target::Path(path) => format!("{user} {verb} {path}"),
            Target::Resource(r) => {
                let (selectors, place) = (
                    [&r.field_selector, &r.label_selector],
                    format!(
                        "{}/{}/{} {}/{}",
                        r.group, r.resource, r.subresource, r.namespace, r.name
                    ),
                );
                let given = selectors.iter().filter(|s| !s.is_empty());
                let given: String = given.map(|s| format!(" {s}")).collect();
                format!("{user} {verb} {place}{given}")
            }
        };
        if check.verb == "fail" {
            return Decision {
                error: Some(format!("failed: {asked}")),
                ..Decision::default()
            };
        }
        let allowed = self.0.contains(&asked);
        Decision {
            allowed,
            reason: format!("{}: {asked}", if allowed { "may" } else { "may not" }),
            error: None,
        }
    }
}

fn answer_policy(question: &Json) -> Json {
    let policy = &question["policy"];
    let flag = |name: &str| policy[name].as_bool().unwrap_or(false);
    let mut options = Options {
        params: flag("params"),
        authorizer: flag("authorizer"),
        patch_types: false,
    };
    let mut out = json!({"min": 0, "max": 0, "cost": 0});
    let mut compiler = Compiler::of_policy(Version::new(1, 36));
    let mut problems = Vec::new();
    for variable in policy["variables"].as_array().into_iter().flatten() {
        let text = |name: &str| variable[name].as_str().unwrap_or("");
        if let Err(e) = compiler.add_variable(text("name"), text("expression"), options) {
            problems.push(e.to_string());
        }
    }
    if !problems.is_empty() {
        out["problems"] = json!(problems);
    }
    options.patch_types = flag("patch");
    let returns = match policy["returns"].as_str() {
        Some("condition") => Returns::Condition,
        Some("text") => Returns::Text,
        Some("note") => Returns::Note,
        Some("patch") => Returns::JsonPatch,
        Some("configuration") => Returns::ApplyConfiguration,
        _ => Returns::Any,
    };
    let text = question["expr"].as_str().unwrap_or("");
    let expression = match compiler.compile(text, returns, options) {
        Ok(expression) => expression,
        Err(e) => {
            out["issues"] = json!(e.to_string());
            return out;
        }
    };
    out["type"] = json!(expression.output_type().declared());
    let allowed = policy["allowed"].as_array().into_iter().flatten();
    let allower = Allower(
        allowed
            .filter_map(|v| v.as_str().map(str::to_owned))
            .collect(),
    );
    let resource = Resource {
        group: "apps".to_owned(),
        resource: "deployments".to_owned(),
        subresource: "scale".to_owned(),
        namespace: "ns".to_owned(),
        name: "name".to_owned(),
        ..Resource::default()
    };
    let inputs = Inputs {
        object: policy.get("object"),
        old_object: policy.get("oldObject"),
        request: policy.get("request"),
        params: policy.get("paramsObject"),
        namespace: policy.get("namespaceObject"),
        authorizer: options
            .authorizer
            .then_some((&allower as &dyn Authorizer, &resource)),
    };
    let mut budget = Budget::new(policy["budget"].as_u64().unwrap_or(10_000_000));
    let evaluation = Evaluation::new(&compiler, inputs);
    let result = evaluation.evaluate(&expression, &mut budget);
    let left = budget.left().and_then(|left| i64::try_from(left).ok());
    out["remaining"] = json!(left.unwrap_or(-1));
    let shown = match result {
        Err(e) if e.is_out_of_budget() => Err(format!("all: {e}")),
        Err(e) => Err(e.to_string()),
        Ok(value) => match returns {
            Returns::JsonPatch => patch::operations(&value).map(|p| json!(p).to_string()),
            Returns::ApplyConfiguration => patch::configuration(&value).map(|c| c.to_string()),
            _ => Ok(show(&value)),
        },
    };
    match shown {
        Ok(value) => out["value"] = json!(value),
        Err(e) => out["error"] = json!(e),
    }
    out
}

/// The order of fields of an object isn't fixed where kube-apiserver goes through them.
fn in_any_order(answer: &Json) -> Json {
    let mut answer = answer.clone();
    let sort = |list: &mut Json| {
        if let Some(list) = list.as_array_mut() {
            list.sort_by_key(ToString::to_string);
        }
    };
    if let Some(problems) = answer.get_mut("problems") {
        sort(problems);
    }
    for finding in answer
        .get_mut("findings")
        .and_then(Json::as_array_mut)
        .into_iter()
        .flatten()
    {
        for name in ["errors", "warnings"] {
            if let Some(list) = finding.get_mut(name) {
                sort(list);
            }
        }
    }
    answer
}

/// Lets the peer answer the questions of a file again.
fn ask_anew(peer: &std::ffi::OsStr, file: &Path) {
    let questions = std::fs::File::open(file).expect("a file of questions");
    let asked = std::process::Command::new(peer)
        .stdin(questions)
        .output()
        .expect("the peer runs");
    assert!(asked.status.success(), "the peer failed over {file:?}");
    std::fs::write(file, asked.stdout).expect("the answers are written");
}

#[test]
fn answers_are_those_of_kube_apiserver() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
    let mut files: Vec<_> = std::fs::read_dir(&folder)
        .expect("the recorded answers")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|e| e == "jsonl"))
        .collect();
    files.sort();
    if let Some(peer) = std::env::var_os("CORRAL_CEL_PEER") {
        for file in &files {
            ask_anew(&peer, file);
        }
    }
    let (mut n, mut different) = (0, Vec::new());
    for file in files {
        let text = std::fs::read_to_string(&file).expect("a file of answers");
        for line in text.lines().filter(|l| !l.is_empty()) {
            let question: Json = serde_json::from_str(line).expect("a question");
            n += 1;
            let (wanted, got) = (
                in_any_order(&question["answer"]),
                in_any_order(&answer(&question)),
            );
            if wanted != got {
                let mut asked = question.clone();
                asked.as_object_mut().expect("an object").remove("answer");
                different.push(format!("{asked}\n  wanted {wanted}\n  got    {got}"));
            }
        }
    }
    let n_different = different.len();
    if n_different > 0 {
        let shown = different
            .iter()
            .take(2000)
            .map(String::as_str)
            .collect::<Vec<_>>();
        panic!("{n_different} of {n} answers differ:\n{}", shown.join("\n"));
    }
    assert!(n > 1000, "only {n} answers are recorded");
}
