//! Start-up: pipelines compiled before weights are loaded, and pipeline caches.

use crate::common::{engines::gpu, tiny_model::tiny_models};
use ferrum_wgpu::{Adapter, Device, Engine, EngineOptions, Gguf, Model, low_level::gpu::Caps};

fn ggufs() -> Vec<(&'static str, Gguf)> {
    let tiny = |(name, tiny): (_, crate::common::tiny_model::TinyModel)| {
        (name, Gguf::from_bytes(tiny.to_bytes().expect("a GGUF")).expect("a GGUF"))
    };
    tiny_models().into_iter().take(3).map(tiny).collect()
}

#[test]
fn precompilation_covers_all_pipelines_of_an_engine() {
    pollster::block_on(async {
        let options = EngineOptions::default().sequences(2).context(64);
        for (name, gguf) in ggufs() {
            let device = gpu().await;
            Engine::precompile(&device, &gguf, &options).await.expect("pipelines");
            let compiled = device.created();
            assert!(
                compiled.pipelines > 10 && compiled.buffers == 0 && compiled.bind_groups == 0,
                "{name}: {compiled:?}"
            );
            let model = Model::load(&device, &gguf, |_, _| ()).await.expect("a model");
            let engine = Engine::new(&model, &options).await.expect("an engine");
            engine.warm_up().await.expect("an engine");
            assert_eq!(device.created().pipelines, compiled.pipelines, "{name}");
        }
        // CPU kernels need no compilation.
        Engine::precompile(&Device::cpu(), &ggufs()[0].1, &options).await.expect("no pipelines");
    });
}

#[test]
fn loading_and_precompilation_run_concurrently() {
    let (device, gguf) = (pollster::block_on(gpu()), ggufs().remove(0).1);
    let options = EngineOptions::default().context(64);
    let model = std::thread::scope(|scope| {
        let compiling = scope.spawn(|| pollster::block_on(Engine::precompile(&device, &gguf, &options)));
        let model = pollster::block_on(Model::load(&device, &gguf, |_, _| ())).expect("a model");
        compiling.join().expect("a thread").expect("pipelines");
        model
    });
    pollster::block_on(async {
        let engine = Engine::new(&model, &options).await.expect("an engine");
        assert_eq!(engine.session().forward(&[1, 2, 3]).await.expect("logits").len(), engine.config().vocab as usize);
    });
}

#[test]
fn pipeline_caches_are_restored_on_the_same_device_only() {
    pollster::block_on(async {
        let (_, gguf) = ggufs().remove(0);
        let options = EngineOptions::default().context(64);
        let device = gpu().await;
        assert_eq!(device.compiled_pipelines(), None, "caching is off by default");
        assert!(!device.restore_pipelines(&[]));
        Engine::precompile(&device, &gguf, &options).await.expect("pipelines");
        // Some drivers have no pipeline cache.
        let Some(kept) = device.compiled_pipelines() else { return };

        let other = gpu().await;
        assert!(other.restore_pipelines(&kept));
        Engine::precompile(&other, &gguf, &options).await.expect("pipelines");
        assert!(other.compiled_pipelines().is_some());

        let fresh = gpu().await;
        let mut damaged = kept.clone();
        let last = damaged.len() - 1;
        damaged[last] ^= 1;
        for bad in [&damaged[..], &kept[..last], &kept[..4], b"not this at all"] {
            assert!(!fresh.restore_pipelines(bad));
            assert!(fresh.compiled_pipelines().is_some_and(|empty| empty.len() <= kept.len()));
        }
        assert!(!Device::cpu().restore_pipelines(&kept));
        assert_eq!(Device::cpu().compiled_pipelines(), None);
    });
}

#[test]
fn fingerprints_name_adapter_driver_and_version() {
    pollster::block_on(async {
        let adapter = Adapter::find(None).await.expect("an adapter");
        let masked = Device::masked(&adapter, &Caps::portable()).await.expect("a device");
        let fingerprint = gpu().await.fingerprint();
        assert_eq!(masked.fingerprint(), fingerprint);
        for part in [adapter.name(), &adapter.driver(), &adapter.backend(), env!("CARGO_PKG_VERSION")] {
            assert!(fingerprint.contains(part), "{fingerprint} has no {part}");
        }
        assert_ne!(Device::cpu().fingerprint(), fingerprint);
    });
}
