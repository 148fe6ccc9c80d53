//! Expert offloading: experts loaded on demand change no bit of the output.

use std::time::Duration;

use crate::common::{
    device::shared_gpu,
    engines::{bits, engine, gpu, greedy, options, prompt, replies},
    tiny_model::{Arch, TinyModel},
};
use ferrum_wgpu::{
    Device, Engine, EngineError, EngineOptions, Gguf, GpuError, Model, ModelError,
    low_level::{
        model::{DeviceProfile, ExpertCacheStats, ExpertGrids, KernelSelection},
        quant::WeightType,
    },
};

const EXPERTS: u32 = 24;
const USED: u32 = 4;

/// Returns a model in two formats, with enough experts for a prompt to use more than there are slots.
fn bytes() -> Vec<u8> {
    let tiny = TinyModel {
        arch: Arch::Qwen3Moe,
        layers: 2,
        experts: EXPERTS,
        top_k: USED,
        main: WeightType::Q4K,
        big: WeightType::Q6K,
        seed: 77,
        ..TinyModel::default()
    };
    tiny.to_bytes().expect("a GGUF")
}

fn file() -> Gguf {
    Gguf::from_bytes(bytes()).expect("a GGUF")
}

/// The replies to three concurrent prompts, and the bits of the logits of a prompt and of a token after it.
type Seen = (Vec<Vec<u32>>, Vec<Vec<u32>>);

async fn seen(model: &Model, options: &EngineOptions) -> Seen {
    let engine = engine(model, options).await;
    let requests: Vec<_> = (0..3).map(|i| (prompt(model, 5 + 9 * i, i.into()), greedy(6))).collect();
    let replies = replies(&engine, &requests).await;
    let mut session = engine.session();
    let mut logits = Vec::new();
    session.forward_each(&prompt(model, 30, 9), |row| logits.push(bits(row))).await.expect("a prompt");
    logits.push(bits(&session.decode(7).await.expect("a step")));
    (replies, logits)
}

async fn paged(device: &Device, slots: u32) -> Model {
    Model::load_offloaded(device, &file(), slots, |_, _| ()).await.expect("a model")
}

fn with(kernels: KernelSelection, change: impl FnOnce(&mut EngineOptions)) -> EngineOptions {
    let mut options = options(3, 64, kernels).prefill_rows(32).max_logit_rows(32);
    change(&mut options);
    options
}

/// Returns what is seen of the model with all experts resident.
async fn resident(device: &Device, options: &EngineOptions) -> Seen {
    let model = Model::load(device, &file(), |_, _| ()).await.expect("a model");
    assert!(model.expert_cache().is_none());
    seen(&model, options).await
}

/// Checks that the same is seen of an offloaded model, and returns the expert cache's statistics.
async fn check(device: &Device, slots: u32, options: &EngineOptions, expected: &Seen) -> ExpertCacheStats {
    let model = paged(device, slots).await;
    assert_eq!(model.expert_cache().map(|paging| (paging.slots, paging.misses)), Some((slots, 0)));
    assert!(seen(&model, options).await == *expected, "{slots} slots, {:?}", options.plan);
    model.expert_cache().expect("an offloaded model")
}

/// Compares an offloaded model with a fully resident one.
async fn same(device: &Device, slots: u32, options: &EngineOptions) -> ExpertCacheStats {
    check(device, slots, options, &resident(device, options).await).await
}

#[test]
fn offloading_changes_no_bit() {
    pollster::block_on(async {
        let device = shared_gpu();
        let options = with(KernelSelection::select(&DeviceProfile::new(&device), Default::default()), |_| ());
        let expected = resident(&device, &options).await;
        let mut misses = Vec::new();
        for slots in [USED, 7, 11, EXPERTS - 1] {
            let paging = check(&device, slots, &options, &expected).await;
            assert!(paging.hits > 0 && paging.misses > 0 && paging.bytes > 0, "{paging:?}");
            misses.push(paging.misses);
        }
        // More slots mean fewer misses.
        assert!(misses.is_sorted_by(|a, b| a > b), "{misses:?}");
    });
}

#[test]
fn options_change_no_bit_with_offloading() {
    pollster::block_on(async {
        let device = shared_gpu();
        let gpu = with(KernelSelection::GPU, |_| ());
        let direct = |kernels| KernelSelection { expert_grids: ExpertGrids::Direct, ..kernels };
        let one_by_one =
            KernelSelection { batched_from: u32::MAX, expert_batched_from: u32::MAX, ..KernelSelection::SOFTWARE };
        // Options that give the same bits are together.
        let mut all = [
            vec![gpu.clone(), with(direct(KernelSelection::GPU), |_| ()), gpu.clone().max_submit(Duration::ZERO)],
            vec![with(KernelSelection::GPU, |options| options.plan.host_routing = true)],
            vec![with(KernelSelection::GPU, |options| options.plan.fused = false)],
            vec![with(direct(KernelSelection::SOFTWARE), |_| ()), with(one_by_one, |_| ())],
        ];
        if device.caps().timestamps {
            all[0].push(gpu.profile(true));
        }
        for options in all {
            let expected = resident(&device, &options[0]).await;
            for options in options {
                check(&device, 6, &options, &expected).await;
            }
        }
    });
}

#[test]
fn offloading_works_with_the_cpu_kernels() {
    pollster::block_on(async {
        let paging = same(&Device::cpu(), 6, &with(KernelSelection::GPU, |_| ())).await;
        assert!(paging.misses > 0);
    });
}

/// Runs on a device that cannot bind all slots of a layer at once, so that they are split over several buffers.
#[test]
fn slots_are_split_like_any_matrix() {
    pollster::block_on(async {
        let device = shared_gpu();
        let expert = file().tensor("blk.0.ffn_down_exps.weight").expect("experts").bytes / u64::from(EXPERTS);
        let mut mask = device.caps().clone();
        // A buffer holds the gate and up matrices of two experts.
        mask.max_binding_bytes = (4 * expert).max(512 * 1024);
        let adapter = ferrum_wgpu::low_level::gpu::Adapter::find(None).await.expect("an adapter");
        let small = Device::masked(&adapter, &mask).await.expect("a device");
        same(&small, 9, &with(KernelSelection::GPU, |_| ())).await;
    });
}

#[test]
fn invalid_slot_counts_are_refused() {
    pollster::block_on(async {
        let device = Device::cpu();
        for slots in [0, USED - 1, EXPERTS + 1] {
            let error = Model::load_offloaded(&device, &file(), slots, |_, _| ()).await.expect_err("no such slots");
            assert!(matches!(error, ModelError::ExpertSlots { least: USED, most: EXPERTS, .. }), "{error}");
        }
        let all = paged(&device, EXPERTS).await;
        assert!(all.expert_cache().is_none());
        let dense = TinyModel { arch: Arch::Qwen3, ..TinyModel::default() };
        let dense = Gguf::from_bytes(dense.to_bytes().expect("a GGUF")).expect("a GGUF");
        let error = Model::load_offloaded(&device, &dense, 1, |_, _| ()).await.expect_err("no experts");
        assert!(matches!(error, ModelError::ExpertSlots { most: 0, .. }), "{error}");
    });
}

#[test]
fn one_engine_at_a_time_uses_the_expert_cache() {
    pollster::block_on(async {
        let device = Device::cpu();
        let (model, options) = (paged(&device, 6).await, with(KernelSelection::GPU, |_| ()));
        let first = engine(&model, &options).await;
        let error = Engine::new(&model, &options).await.expect_err("another engine uses the cache");
        assert!(matches!(error, EngineError::ExpertCacheInUse), "{error}");
        drop(first);
        engine(&model, &options).await;
    });
}

/// Replaces the file while a model runs from it.
#[test]
fn shortening_the_file_is_an_error() {
    pollster::block_on(async {
        let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("paged.gguf");
        let bytes = bytes();
        std::fs::write(&path, &bytes).expect("a file");
        let gguf = Gguf::open(&path).expect("a GGUF");
        let (device, options) = (Device::cpu(), with(KernelSelection::GPU, |_| ()));
        let model = Model::load_offloaded(&device, &gguf, 6, |_, _| ()).await.expect("a model");
        let engine = engine(&model, &options).await;
        let prompt = prompt(&model, 5, 0);
        let shorten = |len: u64| std::fs::File::options().write(true).open(&path).expect("a file").set_len(len);
        shorten(bytes.len() as u64 / 2).expect("a shorter file");
        let error = engine.session().forward(&prompt).await.expect_err("experts are missing");
        assert!(matches!(&error, EngineError::Gpu(gpu) if matches!(**gpu, GpuError::Host(_))), "{error}");
        assert!(!error.needs_recovery() && error.to_string().contains("truncated"), "{error}");
        // A restored file can be used again.
        std::fs::write(&path, &bytes).expect("a file");
        engine.session().forward(&prompt).await.expect("a prompt");
    });
}

#[test]
fn recovery_keeps_the_number_of_slots() {
    pollster::block_on(async {
        let (device, options) = (gpu().await, with(KernelSelection::GPU, |_| ()));
        let model = paged(&device, 6).await;
        let expected = seen(&model, &options).await;
        let engine = engine(&model, &options).await;
        let mut session = engine.session();
        let (prompt, ask) = (prompt(&model, 5, 0), greedy(6));
        let mut reply = session.generate(&prompt, &ask).expect("a request");
        let first = reply.next().await.expect("a step");
        assert_eq!(first, expected.0[0].first().copied());
        device.lose();
        let error = loop {
            match reply.next().await {
                Ok(_) => {}
                Err(error) => break error,
            }
        };
        assert!(error.needs_recovery(), "{error}");
        drop(reply);
        engine.recover(&gpu().await, &file()).await.expect("another device");
        let mut session = engine.session();
        let mut reply = session.generate(&prompt, &ask).expect("a request");
        let mut tokens = Vec::new();
        while let Some(token) = reply.next().await.expect("a step") {
            tokens.push(token);
        }
        assert_eq!(tokens, expected.0[0]);
    });
}
