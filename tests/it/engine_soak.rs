//! Many requests in a row: nothing is created for a token, and memory stays flat.

use std::time::Instant;

use crate::common::{
    alone::alone,
    micro_model::{SamplingKind, VOCAB, gguf, gpu, load, micro_model, options},
    tiny_model::{Arch, TinyModel, hybrid_models},
};
use ferrum_wgpu::{
    Device, Engine, Reply,
    low_level::{engine::KvLayout, gpu::Created, quant::Rng},
};
use pollster::block_on;

/// Resident memory of this process in KiB; only Linux tells.
fn resident() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}

/// A number of requests that are served together, of as many tokens as come to. They begin and end at different times, so
/// that the batch changes all the time.
fn requests(engine: &Engine, seed: u64) -> u32 {
    let mut rng = Rng::new(seed);
    let mut sessions: Vec<_> = (0..8).map(|_| engine.session()).collect();
    let mut replies: Vec<Option<Reply>> = Vec::new();
    for (i, session) in sessions.iter_mut().enumerate() {
        let sampling_kind =
            [SamplingKind::Greedy, SamplingKind::Sampled, SamplingKind::Penalised, SamplingKind::Greedy][i % 4];
        let prompt: Vec<_> = (0..2 + rng.below(20)).map(|_| rng.below(VOCAB)).collect();
        replies.push(Some(session.generate(&prompt, &sampling_kind.tokens(4 + rng.below(50))).expect("a request")));
        // Some run alone for a while.
        for _ in 0..rng.below(5) {
            block_on(replies[i].as_mut().expect("a reply").next()).expect("a step");
        }
    }
    let mut tokens = 0;
    while replies.iter().any(Option::is_some) {
        for reply in &mut replies {
            let Some(going) = reply else { continue };
            match block_on(going.next()).expect("a step") {
                // Some are dropped.
                Some(_) if rng.below(60) > 0 => tokens += 1,
                _ => *reply = None,
            }
        }
    }
    tokens
}

#[test]
fn three_thousand_tokens_create_nothing() {
    alone("engine_soak::three_thousand_tokens_create_nothing", || serve(&moe(), 1_000, 3_000));
}

#[test]
#[ignore = "long: `make soak` runs it"]
fn twelve_thousand_tokens_create_nothing() {
    alone("engine_soak::twelve_thousand_tokens_create_nothing", || serve(&moe(), 2_000, 12_000));
}

#[test]
fn states_of_hybrids_create_nothing() {
    alone("engine_soak::states_of_hybrids_create_nothing", || serve(&hybrid(), 2_000, 3_500));
}

#[test]
#[ignore = "long: `make soak` runs it"]
fn twelve_thousand_tokens_of_hybrids_create_nothing() {
    alone("engine_soak::twelve_thousand_tokens_of_hybrids_create_nothing", || serve(&hybrid(), 2_000, 12_000));
}

fn moe() -> TinyModel {
    micro_model(Arch::Qwen3Moe)
}

/// Returns a model with states and a shared expert.
fn hybrid() -> TinyModel {
    hybrid_models().into_iter().find(|(name, _)| *name == "qwen35moe").expect("a hybrid").1
}

/// Serves `total` tokens. Checks that none after the first `warm_up` creates an object of the device.
fn serve(model: &TinyModel, warm_up: u32, total: u32) {
    let device: Device = block_on(gpu());
    let model = block_on(load(&device, &gguf(model)));
    let options = options(8, 80).kv_layout(KvLayout::Paged { block: 8 }).kv_tokens(8 * 80).prefill_rows(24);
    let options = options.snapshot_spacing(16);
    let engine = block_on(Engine::new(&model, &options)).expect("an engine");
    let (mut tokens, mut seed) = (0, 0);
    let mut until = |limit: u32| {
        while tokens < limit {
            seed += 1;
            tokens += requests(&engine, seed);
        }
        tokens
    };
    until(warm_up);
    let (created, resident_before, start) = (device.created(), resident(), Instant::now());
    assert!(created.buffers > 50 && created.bind_groups > 50 && created.pipelines > 20, "{created:?}");
    let tokens = until(total) - warm_up;
    println!("{tokens} tokens in {:?}; {created:?}; {resident_before:?} KiB, then {:?}", start.elapsed(), resident());
    let Created { buffers, bind_groups, pipelines } = device.created();
    assert_eq!((buffers, pipelines), (created.buffers, created.pipelines), "something is created for a step");
    // Now and then a batch is the first of its kind, but that is not by the token.
    assert!(bind_groups < created.bind_groups + 10, "{bind_groups} bind groups, after {}", created.bind_groups);
    if let (Some(before), Some(after)) = (resident_before, resident()) {
        assert!(after < before + 4096, "{before} KiB have become {after}");
    }
    let blocks = engine.blocks();
    assert_eq!(blocks.free, blocks.total);
}
