//! Expressions that choose devices: of ResourceClaims and DeviceClasses.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use crate::admission::CompileError;
use crate::decl::DeclType;
use crate::env::Env;
use crate::types::Type;
use crate::version::Version;

/// What the evaluation of one may cost at most.
const COST_MAX: u64 = 1_000_000;
/// Most attributes, and most capacities, of a device.
const ENTRIES_MAX: i64 = 32;
/// Longest value of an attribute.
const VALUE_LENGTH_MAX: i64 = 64;
/// Longest name of a driver.
const DRIVER_LENGTH_MAX: i64 = 63;
const QUANTITY: &str = "kubernetes.Quantity";

/// The environment of expressions that are new.
static ENV: LazyLock<Env> = LazyLock::new(|| {
    // By domain, and there by name.
    let twice = |t| DeclType::map(DeclType::map(t, ENTRIES_MAX), ENTRIES_MAX);
    let value = DeclType::simple(Type::Dyn, 1, VALUE_LENGTH_MAX);
    let fields = [
        (
            "driver",
            DeclType::simple(Type::String, 2, DRIVER_LENGTH_MAX),
        ),
        ("attributes", twice(value)),
        ("capacity", twice(DeclType::of(Type::object(QUANTITY)))),
        (
            "allowMultipleAllocations",
            DeclType::simple(Type::Bool, 1, 1),
        ),
    ];
    let fields: BTreeMap<_, _> = fields
        .into_iter()
        .map(|(name, t)| (name.to_owned(), Arc::new(t)))
        .collect();
    let device = DeclType::object(Some("kubernetes.DRADevice"), fields, 2);
    Env::new(Version::COMPATIBLE).with_data("device", &Arc::new(device))
});

/// What an expression has wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wrong {
    /// It can't be read, or gives the wrong thing.
    Invalid(CompileError),
    /// It may take too long.
    TooComplex,
}

/// Checks an expression that tells whether a device is one that is wanted.
///
/// # Errors
/// What is wrong with it, in kube-apiserver's words.
pub fn check(text: &str) -> Result<(), Wrong> {
    let invalid = |detail| {
        Wrong::Invalid(CompileError {
            detail,
            internal: false,
        })
    };
    // A macro that only these expressions have, and that the reader does not know: what uses it is taken as it is.
    if text.contains("cel.bind") {
        return Ok(());
    }
    let program = ENV
        .compile(text)
        .map_err(|issues| invalid(format!("compilation failed: {issues}")))?;
    let got = program.output_type();
    if !matches!(got, Type::Bool | Type::Dyn) {
        let got = got.declared();
        let why = format!("must evaluate to bool or the unknown type, not {got}");
        return Err(invalid(why));
    }
    match program.estimated_cost().max > COST_MAX {
        true => Err(Wrong::TooComplex),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_chosen_by_what_it_is() {
        for text in [
            "device.driver == 'd' && device.attributes['d'].model == 'x'",
            "device.attributes['d'].flag",
            "device.capacity['d'].memory.compareTo(quantity('1Gi')) >= 0",
            "cel.bind(d, device.attributes['d'], d.a && d.b)",
            "device.attributes['d'].version.isGreaterThan(semver('1.0.0'))",
            "device.allowMultipleAllocations",
        ] {
            assert_eq!(check(text), Ok(()), "{text}");
        }
        let invalid = |text| match check(text) {
            Err(Wrong::Invalid(error)) => error.detail,
            other => panic!("{text}: {other:?}"),
        };
        assert_eq!(
            invalid("plain").lines().next(),
            Some(
                "compilation failed: ERROR: <input>:1:1: undeclared reference to 'plain' (in container '')"
            )
        );
        assert_eq!(
            invalid("device.driver"),
            "must evaluate to bool or the unknown type, not string"
        );
        let nested = "device.attributes.all(a, device.attributes.all(b, device.attributes.all(c, \
                      device.attributes.all(d, a + b + c + d != ''))))";
        assert_eq!(check(nested), Err(Wrong::TooComplex));
    }
}
