//! What a request is about, read from its method and URL, as RBAC and every handler see it.

use std::collections::HashMap;

use corral_api::status::Status;
use http::Method;

/// Longest URL that is served.
pub const URL_LENGTH_MAX: usize = 32 * 1024;
/// Most query parameters of one URL.
const PARAMETERS_MAX: usize = 128;

/// The verb, as RBAC names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Verb {
    Get,
    List,
    Watch,
    Create,
    Update,
    Patch,
    Delete,
    DeleteCollection,
    /// A path that is no resource; the verb is the method in lower case.
    Other,
}

impl Verb {
    /// As RBAC writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::List => "list",
            Self::Watch => "watch",
            Self::Create => "create",
            Self::Update => "update",
            Self::Patch => "patch",
            Self::Delete => "delete",
            Self::DeleteCollection => "deletecollection",
            Self::Other => "",
        }
    }

    /// Whether the request changes nothing.
    pub fn is_read(self) -> bool {
        matches!(self, Self::Get | Self::List | Self::Watch)
    }
}

/// What a request is about.
#[derive(Debug, Clone)]
pub struct RequestInfo {
    /// The verb.
    pub verb: Verb,
    /// The method in lower case: the verb of a path that is no resource.
    pub method: String,
    /// The path.
    pub path: String,
    /// Whether the path names a resource.
    pub is_resource: bool,
    /// API group; empty for the core group.
    pub group: String,
    /// API version.
    pub version: String,
    /// Namespace; empty if the path names none.
    pub namespace: String,
    /// Resource; empty if the path is no resource.
    pub resource: String,
    /// Subresource; empty if there is none.
    pub subresource: String,
    /// Name; empty for collections.
    pub name: String,
    /// What follows the subresource (`proxy`).
    pub rest: String,
    /// Query parameters.
    pub query: Query,
}

/// Query parameters; of a repeated one all values are kept.
#[derive(Debug, Clone, Default)]
pub struct Query(HashMap<String, Vec<String>>);

impl Query {
    fn parse(text: &str) -> Result<Self, Status> {
        let mut map: HashMap<String, Vec<String>> = HashMap::new();
        for (index, pair) in text.split('&').filter(|p| !p.is_empty()).enumerate() {
            if index >= PARAMETERS_MAX {
                return Err(Status::bad_request(format!(
                    "the URL has more than {PARAMETERS_MAX} query parameters"
                )));
            }
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            map.entry(unescape(key, true)?)
                .or_default()
                .push(unescape(value, true)?);
        }
        Ok(Self(map))
    }

    /// The first value of a parameter; `None` if it is not there.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0
            .get(name)
            .and_then(|values| values.first())
            .map(String::as_str)
    }

    /// All values of a parameter.
    pub fn all(&self, name: &str) -> &[String] {
        self.0.get(name).map_or(&[], Vec::as_slice)
    }

    /// A parameter that is true or false; absent is false.
    pub fn flag(&self, name: &str) -> bool {
        self.get(name).is_some_and(is_true)
    }

    /// A whole number.
    ///
    /// # Errors
    /// 400 when it is not one.
    pub fn integer(&self, name: &str) -> Result<Option<i64>, Status> {
        match self.get(name) {
            None => Ok(None),
            Some(text) => text.parse().map(Some).map_err(|_| {
                Status::bad_request(format!(
                    "strconv.ParseInt: parsing {text:?}: invalid syntax"
                ))
            }),
        }
    }
}

/// Undoes percent-encoding.
pub(crate) fn unescape(text: &str, plus: bool) -> Result<String, Status> {
    if !text.contains(['%', '+']) {
        return Ok(text.to_owned());
    }
    let mut out = Vec::with_capacity(text.len());
    let bytes = text.as_bytes();
    let mut index = 0;
    while let Some(&byte) = bytes.get(index) {
        match byte {
            b'%' => {
                let hex = text
                    .get(index + 1..index + 3)
                    .and_then(|h| u8::from_str_radix(h, 16).ok());
                out.push(hex.ok_or_else(|| {
                    Status::bad_request(format!("invalid URL escape in {text:?}"))
                })?);
                index += 2;
            }
            b'+' if plus => out.push(b' '),
            other => out.push(other),
        }
        index += 1;
    }
    String::from_utf8(out).map_err(|_| Status::bad_request("the URL is not UTF-8"))
}

impl RequestInfo {
    /// Reads a method and URL.
    ///
    /// # Errors
    /// 400 for a URL that cannot be read, 414 for one that is too long.
    pub fn new(method: &Method, uri: &http::Uri) -> Result<Self, Status> {
        let length = uri.path_and_query().map_or(0, |p| p.as_str().len());
        if length > URL_LENGTH_MAX {
            return Err(Status::failure(
                414,
                corral_api::StatusReason::BadRequest,
                format!("the URL is longer than {URL_LENGTH_MAX} bytes"),
            ));
        }
        let query = Query::parse(uri.query().unwrap_or(""))?;
        let path = unescape(uri.path(), false)?;
        // A part that is empty is a part, of which there is nothing; only the end may have more slashes than it needs.
        let whole = path.strip_prefix('/').unwrap_or(&path);
        let parts: Vec<&str> = whole.trim_end_matches('/').split('/').collect();
        let mut info = Self {
            verb: Verb::Other,
            method: method.as_str().to_ascii_lowercase(),
            path: path.clone(),
            is_resource: false,
            group: String::new(),
            version: String::new(),
            namespace: String::new(),
            resource: String::new(),
            subresource: String::new(),
            name: String::new(),
            rest: String::new(),
            query,
        };
        let rest = match parts.as_slice() {
            ["api", version, rest @ ..] if !rest.is_empty() => {
                info.version = (*version).to_owned();
                rest
            }
            ["apis", group, version, rest @ ..] if !rest.is_empty() => {
                info.group = (*group).to_owned();
                info.version = (*version).to_owned();
                rest
            }
            _ => return Ok(info),
        };
        info.is_resource = true;
        info.read_resource(method, rest)?;
        Ok(info)
    }

    fn read_resource(&mut self, method: &Method, parts: &[&str]) -> Result<(), Status> {
        let mut parts = parts;
        let mut watch_path = false;
        if let ["watch", rest @ ..] = parts {
            watch_path = true;
            parts = rest;
        }
        if let ["namespaces", namespace, rest @ ..] = parts {
            self.namespace = (*namespace).to_owned();
            // `namespaces/x` and its own subresources are about the namespace itself.
            if !rest.is_empty() && !matches!(rest, ["status" | "finalize"]) {
                parts = rest;
            }
        }
        if let [resource, rest @ ..] = parts {
            self.resource = (*resource).to_owned();
            if let [name, rest @ ..] = rest {
                self.name = (*name).to_owned();
                if let [subresource, rest @ ..] = rest {
                    self.subresource = (*subresource).to_owned();
                    self.rest = rest.join("/");
                }
                let is_nameless = self.name.is_empty() && !rest.is_empty();
                if is_nameless || watch_path && !self.subresource.is_empty() {
                    // There is no such path, and so no such resource.
                    self.resource.clear();
                }
            }
        }
        let collection = self.name.is_empty();
        self.verb = match *method {
            Method::GET | Method::HEAD if watch_path => Verb::Watch,
            _ if watch_path => Verb::Other,
            Method::GET | Method::HEAD if collection && self.query.flag("watch") => Verb::Watch,
            Method::GET | Method::HEAD if collection => Verb::List,
            Method::GET | Method::HEAD => Verb::Get,
            Method::POST => Verb::Create,
            Method::PUT => Verb::Update,
            Method::PATCH => Verb::Patch,
            Method::DELETE if collection => Verb::DeleteCollection,
            Method::DELETE => Verb::Delete,
            _ => Verb::Other,
        };
        Ok(())
    }

    /// `resource` or `resource/subresource`, as RBAC rules name it.
    pub fn qualified_resource(&self) -> String {
        if self.subresource.is_empty() {
            self.resource.clone()
        } else {
            format!("{}/{}", self.resource, self.subresource)
        }
    }
}

/// Whether the value of a parameter means yes. As in Kubernetes everything does but `0` and `false`: some clients write
/// `True`, some nothing.
pub fn is_true(value: &str) -> bool {
    value != "0" && !value.eq_ignore_ascii_case("false")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(method: &str, uri: &str) -> RequestInfo {
        RequestInfo::new(&method.parse().expect("method"), &uri.parse().expect("uri"))
            .expect("valid")
    }

    #[test]
    fn urls_are_read_as_kubernetes_reads_them() {
        let cases = [
            ("GET", "/api/v1/pods", "list", "", "pods", "", ""),
            ("GET", "/api/v1/pods?watch=1", "watch", "", "pods", "", ""),
            (
                "GET",
                "/api/v1/pods?watch=True",
                "watch",
                "",
                "pods",
                "",
                "",
            ),
            (
                "GET",
                "/api/v1/pods?watch=False",
                "list",
                "",
                "pods",
                "",
                "",
            ),
            (
                "GET",
                "/api/v1/namespaces/a/pods/b/log",
                "get",
                "a",
                "pods",
                "b",
                "log",
            ),
            (
                "GET",
                "/api/v1/namespaces/a",
                "get",
                "a",
                "namespaces",
                "a",
                "",
            ),
            (
                "PUT",
                "/api/v1/namespaces/a/finalize",
                "update",
                "a",
                "namespaces",
                "a",
                "finalize",
            ),
            (
                "DELETE",
                "/apis/apps/v1/namespaces/a/deployments",
                "deletecollection",
                "a",
                "deployments",
                "",
                "",
            ),
            (
                "POST",
                "/apis/apps/v1/namespaces/a/deployments",
                "create",
                "a",
                "deployments",
                "",
                "",
            ),
        ];
        for (method, uri, verb, namespace, resource, name, subresource) in cases {
            let info = info(method, uri);
            assert_eq!(info.verb.as_str(), verb, "{uri}");
            assert_eq!(info.namespace, namespace, "{uri}");
            assert_eq!(info.resource, resource, "{uri}");
            assert_eq!(info.name, name, "{uri}");
            assert_eq!(info.subresource, subresource, "{uri}");
        }
        assert!(!info("GET", "/apis/apps/v1").is_resource);
        assert_eq!(
            info("GET", "/version?a=b%20c+d").query.get("a"),
            Some("b c d")
        );
    }
}
