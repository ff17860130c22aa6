//! The connection to the node.
