//! The oracle: one corpus of requests asked of kube-apiserver v1.36 and of Corral's API server, and every difference of
//! the answers told.
//!
//! ```text
//!   objects/*.yaml ─┐
//!   OpenAPI v3 ─────┴▶ corpus ─▶ requests ─┬▶ peer (kube-apiserver) ─▶ answers ─▶ data/answers.jsonl.zst
//!   cases/*.yaml ───────────────────────┘  └▶ ours (in process) ────▶ answers ─▶ compare ─▶ data/open.txt
//! ```
//!
//! `cargo xtask oracle` asks the peer anew and keeps its answers; tests replay the kept ones, without Go. What differs
//! and is known stands in `data/open.txt`, one line a case: a test fails for a difference that does not stand there,
//! and for a line that does not hold any more.
//!
//! Reading order: [`case`], [`corpus`], [`target`], [`normalise`], [`compare`], [`record`].

pub mod case;
pub mod compare;
pub mod corpus;
pub mod normalise;
pub mod open;
pub mod record;
pub mod target;
