//! What functions and operators do.
//!
//! Operators and conversions are here, the rest in a module for each part of the library.

pub(crate) mod cidr;
mod convert;
pub(crate) mod format;
pub(crate) mod formatting;
pub(crate) mod ip;
mod lists;
mod operators;
pub(crate) mod quantity;
pub mod regex;
pub(crate) mod semver;
mod strings;
pub(crate) mod url;

use std::cmp::Ordering;
use std::sync::Arc;

use crate::functions::Overload;
use crate::number;
use crate::time::{Overflow, Part, Timestamp, parse_duration};
use crate::types::Type;
use crate::value::{Entries, Evaluated, EvaluationError, List, Map, Text, Value};
use convert::*;
use operators::*;

/// What a function does with its arguments, the target first.
pub(crate) type Implementation = for<'a> fn(&[Value<'a>]) -> Evaluated<'a>;

/// A function's implementation and what it demands of its arguments.
#[derive(Clone, Copy)]
pub(crate) struct Callable {
    pub run: Implementation,
    guard: Guard,
}

#[derive(Clone, Copy, PartialEq)]
enum Guard {
    /// Arguments must fit one of the signatures; otherwise the error names their types.
    Signature,
    /// The function looks itself; its error names the operator if the first argument can't have it.
    Operator,
    /// The function looks itself.
    None,
}

fn wrong<T>(message: impl Into<String>) -> Result<T, EvaluationError> {
    Err(EvaluationError::new(message))
}

fn no_overload<T>() -> Result<T, EvaluationError> {
    Err(EvaluationError::no_such_overload())
}

impl From<Overflow> for EvaluationError {
    fn from(overflow: Overflow) -> Self {
        Self::new(overflow.to_string())
    }
}

impl Callable {
    /// Calls a function by the signatures that the checker found.
    pub(crate) fn call<'a>(
        &self,
        name: &str,
        signatures: &[&'static Overload],
        args: &[Value<'a>],
    ) -> Evaluated<'a> {
        let fits = |signature: &&Overload| {
            signature.args.len() == args.len()
                && signature
                    .args
                    .iter()
                    .zip(args)
                    .all(|(wanted, v)| v.fits(wanted))
        };
        if self.guard == Guard::Signature && !signatures.iter().any(fits) {
            let types: Vec<String> = args.iter().map(|v| v.type_of().name().to_owned()).collect();
            return wrong(format!("no such overload: {name}({})", types.join(", ")));
        }
        if self.guard == Guard::Operator && !args.first().is_none_or(|v| has_operator(name, v)) {
            // Texts and times look for a method of that name and tell less.
            let is_receiver = matches!(
                args.first(),
                Some(Value::String(_) | Value::Timestamp(_) | Value::Duration(_))
            );
            return if is_receiver {
                no_overload()
            } else {
                wrong(format!("no such overload: {name}"))
            };
        }
        (self.run)(args)
    }
}

/// Whether a value can be the first operand.
fn has_operator(name: &str, value: &Value<'_>) -> bool {
    use Value::{Bool, Bytes, Double, Duration, Int, List, Map, String, Timestamp, Uint};
    match name {
        "_+_" => matches!(
            value,
            Bytes(_)
                | Double(_)
                | Duration(_)
                | Int(_)
                | String(_)
                | Timestamp(_)
                | Uint(_)
                | List(_)
        ),
        "_-_" => matches!(
            value,
            Double(_) | Duration(_) | Int(_) | Timestamp(_) | Uint(_)
        ),
        "_*_" | "_/_" => matches!(value, Double(_) | Int(_) | Uint(_)),
        "_%_" => matches!(value, Int(_) | Uint(_)),
        "-_" => matches!(value, Bool(_) | Double(_) | Duration(_) | Int(_)),
        "_<_" | "_<=_" | "_>_" | "_>=_" => matches!(
            value,
            Bool(_)
                | Bytes(_)
                | Double(_)
                | Duration(_)
                | Int(_)
                | String(_)
                | Timestamp(_)
                | Uint(_)
        ),
        "matches" => matches!(value, String(_)),
        "size" => matches!(value, Bytes(_) | String(_) | List(_) | Map(_)),
        _ => true,
    }
}

/// The implementation of a function.
pub(crate) fn find(name: &str) -> Option<Callable> {
    let (guard, run) = operator(name)
        .map(|run| (Guard::Operator, run))
        .or_else(|| unguarded(name).map(|run| (Guard::None, run)))
        .or_else(|| conversion(name).map(|run| (Guard::Signature, run)))
        .or_else(|| of_texts(name).map(|run| (Guard::Signature, run)))
        .or_else(|| of_lists(name).map(|run| (Guard::Signature, run)))
        .or_else(|| of_times(name).map(|run| (Guard::Signature, run)))
        .or_else(|| of_networks(name).map(|run| (Guard::Signature, run)))
        .or_else(|| of_kubernetes(name).map(|run| (Guard::Signature, run)))
        .or_else(|| of_optionals(name).map(|run| (Guard::Signature, run)))
        .or_else(|| authorizer_function(name).map(|run| (Guard::Signature, run)))?;
    Some(Callable { run, guard })
}

fn operator(name: &str) -> Option<Implementation> {
    Some(match name {
        "_+_" => |args| plus(&args[0], &args[1]),
        "_-_" => |args| minus(&args[0], &args[1]),
        "_*_" => |args| times(&args[0], &args[1]),
        "_/_" => |args| divided(&args[0], &args[1]),
        "_%_" => |args| remainder(&args[0], &args[1]),
        "-_" => |args| negated(&args[0]),
        "_<_" => |args| Ok(Value::Bool(args[0].compare(&args[1])?.is_lt())),
        "_<=_" => |args| Ok(Value::Bool(args[0].compare(&args[1])?.is_le())),
        "_>_" => |args| Ok(Value::Bool(args[0].compare(&args[1])?.is_gt())),
        "_>=_" => |args| Ok(Value::Bool(args[0].compare(&args[1])?.is_ge())),
        "matches" => |args| match (&args[0], &args[1]) {
            (Value::String(text), Value::String(pattern)) => regex::compile(pattern)
                .map(|r| Value::Bool(r.is_match(text)))
                .map_err(EvaluationError::new),
            _ => no_overload(),
        },
        "size" => |args| {
            args[0]
                .size()
                .map_or_else(no_overload, |n| Ok(Value::Int(n)))
        },
        _ => return None,
    })
}

fn unguarded(name: &str) -> Option<Implementation> {
    Some(match name {
        "!_" => |args| match args[0] {
            Value::Bool(b) => Ok(Value::Bool(!b)),
            _ => no_overload(),
        },
        "@in" | "_in_" => |args| is_in(&args[0], &args[1]),
        "type" => |args| {
            let t = args[0].type_of();
            // The types of mutations are told as types of types.
            let is_object = matches!(args[0], Value::Object(_));
            Ok(Value::Type(if is_object { Type::type_of(t) } else { t }))
        },
        "dyn" => |args| Ok(args[0].clone()),
        "distinct" => |args| match &args[0] {
            Value::List(list) => lists::distinct(list).map(Value::list),
            other => Err(EvaluationError::broken(&not_a_list(other))),
        },
        "sort" => |args| match &args[0] {
            Value::List(list) => lists::sort_by(list, list).map(Value::list),
            Value::String(_) | Value::Timestamp(_) | Value::Duration(_) => no_overload(),
            _ => wrong("no such overload: sort"),
        },
        "flatten" => |args| {
            if let Some(depth) = args.get(1).filter(|v| !matches!(v, Value::Int(_))) {
                return Err(EvaluationError::broken(&format!(
                    "interface conversion: ref.Val is {}, not types.Int",
                    depth.go_type()
                )));
            }
            let (Value::List(list), depth) = (&args[0], int_of(args, 1)) else {
                let types: Vec<String> = args
                    .iter()
                    .map(|v| match v {
                        Value::Optional(_) => v.type_of().name().to_owned(),
                        v => v.type_of().declared(),
                    })
                    .collect();
                return wrong(format!(
                    "no such overload: {}.flatten({})",
                    types[0],
                    types[1..].join(", ")
                ));
            };
            lists::flatten(list, depth.unwrap_or(1)).map(Value::list)
        },
        "contains" => |args| of_two_texts(args, |a, b| a.contains(b)),
        "startsWith" => |args| of_two_texts(args, |a, b| a.starts_with(b)),
        "endsWith" => |args| of_two_texts(args, |a, b| a.ends_with(b)),
        _ => return None,
    })
}

/// What kube-apiserver finds missing in a value that it takes for a list.
fn not_a_list(value: &Value<'_>) -> String {
    let can_be_added = matches!(
        value,
        Value::Int(_)
            | Value::Uint(_)
            | Value::Double(_)
            | Value::String(_)
            | Value::Bytes(_)
            | Value::Duration(_)
            | Value::Timestamp(_)
    );
    let missing = if can_be_added { "Contains" } else { "Add" };
    format!(
        "interface conversion: {} is not traits.Lister: missing method {missing}",
        value.go_type()
    )
}

fn authorizer_function(name: &str) -> Option<Implementation> {
    fn call<'a>(name: &str, args: &[Value<'a>]) -> Evaluated<'a> {
        match args.split_first() {
            Some((Value::Authorizer(authorizer), rest)) => authorizer.call(name, rest),
            _ => no_overload(),
        }
    }
    Some(match name {
        "check" => |args| call("check", args),
        "path" => |args| call("path", args),
        "group" => |args| call("group", args),
        "resource" => |args| call("resource", args),
        "subresource" => |args| call("subresource", args),
        "namespace" => |args| call("namespace", args),
        "name" => |args| call("name", args),
        "fieldSelector" => |args| call("fieldSelector", args),
        "labelSelector" => |args| call("labelSelector", args),
        "serviceAccount" => |args| call("serviceAccount", args),
        "allowed" => |args| call("allowed", args),
        "reason" => |args| call("reason", args),
        "errored" => |args| call("errored", args),
        "error" => |args| call("error", args),
        _ => return None,
    })
}

fn of_two_texts<'a>(args: &[Value<'a>], test: fn(&str, &str) -> bool) -> Evaluated<'a> {
    match (&args[0], &args[1]) {
        (Value::String(a), Value::String(b)) => Ok(Value::Bool(test(a, b))),
        _ => no_overload(),
    }
}

fn text<'a>(result: strings::Text) -> Evaluated<'a> {
    result.map(Value::text).map_err(EvaluationError::new)
}

fn index<'a>(result: strings::Index) -> Evaluated<'a> {
    result.map(Value::Int).map_err(EvaluationError::new)
}

/// The text that an argument is; guards have seen to it.
fn str_of<'v>(args: &'v [Value<'_>], i: usize) -> &'v str {
    args.get(i).and_then(Value::as_str).unwrap_or("")
}

fn int_of(args: &[Value<'_>], i: usize) -> Option<i64> {
    match args.get(i) {
        Some(Value::Int(n)) => Some(*n),
        _ => None,
    }
}

fn of_texts(name: &str) -> Option<Implementation> {
    Some(match name {
        "charAt" => |args| {
            text(strings::char_at(
                str_of(args, 0),
                int_of(args, 1).unwrap_or(0),
            ))
        },
        "indexOf" => |args| match &args[0] {
            Value::List(list) => Ok(Value::Int(lists::index_of(list, &args[1], false)?)),
            _ => index(strings::index_of(
                str_of(args, 0),
                str_of(args, 1),
                int_of(args, 2).unwrap_or(0),
            )),
        },
        "lastIndexOf" => |args| match &args[0] {
            Value::List(list) => Ok(Value::Int(lists::index_of(list, &args[1], true)?)),
            _ => index(strings::last_index_of(
                str_of(args, 0),
                str_of(args, 1),
                int_of(args, 2),
            )),
        },
        "lowerAscii" => |args| Ok(Value::text(str_of(args, 0).to_ascii_lowercase())),
        "upperAscii" => |args| Ok(Value::text(str_of(args, 0).to_ascii_uppercase())),
        "replace" => |args| {
            let n = int_of(args, 3).unwrap_or(-1);
            let replaced = strings::replace(str_of(args, 0), str_of(args, 1), str_of(args, 2), n);
            Ok(Value::text(replaced))
        },
        "split" => |args| {
            let n = int_of(args, 2).unwrap_or(-1);
            let parts = strings::split(str_of(args, 0), str_of(args, 1), n);
            Ok(Value::list_of_texts(parts))
        },
        "substring" => |args| {
            let start = int_of(args, 1).unwrap_or(0);
            text(strings::substring(str_of(args, 0), start, int_of(args, 2)))
        },
        "trim" => |args| Ok(Value::text(strings::trim(str_of(args, 0)))),
        "strings.quote" => |args| Ok(Value::text(strings::quote(str_of(args, 0)))),
        "format" => |args| match &args[1] {
            Value::List(list) => formatting::format(str_of(args, 0), list).map(Value::text),
            _ => no_overload(),
        },
        "find" => |args| {
            let regex = compiled(str_of(args, 1))?;
            let found = regex.find(str_of(args, 0)).map_or("", |m| m.as_str());
            Ok(Value::text(found))
        },
        "findAll" => |args| {
            let regex = compiled(str_of(args, 1))?;
            Ok(find_all(&regex, str_of(args, 0), int_of(args, 2)))
        },
        "jsonpatch.escapeKey" => |args| {
            let escaped = str_of(args, 0).replace('~', "~0").replace('/', "~1");
            Ok(Value::text(escaped))
        },
        _ => return None,
    })
}

fn compiled(pattern: &str) -> Result<::regex::Regex, EvaluationError> {
    regex::compile(pattern).map_err(|e| EvaluationError::new(regex::illegal(&e)))
}

/// The matches of a pattern, at most `n` unless that is negative.
pub(crate) fn find_all<'a>(regex: &::regex::Regex, text: &str, n: Option<i64>) -> Value<'a> {
    let n = n
        .and_then(|n| usize::try_from(n).ok())
        .unwrap_or(usize::MAX);
    let found = regex.find_iter(text).take(n).map(|m| m.as_str().to_owned());
    Value::list_of_texts(found)
}

fn list_of<'v, 'a>(args: &'v [Value<'a>], i: usize) -> Result<&'v List<'a>, EvaluationError> {
    match args.get(i) {
        Some(Value::List(list)) => Ok(list),
        _ => no_overload(),
    }
}

fn of_lists(name: &str) -> Option<Implementation> {
    Some(match name {
        "slice" => |args| {
            let (from, to) = (int_of(args, 1).unwrap_or(0), int_of(args, 2).unwrap_or(0));
            lists::slice(list_of(args, 0)?, from, to)
        },
        "@sortByAssociatedKeys" => {
            |args| lists::sort_by(list_of(args, 0)?, list_of(args, 1)?).map(Value::list)
        }
        "lists.range" => |args| lists::range(int_of(args, 0).unwrap_or(0)),
        "reverse" => |args| {
            let mut values = list_of(args, 0)?.values()?;
            values.reverse();
            Ok(Value::list(values))
        },
        "first" => |args| nth(list_of(args, 0)?, 0),
        "last" => |args| {
            let list = list_of(args, 0)?;
            nth(list, list.len().saturating_sub(1))
        },
        "isSorted" => |args| lists::is_sorted(list_of(args, 0)?).map(Value::Bool),
        "max" => |args| lists::extreme(list_of(args, 0)?, "max", Ordering::Less),
        "min" => |args| lists::extreme(list_of(args, 0)?, "min", Ordering::Greater),
        "sum" => |args| sum(list_of(args, 0)?),
        "join" => |args| lists::join(list_of(args, 0)?, str_of(args, 1)).map(Value::text),
        "sets.contains" => {
            |args| lists::contains_all(list_of(args, 0)?, list_of(args, 1)?).map(Value::Bool)
        }
        "sets.equivalent" => |args| {
            let (a, b) = (list_of(args, 0)?, list_of(args, 1)?);
            let same = lists::contains_all(a, b)? && lists::contains_all(b, a)?;
            Ok(Value::Bool(same))
        },
        "sets.intersects" => {
            |args| lists::intersects(list_of(args, 0)?, list_of(args, 1)?).map(Value::Bool)
        }
        "cel.@mapInsert" => |args| insert(args),
        _ => return None,
    })
}

fn nth<'a>(list: &List<'a>, i: usize) -> Evaluated<'a> {
    list.get(i)
        .transpose()
        .map(|item| Value::Optional(item.map(Arc::new)))
}

fn sum<'a>(list: &List<'a>) -> Evaluated<'a> {
    let mut total: Option<Value<'a>> = None;
    for item in list.iter() {
        let item = item?;
        total = Some(match total {
            None => item,
            Some(before) => plus(&before, &item)?,
        });
    }
    Ok(total.unwrap_or(Value::Int(0)))
}

fn insert<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    let Some((Value::Map(map), rest)) = args.split_first() else {
        return no_overload();
    };
    let mut entries = match map {
        Map::Entries(entries) => entries.clone(),
        other => {
            let mut own = Entries::default();
            for (key, value) in other.iter() {
                own.set(key, value?);
            }
            Arc::new(own)
        }
    };
    let own = Arc::make_mut(&mut entries);
    let mut add = |key: Value<'a>, value: Value<'a>| {
        if own.get(&key).is_some() {
            return wrong(format!("insert failed: key {key} already exists"));
        }
        own.set(key, value);
        Ok(())
    };
    match rest {
        [key, value] => add(key.clone(), value.clone())?,
        [Value::Map(more)] => {
            for (key, value) in more.iter() {
                add(key, value?)?;
            }
        }
        _ => return no_overload(),
    }
    Ok(Value::Map(Map::Entries(entries)))
}

fn of_times(name: &str) -> Option<Implementation> {
    fn part<'a>(args: &[Value<'a>], part: Part) -> Evaluated<'a> {
        match (&args[0], part) {
            (Value::Timestamp(t), part) => t
                .part(part, args.get(1).and_then(Value::as_str))
                .map(Value::Int)
                .map_err(EvaluationError::new),
            (Value::Duration(d), Part::Hours) => Ok(Value::Int(d / 3_600_000_000_000)),
            (Value::Duration(d), Part::Minutes) => Ok(Value::Int(d / 60_000_000_000)),
            (Value::Duration(d), Part::Seconds) => Ok(Value::Int(d / 1_000_000_000)),
            (Value::Duration(d), Part::Milliseconds) => Ok(Value::Int(d / 1_000_000)),
            _ => no_overload(),
        }
    }
    Some(match name {
        "getFullYear" => |args| part(args, Part::Year),
        "getMonth" => |args| part(args, Part::Month),
        "getDayOfYear" => |args| part(args, Part::DayOfYear),
        "getDayOfMonth" => |args| part(args, Part::DayOfMonth),
        "getDate" => |args| part(args, Part::Date),
        "getDayOfWeek" => |args| part(args, Part::DayOfWeek),
        "getHours" => |args| part(args, Part::Hours),
        "getMinutes" => |args| part(args, Part::Minutes),
        "getSeconds" => |args| part(args, Part::Seconds),
        "getMilliseconds" => |args| part(args, Part::Milliseconds),
        _ => return None,
    })
}

fn of_networks(name: &str) -> Option<Implementation> {
    fn address(args: &[Value<'_>]) -> Result<ip::Ip, EvaluationError> {
        match args[0] {
            Value::Ip(ip) => Ok(ip),
            _ => no_overload(),
        }
    }
    fn range(args: &[Value<'_>]) -> Result<cidr::Cidr, EvaluationError> {
        match args[0] {
            Value::Cidr(range) => Ok(range),
            _ => no_overload(),
        }
    }
    Some(match name {
        "ip" => |args| match &args[0] {
            Value::Cidr(range) => Ok(Value::Ip(range.address)),
            _ => ip::Ip::parse(str_of(args, 0))
                .map(Value::Ip)
                .map_err(EvaluationError::new),
        },
        "isIP" => |args| Ok(Value::Bool(ip::Ip::parse(str_of(args, 0)).is_ok())),
        "ip.isCanonical" => |args| {
            let text = str_of(args, 0);
            let ip = ip::Ip::parse(text).map_err(EvaluationError::new)?;
            Ok(Value::Bool(ip.to_string() == text))
        },
        "family" => |args| Ok(Value::Int(address(args)?.family())),
        "isUnspecified" => |args| Ok(Value::Bool(address(args)?.0.is_unspecified())),
        "isLoopback" => |args| Ok(Value::Bool(address(args)?.0.is_loopback())),
        "isLinkLocalMulticast" => |args| Ok(Value::Bool(address(args)?.is_link_local_multicast())),
        "isLinkLocalUnicast" => |args| Ok(Value::Bool(address(args)?.is_link_local_unicast())),
        "isGlobalUnicast" => |args| Ok(Value::Bool(address(args)?.is_global_unicast())),
        "cidr" => |args| {
            cidr::Cidr::parse(str_of(args, 0))
                .map(Value::Cidr)
                .map_err(EvaluationError::new)
        },
        "isCIDR" => |args| Ok(Value::Bool(cidr::Cidr::parse(str_of(args, 0)).is_ok())),
        "prefixLength" => |args| Ok(Value::Int(i64::from(range(args)?.bits))),
        "masked" => |args| Ok(Value::Cidr(range(args)?.masked())),
        "containsIP" => |args| {
            let ip = match &args[1] {
                Value::Ip(ip) => *ip,
                _ => ip::Ip::parse(str_of(args, 1)).or_else(|_| no_overload())?,
            };
            Ok(Value::Bool(range(args)?.contains_ip(&ip)))
        },
        "containsCIDR" => |args| {
            let other = match &args[1] {
                Value::Cidr(other) => *other,
                _ => cidr::Cidr::parse(str_of(args, 1)).map_err(EvaluationError::new)?,
            };
            Ok(Value::Bool(range(args)?.contains_cidr(&other)))
        },
        "url" => |args| match url::Url::parse(str_of(args, 0)) {
            Ok(url) => Ok(Value::Url(Arc::new(url))),
            Err(e) => wrong(format!(
                "URL parse error during conversion from string: {e}"
            )),
        },
        "isURL" => |args| Ok(Value::Bool(url::parse_request_uri(str_of(args, 0)).is_ok())),
        "getScheme" => |args| of_url(args, |url| Value::text(url.scheme.as_str())),
        "getHost" => |args| of_url(args, |url| Value::text(url.host.as_str())),
        "getHostname" => |args| of_url(args, |url| Value::text(url.hostname())),
        "getPort" => |args| of_url(args, |url| Value::text(url.port())),
        "getEscapedPath" => |args| of_url(args, |url| Value::text(url.escaped_path())),
        "getQuery" => |args| {
            of_url(args, |url| {
                let mut entries = Entries::default();
                for (name, values) in url.query() {
                    entries.set(Value::text(name), Value::list_of_texts(values));
                }
                Value::Map(Map::Entries(Arc::new(entries)))
            })
        },
        _ => return None,
    })
}

fn of_url<'a>(args: &[Value<'a>], part: fn(&url::Url) -> Value<'static>) -> Evaluated<'a> {
    match &args[0] {
        Value::Url(url) => Ok(part(url)),
        _ => no_overload(),
    }
}

/// Two quantities, the second maybe a whole number.
fn quantities(
    args: &[Value<'_>],
) -> Result<(Arc<quantity::Amount>, Arc<quantity::Amount>), EvaluationError> {
    match (&args[0], &args[1]) {
        (Value::Quantity(a), Value::Quantity(b)) => Ok((a.clone(), b.clone())),
        (Value::Quantity(a), Value::Int(b)) => {
            Ok((a.clone(), Arc::new(quantity::Amount::of_int(*b))))
        }
        _ => no_overload(),
    }
}

fn quantity_of<'v>(args: &'v [Value<'_>]) -> Result<&'v quantity::Amount, EvaluationError> {
    match &args[0] {
        Value::Quantity(q) => Ok(q),
        _ => no_overload(),
    }
}

fn semver_of<'v>(args: &'v [Value<'_>]) -> Result<&'v semver::Semver, EvaluationError> {
    match &args[0] {
        Value::Semver(v) => Ok(v),
        _ => no_overload(),
    }
}

/// The order of two quantities or versions.
fn ordered(args: &[Value<'_>]) -> Result<Ordering, EvaluationError> {
    match (&args[0], &args[1]) {
        (Value::Quantity(a), Value::Quantity(b)) => Ok(a.compare(b)),
        (Value::Semver(a), Value::Semver(b)) => Ok(a.compare(b)),
        _ => no_overload(),
    }
}

fn parse_semver(args: &[Value<'_>]) -> Result<semver::Semver, String> {
    match args.get(1) {
        Some(Value::Bool(true)) => semver::Semver::parse_normalized(str_of(args, 0)),
        _ => semver::Semver::parse(str_of(args, 0)),
    }
}

fn number_of<'a>(n: u64) -> Value<'a> {
    Value::Int(i64::from_ne_bytes(n.to_ne_bytes()))
}

fn of_kubernetes(name: &str) -> Option<Implementation> {
    if let Some(key) = name.strip_prefix("format.").filter(|key| *key != "named") {
        return format_constant(key);
    }
    Some(match name {
        "quantity" => |args| {
            quantity::Amount::parse(str_of(args, 0))
                .map(|q| Value::Quantity(Arc::new(q)))
                .map_err(EvaluationError::new)
        },
        "isQuantity" => |args| {
            Ok(Value::Bool(
                quantity::Amount::parse(str_of(args, 0)).is_ok(),
            ))
        },
        "sign" => |args| Ok(Value::Int(quantity_of(args)?.sign())),
        "isInteger" => |args| Ok(Value::Bool(quantity_of(args)?.as_int().is_some())),
        "asInteger" => |args| match quantity_of(args)?.as_int() {
            Some(i) => Ok(Value::Int(i)),
            None => wrong("cannot convert value to integer"),
        },
        "asApproximateFloat" => |args| Ok(Value::Double(quantity_of(args)?.as_double())),
        "add" => |args| {
            let (a, b) = quantities(args)?;
            Ok(Value::Quantity(Arc::new(a.plus(&b))))
        },
        "sub" => |args| {
            let (a, b) = quantities(args)?;
            Ok(Value::Quantity(Arc::new(a.minus(&b))))
        },
        "isGreaterThan" => |args| Ok(Value::Bool(ordered(args)?.is_gt())),
        "isLessThan" => |args| Ok(Value::Bool(ordered(args)?.is_lt())),
        "compareTo" => |args| Ok(Value::Int(ordered(args)? as i64)),
        "semver" => |args| {
            parse_semver(args)
                .map(|v| Value::Semver(Arc::new(v)))
                .map_err(EvaluationError::new)
        },
        "isSemver" => |args| Ok(Value::Bool(parse_semver(args).is_ok())),
        "major" => |args| Ok(number_of(semver_of(args)?.major)),
        "minor" => |args| Ok(number_of(semver_of(args)?.minor)),
        "patch" => |args| Ok(number_of(semver_of(args)?.patch)),
        "format.named" => |args| {
            let found = format::NamedFormat::find(str_of(args, 0));
            Ok(Value::Optional(found.map(|f| Arc::new(Value::Format(f)))))
        },
        "validate" => |args| match &args[0] {
            Value::Format(format) => {
                let problems = format.check(str_of(args, 1));
                Ok(if problems.is_empty() {
                    Value::Optional(None)
                } else {
                    Value::some(Value::list_of_texts(problems))
                })
            }
            _ => no_overload(),
        },
        _ => return None,
    })
}

fn format_constant(key: &str) -> Option<Implementation> {
    fn constant<'a>(key: &str) -> Evaluated<'a> {
        format::NamedFormat::find(key).map_or_else(no_overload, |f| Ok(Value::Format(f)))
    }
    Some(match key {
        "dns1123Label" => |_| constant("dns1123Label"),
        "dns1123Subdomain" => |_| constant("dns1123Subdomain"),
        "dns1035Label" => |_| constant("dns1035Label"),
        "qualifiedName" => |_| constant("qualifiedName"),
        "dns1123LabelPrefix" => |_| constant("dns1123LabelPrefix"),
        "dns1123SubdomainPrefix" => |_| constant("dns1123SubdomainPrefix"),
        "dns1035LabelPrefix" => |_| constant("dns1035LabelPrefix"),
        "labelValue" => |_| constant("labelValue"),
        "uri" => |_| constant("uri"),
        "uuid" => |_| constant("uuid"),
        "byte" => |_| constant("byte"),
        "date" => |_| constant("date"),
        "datetime" => |_| constant("datetime"),
        _ => return None,
    })
}

fn of_optionals(name: &str) -> Option<Implementation> {
    Some(match name {
        "optional.none" => |_| Ok(Value::Optional(None)),
        "optional.of" => |args| Ok(Value::some(args[0].clone())),
        "optional.ofNonZeroValue" => |args| {
            Ok(if is_zero(&args[0]) {
                Value::Optional(None)
            } else {
                Value::some(args[0].clone())
            })
        },
        "hasValue" => |args| match &args[0] {
            Value::Optional(inner) => Ok(Value::Bool(inner.is_some())),
            _ => no_overload(),
        },
        "value" => |args| match &args[0] {
            Value::Optional(Some(inner)) => Ok((**inner).clone()),
            Value::Optional(None) => wrong("optional.none() dereference"),
            _ => no_overload(),
        },
        "optional.unwrap" | "unwrapOpt" => |args| {
            let mut out = Vec::new();
            for item in list_of(args, 0)?.iter() {
                match item? {
                    Value::Optional(Some(inner)) => out.push((*inner).clone()),
                    Value::Optional(None) => {}
                    other => return wrong(format!("value {other} is not optional")),
                }
            }
            Ok(Value::list(out))
        },
        _ => return None,
    })
}

/// Whether a value is the empty one of its type.
fn is_zero(value: &Value<'_>) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(b) => !b,
        Value::Int(i) => *i == 0,
        Value::Uint(u) => *u == 0,
        Value::Double(d) => *d == 0.0,
        Value::String(Text::Borrowed(s)) => s.is_empty(),
        Value::String(Text::Shared(s)) => s.is_empty(),
        Value::Bytes(b) => b.is_empty(),
        Value::Duration(d) => *d == 0,
        Value::Timestamp(t) => t.is_zero(),
        Value::List(list) => list.kind == crate::value::ListKind::Plain && list.is_empty(),
        Value::Map(Map::Shaped(..)) => false,
        Value::Map(map) => map.is_empty(),
        _ => false,
    }
}
