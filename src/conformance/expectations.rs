//! What is known to fail where, and why.

use crate::gpu::Adapter;

/// A failure that is known: it is reported with its reason, and does not fail the suite. Once it passes, the suite says so,
/// and its entry is to be removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expectation {
    /// A part of the adapter's name.
    pub adapter: &'static str,
    /// A part of the driver's name and version.
    pub driver: &'static str,
    /// The backend, as `devices` names it; empty for any.
    pub backend: &'static str,
    /// The kernel's name.
    pub kernel: &'static str,
    /// A part of the variant's `Debug` form.
    pub variant: &'static str,
    /// What goes wrong.
    pub reason: &'static str,
    /// Where it was reported.
    pub upstream: &'static str,
}

/// The known failures.
pub const EXPECTATIONS: &[Expectation] = &[];

/// Where a suite runs, as far as expectations distinguish.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Target {
    /// The adapter's name.
    pub adapter: String,
    /// The driver's name and version.
    pub driver: String,
    /// The backend.
    pub backend: String,
}

impl Target {
    /// The CPU kernels on the CPU.
    pub fn cpu() -> Self {
        Self { adapter: "cpu".to_owned(), ..Self::default() }
    }
}

impl From<&Adapter> for Target {
    fn from(adapter: &Adapter) -> Self {
        Self { adapter: adapter.name().to_owned(), driver: adapter.driver(), backend: adapter.backend() }
    }
}

impl Expectation {
    /// Whether it is about this variant of this kernel on this adapter.
    pub fn matches(&self, target: &Target, kernel: &str, variant: &str) -> bool {
        target.adapter.contains(self.adapter)
            && target.driver.contains(self.driver)
            && (self.backend.is_empty() || target.backend == self.backend)
            && kernel == self.kernel
            && variant.contains(self.variant)
    }
}
