//! The suite's outcomes as a table; `tools/stacks/wasm-suite` prints the same one.

use std::{collections::BTreeMap, fmt::Write};

use ferrum_wgpu::conformance::Outcome;

/// A line a kernel, then the failures, then the totals; and whether all passed and there were any.
pub fn table(outcomes: &[Outcome]) -> (String, bool) {
    let mut kernels = BTreeMap::<_, (usize, usize, f64)>::new();
    for outcome in outcomes {
        let (cases, failed, worst) = kernels.entry(outcome.kernel).or_default();
        *cases += 1;
        *failed += usize::from(!outcome.passed());
        *worst = worst.max(outcome.worst);
    }
    let mut text = format!("{:<24} {:>5} {:>6}  worst share of its bound\n", "kernel", "cases", "failed");
    for (kernel, (cases, failed, worst)) in &kernels {
        let _ = writeln!(text, "{kernel:<24} {cases:>5} {failed:>6}  {worst:.3}");
    }
    for outcome in outcomes.iter().filter(|o| !o.passed()) {
        let Outcome { kernel, variant, case, worst, at } = outcome;
        let _ = writeln!(text, "FAILED {kernel} {variant}, {case}: {worst:.3} of the bound at {at}");
    }
    let failed = outcomes.iter().filter(|o| !o.passed()).count();
    let _ = writeln!(text, "{} passed, {failed} failed", outcomes.len() - failed);
    (text, failed == 0 && !outcomes.is_empty())
}
