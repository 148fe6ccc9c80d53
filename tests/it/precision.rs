//! Reduced precision, teacher-forced on the demo model's conversations, compared with the next-token probabilities of
//! `tools/reference.py`.

use crate::common::{
    device::shared_gpu,
    engines::{demo, engine, options},
    golden::{Answer, Probabilities},
};
use ferrum_wgpu::{
    Device, Precision,
    low_level::{
        kernels::linear::{ActivationType, Mma, TileType},
        model::{DeviceProfile, KernelSelection, PlanOptions, PrefillMatmul},
    },
};

/// The agreement of an engine's probabilities with the reference's, over all rows.
#[derive(Debug)]
struct Agreement {
    rows: u32,
    /// The fraction of rows with the reference's argmax.
    agreement: f64,
    /// The mean Kullback-Leibler divergence from the reference, in nats.
    divergence: f64,
}

/// Returns the log-softmax of a row of logits.
fn log_softmax(row: &[f32]) -> Vec<f64> {
    let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let shifted = row.iter().map(|logit| f64::from(logit - largest));
    let log_sum = shifted.clone().map(f64::exp).sum::<f64>().ln();
    shifted.map(|logit| logit - log_sum).collect()
}

/// Returns the Kullback-Leibler divergence of a row from the expected probabilities. Tokens without an expectation
/// count as one.
fn divergence(expected: &[(u32, f64)], row: &[f32]) -> f64 {
    let found = log_softmax(row);
    let (mut sum, mut rest, mut rest_found) = (0.0, 1.0, 1.0);
    for (id, p) in expected {
        let q = found[*id as usize];
        sum += p.exp() * (p - q);
        rest -= p.exp();
        rest_found -= q.exp();
    }
    // Smaller remainders are rounding of the golden's decimals.
    if rest > 1e-5 { sum + rest * (rest / rest_found.max(1e-12)).ln() } else { sum }
}

async fn agreement_with(device: &Device, plan: PlanOptions, answers: &[Answer]) -> Agreement {
    let model = demo(device).await;
    let options = options(1, 128, KernelSelection::GPU).plan(plan).max_logit_rows(64);
    let mut session = engine(&model, &options).await.session();
    let (mut rows, mut same, mut sum) = (0, 0, 0.0);
    for answer in answers {
        session.truncate(0).expect("an idle session");
        let mut expected = answer.top.iter();
        let mut see = |row: &[f32]| {
            let expected = expected.next().expect("a row for each token");
            let argmax = (0..).zip(row).max_by(|a, b| a.1.total_cmp(b.1)).map(|(id, _)| id);
            rows += 1;
            same += u32::from(argmax == Some(expected[0].0));
            sum += divergence(expected, row);
        };
        // Prefill and decode use different kernels: the last tokens are decoded one by one.
        let (prompt, rest) = answer.tokens.split_at(answer.tokens.len() - 6);
        session.forward_each(prompt, &mut see).await.expect("a prefill");
        for token in rest {
            see(&session.decode(*token).await.expect("a step"));
        }
    }
    Agreement { rows, agreement: f64::from(same) / f64::from(rows), divergence: sum / f64::from(rows) }
}

async fn check(device: &Device, plan: PlanOptions, most: f64) {
    let golden = Probabilities::read("demo_probabilities.json").expect("a golden");
    golden.check_model(&crate::common::engines::demo_bytes()).expect("the golden of this model");
    let near = agreement_with(device, plan, &golden.answers).await;
    println!("{plan:?} on {}: {near:?}", device.name());
    assert!(near.rows > 500 && near.agreement >= 0.99 && near.divergence <= most, "{plan:?}: {near:?}");
}

fn of(kernels: KernelSelection) -> PlanOptions {
    PlanOptions { kernels: Some(kernels), ..PlanOptions::default() }
}

#[test]
fn exact_precision_matches_the_reference() {
    pollster::block_on(async {
        let device = shared_gpu();
        check(&device, PlanOptions::default(), 1e-6).await;
        if device.caps().matrices.f32_8 {
            check(&device, of(KernelSelection { mma: Mma::Matrices8, ..KernelSelection::GPU }), 1e-6).await;
        }
    });
}

#[test]
fn fast_precision_is_near_the_reference() {
    pollster::block_on(async {
        let device = shared_gpu();
        check(&device, PlanOptions { precision: Precision::Fast, ..PlanOptions::default() }, 1e-3).await;
        // Whatever this device selects, run the selections of GPUs.
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
fn int8_activations_are_near_the_reference() {
    pollster::block_on(async {
        let device = shared_gpu();
        for kernels in [KernelSelection::GPU, KernelSelection::SOFTWARE] {
            check(&device, of(KernelSelection { activations: ActivationType::Int8, ..kernels }), 3e-3).await;
        }
    });
}

#[test]
fn precision_selects_tile_types() {
    pollster::block_on(async {
        let device = shared_gpu();
        let [exact, fast] =
            Precision::ALL.map(|precision| KernelSelection::select(&DeviceProfile::new(&device), precision));
        assert_eq!(exact.tile, TileType::F32);
        // The reduction order differs from the exact one only where precision is reduced.
        assert_eq!(exact.prefill, fast.prefill);
        assert!(fast.tile == TileType::F32 || (fast.prefill == PrefillMatmul::Gemm && device.caps().f16));
    });
}
