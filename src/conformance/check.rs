//! A quick check of some kernels on a device.

use std::fmt;

use super::Suite;
use crate::gpu::{Device, GpuError};

/// The result of running a few cases of the kernels that a model needs on a device. Where the feature `serde` is on, it can be
/// kept: it is valid for one [fingerprint](Device::fingerprint) and one model shape.
#[derive(Clone, Debug, Default, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct DeviceCheck {
    /// The device's fingerprint: adapter, driver, and this library's version.
    pub fingerprint: String,
    /// The number of kernel variants that were run.
    pub kernels: u32,
    /// The number of cases.
    pub cases: u32,
    /// The cases with a wrong result; none on a device that computes correctly.
    pub wrong: Vec<WrongResult>,
}

/// A case in which a kernel's result is wrong.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct WrongResult {
    /// The kernel's name, such as `linear/gemv`.
    pub kernel: String,
    /// Its variant.
    pub variant: String,
    /// The case.
    pub case: String,
    /// The largest error divided by the kernel's bound; `None` for a kernel that does not run, and for a NaN.
    pub error_ratio: Option<f64>,
    /// The place of that error with the value found, or the reason that the kernel does not run.
    pub at: String,
}

impl fmt::Display for WrongResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kernel, variant, case, at, .. } = self;
        write!(f, "kernel {kernel} ({variant}) is wrong in case {case:?}: {at}")
    }
}

impl DeviceCheck {
    /// Returns whether every result was right.
    pub fn passed(&self) -> bool {
        self.wrong.is_empty()
    }
}

impl Suite {
    /// Runs at most `most_cases` cases of each variant, by size: the smallest, and others at even distances below the largest,
    /// which small cases alone would leave untested. Calls `progress` with the number of variants that were run, and of
    /// all. The device is awaited after each case, so that a page goes on between them.
    ///
    /// # Errors
    /// Those of [`Suite::run`].
    pub async fn check(
        &self,
        device: &Device,
        most_cases: usize,
        mut progress: impl FnMut(usize, usize),
    ) -> Result<DeviceCheck, GpuError> {
        let mut check = DeviceCheck { fingerprint: device.fingerprint(), ..DeviceCheck::default() };
        for subject in &self.subjects {
            let mut trials: Vec<_> = subject.trials().collect();
            trials.sort_by_key(|trial| trial.words());
            let (all, chosen) = (trials.len(), most_cases.min(trials.len()));
            let is_chosen = |i: usize| (0..chosen).any(|n| n * all / chosen == i);
            for (_, trial) in trials.into_iter().enumerate().filter(|(i, _)| is_chosen(*i)) {
                let outcome = trial.outcome(device).await?;
                check.cases += 1;
                if !outcome.passed() {
                    check.wrong.push(WrongResult {
                        kernel: subject.kernel().to_owned(),
                        variant: subject.variant(),
                        case: outcome.case,
                        error_ratio: Some(outcome.worst).filter(|ratio| ratio.is_finite()),
                        at: outcome.at,
                    });
                }
            }
            check.kernels += 1;
            progress(check.kernels as usize, self.len());
        }
        Ok(check)
    }
}
