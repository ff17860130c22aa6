//! What the black-box tests share: a node as a child process, clients, and builders for actions.

pub(crate) mod action;
pub(crate) mod client;
pub(crate) mod control;
pub(crate) mod http;
pub(crate) mod node;
pub(crate) mod origin;
pub(crate) mod wire;

pub(crate) use action::{ActionBuilder, Outcome};
pub(crate) use client::Client;
pub(crate) use node::Node;

/// Bytes that differ by `seed`, incompressible.
pub(crate) fn random_bytes(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u8
        })
        .collect()
}
