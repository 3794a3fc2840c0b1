//! Rules of the level `restricted`.

use std::collections::BTreeSet;

use corral_api::k8s::api::core::v1::Volume;

use super::baseline::{self, is_profile};
use super::{Each, Subject, Violation, containers, plural, quoted, setters};

pub(super) fn escalation(subject: &Subject<'_>) -> Option<Violation> {
    let names = subject.those(|each| {
        let given = each
            .security
            .and_then(|context| context.allow_privilege_escalation);
        given != Some(false)
    });
    if names.is_empty() {
        return None;
    }
    let detail = format!(
        "{} must set securityContext.allowPrivilegeEscalation=false",
        containers(&names)
    );
    Violation::new("allowPrivilegeEscalation != false", detail)
}

pub(super) fn escalation_1_25(subject: &Subject<'_>) -> Option<Violation> {
    if subject.is_windows() {
        return None;
    }
    escalation(subject)
}

pub(super) fn capabilities(subject: &Subject<'_>) -> Option<Violation> {
    let of = |each: &Each<'_>| {
        each.security
            .and_then(|context| context.capabilities.clone())
    };
    let added = |each: &Each<'_>| -> Vec<String> {
        let added = of(each)
            .and_then(|capabilities| capabilities.add)
            .unwrap_or_default();
        added
            .into_iter()
            .filter(|added| added != "NET_BIND_SERVICE")
            .collect()
    };
    let keeps = subject.those(|each| {
        let dropped = of(each)
            .and_then(|capabilities| capabilities.drop)
            .unwrap_or_default();
        !dropped.iter().any(|dropped| dropped == "ALL")
    });
    let adds = subject.those(|each| !added(each).is_empty());
    let mut details = Vec::new();
    if !keeps.is_empty() {
        details.push(format!(
            "{} must set securityContext.capabilities.drop=[\"ALL\"]",
            containers(&keeps)
        ));
    }
    if !adds.is_empty() {
        let all: BTreeSet<String> = subject.containers.iter().flat_map(added).collect();
        let all: Vec<String> = all.into_iter().collect();
        details.push(format!(
            "{} must not include {} in securityContext.capabilities.add",
            containers(&adds),
            quoted(&all)
        ));
    }
    if details.is_empty() {
        return None;
    }
    Violation::new("unrestricted capabilities", details.join("; "))
}

pub(super) fn capabilities_1_25(subject: &Subject<'_>) -> Option<Violation> {
    if subject.is_windows() {
        return None;
    }
    capabilities(subject)
}

/// What a volume is of; `None` for what every pod may have.
fn volume_type(volume: &Volume) -> Option<&'static str> {
    let allowed = volume.config_map.is_some()
        || volume.csi.is_some()
        || volume.downward_api.is_some()
        || volume.empty_dir.is_some()
        || volume.ephemeral.is_some()
        || volume.image.is_some()
        || volume.persistent_volume_claim.is_some()
        || volume.projected.is_some()
        || volume.secret.is_some();
    if allowed {
        return None;
    }
    let types = [
        ("hostPath", volume.host_path.is_some()),
        ("gcePersistentDisk", volume.gce_persistent_disk.is_some()),
        (
            "awsElasticBlockStore",
            volume.aws_elastic_block_store.is_some(),
        ),
        ("gitRepo", volume.git_repo.is_some()),
        ("nfs", volume.nfs.is_some()),
        ("iscsi", volume.iscsi.is_some()),
        ("glusterfs", volume.glusterfs.is_some()),
        ("rbd", volume.rbd.is_some()),
        ("flexVolume", volume.flex_volume.is_some()),
        ("cinder", volume.cinder.is_some()),
        ("cephfs", volume.cephfs.is_some()),
        ("flocker", volume.flocker.is_some()),
        ("fc", volume.fc.is_some()),
        ("azureFile", volume.azure_file.is_some()),
        ("vsphereVolume", volume.vsphere_volume.is_some()),
        ("quobyte", volume.quobyte.is_some()),
        ("azureDisk", volume.azure_disk.is_some()),
        (
            "photonPersistentDisk",
            volume.photon_persistent_disk.is_some(),
        ),
        ("portworxVolume", volume.portworx_volume.is_some()),
        ("scaleIO", volume.scale_io.is_some()),
        ("storageos", volume.storageos.is_some()),
    ];
    let found = types.iter().find(|(_, given)| *given);
    Some(found.map_or("unknown", |(name, _)| name))
}

pub(super) fn volumes(subject: &Subject<'_>) -> Option<Violation> {
    let volumes = subject.spec.volumes.iter().flatten();
    let bad: Vec<(&str, &str)> = volumes
        .filter_map(|volume| Some((volume.name.as_str(), volume_type(volume)?)))
        .collect();
    if bad.is_empty() {
        return None;
    }
    let names: Vec<&str> = bad.iter().map(|(name, _)| *name).collect();
    let types: BTreeSet<&str> = bad.iter().map(|(_, type_)| *type_).collect();
    let types: Vec<&str> = types.into_iter().collect();
    let detail = format!(
        "{} {} {} {} {}",
        plural("volume", "volumes", names.len()),
        quoted(&names),
        plural("uses", "use", names.len()),
        plural(
            "restricted volume type",
            "restricted volume types",
            types.len()
        ),
        quoted(&types)
    );
    Violation::new("restricted volume types", detail)
}

pub(super) fn non_root(subject: &Subject<'_>) -> Option<Violation> {
    const REASON: &str = "runAsNonRoot != true";
    let of_pod = subject.spec.security_context.as_ref();
    let of_pod = of_pod.and_then(|context| context.run_as_non_root);
    let of = |each: &Each<'_>| each.security.and_then(|context| context.run_as_non_root);
    let explicit = subject.those(|each| of(each) == Some(false));
    if let Some(who) = setters(of_pod == Some(false), &explicit) {
        let detail = format!("{who} must not set securityContext.runAsNonRoot=false");
        return Violation::new(REASON, detail);
    }
    let implicit = subject.those(|each| of(each).is_none() && of_pod != Some(true));
    if implicit.is_empty() {
        return None;
    }
    let detail = format!(
        "pod or {} must set securityContext.runAsNonRoot=true",
        containers(&implicit)
    );
    Violation::new(REASON, detail)
}

pub(super) fn non_root_1_35(subject: &Subject<'_>) -> Option<Violation> {
    if subject.has_own_users() {
        return None;
    }
    non_root(subject)
}

pub(super) fn user(subject: &Subject<'_>) -> Option<Violation> {
    let of_pod = subject.spec.security_context.as_ref();
    let pod = of_pod.is_some_and(|context| context.run_as_user == Some(0));
    let names = subject.those(|each| each.security.is_some_and(|s| s.run_as_user == Some(0)));
    let who = setters(pod, &names)?;
    Violation::new("runAsUser=0", format!("{who} must not set runAsUser=0"))
}

pub(super) fn user_1_35(subject: &Subject<'_>) -> Option<Violation> {
    if subject.has_own_users() {
        return None;
    }
    user(subject)
}

pub(super) fn seccomp(subject: &Subject<'_>) -> Option<Violation> {
    if let Some(explicit) = baseline::seccomp(subject) {
        return Some(explicit);
    }
    let of_pod = subject.spec.security_context.as_ref();
    let of_pod = of_pod.and_then(|context| context.seccomp_profile.as_ref());
    if of_pod.is_some_and(|profile| is_profile(&profile.type_)) {
        return None;
    }
    let implicit = subject.those(|each| {
        let profile = each
            .security
            .and_then(|context| context.seccomp_profile.as_ref());
        profile.is_none()
    });
    if implicit.is_empty() {
        return None;
    }
    let detail = format!(
        "pod or {} must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\"",
        containers(&implicit)
    );
    Violation::new("seccompProfile", detail)
}

pub(super) fn seccomp_1_25(subject: &Subject<'_>) -> Option<Violation> {
    if subject.is_windows() {
        return None;
    }
    seccomp(subject)
}
