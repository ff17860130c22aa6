//! The store of the whole farm: every blob and every action result on as many disks as the farm keeps
//! copies, wherever it came from.
//!
//! [`placement`] says on which machines an entry belongs, [`roster`] who of them counts, [`owed`] what
//! is to be asked and sent so that it is so; all three are pure. [`copies`] is what they need of the store
//! here and of the other machines; [`calls`] asks and gives over a link, in the words of [`messages`], compressed
//! where [`compress`] finds it worth it. The driver has them work together.
//! [`cas`] and [`action_cache`] are what the rest of the node sees: stores that look on other machines for
//! what is not here.
//!
//! What is promised: what was acknowledged here is on this disk, and soon on as many as there should be;
//! nothing waits for a machine that does not answer; what comes from others is verified as anything else.

pub mod acknowledged;
pub mod action_cache;
pub mod calls;
pub mod candidates;
pub mod cas;
pub mod census;
pub mod compress;
pub mod copies;
pub mod driver;
pub mod elsewhere;
pub mod hedge;
pub mod messages;
pub mod owed;
pub mod placement;
pub mod roster;
#[cfg(test)]
mod simulation;
