//! JSON patch (RFC 6902), with the latitude of kube-apiserver's: what a member of an object is replaced by need not have
//! been there, a position may count from the end of a list, and what stands before the first slash of a path is passed
//! over.

use corral_api::status::{Status, StatusDetails, StatusReason};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::syntax;

/// Most operations of one JSON patch, as in kube-apiserver.
pub const OPERATIONS_MAX: usize = 10_000;

#[derive(Debug, Deserialize)]
struct Operation {
    #[serde(default)]
    op: String,
    #[serde(default)]
    path: Option<String>,
    #[serde(default)]
    from: Option<String>,
    #[serde(default)]
    value: Value,
}

/// Why an operation does not fit; kube-apiserver does not tell.
#[derive(Debug)]
struct Unfit;

/// Applies a JSON patch.
///
/// # Errors
/// 400 for a patch that is none, 413 for one with too many operations, 422 for one that does not fit the object.
pub fn json_patch(object: &Value, patch: &[u8]) -> Result<Value, Status> {
    let parsed: Value = serde_json::from_slice(patch).map_err(|e| undecodable(&syntax(&e)))?;
    if !parsed.is_array() {
        let found = super::go_kind(&parsed);
        return Err(undecodable(&format!(
            "json: cannot unmarshal {found} into Go value of type []handlers.jsonPatchOp"
        )));
    }
    let operations: Vec<Operation> =
        serde_json::from_value(parsed).map_err(|e| undecodable(&e.to_string()))?;
    if operations.len() > OPERATIONS_MAX {
        let n = operations.len();
        return Err(Status::failure(
            413,
            StatusReason::RequestEntityTooLarge,
            format!("The allowed maximum operations in a JSON patch is {OPERATIONS_MAX}, got {n}"),
        ));
    }
    let mut out = object.clone();
    for operation in operations {
        apply(&mut out, operation).map_err(|Unfit| unfit())?;
    }
    Ok(out)
}

/// Applies a JSON patch whose tests may fail: then there is no result.
///
/// # Errors
/// Which operation does not fit the object.
pub fn json_patch_if_tested(
    object: &Value,
    operations: Vec<Value>,
) -> Result<Option<Value>, String> {
    let mut out = object.clone();
    for operation in operations {
        let operation: Operation = serde_json::from_value(operation).map_err(|e| e.to_string())?;
        let (op, path) = (operation.op.clone(), operation.path.clone());
        match apply(&mut out, operation) {
            Ok(()) => {}
            Err(Unfit) if op == "test" => return Ok(None),
            Err(Unfit) => {
                let path = path.unwrap_or_default();
                return Err(format!(
                    "the operation {op:?} does not fit the object at {path:?}"
                ));
            }
        }
    }
    Ok(Some(out))
}

fn unfit() -> Status {
    let message = "the server rejected our request due to an error in our request";
    Status::failure(422, StatusReason::Invalid, message).with_details(StatusDetails::default())
}

fn undecodable(why: &str) -> Status {
    Status::bad_request(format!("error decoding patch: {why}"))
}

fn apply(object: &mut Value, operation: Operation) -> Result<(), Unfit> {
    let path = Path::of(operation.path.as_deref())?;
    match operation.op.as_str() {
        "add" => path.add(object, operation.value),
        "remove" => path.remove(object).map(drop),
        "replace" => path.replace(object, operation.value),
        "move" => {
            let value = Path::of(operation.from.as_deref())?.remove(object)?;
            path.add(object, value)
        }
        "copy" => {
            let value = Path::of(operation.from.as_deref())?.get(object)?;
            path.add(object, value)
        }
        "test" => match path.get(object)? == operation.value {
            true => Ok(()),
            false => Err(Unfit),
        },
        _ => Err(Unfit),
    }
}

/// A place in an object: the container and what it is called there.
struct Path {
    containers: Vec<String>,
    last: String,
}

impl Path {
    fn of(text: Option<&str>) -> Result<Self, Unfit> {
        let mut parts = text.ok_or(Unfit)?.split('/');
        parts.next();
        let unescape = |part: &str| part.replace("~1", "/").replace("~0", "~");
        let mut containers: Vec<String> = parts.map(unescape).collect();
        let last = containers.pop().ok_or(Unfit)?;
        Ok(Self { containers, last })
    }

    fn container<'a>(&self, object: &'a mut Value) -> Result<&'a mut Value, Unfit> {
        let mut place = object;
        for part in &self.containers {
            place = match place {
                Value::Object(map) => map.get_mut(part).ok_or(Unfit)?,
                Value::Array(items) => {
                    let index = index(part, items.len())?;
                    items.get_mut(index).ok_or(Unfit)?
                }
                _ => return Err(Unfit),
            };
        }
        Ok(place)
    }

    fn get(&self, object: &mut Value) -> Result<Value, Unfit> {
        match self.container(object)? {
            Value::Object(map) => Ok(map.get(&self.last).cloned().unwrap_or(Value::Null)),
            Value::Array(items) => {
                let index = index(&self.last, items.len())?;
                items.get(index).cloned().ok_or(Unfit)
            }
            _ => Err(Unfit),
        }
    }

    fn add(&self, object: &mut Value, value: Value) -> Result<(), Unfit> {
        match self.container(object)? {
            Value::Object(map) => put(map, &self.last, value),
            Value::Array(items) if self.last == "-" => items.push(value),
            Value::Array(items) => {
                // A new item may stand behind the last one.
                let index = index(&self.last, items.len() + 1)?;
                if index > items.len() {
                    return Err(Unfit);
                }
                items.insert(index, value);
            }
            _ => return Err(Unfit),
        }
        Ok(())
    }

    fn replace(&self, object: &mut Value, value: Value) -> Result<(), Unfit> {
        match self.container(object)? {
            Value::Object(map) => put(map, &self.last, value),
            Value::Array(items) => {
                let index = index(&self.last, items.len())?;
                *items.get_mut(index).ok_or(Unfit)? = value;
            }
            _ => return Err(Unfit),
        }
        Ok(())
    }

    fn remove(&self, object: &mut Value) -> Result<Value, Unfit> {
        match self.container(object)? {
            Value::Object(map) => map.remove(&self.last).ok_or(Unfit),
            Value::Array(items) => {
                let index = index(&self.last, items.len())?;
                if index >= items.len() {
                    return Err(Unfit);
                }
                Ok(items.remove(index))
            }
            _ => Err(Unfit),
        }
    }
}

fn put(map: &mut Map<String, Value>, key: &str, value: Value) {
    map.insert(key.to_owned(), value);
}

/// A position in a list of `length` items; negative ones count from its end.
fn index(text: &str, length: usize) -> Result<usize, Unfit> {
    let position: i64 = text.parse().map_err(|_| Unfit)?;
    if position >= 0 {
        return usize::try_from(position).map_err(|_| Unfit);
    }
    let back = usize::try_from(position.unsigned_abs()).map_err(|_| Unfit)?;
    length.checked_sub(back).ok_or(Unfit)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn patched(patch: Value) -> Result<Value, u16> {
        let object = json!({"data": {"a": "b", "list": [1, 2, 3]}});
        json_patch(&object, patch.to_string().as_bytes()).map_err(|status| status.code)
    }

    #[test]
    fn operations_change_members_and_items() {
        let cases = [
            (
                json!([{"op": "add", "path": "/data/c~1d", "value": 1}]),
                "/data/c~1d",
                json!(1),
            ),
            (
                json!([{"op": "add", "path": "/data/list/-", "value": 4}]),
                "/data/list",
                json!([1, 2, 3, 4]),
            ),
            (
                json!([{"op": "add", "path": "/data/list/-1", "value": 4}]),
                "/data/list",
                json!([1, 2, 3, 4]),
            ),
            (
                json!([{"op": "remove", "path": "/data/list/-1"}]),
                "/data/list",
                json!([1, 2]),
            ),
            (
                json!([{"op": "replace", "path": "/data/none", "value": 5}]),
                "/data/none",
                json!(5),
            ),
            (
                json!([{"op": "move", "from": "/data/a", "path": "/data/e"}]),
                "/data/e",
                json!("b"),
            ),
            (
                json!([{"op": "copy", "from": "/data/a", "path": "/data/e"}]),
                "/data/e",
                json!("b"),
            ),
            (
                json!([{"op": "test", "path": "/data/a", "value": "b"}]),
                "/data/a",
                json!("b"),
            ),
            (
                json!([{"op": "add", "path": "data/x", "value": 1}]),
                "/x",
                json!(1),
            ),
        ];
        for (patch, at, wanted) in cases {
            let object = patched(patch.clone()).expect("fits");
            assert_eq!(object.pointer(at), Some(&wanted), "{patch}");
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        for patch in [
            json!([{"op": "test", "path": "/data/a", "value": "c"}]),
            json!([{"op": "remove", "path": "/data/none"}]),
            json!([{"op": "remove", "path": "/data/list/3"}]),
            json!([{"op": "add", "path": "/data/list/4", "value": 1}]),
            json!([{"op": "replace", "path": "/data/list/-4", "value": 1}]),
            json!([{"op": "add", "path": "/none/a", "value": 1}]),
            json!([{"op": "other", "path": "/data/a"}]),
            json!([{"op": "add", "path": "", "value": 1}]),
            json!([{"op": "add", "value": 1}]),
        ] {
            assert_eq!(patched(patch.clone()), Err(422), "{patch}");
        }
        assert_eq!(patched(json!({"op": "add"})), Err(400));
    }
}
