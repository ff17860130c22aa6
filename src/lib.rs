//! Farmhand: a personal build farm in one binary.
//!
//! The map of this crate, lowest layer first; a module may use those above it in this list and
//! none below (a test reads the `use crate::` lines):
//!
//! - [`digest`], [`instance`], [`path`], [`request_metadata`], [`platform`], [`merkle`]: the values of the field,
//!   parsed once;
//! - [`index`]: the embedded key-value index, the only file that names its engine;
//! - [`peer`]: the other machines: who they are, and a link to each;
//! - [`cas`]: blobs by digest; [`action_cache`]: results by action;
//! - [`replication`]: the store of the whole farm: who has which copy, and who should;
//! - [`miss`]: why there was no result;
//! - [`worker`]: staging inputs, running commands, collecting outputs;
//! - [`execution`]: operations, the queue, the scheduler that drives it;
//! - [`activity`]: what a person may see of operations, builds and kinds of actions, as it changes;
//! - [`history`]: what became of operations, on disk;
//! - [`asset`]: content by name, downloaded or pushed;
//! - [`rpc`]: one file for each gRPC service, and the only mapping of errors to statuses;
//! - [`node`]: the composition root: what runs in this process;
//! - [`cli`]: the command line;
//! - `fuzzing`: targets for fuzzers, in builds for them and for tests only.
//!
//! [`recent`], [`dice`], [`tasks`], [`telemetry`] and [`config`] are visible to all.

pub mod action_cache;
pub mod activity;
pub mod asset;
pub mod cas;
pub mod cli;
pub mod config;
pub mod dice;
pub mod digest;
pub mod execution;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
pub mod history;
pub mod index;
pub mod instance;
pub mod merkle;
pub mod miss;
pub mod node;
pub mod path;
pub mod peer;
pub mod platform;
pub mod recent;
pub mod replication;
pub mod request_metadata;
pub mod rpc;
pub mod tasks;
pub mod telemetry;
pub mod worker;
