//! A farm on a LAN: every machine a network namespace, joined by a bridge, with real multicast.
//!
//! Needs root and `ip` (iproute2). Where it cannot be had the tests say so and pass. Nothing outside of the
//! namespaces that these tests make is touched.

#![expect(clippy::disallowed_methods, reason = "a task of a test ends with it")]
#![expect(clippy::unwrap_used, reason = "a test that meets what it did not expect should end there")]

mod bazel;
mod chaos;
mod copies;
mod disk;
mod farm;
mod figures;
mod full;
mod lan;
mod ledger;
mod links;
mod losses;
mod machine;
mod stores;
mod support;
