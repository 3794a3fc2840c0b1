//! Functions of lists.

use std::cmp::Ordering;

use crate::value::{Evaluated, EvaluationError, List, Value};

type Values<'a> = Result<Vec<Value<'a>>, EvaluationError>;

fn wrong<T>(message: impl Into<String>) -> Result<T, EvaluationError> {
    Err(EvaluationError::new(message))
}

/// The most numbers that `lists.range` makes; what costs more was broken off before.
const RANGE_MAX: i64 = 10_000_000;

pub(super) fn range(n: i64) -> Evaluated<'static> {
    if n > RANGE_MAX {
        return Err(EvaluationError::limit());
    }
    Ok(Value::list((0..n).map(Value::Int).collect()))
}

pub(super) fn slice<'a>(list: &List<'a>, start: i64, end: i64) -> Evaluated<'a> {
    let n = list.len();
    if start < 0 || end < 0 {
        return wrong(format!(
            "cannot slice({start}, {end}), negative indexes not supported"
        ));
    }
    if start > end {
        return wrong(format!(
            "cannot slice({start}, {end}), start index must be less than or equal to end index"
        ));
    }
    let (from, to) = (usize::try_from(start), usize::try_from(end));
    let (Ok(from), Ok(to)) = (from, to) else {
        return wrong(format!("cannot slice({start}, {end}), list is length {n}"));
    };
    if to > n {
        return wrong(format!("cannot slice({start}, {end}), list is length {n}"));
    }
    let values: Values<'a> = (from..to).filter_map(|i| list.get(i)).collect();
    Ok(Value::list(values?))
}

pub(super) fn flatten<'a>(list: &List<'a>, depth: i64) -> Values<'a> {
    if depth < 0 {
        return wrong("level must be non-negative");
    }
    let mut out = Vec::new();
    for item in list.iter() {
        match item? {
            Value::List(inner) if depth > 0 => out.extend(flatten(&inner, depth - 1)?),
            other => out.push(other),
        }
    }
    Ok(out)
}

pub(super) fn distinct<'a>(list: &List<'a>) -> Values<'a> {
    let mut out: Vec<Value<'a>> = Vec::new();
    for item in list.iter() {
        let item = item?;
        if !out.iter().any(|seen| item.same_as(seen) == Ok(true)) {
            out.push(item);
        }
    }
    Ok(out)
}

/// The items in the order of their keys.
pub(super) fn sort_by<'a>(list: &List<'a>, keys: &List<'a>) -> Values<'a> {
    if list.len() != keys.len() {
        return wrong(format!(
            "@sortByAssociatedKeys() expected a list of the same size as the associated keys list, but got {} and {} elements respectively",
            list.len(),
            keys.len()
        ));
    }
    let keys = keys.values()?;
    if let Some(first) = keys.first() {
        if first.compare(first).is_err() && !matches!(first, Value::Double(_)) {
            return wrong("list elements must be comparable");
        }
        if keys
            .iter()
            .any(|k| k.type_of().name() != first.type_of().name())
        {
            return wrong("list elements must have the same type");
        }
    }
    let mut paired: Vec<(Value<'a>, Value<'a>)> = keys.into_iter().zip(list.values()?).collect();
    paired.sort_by(|(a, _), (b, _)| a.compare(b).unwrap_or(Ordering::Equal));
    Ok(paired.into_iter().map(|(_, item)| item).collect())
}

/// Items that have an order with others of their type.
fn comparable<'a>(item: Evaluated<'a>) -> Evaluated<'a> {
    let item = item?;
    let has_order = matches!(item, Value::Double(_)) || item.compare(&item).is_ok();
    if has_order {
        Ok(item)
    } else {
        Err(EvaluationError::no_such_overload())
    }
}

pub(super) fn is_sorted(list: &List<'_>) -> Result<bool, EvaluationError> {
    let values: Values<'_> = list.iter().map(comparable).collect();
    let values = values?;
    Ok(values
        .windows(2)
        .all(|pair| pair[0].compare(&pair[1]) != Ok(Ordering::Greater)))
}

/// The first of the smallest (`Greater`) or largest (`Less`) items.
pub(super) fn extreme<'a>(list: &List<'a>, name: &str, replace_if: Ordering) -> Evaluated<'a> {
    let mut found: Option<Value<'a>> = None;
    for item in list.iter() {
        let item = comparable(item)?;
        match &found {
            Some(best) if best.compare(&item) != Ok(replace_if) => {}
            _ => found = Some(item),
        }
    }
    found.ok_or_else(|| EvaluationError::new(format!("{name} called on empty list")))
}

/// The place of a value, from the front or from the back.
pub(super) fn index_of<'a>(
    list: &List<'a>,
    value: &Value<'a>,
    from_back: bool,
) -> Result<i64, EvaluationError> {
    let values = list.values()?;
    let is_it = |item: &Value<'a>| item.same_as(value) == Ok(true);
    let found = if from_back {
        values.iter().rposition(is_it)
    } else {
        values.iter().position(is_it)
    };
    Ok(found.and_then(|i| i64::try_from(i).ok()).unwrap_or(-1))
}

pub(super) fn join(list: &List<'_>, separator: &str) -> Result<String, EvaluationError> {
    let mut out = String::new();
    for (i, item) in list.iter().enumerate() {
        if i > 0 {
            out.push_str(separator);
        }
        let item = item?;
        match item.as_str() {
            Some(text) => out.push_str(text),
            None => return wrong(format!("join: invalid input: {item}")),
        }
    }
    Ok(out)
}

/// Whether all of the second list are in the first.
pub(super) fn contains_all(list: &List<'_>, wanted: &List<'_>) -> Result<bool, EvaluationError> {
    let own = list.values()?;
    for item in wanted.iter() {
        let item = item?;
        if !own.iter().any(|o| o.same_as(&item) == Ok(true)) {
            return Ok(false);
        }
    }
    Ok(true)
}

pub(super) fn intersects(list: &List<'_>, other: &List<'_>) -> Result<bool, EvaluationError> {
    let others = other.values()?;
    for item in list.iter() {
        let item = item?;
        if others.iter().any(|o| item.same_as(o) == Ok(true)) {
            return Ok(true);
        }
    }
    Ok(false)
}
