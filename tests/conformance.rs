//! Every kernel's cases against their f64 definitions: on the default adapter, on the same with no more than WebGPU's
//! defaults, and by the twins; and docs/KERNELS.md against the kernels.

use std::collections::BTreeMap;

use ferrum_wgpu::{
    conformance::{Report, Suite, Target, Verdict, coverage},
    gpu::{Adapter, Caps, Device},
};

async fn check(device: &Device, target: &Target) {
    let suite = Suite::new(device.caps(), "");
    let reports = suite.run(device, target, |_| ()).await.expect("the suite runs");
    assert_eq!(reports.len(), suite.len());
    let mut kernels: BTreeMap<&str, (usize, usize, f64)> = BTreeMap::new();
    for report in &reports {
        assert!(!report.outcomes.is_empty(), "{} {} has no cases", report.kernel, report.variant);
        let (variants, cases, worst) = kernels.entry(report.kernel).or_default();
        (*variants, *cases, *worst) = (*variants + 1, *cases + report.outcomes.len(), worst.max(report.worst()));
    }
    println!("{} {}", target.adapter, target.driver);
    for (kernel, (variants, cases, worst)) in &kernels {
        println!("  {kernel:24} {variants:4} variants {cases:4} cases, worst {:5.1} % of its bound", 100.0 * worst);
    }
    // An unexpected pass is a failure of the table of expectations.
    let fine = |r: &&Report| matches!(r.verdict(), Verdict::Pass | Verdict::ExpectedFailure(_));
    let wrong: Vec<_> = reports.iter().filter(|r| !fine(r)).map(|r| (r, r.verdict())).collect();
    assert!(wrong.is_empty(), "{} of {} variants are not as expected: {wrong:#?}", wrong.len(), reports.len());
    assert!(kernels.len() >= 10 && reports.len() > 60, "only {} variants ran", reports.len());
}

async fn adapter() -> Adapter {
    Adapter::find(None).await.expect("an adapter: `make setup` installs a software one")
}

#[test]
fn the_device_meets_the_definitions() {
    pollster::block_on(async {
        let adapter = adapter().await;
        check(&Device::new(&adapter).await.expect("a device"), &Target::from(&adapter)).await;
    });
}

#[test]
fn a_device_of_default_limits_meets_the_definitions() {
    pollster::block_on(async {
        let adapter = adapter().await;
        let device = Device::masked(&adapter, &Caps::portable()).await.expect("a device");
        check(&device, &Target::from(&adapter)).await;
    });
}

#[test]
fn what_is_wrong_is_found() {
    pollster::block_on(async {
        let adapter = adapter().await;
        let target = Target::from(&adapter);
        // Eight elements too many; a factor; no WGSL at all.
        for (kernel, from, to, found) in [
            ("elementwise/silu_mul", "i < p.n", "i < p.n + 8u", "gate was written 0 words behind its end"),
            ("elementwise/add_bias", "+= bias[i]", "+= 1.001 * bias[i]", "y["),
            ("moe/weighted_sum", "sum += weights", "sum += no_such_weights", "moe/weighted_sum.wgsl:"),
        ] {
            let device = Device::new(&adapter).await.expect("a device");
            device.edit_shaders(kernel, from, to);
            let reports =
                Suite::new(device.caps(), kernel).run(&device, &target, |_| ()).await.expect("the suite runs");
            let [report] = &reports[..] else { panic!("{} reports of {kernel}", reports.len()) };
            assert!(report.verdict().failed() && report.worst() > 1.0, "{report:#?}");
            assert!(report.failures().any(|failure| failure.at.contains(found)), "{found}: {report:#?}");
        }
    });
}

#[test]
fn the_twins_meet_the_definitions() {
    pollster::block_on(check(&Device::cpu(), &Target::cpu()));
}

#[test]
fn the_list_of_kernels_is_true() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/KERNELS.md");
    let written = std::fs::read_to_string(path).unwrap_or_default();
    assert!(written == coverage(), "make it anew: cargo run -- kernels doc > docs/KERNELS.md");
}
