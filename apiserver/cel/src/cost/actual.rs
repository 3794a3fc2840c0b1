//! What a step costs when it is evaluated.

use super::{CHECK_COST, PATTERN, TRAVERSAL};
use crate::number::{times, times_down};
use crate::value::{Evaluated, Value};

pub(crate) const LIST_COST: u64 = 10;
pub(crate) const MAP_COST: u64 = 30;
pub(crate) const OBJECT_COST: u64 = 40;
const CALL_COST: u64 = 1;

fn size(value: &Value<'_>) -> u64 {
    value
        .size()
        .and_then(|n| u64::try_from(n).ok())
        .unwrap_or(1)
}

/// The size that equality counts: what is in an optional counts.
fn deep_size(value: &Value<'_>) -> u64 {
    match value {
        Value::Optional(Some(inner)) => deep_size(inner),
        other => size(other),
    }
}

pub(crate) fn equality(left: &Evaluated<'_>, right: &Evaluated<'_>, negated: bool) -> u64 {
    let is_opaque = matches!(
        left,
        Ok(Value::Quantity(_)
            | Value::Ip(_)
            | Value::Cidr(_)
            | Value::Format(_)
            | Value::Url(_)
            | Value::Semver(_)
            | Value::Authorizer(_))
    );
    if is_opaque && !negated {
        return 1;
    }
    let of = |side: &Evaluated<'_>| side.as_ref().map_or(1, deep_size);
    times(of(left).min(of(right)), TRAVERSAL)
}

/// What it costs to make a list of so many items, each at a factor.
fn allocated(size: u64, factor: f64) -> u64 {
    let n = if factor < 0.0 {
        // A negative number of bytes wraps around, as it does there.
        times_down(size, -factor).wrapping_neg()
    } else {
        times_down(size, factor)
    };
    n.wrapping_add(CALL_COST + LIST_COST)
}

fn self_compared(list: &Value<'_>) -> u64 {
    let n = size(list);
    let is_text = matches!(
        list,
        Value::List(list) if matches!(list.first(), Some(Ok(Value::String(_) | Value::Bytes(_))))
    );
    let factor = if is_text { 2.0 + TRAVERSAL } else { 2.0 };
    allocated(n.saturating_mul(n), factor)
}

/// What kube-apiserver's evaluation breaks off with when it counts the cost of a call for whose argument there is no
/// value.
pub(crate) fn breaks(overload: &str, argument: usize) -> Option<&'static str> {
    let is_list = match argument {
        0 => {
            overload == "list_distinct"
                || (overload.starts_with("list_") && overload.ends_with("_sort"))
        }
        _ => overload.ends_with("_sortByAssociatedKeys"),
    };
    if is_list {
        return Some("interface conversion: *types.Err is not traits.Lister: missing method Add");
    }
    (overload == "list_flatten_int" && argument == 1)
        .then_some("interface conversion: ref.Val is *types.Err, not types.Int")
}

/// Functions whose cost goes by their signature.
fn by_overload(overload: &str, args: &[Value<'_>], result: Option<&Value<'_>>) -> Option<u64> {
    let result_size = || result.map_or(1, size);
    let pairs = || size(&args[0]).saturating_mul(size(&args[1]));
    Some(match overload {
        "list_slice" | "lists_range" | "list_reverse" => allocated(result_size(), 1.0),
        "list_flatten" => allocated(size(&args[0]), 1.0),
        "list_flatten_int" => {
            let depth = match args[1] {
                Value::Int(depth) => crate::number::of_int(depth),
                _ => 1.0,
            };
            allocated(size(&args[0]), depth)
        }
        "list_distinct" => self_compared(&args[0]),
        "list_sets_contains_list" | "list_sets_intersects_list" => CALL_COST + pairs(),
        "list_sets_equivalent_list" => CALL_COST + times_down(pairs(), 2.0),
        _ if overload.ends_with("_sortByAssociatedKeys") => self_compared(&args[1]),
        _ if overload.starts_with("list_") && overload.ends_with("_sort") => {
            self_compared(&args[0])
        }
        _ => return None,
    })
}

/// The cost of looking at all that is in a value.
fn traversal(value: &Value<'_>) -> u64 {
    match value {
        Value::String(s) => times_down(s.len() as u64, TRAVERSAL),
        Value::Bytes(b) => times_down(b.len() as u64, TRAVERSAL),
        Value::List(list) => list
            .iter()
            .map(|item| item.as_ref().map_or(1, traversal))
            .fold(0, u64::saturating_add),
        Value::Map(map) => map
            .iter()
            .map(|(key, value)| traversal(&key) + value.as_ref().map_or(1, traversal))
            .fold(0, u64::saturating_add),
        _ => 1,
    }
}

fn matching(text: u64, pattern: u64) -> u64 {
    times(text.saturating_add(1), TRAVERSAL).saturating_mul(times(pattern, PATTERN))
}

/// Functions of Kubernetes' library, by their name.
fn by_function(
    function: &str,
    overload: &str,
    args: &[Value<'_>],
    result: Option<&Value<'_>>,
) -> Option<u64> {
    let traversed = |factor: f64| args.first().map(|v| times(size(v), factor * TRAVERSAL));
    Some(match function {
        "check" => CHECK_COST,
        "serviceAccount" | "path" | "group" | "resource" | "subresource" | "namespace" | "name"
        | "allowed" | "reason" | "error" | "errored" => 1,
        "fieldSelector" | "labelSelector" => super::estimate::selector_cost(size(args.get(1)?)),
        "isSorted" | "sum" | "max" | "min" | "indexOf" | "lastIndexOf" => {
            args.first().map_or(0, traversal)
        }
        "url" | "lowerAscii" | "upperAscii" | "substring" | "trim" | "jsonpatch.escapeKey" => {
            traversed(1.0)?
        }
        "replace" | "split" => traversed(2.0)?,
        "join" => times(result.map_or(1, size), 2.0 * TRAVERSAL),
        "find" | "findAll" => matching(size(args.first()?), size(args.get(1)?)),
        "cidr" | "isIP" | "isCIDR" => traversed(1.0)?,
        "ip" if overload == "cidr_ip" => 1,
        "ip" => traversed(1.0)?,
        "ip.isCanonical" => traversed(2.0)?,
        "masked"
        | "prefixLength"
        | "family"
        | "isUnspecified"
        | "isLoopback"
        | "isLinkLocalMulticast"
        | "isLinkLocalUnicast"
        | "isGlobalUnicast" => 1,
        "containsIP" => {
            let parse = match overload {
                "cidr_contains_ip_string" => times(size(args.get(1)?), TRAVERSAL),
                _ => 0,
            };
            times(size(args.first()?).saturating_mul(2), TRAVERSAL) + parse
        }
        "containsCIDR" => {
            let parse = match overload {
                "cidr_contains_cidr_string" => times(size(args.get(1)?), TRAVERSAL),
                _ => 0,
            };
            let n = size(args.first()?);
            times(n.saturating_mul(2), TRAVERSAL) + times(n, TRAVERSAL) + 1 + parse
        }
        "quantity" | "isQuantity" | "semver" | "isSemver" => traversed(1.0)?,
        "validate" => match args.first()? {
            Value::Format(format) => matching(size(args.get(1)?), format.pattern_size),
            _ => return None,
        },
        "format.named" | "sign" | "asInteger" | "isInteger" | "asApproximateFloat"
        | "isGreaterThan" | "isLessThan" | "compareTo" | "add" | "sub" | "major" | "minor"
        | "patch" | "getScheme" | "getHostname" | "getHost" | "getPort" | "getEscapedPath"
        | "getQuery" => 1,
        _ => return None,
    })
}

/// The cost of a call. Without result if it failed.
pub(crate) fn call(
    function: &str,
    overload: &str,
    args: &[Value<'_>],
    result: Option<&Value<'_>>,
) -> u64 {
    if let Some(cost) = by_overload(overload, args, result) {
        return cost;
    }
    if let Some(cost) = by_function(function, overload, args, result) {
        return cost;
    }
    let traversed = |n: u64| times(n, TRAVERSAL);
    match overload {
        "starts_with_string" | "ends_with_string" | "string_to_bytes" | "bytes_to_string"
        | "strings_quote" | "string_format" => traversed(deep_size(&args[0])),
        "in_list" => deep_size(&args[1]),
        "less_string"
        | "greater_string"
        | "less_equals_string"
        | "greater_equals_string"
        | "less_bytes"
        | "greater_bytes"
        | "less_equals_bytes"
        | "greater_equals_bytes" => traversed(deep_size(&args[0]).min(deep_size(&args[1]))),
        "add_string" | "add_bytes" => {
            traversed(deep_size(&args[0]).saturating_add(deep_size(&args[1])))
        }
        "matches_string" => matching(deep_size(&args[0]), deep_size(&args[1])),
        "contains_string" => {
            traversed(deep_size(&args[0])).saturating_mul(traversed(deep_size(&args[1])))
        }
        _ => CALL_COST,
    }
}
