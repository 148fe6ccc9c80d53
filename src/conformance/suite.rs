//! The kernels' cases as a suite.

use super::{EXPECTATIONS, Outcome, Report, Target, trial::Trial};
use crate::{
    gpu::{Caps, Data, Device, Expected, GpuError, Kernel, erase},
    kernels::{self, Visitor},
};

/// Kernel variants whose cases are to be run. Only one variant's cases are in memory at a time.
#[derive(Default)]
pub struct Suite {
    subjects: Vec<Box<dyn Subject>>,
}

/// A kernel variant with its types erased.
trait Subject: Send + Sync {
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
        let variant = self.0;
        Box::new(K::cases(variant).into_iter().map(move |case| Trial {
            op: erase::<K>(variant, case.params),
            name: case.name,
            words: case.data.words(),
            expected: case.expected.list(),
        }))
    }
}

impl std::fmt::Debug for Suite {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.subjects.iter().map(|s| (s.kernel(), s.variant()))).finish()
    }
}

impl Suite {
    /// The variants that a device with `caps` can run, of those whose kernel's name or own `Debug` form contains `pattern`.
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

    /// One variant of a kernel.
    pub(super) fn single<K: Kernel>(_: K, variant: K::Variant) -> Self {
        Self { subjects: vec![Box::new(Of::<K>(variant))] }
    }

    /// Kernel variants.
    pub fn len(&self) -> usize {
        self.subjects.len()
    }

    /// True when nothing matches.
    pub fn is_empty(&self) -> bool {
        self.subjects.is_empty()
    }

    /// Each variant's kernel, `Debug` form and number of cases.
    pub fn list(&self) -> impl Iterator<Item = (&'static str, String, usize)> {
        self.subjects.iter().map(|s| (s.kernel(), s.variant(), s.trials().len()))
    }

    /// Runs all cases, and hands on each variant's report as soon as there is one. `target` says which failures are known.
    ///
    /// # Errors
    /// Memory that runs out, a device that is lost. Wrong results are outcomes, and so is what only one kernel suffers, as
    /// that it does not compile.
    pub async fn run(
        &self,
        device: &Device,
        target: &Target,
        mut seen: impl FnMut(&Report),
    ) -> Result<Vec<Report>, GpuError> {
        let mut reports = Vec::with_capacity(self.subjects.len());
        for subject in &self.subjects {
            let (kernel, variant) = (subject.kernel(), subject.variant());
            let mut outcomes = Vec::new();
            for trial in subject.trials() {
                let case = trial.name.clone();
                outcomes.push(match trial.run(device).await {
                    Ok(outcome) => outcome,
                    Err(fatal @ (GpuError::Lost(_) | GpuError::Hung { .. } | GpuError::OutOfMemory { .. })) => {
                        return Err(fatal);
                    }
                    Err(error) => Outcome { case, worst: f64::INFINITY, at: crate::gpu::error_chain(&error) },
                });
            }
            let expectation = EXPECTATIONS.iter().find(|e| e.matches(target, kernel, &variant)).copied();
            let report = Report { kernel, variant, outcomes, expectation };
            seen(&report);
            reports.push(report);
        }
        Ok(reports)
    }
}
