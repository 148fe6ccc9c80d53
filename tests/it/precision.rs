//! Reduced precision, teacher-forced on the demo model's conversations, against what `tools/reference.py` expects after
//! each of their tokens.

use crate::common::{
    engines::{demo, engine, gpu, options},
    golden::{Answer, Probabilities},
};
use ferrum_wgpu::{
    engine::EngineOptions,
    gpu::Device,
    kernels::linear::{ActivationType, Mma, TileType},
    model::{KernelSelection, PlanOptions, Precision, PrefillMatmul},
};

/// How near an engine's probabilities are to the reference's, over all rows.
#[derive(Debug)]
struct Nearness {
    rows: u32,
    /// The share of rows with the reference's likeliest token.
    agreement: f64,
    /// The mean Kullback-Leibler divergence from the reference's probabilities, in nats.
    divergence: f64,
}

/// Logarithms of the probabilities that a row of logits gives.
fn log_softmax(row: &[f32]) -> Vec<f64> {
    let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let shifted = row.iter().map(|logit| f64::from(logit - largest));
    let mass = shifted.clone().map(f64::exp).sum::<f64>().ln();
    shifted.map(|logit| logit - mass).collect()
}

/// The divergence of a row's probabilities from those that are expected of some tokens, all other tokens being taken as one.
fn divergence(expected: &[(u32, f64)], row: &[f32]) -> f64 {
    let found = log_softmax(row);
    let (mut sum, mut rest, mut rest_found) = (0.0, 1.0, 1.0);
    for (id, p) in expected {
        let q = found[*id as usize];
        sum += p.exp() * (p - q);
        rest -= p.exp();
        rest_found -= q.exp();
    }
    // What a golden's decimals leave of nothing.
    if rest > 1e-5 { sum + rest * (rest / rest_found.max(1e-12)).ln() } else { sum }
}

async fn nearness(device: &Device, plan: PlanOptions, answers: &[Answer]) -> Nearness {
    let model = demo(device).await;
    let options = EngineOptions { plan, logit_rows: 64, ..options(1, 128, KernelSelection::GPU) };
    let mut session = engine(&model, &options).await.session();
    let (mut rows, mut same, mut sum) = (0, 0, 0.0);
    for answer in answers {
        session.truncate(0);
        let mut expected = answer.top.iter();
        let mut see = |row: &[f32]| {
            let expected = expected.next().expect("a row for each token");
            let likeliest = (0..).zip(row).max_by(|a, b| a.1.total_cmp(b.1)).map(|(id, _)| id);
            rows += 1;
            same += u32::from(likeliest == Some(expected[0].0));
            sum += divergence(expected, row);
        };
        // Prompts and drawn tokens go by different kernels: the last tokens are given one by one.
        let (prompt, rest) = answer.tokens.split_at(answer.tokens.len() - 6);
        session.forward_each(prompt, &mut see).await.expect("a prefill");
        for token in rest {
            see(&session.decode(*token).await.expect("a step"));
        }
    }
    Nearness { rows, agreement: f64::from(same) / f64::from(rows), divergence: sum / f64::from(rows) }
}

async fn check(device: &Device, plan: PlanOptions, most: f64) {
    let golden = Probabilities::read("demo_probabilities.json").expect("a golden");
    golden.check_model(&crate::common::engines::demo_bytes()).expect("the golden is this model's");
    let near = nearness(device, plan, &golden.answers).await;
    println!("{plan:?} on {}: {near:?}", device.name());
    assert!(near.rows > 500 && near.agreement >= 0.99 && near.divergence <= most, "{plan:?}: {near:?}");
}

fn of(kernels: KernelSelection) -> PlanOptions {
    PlanOptions { kernels: Some(kernels), ..PlanOptions::default() }
}

#[test]
fn exact_passes_have_the_reference_s_probabilities() {
    pollster::block_on(async {
        let device = gpu().await;
        check(&device, PlanOptions::default(), 1e-6).await;
        if device.caps().matrices.f32_8 {
            check(&device, of(KernelSelection { mma: Mma::Matrices8, ..KernelSelection::GPU }), 1e-6).await;
        }
    });
}

#[test]
fn fast_passes_have_almost_the_reference_s_probabilities() {
    pollster::block_on(async {
        let device = gpu().await;
        check(&device, PlanOptions { precision: Precision::Fast, ..PlanOptions::default() }, 1e-3).await;
        // As GPUs have it, whatever this device is.
        let tile = if device.caps().f16 { TileType::F16 } else { TileType::F32 };
        let has = device.caps().matrices;
        for (mma, has) in [(Mma::Fma, true), (Mma::Matrices8, has.f16_8), (Mma::Matrices16, has.f16_16)] {
            if has {
                check(&device, of(KernelSelection { tile, mma, ..KernelSelection::GPU }), 1e-3).await;
            }
        }
    });
}

#[test]
fn int8_activations_have_nearly_the_reference_s_probabilities() {
    pollster::block_on(async {
        let device = gpu().await;
        for kernels in [KernelSelection::GPU, KernelSelection::SOFTWARE] {
            check(&device, of(KernelSelection { activations: ActivationType::Int8, ..kernels }), 3e-3).await;
        }
    });
}

#[test]
fn precision_chooses_tiers() {
    pollster::block_on(async {
        let device = gpu().await;
        let [exact, fast] = Precision::ALL.map(|precision| KernelSelection::of(&device, precision));
        assert_eq!(exact.tile, TileType::F32);
        // The orders of sums are those of the exact pass where nothing is computed otherwise.
        assert_eq!(exact.prefill, fast.prefill);
        assert!(fast.tile == TileType::F32 || (fast.prefill == PrefillMatmul::Gemm && device.caps().f16));
    });
}
