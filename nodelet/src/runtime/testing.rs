//! A runtime without containers, for tests of what stands above it.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Mutex;

use async_trait::async_trait;
use corral_shim::protocol::{ContainerState, ExitRecord};
use tokio::sync::watch;

use super::{ContainerRuntime, ContainerSpec, Error, ExecSpec, SandboxSpec, SandboxState, Session};

/// Keeps containers in memory; they end when they are signalled or told to.
#[derive(Default)]
pub struct FakeRuntime {
    /// Guards the sandboxes; never held across an await.
    sandboxes: Mutex<HashMap<String, watch::Sender<SandboxState>>>,
}

impl FakeRuntime {
    /// Ends a container with an exit code.
    pub fn end(&self, uid: &str, id: &str, code: i32) {
        self.change(uid, |containers| {
            for container in containers
                .iter_mut()
                .filter(|container| container.id == id && container.exit.is_none())
            {
                container.exit = Some(ExitRecord {
                    code,
                    signal: None,
                    oom_killed: false,
                    started_at: container.started_at.clone().unwrap_or_default(),
                    finished_at: corral_shim::exit::now(),
                });
            }
        });
    }

    /// The ids of running containers.
    pub fn running(&self, uid: &str) -> Vec<String> {
        let sandboxes = self
            .sandboxes
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        match sandboxes.get(uid).map(|sender| sender.borrow().clone()) {
            Some(SandboxState::Alive(list)) => list
                .into_iter()
                .filter(|container| container.exit.is_none())
                .map(|container| container.id)
                .collect(),
            _ => Vec::new(),
        }
    }

    fn change(&self, uid: &str, change: impl FnOnce(&mut Vec<ContainerState>)) {
        let sandboxes = self
            .sandboxes
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(sender) = sandboxes.get(uid) {
            sender.send_modify(|state| {
                if let SandboxState::Alive(containers) = state {
                    change(containers);
                }
            });
        }
    }
}

#[async_trait]
impl ContainerRuntime for FakeRuntime {
    async fn create_sandbox(&self, spec: &SandboxSpec) -> Result<(), Error> {
        let sender = watch::channel(SandboxState::Alive(Vec::new())).0;
        self.sandboxes
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .insert(spec.uid.clone(), sender);
        Ok(())
    }

    async fn sandboxes(&self) -> Result<Vec<String>, Error> {
        let sandboxes = self
            .sandboxes
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        Ok(sandboxes.keys().cloned().collect())
    }

    async fn watch(&self, uid: &str) -> Result<watch::Receiver<SandboxState>, Error> {
        let sandboxes = self
            .sandboxes
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        sandboxes
            .get(uid)
            .map(watch::Sender::subscribe)
            .ok_or(Error::Lost)
    }

    async fn remove_sandbox(&self, uid: &str) -> Result<(), Error> {
        self.sandboxes
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .remove(uid);
        Ok(())
    }

    fn namespace(&self, uid: &str, name: &str) -> PathBuf {
        PathBuf::from("/nonexistent").join(uid).join(name)
    }

    async fn start(&self, uid: &str, container: &ContainerSpec) -> Result<String, Error> {
        let now = corral_shim::exit::now();
        self.change(uid, |containers| {
            containers.push(ContainerState {
                id: container.id.clone(),
                pid: Some(1),
                started_at: Some(now.clone()),
                exit: None,
            });
        });
        Ok(now)
    }

    async fn signal(&self, uid: &str, id: &str, signal: i32, _all: bool) -> Result<(), Error> {
        self.end(uid, id, 128 + signal);
        Ok(())
    }

    async fn remove(&self, uid: &str, id: &str) -> Result<(), Error> {
        self.change(uid, |containers| {
            containers.retain(|container| container.id != id)
        });
        Ok(())
    }

    async fn exec(&self, _uid: &str, _id: &str, _exec: &ExecSpec) -> Result<Session, Error> {
        Err(Error::Lost)
    }

    async fn attach(&self, _uid: &str, _id: &str, _streams: &ExecSpec) -> Result<Session, Error> {
        Err(Error::Lost)
    }

    async fn resize(&self, _: &str, _: &str, _: Option<i32>, _: u16, _: u16) -> Result<(), Error> {
        Ok(())
    }
}
