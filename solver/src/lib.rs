//! A Dockerfile and arguments to a graph of operations; and that graph to results.
//!
//! Here: the plan (stages, operations, image config), keys, scheduling, the operations themselves, why a step ran.
//! Not here: how images are assembled and shipped (`kiln`), how a process is confined (`kiln-sandbox`).
//!
//! Start at [`plan::plan`], then [`solve::Solver::solve`].
#![forbid(unsafe_code)]
// An error ends a build: what it says matters, what it weighs does not.
#![allow(clippy::result_large_err)]

pub mod event;
pub mod explain;
pub mod git_url;
pub mod graph;
pub mod plan;
pub mod solve;
