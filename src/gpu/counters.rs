//! Counters of what a device creates, waits for and uploads.

use std::sync::atomic::{AtomicU64, Ordering};

/// The objects created on a device since it was made, including those that were dropped. The CPU kernels create none.
#[cfg(feature = "test-util")]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Created {
    /// Buffers.
    pub buffers: u64,
    /// Bind groups.
    pub bind_groups: u64,
    /// Compiled pipelines.
    pub pipelines: u64,
}

/// A counter that threads share.
#[derive(Debug, Default)]
pub(super) struct Counter(AtomicU64);

impl Counter {
    /// Adds to the count and returns it.
    pub(super) fn add(&self, more: u64) -> u64 {
        self.0.fetch_add(more, Ordering::Relaxed).saturating_add(more)
    }

    /// Subtracts from the count, down to zero.
    pub(super) fn subtract(&self, less: u64) {
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| Some(count.saturating_sub(less)));
    }

    /// Raises the count to at least `count`.
    pub(super) fn raise_to(&self, count: u64) {
        self.0.fetch_max(count, Ordering::Relaxed);
    }

    /// Returns the count.
    pub(super) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The counters of a device.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) buffers: Counter,
    pub(super) bind_groups: Counter,
    pub(super) pipelines: Counter,
    /// Waits of the host.
    pub(super) waits: Counter,
    /// Bytes written and not yet waited for.
    pub(super) uploading: Counter,
    /// The maximum of `uploading`.
    pub(super) most_uploading: Counter,
}

#[cfg(feature = "test-util")]
impl Counters {
    pub(super) fn created(&self) -> Created {
        Created { buffers: self.buffers.get(), bind_groups: self.bind_groups.get(), pipelines: self.pipelines.get() }
    }
}
