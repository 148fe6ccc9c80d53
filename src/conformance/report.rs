//! How cases came out.

use super::Expectation;

/// How one case of one kernel variant came out.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The case's name.
    pub case: String,
    /// The worst error as a share of its bound: over 1 is a failure, infinity one that has no size.
    pub worst: f64,
    /// Where that is, and what is there; empty if there is no error at all.
    pub at: String,
}

impl Outcome {
    /// Within the bound.
    pub fn passed(&self) -> bool {
        self.worst <= 1.0
    }
}

/// How all cases of one kernel variant came out.
#[derive(Clone, Debug)]
pub struct Report {
    /// The kernel's name.
    pub kernel: &'static str,
    /// The variant's `Debug` form.
    pub variant: String,
    /// Its cases.
    pub outcomes: Vec<Outcome>,
    /// The known failure that this is, if it fails.
    pub expectation: Option<Expectation>,
}

/// What is to be thought of a [`Report`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Every case is within its bound.
    Pass,
    /// Some case is not.
    Fail,
    /// Some case is not, and that is known.
    ExpectedFailure(Expectation),
    /// Every case is within its bound, though that is not expected: the expectation is out of date.
    UnexpectedPass(Expectation),
}

impl Verdict {
    /// True for a failure that is not known.
    pub fn failed(&self) -> bool {
        *self == Self::Fail
    }
}

impl Report {
    /// The worst error of all cases as a share of its bound.
    pub fn worst(&self) -> f64 {
        self.outcomes.iter().map(|outcome| outcome.worst).fold(0.0, f64::max)
    }

    /// The cases that are not within their bounds.
    pub fn failures(&self) -> impl Iterator<Item = &Outcome> {
        self.outcomes.iter().filter(|outcome| !outcome.passed())
    }

    /// What is to be thought of it.
    pub fn verdict(&self) -> Verdict {
        match (self.failures().next(), self.expectation) {
            (None, None) => Verdict::Pass,
            (Some(_), None) => Verdict::Fail,
            (Some(_), Some(expectation)) => Verdict::ExpectedFailure(expectation),
            (None, Some(expectation)) => Verdict::UnexpectedPass(expectation),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::Target, *};

    const KNOWN: Expectation = Expectation {
        adapter: "llvmpipe",
        driver: "Mesa 22",
        backend: "vulkan",
        kernel: "linear/gemv",
        variant: "Q4K",
        reason: "miscompiled",
        upstream: "a link",
    };

    #[test]
    fn a_known_failure_is_expected_and_its_end_is_noticed() {
        let outcome = |worst| Outcome { case: "a".to_owned(), worst, at: String::new() };
        let report = |worst, expectation| Report {
            kernel: "linear/gemv",
            variant: "Q4K".to_owned(),
            outcomes: vec![outcome(0.5), outcome(worst)],
            expectation,
        };
        assert_eq!(report(0.7, None).verdict(), Verdict::Pass);
        assert_eq!(report(1.1, None).verdict(), Verdict::Fail);
        assert_eq!(report(f64::INFINITY, Some(KNOWN)).verdict(), Verdict::ExpectedFailure(KNOWN));
        assert_eq!(report(0.7, Some(KNOWN)).verdict(), Verdict::UnexpectedPass(KNOWN));
        assert!(report(1.1, None).verdict().failed() && !report(1.1, Some(KNOWN)).verdict().failed());
        assert_eq!((report(0.7, None).worst(), report(1.1, None).failures().count()), (0.7, 1));
    }

    #[test]
    fn expectations_are_for_one_adapter_driver_and_variant() {
        let target = |adapter: &str, driver: &str, backend: &str| {
            let [adapter, driver, backend] = [adapter, driver, backend].map(str::to_owned);
            Target { adapter, driver, backend }
        };
        let here = target("llvmpipe (LLVM 15)", "llvmpipe Mesa 22.3.6", "vulkan");
        assert!(KNOWN.matches(&here, "linear/gemv", "Variant { ty: Q4K }"));
        assert!(!KNOWN.matches(&here, "linear/gemv", "Variant { ty: Q5K }"));
        assert!(!KNOWN.matches(&here, "linear/gemm", "Variant { ty: Q4K }"));
        for other in [
            target("RADV", "llvmpipe Mesa 22.3.6", "vulkan"),
            target("llvmpipe", "llvmpipe Mesa 25", "vulkan"),
            target("llvmpipe", "llvmpipe Mesa 22.3.6", "gl"),
        ] {
            assert!(!KNOWN.matches(&other, "linear/gemv", "Variant { ty: Q4K }"));
        }
    }
}
