//! `corral controllers`: the controllers as a process of their own.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{bail, ensure};
use clap::Args;
use corral_controllers::{ClientFactory, Name, SigningCa};
use corral_nodelet::network::range::Range;

use super::component::accounts::Accounts;
use super::component::shown::read;
use super::component::{Component, ComponentArgs};
use super::work::{self, CONTROLLERS_LEASE, Candidate, Controllers};

/// Where kube-controller-manager tells of health and metrics.
const PORT: u16 = 10_257;
/// All controllers, where `--controllers` names some.
const ALL: &str = "*";

/// Start the controllers alone, for any Kubernetes API server. Flags that kube-controller-manager has, too, mean the same.
#[derive(Debug, Args)]
pub struct ControllersArgs {
    #[command(flatten)]
    component: ComponentArgs,
    /// The controllers that run: * for all, NAME for one more, -NAME for one less.
    #[arg(
        long,
        value_delimiter = ',',
        default_value = ALL,
        allow_hyphen_values = true,
        value_name = "NAMES"
    )]
    controllers: Vec<String>,
    /// Let each controller act in the name of a ServiceAccount of its own in kube-system, which is made if it is missing;
    /// otherwise all act as the user of the kubeconfig, who then needs the rights of all.
    #[arg(long, default_value_t = false, action = clap::ArgAction::Set, num_args = 0..=1, require_equals = true,
        default_missing_value = "true", value_name = "BOOL")]
    use_service_account_credentials: bool,
    /// The certificates that pods know the API server by, in PEM: every namespace gets them in the ConfigMap
    /// kube-root-ca.crt (default: those of the kubeconfig).
    #[arg(long, value_name = "FILE")]
    root_ca_file: Option<PathBuf>,
    /// The authority that signs approved requests for certificates, in PEM. Without it that controller does not run.
    #[arg(long, value_name = "FILE", requires = "cluster_signing_key_file")]
    cluster_signing_cert_file: Option<PathBuf>,
    /// The key of that authority.
    #[arg(long, value_name = "FILE", requires = "cluster_signing_cert_file")]
    cluster_signing_key_file: Option<PathBuf>,
    /// Give each node a part of the addresses of all pods.
    #[arg(long, default_value_t = false, action = clap::ArgAction::Set, num_args = 0..=1, require_equals = true,
        default_missing_value = "true", value_name = "BOOL")]
    allocate_node_cidrs: bool,
    /// The addresses of all pods.
    #[arg(long, value_name = "NETWORK")]
    cluster_cidr: Option<Range>,
}

/// Runs until told to stop.
///
/// # Errors
/// When they cannot start, or end by themselves.
pub async fn run(args: ControllersArgs) -> anyhow::Result<()> {
    let ControllersArgs {
        component: common,
        controllers,
        use_service_account_credentials,
        root_ca_file,
        cluster_signing_cert_file,
        cluster_signing_key_file,
        allocate_node_cidrs,
        cluster_cidr,
    } = args;
    ensure!(
        !allocate_node_cidrs || cluster_cidr.is_some(),
        "--allocate-node-cidrs needs --cluster-cidr"
    );
    let enabled = enabled(&controllers)?;
    let root_ca = root_ca_file.as_deref().map(read).transpose()?;
    let signing_ca = match (cluster_signing_cert_file, cluster_signing_key_file) {
        (Some(certificate), Some(key)) => Some(SigningCa {
            certificate: read(&certificate)?,
            key: read(&key)?,
        }),
        _ => None,
    };
    let Some(component) = Component::start(&common, PORT).await? else {
        return Ok(());
    };
    let client = component.api.client()?;
    let clients: ClientFactory = if use_service_account_credentials {
        let nobody = component.api.nobody()?;
        let accounts = Accounts::new(client.clone(), nobody, component.tasks().clone());
        Arc::new(move |name: &str| accounts.client(name))
    } else {
        let client = client.clone();
        Arc::new(move |_: &str| client.clone())
    };
    let candidate = Candidate {
        client,
        component: CONTROLLERS_LEASE,
        election: common.election.config(CONTROLLERS_LEASE)?,
    };
    let controllers = Controllers {
        clients,
        root_ca: root_ca.or_else(|| component.api.ca()),
        signing_ca,
        cluster_cidr: cluster_cidr
            .filter(|_| allocate_node_cidrs)
            .map(|range| range.to_string()),
        enabled,
    };
    let work = work::controllers(&component.shared, controllers);
    let running = work::run(&component.shared, candidate, work);
    component.run(running).await
}

/// The controllers that a list asks for. What is said of one by name counts more than what is said of all.
fn enabled(asked: &[String]) -> anyhow::Result<Vec<Name>> {
    for item in asked.iter().filter(|item| *item != ALL) {
        let name = item.strip_prefix('-').unwrap_or(item);
        if name.parse::<Name>().is_err() {
            let known: Vec<_> = Name::ALL.iter().map(ToString::to_string).collect();
            bail!(
                "{name:?} is not in the list of known controllers: {}",
                known.join(", ")
            );
        }
    }
    let has = |wanted: &str| asked.iter().any(|item| item == wanted);
    let wanted = |name: &&Name| {
        let name = name.to_string();
        has(&name) || (has(ALL) && !has(&format!("-{name}")))
    };
    Ok(Name::ALL.iter().filter(wanted).copied().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(list: &[&str]) -> anyhow::Result<Vec<Name>> {
        let list: Vec<_> = list.iter().map(|item| (*item).to_owned()).collect();
        enabled(&list)
    }

    #[test]
    fn controllers_are_chosen_as_by_kubernetes() {
        assert_eq!(chosen(&["*"]).expect("known"), Name::ALL);
        assert_eq!(chosen(&["job-controller"]).expect("known"), [Name::Job]);
        let less = chosen(&["*", "-job-controller"]).expect("known");
        assert!(!less.contains(&Name::Job) && less.len() == Name::ALL.len() - 1);
        let error = chosen(&["*", "-jobs"]).expect_err("unknown");
        assert!(error.to_string().contains("\"jobs\" is not in the list"));
    }
}
