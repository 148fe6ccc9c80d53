//! Budgets of a Qwen3-30B-A3B layer: dispatches, bytes of weights and objects of the device, counted exactly.

use crate::common::{
    engines::{engine, greedy, options, prompt, replies},
    tiny_model::{Arch, TinyModel, hybrid_models},
};
use ferrum_wgpu::{
    Device, Engine, Gguf, Model, Precision,
    low_level::{
        engine::{DecodePass, PassKind, Stage},
        kernels::attn::CHUNK,
        model::{DeviceProfile, KernelSelection, MemoryTraffic, PrefillMatmul},
        quant::WeightType,
    },
};

/// Returns one layer of Qwen3-30B-A3B in a Q4_K_M file, where `big` is Q6_K in half of the layers and Q4_K in the
/// others. The head has few rows, since its traffic is proportional to its rows.
fn layer(big: WeightType) -> TinyModel {
    TinyModel {
        arch: Arch::Qwen3Moe,
        layers: 1,
        hidden: 2048,
        heads: 32,
        kv_heads: 4,
        head_dim: 128,
        experts: 128,
        top_k: 8,
        expert_ffn: 768,
        vocab: 512,
        main: WeightType::Q4K,
        big,
        ..TinyModel::default()
    }
}

/// Returns a layer with the same dispatches and fewer weights.
fn narrow(big: WeightType) -> TinyModel {
    TinyModel { hidden: 256, head_dim: 16, experts: 16, top_k: 2, expert_ffn: 256, ..layer(big) }
}

const BIG: [WeightType; 2] = [WeightType::Q4K, WeightType::Q6K];

async fn load(device: &Device, tiny: &TinyModel) -> (Gguf, Model) {
    let gguf = Gguf::from_bytes(tiny.to_bytes().expect("a GGUF")).expect("a GGUF");
    let model = Model::load(device, &gguf, |_, _| ()).await.expect("a model");
    (gguf, model)
}

/// Returns the pass of a decode step.
async fn decode(engine: &Engine, model: &Model) -> DecodePass {
    replies(engine, &[(prompt(model, 2, 0), greedy(3))]).await;
    engine.decode_pass(8.0).await
}

/// Extrapolates the bytes of one layer of each kind to Qwen3-30B-A3B's Q4_K_M file: 24 layers of each kind and one
/// head. `q4` and `q6` each include a head of 512 rows.
fn of_48_layers(q4: f64, q6: f64, final_norm: f64, row: f64) -> f64 {
    let head = 512.0 * WeightType::Q6K.block_bytes() as f64 * 8.0;
    let head_of_q4 = 512.0 * WeightType::Q4K.block_bytes() as f64 * 8.0;
    24.0 * (q4 - head_of_q4 - final_norm - row)
        + 24.0 * (q6 - head - final_norm - row)
        + 151_936.0 / 512.0 * head
        + final_norm
        + row
}

#[test]
fn a_token_reads_at_most_2_percent_more_weights_than_it_needs() {
    pollster::block_on(async {
        let device = Device::cpu();
        let (mut counted, mut needed) = (Vec::new(), Vec::new());
        for big in BIG {
            let (gguf, model) = load(&device, &layer(big)).await;
            let engine = engine(&model, &options(1, 32, KernelSelection::GPU)).await;
            let pass = decode(&engine, &model).await;
            assert_eq!(pass.rows, 1);
            counted.push(pass.weight_bytes);
            needed.push(MemoryTraffic::of(&gguf).expect("a model").weights(1, 8.0));
        }
        let (final_norm, row) = (4.0 * 2048.0, 8.0 * WeightType::Q4K.block_bytes() as f64);
        let [counted, needed] = [counted, needed].map(|of| of_48_layers(of[0], of[1], final_norm, row));
        println!("{counted} B of {needed} B");
        // The literal excludes the final norm and the embedding row.
        assert_eq!(needed - final_norm - row, 1_919_588_352.0);
        assert!((1.0..=1.02).contains(&(counted / 1_919_588_352.0)), "{counted} B");
    });
}

/// Counts the dispatches of all layers: per pass of a prompt of `len` tokens (the average over its passes), for a
/// decode step, and for decode steps of three sequences, one of them of that length, with expert assignments processed
/// one by one and bucketed.
async fn counts(device: &Device, tiny: &TinyModel, kernels: KernelSelection, len: u32) -> [u64; 4] {
    let (_, model) = load(device, tiny).await;
    let measure = async |kernels, sequences: u32| {
        let options = options(sequences, 400, kernels).profile(true);
        let engine = engine(&model, &options).await;
        let mut sessions: Vec<_> = (0..sequences).map(|_| engine.session()).collect();
        let mut running = Vec::new();
        for (i, session) in (0..).zip(&mut sessions) {
            let len = if i == 0 { len } else { 3 };
            let mut reply = session.generate(&prompt(&model, len, i), &greedy(u32::MAX)).expect("a request");
            reply.next().await.expect("a step").expect("a token");
            running.push(reply);
        }
        // The next pass decodes all of them.
        for _ in 0..2 {
            running.last_mut().expect("a sequence").next().await.expect("a step").expect("a token");
        }
        let pass = engine.decode_pass(8.0).await;
        assert_eq!(pass.rows, sequences);
        (pass.layer_dispatches as u64, engine.profile().await)
    };
    let (alone, profile) = measure(kernels, 1).await;
    let prompts = &profile.phases[&PassKind::Prefill];
    let outside = [Stage::Embed, Stage::Head, Stage::Sampling];
    let stages = prompts.stages.iter().filter(|(stage, _)| !outside.contains(stage));
    let dispatches: u64 = stages.map(|(_, stage)| stage.dispatches).sum();
    // With GEMM, all passes have the same dispatches. In single-row reduction order, a first pass of few rows has
    // fewer.
    if kernels.prefill == PrefillMatmul::Gemm || len <= CHUNK {
        assert_eq!(dispatches % prompts.passes, 0, "{prompts:?}");
    }
    let (pairs, _) = measure(KernelSelection { expert_batched_from: u32::MAX, ..kernels }, 3).await;
    let (buckets, _) = measure(KernelSelection { expert_batched_from: 0, ..kernels }, 3).await;
    [dispatches.div_ceil(prompts.passes), alone, pairs, buckets]
}

#[test]
fn a_layer_stays_in_its_dispatch_budget() {
    pollster::block_on(async {
        let device = Device::cpu();
        let by_rows = KernelSelection::SOFTWARE_SUBGROUPS;
        // Contexts of one attention chunk, and of two, which are reduced.
        let long = CHUNK + 2;
        for (kernels, len) in [
            (KernelSelection::GPU, 5),
            (KernelSelection::SOFTWARE, 5),
            (by_rows, 5),
            (KernelSelection::GPU, long),
            (by_rows, long),
        ] {
            let first = counts(&device, &narrow(WeightType::Q4K), kernels, len).await;
            // Long contexts change attention only.
            for big in BIG.into_iter().take(if len == long { 1 } else { 2 }) {
                // The second of the two layers has this type.
                let both = counts(&device, &TinyModel { layers: 2, ..narrow(big) }, kernels, len).await;
                let layer: [u64; 4] = std::array::from_fn(|i| both[i] - first[i]);
                println!("{layer:?}: {big}, contexts of {len}, {kernels:?}");
                for (dispatches, most) in layer.into_iter().zip([12, 9, 11, 12]) {
                    assert!(dispatches <= most, "{layer:?}: {big}, contexts of {len}, {kernels:?}");
                }
            }
        }
    });
}

#[test]
fn dispatches_of_hybrids_do_not_grow_with_sequences() {
    pollster::block_on(async {
        // Three gated delta nets and an attention layer: with a dense feed-forward; with a shared expert among the others;
        // with one of its own, and projections in more matrices.
        for ((name, tiny), most) in hybrid_models().into_iter().zip([30, 42, 47]) {
            let layers = u64::from(tiny.layers);
            for kernels in [KernelSelection::GPU, KernelSelection::SOFTWARE_SUBGROUPS] {
                let [_, alone, pairs, sorted] = counts(&Device::cpu(), &tiny, kernels, 5).await;
                println!(
                    "{name}: {alone} dispatches of {layers} layers, {pairs} and {sorted} for three sequences, {kernels:?}"
                );
                assert!(alone <= most, "{name}, {kernels:?}");
                // Two norms of a layer, which a single row's products apply, and the sort of its assignments.
                assert!(pairs <= alone + 2 * layers && sorted <= alone + 3 * layers, "{name}, {kernels:?}");
            }
        }
    });
}

#[test]
fn a_token_creates_no_device_objects() {
    pollster::block_on(async {
        let device = crate::common::device::gpu().await;
        for prefill in [PrefillMatmul::Gemv, PrefillMatmul::Gemm] {
            let (_, model) = load(&device, &narrow(WeightType::Q6K)).await;
            let engine = engine(
                &model,
                &options(
                    2,
                    64,
                    KernelSelection {
                        prefill,
                        ..KernelSelection::select(&DeviceProfile::new(&device), Precision::Exact)
                    },
                ),
            )
            .await;
            engine.warm_up().await.expect("shaders compile");
            let requests = [0, 1].map(|i| (prompt(&model, 5, i), greedy(40)));
            // A request that begins a step later than the other makes passes of other shapes, which are recorded once.
            let mut created = Vec::new();
            while created.len() < 6 && !created.ends_with(&[device.created(); 2]) {
                replies(&engine, &requests).await;
                created.push(device.created());
            }
            let [.., before, after] = created[..] else { panic!("{created:?}") };
            assert_eq!(before, after, "{prefill:?}");
        }
    });
}
