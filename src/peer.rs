//! The other machines of the farm: who they are, where they are, and a link to each.
//!
//! `id` names machines, `trust` decides who is one of us, `members` who is there. Nothing in here knows
//! of blobs or actions: what those say to each other travels over links as messages of
//! `farmhand.peer.v1` that this module passes on.

pub mod id;
pub mod trust;

pub use id::MachineId;
pub use trust::Trust;
