//! What tests of a farm share with those of a single node.

#[path = "../it/support/action.rs"]
#[expect(dead_code, reason = "tests of a single node use more of it")]
mod action;
#[path = "../it/support/client.rs"]
#[expect(dead_code, reason = "tests of a single node use more of it")]
mod client;

pub(crate) use action::{ActionBuilder, Outcome, finish};
pub(crate) use client::Client;
