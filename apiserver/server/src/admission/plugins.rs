//! Which plugins run: those of Kubernetes' default, with what an administrator adds and takes away.

use std::collections::BTreeSet;

/// What a plugin is to this server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// It runs unless it is disabled.
    On,
    /// It runs if it is enabled.
    Off,
    /// It has nothing to do: what it is about is not served, as in Kubernetes by default.
    Idle,
}

use Standing::{Idle, Off, On};

/// All plugins of Kubernetes.
const KNOWN: &[(&str, Standing)] = &[
    ("AlwaysAdmit", Idle),
    ("NamespaceAutoProvision", Off),
    ("NamespaceLifecycle", On),
    ("NamespaceExists", Off),
    ("LimitPodHardAntiAffinityTopology", Off),
    ("LimitRanger", On),
    ("ServiceAccount", On),
    ("NodeRestriction", On),
    ("TaintNodesByCondition", On),
    ("AlwaysPullImages", Off),
    ("ImagePolicyWebhook", Off),
    ("PodSecurity", On),
    ("PodNodeSelector", Off),
    ("Priority", On),
    ("DefaultTolerationSeconds", On),
    ("PodTolerationRestriction", Off),
    ("EventRateLimit", Off),
    ("ExtendedResourceToleration", Off),
    ("DefaultStorageClass", On),
    ("StorageObjectInUseProtection", On),
    ("PodGroupProtection", Idle),
    ("OwnerReferencesPermissionEnforcement", Off),
    ("PersistentVolumeClaimResize", On),
    ("RuntimeClass", On),
    ("CertificateApproval", On),
    ("CertificateSigning", On),
    ("ClusterTrustBundleAttest", Idle),
    ("CertificateSubjectRestriction", On),
    ("DefaultIngressClass", On),
    ("DenyServiceExternalIPs", Off),
    ("PodTopologyLabels", On),
    ("PodGroupWorkloadExists", Idle),
    ("NodeDeclaredFeatureValidator", Idle),
    ("JobValidation", Idle),
    ("PodResizeValidator", On),
    ("MutatingAdmissionPolicy", On),
    ("MutatingAdmissionWebhook", On),
    ("ValidatingAdmissionPolicy", On),
    ("ValidatingAdmissionWebhook", On),
    ("ResourceQuota", On),
    ("AlwaysDeny", Off),
];

/// The plugins that run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plugins(BTreeSet<&'static str>);

impl Default for Plugins {
    fn default() -> Self {
        let on = KNOWN.iter().filter(|(_, standing)| *standing == On);
        Self(on.map(|(name, _)| *name).collect())
    }
}

impl Plugins {
    /// The default with some enabled and some disabled.
    ///
    /// # Errors
    /// A name that is not known, or is given on both sides.
    pub fn of(enable: &[String], disable: &[String]) -> Result<Self, String> {
        let mut plugins = Self::default();
        for (flag, names) in [("enable", enable), ("disable", disable)] {
            for name in names {
                if find(name).is_none() {
                    return Err(format!(
                        "{flag}-admission-plugins plugin {name:?} is unknown"
                    ));
                }
            }
        }
        let both: Vec<&str> = enable
            .iter()
            .filter(|name| disable.contains(name))
            .map(String::as_str)
            .collect();
        if !both.is_empty() {
            let both = both.join(" ");
            return Err(format!(
                "[{both}] in enable-admission-plugins and disable-admission-plugins overlapped"
            ));
        }
        for name in enable {
            match find(name) {
                Some((known, On | Off)) => {
                    plugins.0.insert(*known);
                }
                Some((_, Idle)) | None => {}
            }
        }
        plugins
            .0
            .retain(|name| !disable.iter().any(|other| other == name));
        Ok(plugins)
    }

    /// Those that run, in the order of their names.
    pub fn names(&self) -> impl Iterator<Item = &'static str> + '_ {
        self.0.iter().copied()
    }

    /// Whether a plugin runs.
    pub fn run(&self, name: &str) -> bool {
        debug_assert!(find(name).is_some(), "{name} is no plugin");
        self.0.contains(name)
    }
}

fn find(name: &str) -> Option<&'static (&'static str, Standing)> {
    KNOWN.iter().find(|(known, _)| *known == name)
}

/// Whether a name is that of a plugin.
pub fn is_known(name: &str) -> bool {
    find(name).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plugins_are_added_and_taken_away() {
        let of = |enable: &[&str], disable: &[&str]| {
            let owned = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
            Plugins::of(&owned(enable), &owned(disable))
        };
        let plugins = of(&["AlwaysPullImages"], &["PodSecurity"]).expect("plugins");
        assert!(plugins.run("AlwaysPullImages") && plugins.run("LimitRanger"));
        assert!(!plugins.run("PodSecurity") && !plugins.run("AlwaysDeny"));
        assert_eq!(
            of(&["Nothing"], &[]).expect_err("unknown"),
            "enable-admission-plugins plugin \"Nothing\" is unknown"
        );
        assert_eq!(
            of(&["PodSecurity"], &["PodSecurity"]).expect_err("both"),
            "[PodSecurity] in enable-admission-plugins and disable-admission-plugins overlapped"
        );
        assert!(of(&["PodGroupProtection"], &["ClusterTrustBundleAttest"]).is_ok());
    }
}
