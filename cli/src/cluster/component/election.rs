//! Flags of an election, named as those of Kubernetes' own components.

use std::time::Duration;

use anyhow::ensure;
use clap::Args;
use corral_runtime::leader::ElectionConfig;
use corral_server::duration;

use crate::cluster::work;

/// Whether and how a leader is elected.
#[derive(Debug, Clone, Args)]
pub struct ElectionArgs {
    /// Work only while this process holds the lease.
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, require_equals = true,
        default_missing_value = "true", value_name = "BOOL")]
    leader_elect: bool,
    /// How long the others wait for a leader that does not renew its lease.
    #[arg(long, default_value = "15s", value_name = "DURATION", value_parser = duration::parse)]
    leader_elect_lease_duration: Duration,
    /// How long a leader works on that cannot renew its lease; shorter than the lease.
    #[arg(long, default_value = "10s", value_name = "DURATION", value_parser = duration::parse)]
    leader_elect_renew_deadline: Duration,
    /// How often the lease is renewed, or looked at.
    #[arg(long, default_value = "2s", value_name = "DURATION", value_parser = duration::parse)]
    leader_elect_retry_period: Duration,
    /// The lease's name (default: as Kubernetes' own component has it, so that only one of both works).
    #[arg(long, value_name = "NAME")]
    leader_elect_resource_name: Option<String>,
    /// Where the lease is.
    #[arg(long, default_value = "kube-system", value_name = "NAMESPACE")]
    leader_elect_resource_namespace: String,
}

impl ElectionArgs {
    /// Whether the times fit each other.
    ///
    /// # Errors
    /// When a leader could work beyond its lease.
    pub fn validate(&self) -> anyhow::Result<()> {
        /// Candidates spread their attempts by this much.
        const JITTER: f64 = 1.2;
        let (lease, deadline, retry) = (
            self.leader_elect_lease_duration,
            self.leader_elect_renew_deadline,
            self.leader_elect_retry_period,
        );
        ensure!(
            lease >= Duration::from_secs(1),
            "--leader-elect-lease-duration must be at least 1s"
        );
        ensure!(
            lease > deadline,
            "--leader-elect-lease-duration must be greater than --leader-elect-renew-deadline"
        );
        ensure!(
            !retry.is_zero() && deadline > retry.mul_f64(JITTER),
            "--leader-elect-renew-deadline must be greater than --leader-elect-retry-period * {JITTER}"
        );
        Ok(())
    }

    /// The election, if there is to be one; `lease` is what its lease is called otherwise.
    ///
    /// # Errors
    /// When the machine's name cannot be told.
    pub fn config(&self, lease: &str) -> anyhow::Result<Option<ElectionConfig>> {
        if !self.leader_elect {
            return Ok(None);
        }
        let name = self.leader_elect_resource_name.as_deref();
        Ok(Some(ElectionConfig {
            namespace: self.leader_elect_resource_namespace.clone(),
            lease_duration: self.leader_elect_lease_duration,
            renew_deadline: self.leader_elect_renew_deadline,
            retry_period: self.leader_elect_retry_period,
            ..ElectionConfig::new(name.unwrap_or(lease), &work::identity()?)
        }))
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        args: ElectionArgs,
    }

    fn args(flags: &[&str]) -> ElectionArgs {
        Command::parse_from(["corral"].iter().chain(flags)).args
    }

    #[test]
    fn an_election_is_held_as_kubernetes_does_unless_told_otherwise() {
        let config = args(&[]).config("kube-scheduler").expect("a name");
        let config = config.expect("an election");
        assert_eq!(
            (config.namespace.as_str(), config.name.as_str()),
            ("kube-system", "kube-scheduler")
        );
        assert_eq!(config.lease_duration, Duration::from_secs(15));
        let other = args(&["--leader-elect-resource-name=other"]);
        let other = other.config("kube-scheduler").expect("a name");
        assert_eq!(other.expect("an election").name, "other");
        let none = args(&["--leader-elect=false"]).config("l").expect("a name");
        assert!(none.is_none());
    }

    #[test]
    fn times_that_let_two_lead_are_refused() {
        assert!(args(&[]).validate().is_ok());
        for wrong in [
            "--leader-elect-lease-duration=10s",
            "--leader-elect-renew-deadline=2s",
            "--leader-elect-retry-period=0s",
        ] {
            assert!(args(&[wrong]).validate().is_err(), "{wrong}");
        }
    }
}
