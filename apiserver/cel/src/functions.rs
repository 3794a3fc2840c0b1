//! The signatures of all functions and operators.

use std::collections::HashMap;
use std::sync::OnceLock;

use crate::types::{Type, split_parameters};
use crate::version::Version;

/// One signature of a function.
#[derive(Debug)]
pub(crate) struct Overload {
    pub id: &'static str,
    pub since: Version,
    pub is_member: bool,
    pub args: Vec<Type>,
    pub result: Type,
    /// Whether there are placeholders in it.
    pub is_generic: bool,
}

/// A function and its signatures, in the order in which they are tried.
#[derive(Debug)]
pub(crate) struct Function {
    pub name: &'static str,
    pub overloads: Vec<Overload>,
}

/// Which functions are there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Library {
    pub version: Version,
    /// Whether the functions of mutating policies are there, too.
    pub mutation: bool,
}

const MUTATION_FUNCTION: &str = "jsonpatch.escapeKey";

/// Each line: the version that brought it, function, overload, `global` or `member`, arguments, result.
const TABLE: &str = include_str!("overloads.txt");

fn table() -> &'static HashMap<&'static str, Function> {
    static TABLE_READ: OnceLock<HashMap<&'static str, Function>> = OnceLock::new();
    TABLE_READ.get_or_init(|| {
        let mut functions: HashMap<&'static str, Function> = HashMap::new();
        for line in TABLE.lines() {
            let (name, overload) = read_line(line).expect("the table is well-formed");
            functions
                .entry(name)
                .or_insert_with(|| Function {
                    name,
                    overloads: Vec::new(),
                })
                .overloads
                .push(overload);
        }
        functions
    })
}

fn read_line(line: &'static str) -> Option<(&'static str, Overload)> {
    let mut words = line.splitn(5, ' ');
    let (major, minor) = words.next()?.split_once('.')?;
    let since = Version::new(major.parse().ok()?, minor.parse().ok()?);
    let (name, id, style) = (words.next()?, words.next()?, words.next()?);
    let (args, result) = words.next()?.split_once(" -> ")?;
    let args = args.strip_prefix('(')?.strip_suffix(')')?;
    let args: Vec<Type> = split_parameters(args).map(Type::parse).collect();
    let result = Type::parse(result);
    let is_generic = args.iter().any(has_param) || has_param(&result);
    let overload = Overload {
        id,
        since,
        is_member: style == "member",
        args,
        result,
        is_generic,
    };
    Some((name, overload))
}

fn has_param(t: &Type) -> bool {
    matches!(t, Type::Param(_)) || t.parameters().into_iter().any(has_param)
}

impl Library {
    /// The function of that name, if it has any signature in this version.
    pub(crate) fn find(self, name: &str) -> Option<&'static Function> {
        if name == MUTATION_FUNCTION && !self.mutation {
            return None;
        }
        let function = table().get(name)?;
        function
            .overloads
            .iter()
            .any(|o| self.has(o))
            .then_some(function)
    }

    /// Whether this version has that signature.
    pub(crate) fn has(self, overload: &Overload) -> bool {
        overload.since <= self.version || overload.since <= Version::new(1, 25)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_read_wholly() {
        let n: usize = table().values().map(|f| f.overloads.len()).sum();
        assert_eq!(n, TABLE.lines().count());
        let old = Library {
            version: Version::new(1, 27),
            mutation: false,
        };
        assert!(old.find("optional.of").is_none() && old.find("allowed").is_some());
        assert!(old.find(MUTATION_FUNCTION).is_none());
    }
}
