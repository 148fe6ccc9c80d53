//! The results of a suite.

use super::Outcome;

/// The results of all cases of a kernel variant.
#[derive(Clone, Debug)]
pub struct Report {
    /// The kernel's name.
    pub kernel: &'static str,
    /// The variant in `Debug` form.
    pub variant: String,
    /// The results of its cases.
    pub outcomes: Vec<Outcome>,
}

impl Report {
    /// Returns whether there are cases and all are within their bounds.
    pub fn passed(&self) -> bool {
        !self.outcomes.is_empty() && self.failures().next().is_none()
    }

    /// Returns the largest error ratio of all cases.
    pub fn worst(&self) -> f64 {
        self.outcomes.iter().map(|outcome| outcome.worst).fold(0.0, f64::max)
    }

    /// Returns the cases that exceed their bounds.
    pub fn failures(&self) -> impl Iterator<Item = &Outcome> {
        self.outcomes.iter().filter(|outcome| !outcome.passed())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_passes_if_it_has_cases_and_all_are_within_their_bounds() {
        let report = |errors: &[f64]| Report {
            kernel: "linear/gemv",
            variant: "Q4K".to_owned(),
            outcomes: errors
                .iter()
                .map(|worst| Outcome { case: "a".to_owned(), worst: *worst, at: String::new() })
                .collect(),
        };
        assert!(report(&[0.5, 1.0]).passed());
        for failed in [&[0.5, 1.1][..], &[f64::INFINITY], &[]] {
            assert!(!report(failed).passed(), "{failed:?}");
        }
        assert_eq!((report(&[0.5, 0.7]).worst(), report(&[0.5, 1.1]).failures().count()), (0.7, 1));
    }
}
