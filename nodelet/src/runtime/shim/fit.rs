//! Last changes to a specification before libcontainer gets it: what this machine allows, and what libcontainer reads
//! differently from the OCI specification.

use serde_json::Value;

use crate::runtime::spec::capabilities::ALL;

/// What this process may hand on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Allowance {
    /// The bounding set: a machine that is itself a container lacks some capabilities.
    capabilities: u64,
    /// The lowest OOM score adjustment that may be set.
    oom_score_min: i64,
}

/// The number of CAP_SYS_RESOURCE, without which an OOM score cannot be lowered.
const SYS_RESOURCE: usize = 24;

impl Allowance {
    /// Reads this process's own.
    pub(super) fn read() -> Self {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let bounding = status.lines().find_map(|line| line.strip_prefix("CapBnd:"));
        let capabilities = bounding
            .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
            .unwrap_or(u64::MAX);
        let own = std::fs::read_to_string("/proc/self/oom_score_adj").ok();
        let own = own.and_then(|text| text.trim().parse().ok()).unwrap_or(0);
        let free = capabilities >> SYS_RESOURCE & 1 == 1;
        Self {
            capabilities,
            oom_score_min: if free { -1000 } else { own },
        }
    }

    fn has(&self, capability: &str) -> bool {
        let name = capability.strip_prefix("CAP_").unwrap_or(capability);
        ALL.iter()
            .position(|known| *known == name)
            .is_some_and(|bit| self.capabilities >> bit & 1 == 1)
    }
}

/// Takes out what the machine would refuse: capabilities it lacks, an OOM score below the lowest.
pub(super) fn to_machine(oci: &mut Value, allowance: &Allowance) {
    for set in ["bounding", "effective", "permitted"] {
        if let Some(list) = oci["process"]["capabilities"][set].as_array_mut() {
            list.retain(|name| name.as_str().is_some_and(|name| allowance.has(name)));
        }
    }
    let score = &mut oci["process"]["oomScoreAdj"];
    if let Some(wanted) = score.as_i64() {
        *score = wanted.max(allowance.oom_score_min).into();
    }
}

/// A masked comparison holds, says OCI, if `arg & value == valueTwo`; libcontainer 0.7 takes the two the other way
/// round.
pub(super) fn to_libcontainer(oci: &mut Value) {
    let Some(rules) = oci
        .pointer_mut("/linux/seccomp/syscalls")
        .and_then(Value::as_array_mut)
    else {
        return;
    };
    for rule in rules {
        let Some(arguments) = rule.get_mut("args").and_then(Value::as_array_mut) else {
            continue;
        };
        for argument in arguments {
            if argument["op"] == "SCMP_CMP_MASKED_EQ" {
                let value = argument["value"].take();
                let two = argument["valueTwo"].take();
                argument["value"] = if two.is_null() { 0.into() } else { two };
                argument["valueTwo"] = value;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_the_machine_lacks_is_taken_out() {
        let mut oci = json!({"process": {"oomScoreAdj": -997, "capabilities": {
            "bounding": ["CAP_CHOWN", "CAP_SYS_RESOURCE"], "effective": [], "permitted": []}}});
        to_machine(
            &mut oci,
            &Allowance {
                capabilities: 1,
                oom_score_min: -5,
            },
        );
        assert_eq!(
            oci["process"]["capabilities"]["bounding"],
            json!(["CAP_CHOWN"])
        );
        assert_eq!(oci["process"]["oomScoreAdj"], -5);
    }

    #[test]
    fn masked_comparisons_are_turned_round() {
        let mut oci = json!({"linux": {"seccomp": {"syscalls": [{"names": ["clone"], "args": [
            {"index": 0, "op": "SCMP_CMP_MASKED_EQ", "value": 7, "valueTwo": 0}]}, {"names": ["read"]}]}}});
        to_libcontainer(&mut oci);
        let argument = &oci["linux"]["seccomp"]["syscalls"][0]["args"][0];
        assert_eq!(
            (&argument["value"], &argument["valueTwo"]),
            (&json!(0), &json!(7))
        );
    }
}
