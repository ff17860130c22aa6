//! [`Traffic`]: bytes of blobs that clients send and take.
//!
//! Every piece of every blob is counted, so counting is an addition without a lock; who shows the
//! numbers reads them once a second.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes that were moved, counted by many at once.
#[derive(Debug, Default)]
pub(super) struct Traffic {
    uploaded: AtomicU64,
    downloaded: AtomicU64,
}

/// Bytes as they travelled: compressed where they were.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moved {
    /// Sent by clients.
    pub uploaded: u64,
    /// Taken by clients.
    pub downloaded: u64,
}

/// Counts the bytes of one call, for its build and for the node.
#[derive(Clone, Debug, Default)]
pub struct Meter {
    pub(super) node: Arc<Traffic>,
    pub(super) build: Arc<Traffic>,
}

// === impl Traffic ===

impl Traffic {
    /// What was counted.
    pub(super) fn moved(&self) -> Moved {
        Moved {
            uploaded: self.uploaded.load(Ordering::Relaxed),
            downloaded: self.downloaded.load(Ordering::Relaxed),
        }
    }
}

// === impl Moved ===

impl Moved {
    /// What came since `earlier`.
    pub(super) fn since(self, earlier: Self) -> Self {
        Self {
            uploaded: self.uploaded.saturating_sub(earlier.uploaded),
            downloaded: self.downloaded.saturating_sub(earlier.downloaded),
        }
    }
}

// === impl Meter ===

impl Meter {
    /// A client sent `bytes` of blobs.
    pub fn uploaded(&self, bytes: u64) {
        self.node.uploaded.fetch_add(bytes, Ordering::Relaxed);
        self.build.uploaded.fetch_add(bytes, Ordering::Relaxed);
    }

    /// A client was sent `bytes` of blobs.
    pub fn downloaded(&self, bytes: u64) {
        self.node.downloaded.fetch_add(bytes, Ordering::Relaxed);
        self.build.downloaded.fetch_add(bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_meter_counts_for_both() {
        let meter = Meter::default();
        let before = meter.node.moved();
        meter.uploaded(3);
        meter.downloaded(4);
        meter.uploaded(5);
        let expected = Moved { uploaded: 8, downloaded: 4 };
        assert_eq!((meter.build.moved(), meter.node.moved().since(before)), (expected, expected));
    }
}
