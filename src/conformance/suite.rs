//! The kernels' test cases as a suite.

use super::{Outcome, Report};
use crate::{
    gpu::{Caps, Device, GpuError, Kernel},
    kernels::{self, Visitor, trial::Trial},
};

/// A list of kernel variants whose cases are to be run. Only one variant's cases are in memory at a time.
#[derive(Default)]
pub struct Suite {
    pub(super) subjects: Vec<Box<dyn Subject>>,
}

/// A kernel variant without its types.
pub(super) trait Subject: Send + Sync {
    fn kernel(&self) -> &'static str;
    fn variant(&self) -> String;
    fn trials(&self) -> Box<dyn ExactSizeIterator<Item = Trial> + Send>;
}

#[derive(Debug)]
struct Of<K: Kernel>(K::Variant);

impl<K: Kernel> Subject for Of<K> {
    fn kernel(&self) -> &'static str {
        K::NAME
    }

    fn variant(&self) -> String {
        format!("{:?}", self.0)
    }

    fn trials(&self) -> Box<dyn ExactSizeIterator<Item = Trial> + Send> {
        Box::new(Trial::all::<K>(self.0))
    }
}

impl std::fmt::Debug for Suite {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.subjects.iter().map(|s| (s.kernel(), s.variant()))).finish()
    }
}

impl Suite {
    /// Creates a suite of the covered variants of a device with `caps`, if the kernel's name or the variant's `Debug` form
    /// contains `pattern`.
    pub fn new(caps: &Caps, pattern: &str) -> Self {
        struct Collect<'a>(&'a Caps, &'a str, Suite);
        impl Visitor for Collect<'_> {
            fn visit<K: Kernel>(&mut self, _: K) {
                let named = K::NAME.contains(self.1);
                for variant in K::covered(self.0) {
                    if named || format!("{variant:?}").contains(self.1) {
                        self.2.subjects.push(Box::new(Of::<K>(variant)));
                    }
                }
            }
        }
        let mut collect = Collect(caps, pattern, Self::default());
        kernels::visit(&mut collect);
        collect.2
    }

    /// Creates a suite of the supported variants of a device with `caps` for which `wanted` returns true, given the kernel's name
    /// and the variant's `Debug` form.
    pub fn of(caps: &Caps, wanted: impl Fn(&'static str, &str) -> bool) -> Self {
        struct Collect<'a, W>(&'a Caps, W, Suite);
        impl<W: Fn(&'static str, &str) -> bool> Visitor for Collect<'_, W> {
            fn visit<K: Kernel>(&mut self, _: K) {
                for variant in K::supported(self.0) {
                    if self.1(K::NAME, &format!("{variant:?}")) {
                        self.2.subjects.push(Box::new(Of::<K>(variant)));
                    }
                }
            }
        }
        let mut collect = Collect(caps, wanted, Self::default());
        kernels::visit(&mut collect);
        collect.2
    }

    /// Keeps the variants for which `keep` returns true, given the kernel's name and the variant's `Debug` form.
    pub fn retain(&mut self, mut keep: impl FnMut(&'static str, &str) -> bool) {
        self.subjects.retain(|subject| keep(subject.kernel(), &subject.variant()));
    }

    /// Returns the number of kernel variants.
    pub fn len(&self) -> usize {
        self.subjects.len()
    }

    /// Returns whether it has no variants.
    pub fn is_empty(&self) -> bool {
        self.subjects.is_empty()
    }

    /// Returns each variant's kernel, `Debug` form and number of cases.
    pub fn list(&self) -> impl Iterator<Item = (&'static str, String, usize)> {
        self.subjects.iter().map(|s| (s.kernel(), s.variant(), s.trials().len()))
    }

    /// Runs all cases. Calls `seen` with each variant's report, and returns all of them.
    ///
    /// # Errors
    /// [`GpuError::OutOfMemory`], or the loss of the device. Wrong results are part of a report, and so is an error of one
    /// kernel, such as a shader that does not compile.
    pub async fn run(&self, device: &Device, mut seen: impl FnMut(&Report)) -> Result<Vec<Report>, GpuError> {
        let mut reports = Vec::with_capacity(self.subjects.len());
        for subject in &self.subjects {
            let (kernel, variant) = (subject.kernel(), subject.variant());
            let mut outcomes: Vec<Outcome> = Vec::new();
            for trial in subject.trials() {
                outcomes.push(trial.outcome(device).await?);
            }
            let report = Report { kernel, variant, outcomes };
            seen(&report);
            reports.push(report);
        }
        Ok(reports)
    }
}
