//! The `kiln` binary against real base images, registries, kernels and other tools.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr)]

mod attestations;
mod bad_input;
mod commands;
mod conformance;
mod crash;
mod cutoff;
mod daemons;
mod devices;
mod executors;
mod explain;
mod images;
mod in_container;
mod interop;
mod kiln;
mod language;
mod local_images;
mod locks;
mod network;
mod object_stores;
mod ordinary;
mod outputs;
mod platforms;
mod power;
mod property;
mod random;
mod recorded_disk;
mod registries;
mod remote_cache;
mod rootless;
mod sharing;
mod single_id;
mod storage;
mod stress;
mod threats;
mod tutorials;
