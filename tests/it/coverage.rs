//! Planned ⊆ covered: the conformance suite runs every kernel variant that a model's plans record.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
};

use crate::common::{
    micro_model::micro_model,
    tiny_model::{Arch, architecture_models, tiny_models},
};
use ferrum_wgpu::{
    Gguf, KvType, Precision,
    low_level::{
        gpu::{Caps, Kernel},
        kernels::{self, Visitor},
        model::{DeviceProfile, FileType, PRESETS, PlanOptions, PlannedKernel, PlannedPasses, planned},
    },
};

/// Returns the variants of every kernel that the conformance suite runs on a device with `caps`.
fn covered(caps: &Caps) -> BTreeSet<PlannedKernel> {
    struct Covered<'a>(&'a Caps, BTreeSet<PlannedKernel>);
    impl Visitor for Covered<'_> {
        fn visit<K: Kernel>(&mut self, _: K) {
            let of = |variant| PlannedKernel { kernel: K::NAME, variant: format!("{variant:?}") };
            self.1.extend(K::covered(self.0).into_iter().map(of));
        }
    }
    let mut covered = Covered(caps, BTreeSet::new());
    kernels::visit(&mut covered);
    covered.1
}

/// Returns what plans record of a model on each known device, with these precisions and KV formats, and is not covered
/// there: each variant with the models and devices that plan it.
fn gaps(
    models: &[(String, Gguf)],
    precisions: &[Precision],
    kv_types: &[KvType],
) -> BTreeMap<PlannedKernel, BTreeSet<String>> {
    let mut gaps: BTreeMap<PlannedKernel, BTreeSet<String>> = BTreeMap::new();
    let mut count = BTreeSet::new();
    for (device_name, device) in DeviceProfile::known() {
        let covered = covered(&device.caps);
        for (model_name, gguf) in models {
            for precision in precisions.iter().copied() {
                for kv_type in kv_types.iter().copied() {
                    let plan = PlanOptions { precision, ..PlanOptions::default() };
                    let passes = PlannedPasses { plan, kv_type, ..PlannedPasses::default() };
                    let planned = pollster::block_on(planned(gguf, &device, &passes));
                    let planned = planned.unwrap_or_else(|error| panic!("{model_name} on {device_name}: {error}"));
                    for variant in planned.difference(&covered) {
                        let who = gaps.entry(variant.clone()).or_default();
                        who.insert(format!("{model_name} on {device_name}"));
                    }
                    count.extend(planned);
                }
            }
        }
    }
    println!("{} variants are planned", count.len());
    gaps
}

/// Fails with the list of gaps, if there are any.
fn check(gaps: &BTreeMap<PlannedKernel, BTreeSet<String>>) {
    let mut text = String::new();
    for (PlannedKernel { kernel, variant }, who) in gaps {
        let first = who.first().map_or("", String::as_str);
        let _ = writeln!(text, "{kernel} {variant}: {first}, {} in all", who.len());
    }
    assert!(gaps.is_empty(), "{} planned variants are not covered:\n{text}", gaps.len());
}

#[test]
fn what_real_models_plan_is_covered() {
    let types = [FileType::Q4KM, FileType::Q8_0, FileType::F16];
    let mut models = Vec::new();
    for preset in PRESETS {
        // Eight layers have all types of layers.
        let gguf = |types| preset.with_layers(types, 8).expect("a header");
        models.extend(types.map(|types| (format!("{} {types:?}", preset.name), gguf(types))));
    }
    let demo = Gguf::open(concat!(env!("CARGO_MANIFEST_DIR"), "/models/demo-q4_k_m.gguf")).expect("the demo model");
    models.push(("the demo model".to_owned(), demo));
    check(&gaps(&models, &Precision::ALL, &[KvType::F16, KvType::F32, KvType::Q8_0]));
}

#[test]
fn what_test_models_plan_is_covered() {
    let models: Vec<_> = tiny_models()
        .into_iter()
        .chain(architecture_models())
        .chain([Arch::Qwen3Moe, Arch::Qwen3, Arch::Llama].map(|arch| ("a micro model", micro_model(arch))))
        .map(|(name, tiny)| {
            let gguf = Gguf::from_bytes(tiny.to_bytes().expect("a GGUF")).expect("a GGUF");
            (name.to_owned(), gguf)
        })
        .collect();
    // As the tests run them.
    check(&gaps(&models, &[Precision::Exact], &[KvType::F16, KvType::F32]));
}
