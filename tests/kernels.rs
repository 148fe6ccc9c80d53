//! Every kernel's cases against their f64 definitions: on the default adapter, and by the twins.

use ferrum_wgpu::{
    conformance::{self, Outcome},
    gpu::{Adapter, Device},
};

fn assert_all_pass(outcomes: &[Outcome]) {
    assert!(outcomes.len() > 100, "only {} cases ran", outcomes.len());
    let failed: Vec<_> = outcomes.iter().filter(|o| !o.passed()).collect();
    let mut worst = std::collections::BTreeMap::new();
    for o in outcomes {
        let entry = worst.entry(o.kernel).or_insert(0.0f64);
        *entry = entry.max(o.worst);
    }
    println!("worst share of the bound: {worst:#?}");
    assert!(failed.is_empty(), "{} of {} cases failed: {failed:#?}", failed.len(), outcomes.len());
}

#[test]
fn gpu_meets_the_definitions() {
    pollster::block_on(async {
        let adapter = Adapter::find(None).await.expect("an adapter: `make setup` installs a software one");
        let device = Device::new(&adapter).await.expect("a device");
        println!("{} ({})", adapter.name(), adapter.driver());
        assert_all_pass(&conformance::run(&device, "").await.expect("the suite runs"));
    });
}

#[test]
fn twins_meet_the_definitions() {
    assert_all_pass(&pollster::block_on(conformance::run(&Device::cpu(), "")).expect("the suite runs"));
}
