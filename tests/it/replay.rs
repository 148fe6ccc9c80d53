//! Replays of forward passes: correct kernels pass, and a faulty kernel is named.

use std::ops::ControlFlow;

use crate::common::tiny_model::{Arch, TinyModel};
use ferrum_wgpu::{
    Adapter, Device, Engine, EngineError, EngineOptions, Gguf, KvType, Model,
    low_level::{
        conformance::{Replayed, replay},
        gpu::{Scope, Stage},
    },
};

async fn gpu() -> Device {
    let adapter = Adapter::find(None).await.expect("an adapter: `make setup` installs a software one");
    Device::new(&adapter).await.expect("a device")
}

/// Replays a prompt and a token, up to the first step that exceeds its bound.
async fn replayed(device: &Device, arch: Arch, kv_type: Option<KvType>) -> Vec<Replayed> {
    let gguf = TinyModel { arch, ..TinyModel::default() }.to_bytes().expect("a file");
    let gguf = Gguf::from_bytes(gguf).expect("a GGUF");
    let model = Model::load(device, &gguf, |_, _| ()).await.expect("a model");
    let options = EngineOptions::default().context(16).kv_type(kv_type);
    let mut session = Engine::new(&model, &options).await.expect("an engine").session();
    let mut steps: Vec<Replayed> = Vec::new();
    for tokens in [&[1, 5, 9, 2, 250, 3, 77, 8, 100][..], &[4]] {
        let run = session.forward_by(tokens, async |device, program| {
            let seen = |step: Replayed| {
                let passed = step.passed();
                steps.push(step);
                if passed { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            };
            Ok::<_, EngineError>(replay(device, program, seen).await?)
        });
        run.await.expect("a replay");
        if steps.last().is_some_and(|step| !step.passed()) {
            break;
        }
    }
    steps
}

#[test]
fn every_step_is_within_its_bound() {
    pollster::block_on(async {
        let device = gpu().await;
        for (arch, kv_type) in [
            (Arch::Qwen3Moe, None),
            (Arch::Qwen3Moe, Some(KvType::F32)),
            (Arch::Qwen3Moe, Some(KvType::Q8_0)),
            (Arch::Qwen3, None),
            (Arch::Llama, None),
        ] {
            for device in [&device, &Device::cpu()] {
                let steps = replayed(device, arch, kv_type).await;
                let wrong: Vec<_> = steps.iter().filter(|step| !step.passed()).collect();
                assert!(wrong.is_empty() && steps.len() > 30, "{} steps: {wrong:#?}", steps.len());
                // On a GPU, most steps have rounding errors.
                assert!(device.is_cpu() || steps.iter().filter(|step| step.error_ratio() > 0.0).count() > 20);
            }
        }
    });
}

/// Replaces a text in a kernel's WGSL, and returns the step in which a replay finds the error.
fn found(kernel: &str, from: &str, to: &str) -> Replayed {
    pollster::block_on(async {
        let device = gpu().await;
        device.edit_shaders(kernel, from, to);
        let last = replayed(&device, Arch::Qwen3Moe, None).await.pop().expect("steps");
        assert!(!last.passed(), "{kernel} with {to:?} passes");
        assert_eq!(last.kernel, kernel, "{last:?}");
        last
    })
}

#[test]
fn a_faulty_kernel_is_named() {
    // A factor of 1.0001, a key too many, a wrong order of experts, a skipped expert, no epsilon, a wrong gate.
    let norm = found("elementwise/rms_norm", "* scale * w[i]", "* scale * w[i] * 1.0001");
    assert_eq!((norm.scope, norm.step.0), (Scope::layer(0, Stage::Attention), 1), "{norm:?}");
    let (binding, worst) = norm.worst.expect("a deviation");
    assert!(binding == "y" && worst.error_ratio > 1.0 && worst.bound > 0.0, "{norm:?}");

    let attention = found("attn/attention", "< visible.end)", "<= visible.end)");
    assert_eq!(attention.scope.to_string(), "blk.0 attention");
    assert!(attention.shape.contains("capacity: 16"), "{attention:?}");

    let router = found("moe/router_topk", "theirs == mine && other < e", "theirs == mine && other < e || other == 1u");
    assert_eq!(router.scope, Scope::layer(0, Stage::Router));
    found("moe/combine", "expert < p.top_k", "expert + 1u < p.top_k");
    found("attn/rope_kv_append", "+ p.eps)", "+ p.eps + 0.01)");
    found("linear/gemv", "return gate / (1.0", "return 1.001 * gate / (1.0");
}
