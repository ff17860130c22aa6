//! What the overview knows besides the farm: which box has the keys.

use super::ListId;

/// A box of the overview.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Pane {
    /// The machines.
    #[default]
    Machines,
    /// The builds.
    Builds,
    /// What runs and waits.
    Queue,
    /// What happened.
    Events,
}

/// State of the overview.
#[derive(Clone, Debug, Default)]
pub(crate) struct Overview {
    /// The box that has the keys.
    pub(crate) pane: Pane,
}

// === impl Pane ===

impl Pane {
    /// All, in the order of the tab key.
    pub(crate) const ALL: [Self; 4] = [Self::Machines, Self::Builds, Self::Queue, Self::Events];

    /// Its list.
    pub(crate) fn list(self) -> ListId {
        match self {
            Self::Machines => ListId::OverviewMachines,
            Self::Builds => ListId::OverviewBuilds,
            Self::Queue => ListId::OverviewQueue,
            Self::Events => ListId::OverviewEvents,
        }
    }

    /// The box `steps` further on.
    pub(crate) fn step(self, steps: isize) -> Self {
        let count = Self::ALL.len();
        let at = (self as usize).wrapping_add_signed(steps).wrapping_add(count) % count;
        Self::ALL[at]
    }
}
