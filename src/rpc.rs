//! The gRPC front: one file for each service.

pub mod execution;
pub mod operations;
