//! Formats the suite's reports as a table. `tools/stacks/wasm-suite` prints the same table.

use std::{collections::BTreeMap, fmt::Write};

use ferrum_wgpu::low_level::{conformance::Report, gpu::Caps};

use super::stacks::Stack;

/// Checks that a device has the features listed for its stack. Otherwise it would run fewer variants than
/// docs/KERNELS.md says.
pub fn check_stack(listed: Option<&Stack>, caps: &Caps) -> Result<(), String> {
    let missing = listed.map(|stack| stack.missing_in(caps)).unwrap_or_default();
    let missing = missing.iter().map(|feature| feature.name()).collect::<Vec<_>>().join(", ");
    if missing.is_empty() { Ok(()) } else { Err(format!("the device lacks features listed for its stack: {missing}")) }
}

/// Returns the table (a line per kernel, then failures, then totals), and whether there were cases and all passed.
pub fn table(reports: &[Report]) -> (String, bool) {
    let mut kernels = BTreeMap::<_, (usize, usize, f64)>::new();
    let mut text = format!("{:<32} {:>8} {:>5}  worst error / bound\n", "kernel", "variants", "cases");
    let (mut wrong, mut passed, mut failed) = (String::new(), 0, 0);
    for report in reports {
        let (variants, cases, worst) = kernels.entry(report.kernel).or_default();
        (*variants, *cases, *worst) = (*variants + 1, *cases + report.outcomes.len(), worst.max(report.worst()));
        if report.passed() {
            passed += report.outcomes.len();
        } else {
            failed += report.outcomes.len().max(1);
            let _ = writeln!(wrong, "FAILED {} {}", report.kernel, report.variant);
            for failure in report.failures() {
                let _ = writeln!(wrong, "  {}: {:.3} of the bound at {}", failure.case, failure.worst, failure.at);
            }
        }
    }
    for (kernel, (variants, cases, worst)) in &kernels {
        let _ = writeln!(text, "{kernel:<32} {variants:>8} {cases:>5}  {worst:.3}");
    }
    let _ = writeln!(text, "{wrong}{passed} passed, {failed} failed");
    (text, failed == 0 && passed > 0)
}
