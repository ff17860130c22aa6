//! Black-box tests: the real binary, real sockets, port 0. One file for each group of protocol
//! requirements (`requirements` is the table that shows a missing row), and for each thing a person may
//! look into over the control API.

#![expect(deprecated, reason = "the old fields of the protocol are served, so they are tested")]
#![expect(clippy::unwrap_used, reason = "a test that meets what it did not expect should end there")]

mod action_cache;
mod action_output;
mod asset;
mod bad_input;
mod browsing;
mod byte_stream;
mod capabilities;
mod cas;
mod chunks;
mod cli;
mod compression;
mod copies;
mod dashboard;
mod digests;
mod errors;
mod execution;
mod farm_key;
mod guests;
mod history;
mod hostile;
mod hostile_actions;
mod http;
mod joining;
mod layers;
mod links;
mod log_streams;
mod metadata;
mod node_log;
mod outputs;
mod persistent_workers;
mod pins;
mod platform;
mod priorities;
mod recorded;
mod reflection;
mod request_metadata;
mod requirements;
mod root;
mod running;
mod sandbox;
mod secrets;
mod staging;
mod steer;
mod strangers;
mod support;
mod validity;
mod watch;
