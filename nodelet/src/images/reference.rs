//! Image names: `[registry/]path[:tag][@digest]`, with Docker Hub's shorthand.

use super::Error;

/// A name taken apart.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Reference {
    /// Host and port.
    pub registry: String,
    /// The path in the registry.
    pub repository: String,
    /// The tag, unless only a digest is given.
    pub tag: Option<String>,
    /// `sha256:<hex>`.
    pub digest: Option<String>,
}

impl Reference {
    /// Reads a name; `nginx` means `docker.io/library/nginx:latest`.
    pub fn parse(name: &str) -> Result<Self, Error> {
        let fail = |why| Error::Name {
            name: name.to_owned(),
            why,
        };
        let (rest, digest) = match name.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest)),
            None => (name, None),
        };
        if let Some(digest) = digest {
            let hex = digest
                .strip_prefix("sha256:")
                .ok_or_else(|| fail("the digest is not sha256"))?;
            if hex.len() != 64
                || !hex
                    .bytes()
                    .all(|byte| byte.is_ascii_hexdigit() && !byte.is_ascii_uppercase())
            {
                return Err(fail("the digest is malformed"));
            }
        }
        let slash = rest.rfind('/').map_or(0, |at| at + 1);
        let (path, tag) = match rest[slash..].split_once(':') {
            Some((_, tag)) => (&rest[..rest.len() - tag.len() - 1], Some(tag)),
            None => (rest, None),
        };
        if tag.is_some_and(|tag| !valid_tag(tag)) {
            return Err(fail("the tag is malformed"));
        }
        let (registry, repository) = match path.split_once('/') {
            Some((host, path)) if host.contains(['.', ':']) || host == "localhost" => {
                (host.to_owned(), path.to_owned())
            }
            Some(_) => ("docker.io".to_owned(), path.to_owned()),
            None => ("docker.io".to_owned(), format!("library/{path}")),
        };
        let valid =
            valid_host(&registry) && !path.is_empty() && repository.split('/').all(valid_component);
        if !valid {
            return Err(fail("invalid reference format"));
        }
        let tag = tag
            .map(str::to_owned)
            .or_else(|| digest.is_none().then(|| "latest".to_owned()));
        Ok(Self {
            registry,
            repository,
            tag,
            digest: digest.map(str::to_owned),
        })
    }

    /// The tag is `latest` and nothing pins the content.
    pub fn is_latest(&self) -> bool {
        self.digest.is_none() && self.tag.as_deref() == Some("latest")
    }

    /// The name without tag and digest.
    pub fn base(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }
}

impl std::fmt::Display for Reference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

fn valid_host(host: &str) -> bool {
    let edges = host.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '[');
    edges
        && host
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b".-:[]".contains(&byte))
}

fn valid_tag(tag: &str) -> bool {
    let first = tag
        .bytes()
        .next()
        .is_some_and(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    first
        && tag.len() <= 128
        && tag
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
}

fn valid_component(component: &str) -> bool {
    let edge = |byte: Option<u8>| {
        byte.is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
    };
    let mut bytes = component.bytes();
    edge(component.bytes().next())
        && edge(component.bytes().next_back())
        && bytes.all(|byte| {
            byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-".contains(&byte)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_names_are_completed() {
        for (short, long) in [
            ("nginx", "docker.io/library/nginx:latest"),
            ("team/app:1.2", "docker.io/team/app:1.2"),
            ("localhost:5000/a/b", "localhost:5000/a/b:latest"),
            ("registry.example/x:y", "registry.example/x:y"),
            (
                "a@sha256:0000000000000000000000000000000000000000000000000000000000000000",
                "docker.io/library/a@sha256:0000000000000000000000000000000000000000000000000000000000000000",
            ),
        ] {
            assert_eq!(Reference::parse(short).expect(short).to_string(), long);
        }
    }

    #[test]
    fn malformed_names_are_refused() {
        for name in [
            "", "UPPER", "a//b", "a:", "a:-x", "a@md5:00", "a b", "../x", "a/../b",
        ] {
            assert!(Reference::parse(name).is_err(), "{name:?}");
        }
    }
}
