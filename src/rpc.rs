//! The RPC edge.

pub mod control;
