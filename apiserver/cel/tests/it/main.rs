//! Replays what kube-apiserver's own libraries answered (see `peer/`).

mod answers;
mod properties;
