//! What Kubernetes' own types write, read and written by ours.

mod protobuf;
