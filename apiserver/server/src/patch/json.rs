//! JSON patch (RFC 6902), with the latitude of kube-apiserver's: what a member of an object is replaced by need not have
//! been there, a position may count from the end of a list, and what stands before the first slash of a path is passed
//! over.

use corral_api::status::{Status, StatusDetails, StatusReason};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::syntax;
use crate::decode::DEPTH_MAX;

/// Most operations of one JSON patch, as in kube-apiserver.
pub const OPERATIONS_MAX: usize = 10_000;
/// Most bytes of JSON that all `copy` of one patch may make, as in kube-apiserver: each may double the object.
pub const COPIED_BYTES_MAX: usize = 3 * 1024 * 1024;

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

/// How much all operations of one patch may move and look at: items of lists behind which something is put in or taken
/// out, values of what is moved downwards. Some tenths of a second; kube-apiserver has no such bound.
const WORK_MAX: usize = 32_000_000;

/// Why an operation is refused.
#[derive(Debug)]
enum Refused {
    /// It does not fit, or copies too much; kube-apiserver does not tell which.
    Unfit,
    /// The object would be deeper than a body may be.
    TooDeep,
    /// The patch takes too much work.
    TooMuch,
}

use Refused::Unfit;

impl Refused {
    fn status(self) -> Status {
        let message = match self {
            Unfit => "the server rejected our request due to an error in our request".to_owned(),
            Self::TooDeep => {
                format!("the JSON patch makes an object nested deeper than {DEPTH_MAX} levels")
            }
            Self::TooMuch => {
                let why = "the operations of the JSON patch move more than this many values:";
                let status = StatusReason::RequestEntityTooLarge;
                return Status::failure(413, status, format!("{why} {WORK_MAX}"));
            }
        };
        let details = StatusDetails::default();
        Status::failure(422, StatusReason::Invalid, message).with_details(details)
    }
}

/// An object that is being patched, and what its patch may still do.
struct Patched {
    object: Value,
    copied: usize,
    work: usize,
}

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
    let mut patched = Patched::new(object);
    for operation in operations {
        patched.apply(operation).map_err(Refused::status)?;
    }
    Ok(patched.object)
}

/// Applies a JSON patch whose tests may fail: then there is no result.
///
/// # Errors
/// Which operation does not fit the object.
pub fn json_patch_if_tested(
    object: &Value,
    operations: Vec<Value>,
) -> Result<Option<Value>, String> {
    let mut patched = Patched::new(object);
    for operation in operations {
        let operation: Operation = serde_json::from_value(operation).map_err(|e| e.to_string())?;
        let (op, path) = (operation.op.clone(), operation.path.clone());
        match patched.apply(operation) {
            Ok(()) => {}
            Err(Unfit) if op == "test" => return Ok(None),
            Err(Unfit) => {
                let path = path.unwrap_or_default();
                return Err(format!(
                    "the operation {op:?} does not fit the object at {path:?}"
                ));
            }
            Err(refused) => return Err(refused.status().message),
        }
    }
    Ok(Some(patched.object))
}

fn undecodable(why: &str) -> Status {
    Status::bad_request(format!("error decoding patch: {why}"))
}

impl Patched {
    fn new(object: &Value) -> Self {
        Self {
            object: object.clone(),
            copied: 0,
            work: 0,
        }
    }

    fn apply(&mut self, operation: Operation) -> Result<(), Refused> {
        let path = Path::of(operation.path.as_deref())?;
        match operation.op.as_str() {
            "add" => {
                self.fits(&path, &operation.value)?;
                self.add(&path, operation.value)
            }
            "remove" => self.remove(&path).map(drop),
            "replace" => {
                self.fits(&path, &operation.value)?;
                path.replace(&mut self.object, operation.value)
            }
            "move" => {
                let from = Path::of(operation.from.as_deref())?;
                let value = self.remove(&from)?;
                if path.depth() > from.depth() {
                    self.fits(&path, &value)?;
                }
                self.add(&path, value)
            }
            "copy" => {
                let from = Path::of(operation.from.as_deref())?;
                let value = from.get(&self.object)?;
                let left = COPIED_BYTES_MAX - self.copied;
                let size = written_within(value, left).ok_or(Unfit)?;
                let value = value.clone();
                self.copied += size;
                self.fits(&path, &value)?;
                self.add(&path, value)
            }
            "test" => match *path.get(&self.object)? == operation.value {
                true => Ok(()),
                false => Err(Unfit),
            },
            _ => Err(Unfit),
        }
    }

    /// Makes sure that the object is not too deep with a value at a place.
    fn fits(&mut self, path: &Path, value: &Value) -> Result<(), Refused> {
        let levels = DEPTH_MAX.checked_sub(path.depth());
        let levels = levels.ok_or(Refused::TooDeep)?;
        self.is_within(value, levels)
    }

    fn is_within(&mut self, value: &Value, levels: usize) -> Result<(), Refused> {
        self.works(1)?;
        let below = || levels.checked_sub(1).ok_or(Refused::TooDeep);
        match value {
            Value::Array(items) => {
                let below = below()?;
                items
                    .iter()
                    .try_for_each(|item| self.is_within(item, below))
            }
            Value::Object(map) => {
                let below = below()?;
                map.values()
                    .try_for_each(|item| self.is_within(item, below))
            }
            _ => Ok(()),
        }
    }

    fn works(&mut self, n: usize) -> Result<(), Refused> {
        self.work += n;
        if self.work > WORK_MAX {
            return Err(Refused::TooMuch);
        }
        Ok(())
    }

    fn add(&mut self, path: &Path, value: Value) -> Result<(), Refused> {
        let moved = path.add(&mut self.object, value)?;
        self.works(moved)
    }

    fn remove(&mut self, path: &Path) -> Result<Value, Refused> {
        let (value, moved) = path.remove(&mut self.object)?;
        self.works(moved)?;
        Ok(value)
    }
}

/// How many bytes of JSON a value is; `None` if it is more than this.
fn written_within(value: &Value, max: usize) -> Option<usize> {
    struct Counter {
        left: usize,
    }
    impl std::io::Write for Counter {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            let left = self.left.checked_sub(bytes.len());
            self.left = left.ok_or(std::io::ErrorKind::FileTooLarge)?;
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut counter = Counter { left: max };
    serde_json::to_writer(&mut counter, value).ok()?;
    Some(max - counter.left)
}

/// A place in an object: the container and what it is called there.
struct Path {
    containers: Vec<String>,
    last: String,
}

impl Path {
    fn of(text: Option<&str>) -> Result<Self, Refused> {
        let mut parts = text.ok_or(Unfit)?.split('/');
        parts.next();
        let unescape = |part: &str| part.replace("~1", "/").replace("~0", "~");
        let mut containers: Vec<String> = parts.map(unescape).collect();
        let last = containers.pop().ok_or(Unfit)?;
        Ok(Self { containers, last })
    }

    /// How deep what stands there is.
    fn depth(&self) -> usize {
        self.containers.len() + 1
    }

    fn container<'a>(&self, object: &'a mut Value) -> Result<&'a mut Value, Refused> {
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

    fn get<'a>(&self, object: &'a Value) -> Result<&'a Value, Refused> {
        static NONE: Value = Value::Null;
        let item = |items: &'a [Value], part: &str| {
            let index = index(part, items.len())?;
            items.get(index).ok_or(Unfit)
        };
        let mut place = object;
        for part in &self.containers {
            place = match place {
                Value::Object(map) => map.get(part).ok_or(Unfit)?,
                Value::Array(items) => item(items, part)?,
                _ => return Err(Unfit),
            };
        }
        match place {
            Value::Object(map) => Ok(map.get(&self.last).unwrap_or(&NONE)),
            Value::Array(items) => item(items, &self.last),
            _ => Err(Unfit),
        }
    }

    /// Puts a value there and tells how many others had to move.
    fn add(&self, object: &mut Value, value: Value) -> Result<usize, Refused> {
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
                return Ok(items.len() - index);
            }
            _ => return Err(Unfit),
        }
        Ok(0)
    }

    fn replace(&self, object: &mut Value, value: Value) -> Result<(), Refused> {
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

    /// Takes out what is there and tells how many others had to move.
    fn remove(&self, object: &mut Value) -> Result<(Value, usize), Refused> {
        match self.container(object)? {
            Value::Object(map) => Ok((map.remove(&self.last).ok_or(Unfit)?, 0)),
            Value::Array(items) => {
                let index = index(&self.last, items.len())?;
                if index >= items.len() {
                    return Err(Unfit);
                }
                let value = items.remove(index);
                Ok((value, items.len() - index))
            }
            _ => Err(Unfit),
        }
    }
}

fn put(map: &mut Map<String, Value>, key: &str, value: Value) {
    map.insert(key.to_owned(), value);
}

/// A position in a list of `length` items; negative ones count from its end.
fn index(text: &str, length: usize) -> Result<usize, Refused> {
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

    fn refused(object: &Value, operations: Vec<Value>) -> (u16, String) {
        let patch = Value::Array(operations).to_string();
        let status = json_patch(object, patch.as_bytes()).expect_err("too much");
        (status.code, status.message)
    }

    #[test]
    fn copies_do_not_grow_without_a_bound() {
        let object = json!({"data": {"a": "x".repeat(1000)}});
        let copy = json!({"op": "copy", "from": "/data", "path": "/data/more"});
        assert_eq!(refused(&object, vec![copy; 100]).0, 422);
        // Many small ones are none the worse for that.
        let small = json!({"op": "copy", "from": "/data/a", "path": "/data/b"});
        let patch = Value::Array(vec![small; 2000]).to_string();
        assert!(json_patch(&object, patch.as_bytes()).is_ok());
        let all = vec![json!({"op": "copy", "from": "/data/a", "path": "/data/b"}); 4000];
        assert_eq!(refused(&object, all).0, 422);
    }

    #[test]
    fn operations_do_not_nest_deeper_than_a_body_may() {
        let too_deep = "the JSON patch makes an object nested deeper than 100 levels";
        let add = |depth: usize| {
            let path = "/x".repeat(depth);
            json!({"op": "add", "path": path, "value": {}})
        };
        let told = refused(&json!({}), (1..200).map(add).collect());
        assert_eq!(told, (422, too_deep.to_owned()));
        let around = [
            json!({"op": "add", "path": "/b", "value": {}}),
            json!({"op": "move", "from": "/a", "path": "/b/b"}),
            json!({"op": "move", "from": "/b", "path": "/a"}),
        ];
        let around = (0..200).flat_map(|_| around.clone()).collect();
        let told = refused(&json!({"a": {}}), around);
        assert_eq!(told, (422, too_deep.to_owned()));
    }

    #[test]
    fn operations_do_not_move_more_than_the_bound() {
        let items = vec![0; 100_000];
        let first = json!({"op": "add", "path": "/items/0", "value": 1});
        let (code, message) = refused(&json!({"items": items}), vec![first; 1000]);
        assert_eq!(code, 413);
        assert!(message.contains("32000000"), "{message}");
    }
}
