//! The check of a device before a model is loaded on it.

use std::sync::atomic::Ordering;

use crate::common::{engines::gpu, ranges::Ranges, tiny_model::TinyModel};
use ferrum_wgpu::{Device, DeviceCheck, Engine, EngineOptions, Gguf, low_level::model::PlannedKernel};

fn options() -> EngineOptions {
    EngineOptions::default().context(128).sequences(2).prefill_rows(32)
}

/// Returns a file of which only the header can be read.
async fn header() -> Gguf {
    let bytes = TinyModel::default().to_bytes().expect("a GGUF");
    let end = Gguf::from_bytes(bytes.clone()).expect("a GGUF").tensors()[0].offset;
    let source = Ranges {
        fails_at: Some(1),
        len: bytes.len() as u64,
        ..Ranges::new(bytes[..end.max(64 << 10) as usize].to_vec())
    };
    let asked = source.asked.clone();
    let gguf = Gguf::from_source(source).await.expect("a GGUF");
    assert_eq!(asked.reads.load(Ordering::Relaxed), 1);
    gguf
}

#[test]
fn kernels_that_compute_wrongly_are_named() {
    pollster::block_on(async {
        let (device, gguf, options) = (gpu().await, header().await, options());
        let mut seen = Vec::new();
        let check =
            DeviceCheck::run(&device, &gguf, &options, |done, all| seen.push((done, all))).await.expect("a check");
        assert!(check.passed(), "{:?}", check.wrong);
        assert_eq!(check.fingerprint, device.fingerprint());
        let planned = Engine::planned_kernels(&device, &gguf, &options).await.expect("a plan");
        let (all, first) = (planned.kernels.len(), planned.first);
        assert_eq!(check.kernels as usize, all);
        assert!(check.cases >= check.kernels);
        assert_eq!(seen.last(), Some(&(all, all)));

        // A first reply waits for some of them.
        assert!((1..all).contains(&first), "{first} of {all}");
        let names = |kernels: &[PlannedKernel]| kernels.iter().map(|kernel| kernel.kernel).collect::<Vec<_>>();
        assert!(names(&planned.kernels[..first]).contains(&"sample/argmax"), "{planned:?}");
        assert!(names(&planned.kernels[first..]).contains(&"sample/penalties"), "{planned:?}");
        let fresh = gpu().await;
        let part = DeviceCheck::run_kernels(&fresh, &planned.kernels[..first], |_, _| ()).await.expect("a check");
        assert_eq!((part.kernels as usize, part.passed()), (first, true));
        let mut compiled = (0, 0);
        Engine::precompile_first(&fresh, &gguf, &options, |done, all| compiled = (done, all)).await.expect("kernels");
        assert_eq!(compiled, (0, 0));
        Engine::precompile_with(&fresh, &gguf, &options, |done, all| compiled = (done, all)).await.expect("kernels");
        assert_eq!(compiled, (all - first, all - first));

        // What was compiled for the check is not compiled again.
        let mut compiled: Vec<(usize, usize)> = Vec::new();
        let progress = |done, all| compiled.push((done, all));
        Engine::precompile_with(&device, &gguf, &options, progress).await.expect("kernels");
        assert!(compiled.is_empty(), "{compiled:?}");

        let device = gpu().await;
        device.edit_shaders("moe/router_topk", "= p.scale * (exp", "= 1.001 * p.scale * (exp");
        let check = DeviceCheck::run(&device, &gguf, &options, |_, _| ()).await.expect("a check");
        assert!(!check.passed());
        for wrong in &check.wrong {
            assert!(wrong.kernel == "moe/router_topk" && wrong.error_ratio.is_none_or(|ratio| ratio > 1.0), "{wrong}");
            assert!(wrong.to_string().starts_with("kernel moe/router_topk ("), "{wrong}");
        }
        // The smallest cases have neither.
        let penalties = planned.kernels.iter().filter(|kernel| kernel.kernel == "sample/penalties");
        let penalties: Vec<_> = penalties.cloned().collect();
        for (from, to) in [("logit += bias", "logit += 0.5 + bias"), ("logit -= penalty.y", "logit -= 1.5 * penalty.y")]
        {
            let device = gpu().await;
            device.edit_shaders("sample/penalties", from, to);
            let check = DeviceCheck::run_kernels(&device, &penalties, |_, _| ()).await.expect("a check");
            assert!(!check.passed(), "{from}");
        }
        #[cfg(feature = "serde")]
        {
            let kept = serde_json::to_string(&check).expect("JSON");
            assert_eq!(serde_json::from_str::<DeviceCheck>(&kept).expect("a check"), check);
        }
    });
}

#[test]
fn the_cpu_kernels_pass() {
    pollster::block_on(async {
        let check = DeviceCheck::run(&Device::cpu(), &header().await, &options(), |_, _| ()).await.expect("a check");
        assert!(check.passed() && check.kernels > 10, "{check:?}");
    });
}

#[test]
fn progress_of_compiling_counts_every_kernel_once() {
    pollster::block_on(async {
        let (device, gguf) = (gpu().await, header().await);
        let mut seen = Vec::new();
        Engine::precompile_with(&device, &gguf, &options(), |done, all| seen.push((done, all))).await.expect("kernels");
        let all = Engine::planned_kernels(&device, &gguf, &options()).await.expect("a plan").kernels.len();
        // The self-test of the device has compiled some of them.
        let last = seen.last().copied().unwrap_or_default();
        assert!(last.0 == last.1 && last.1 > all / 2 && last.1 <= all, "{last:?} of {all}");
        assert!(seen.windows(2).all(|pair| pair[0].0 < pair[1].0), "{seen:?}");
    });
}
