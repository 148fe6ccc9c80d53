//! Autotuning: typed choices that refine a selection of kernels, within a budget, on GPUs only.

use std::{
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use crate::common::tiny_model::tiny_models;
use crate::common::{
    device::shared_gpu,
    engines::{demo, greedy, prompt, tiny},
};
use ferrum_wgpu::{
    Device, Engine, EngineOptions, Model, Tuning,
    low_level::{
        engine::Tuned,
        model::{DownProj, KernelSelection, PlanOptions, TuningChoice, TuningKey},
    },
};

/// Options with a selection made by hand, since the tests' device is a software driver, which is not tuned by default.
fn options(tuning: Tuning) -> EngineOptions {
    EngineOptions::default()
        .context(128)
        .kv_tokens(4 * 160)
        .sequences(4)
        .prefill_rows(64)
        .plan(PlanOptions { kernels: Some(KernelSelection::GPU), ..PlanOptions::default() })
        .tuning(tuning)
}

/// Returns a clock that advances by `tick` whenever it is read.
fn ticking(tick: Duration) -> impl FnMut() -> Duration + Send {
    let mut now = Duration::ZERO;
    move || {
        now += tick;
        now
    }
}

async fn tune(model: &Model, budget: Duration, tuning: Tuning) -> Tuned {
    let mut clock = ticking(Duration::from_millis(1));
    Engine::tune(model, &options(tuning), budget, &mut clock).await.expect("choices")
}

/// The logits of four sequences at once, of their prompts and some tokens after, as bits.
async fn bits(model: &Model, tuning: Tuning) -> Vec<Vec<u32>> {
    let engine = Engine::new(model, &options(tuning)).await.expect("an engine");
    let mut sessions: Vec<_> = (0..4).map(|_| engine.session()).collect();
    let mut all = Vec::new();
    for (i, session) in (0..).zip(&mut sessions) {
        let logits = session.forward(&prompt(model, 20 + i, i.into())).await.expect("logits");
        all.push(logits.iter().map(|logit| logit.to_bits()).collect());
    }
    for session in &mut sessions {
        let logits = session.forward(&[7]).await.expect("logits");
        all.push(logits.iter().map(|logit| logit.to_bits()).collect());
    }
    all
}

#[test]
fn the_handful_of_keys_is_measured_and_most_choices_change_no_bit() {
    pollster::block_on(async {
        let device = shared_gpu();
        // All tokens go to all experts, so that GEMM tiles of 64 rows are filled.
        let model = tiny(&device, tiny_models()[1].0).await;
        let tuned = tune(&model, Duration::MAX, Tuning::default()).await;
        assert!(tuned.complete);
        let keys: Vec<_> = tuned.tuning.choices.iter().map(|choice| choice.key()).collect();
        for key in TuningKey::ALL {
            // There is nothing to choose where the device has no cooperative matrices.
            assert!(keys.contains(&key) || matches!(key, TuningKey::Gemm(_)), "{key:?} of {keys:?}");
        }
        let default = bits(&model, Tuning::default()).await;
        for candidate in tuned.timings.iter().map(|timing| timing.candidate) {
            if !matches!(candidate, TuningChoice::Gemm(..)) {
                let mut forced = tuned.tuning.clone();
                forced.set(candidate);
                assert!(bits(&model, forced).await == default, "{candidate:?}");
            }
        }
    });
}

#[test]
fn a_choice_changes_the_plan_unless_it_is_of_another_device_or_version() {
    pollster::block_on(async {
        let device = shared_gpu();
        let model = demo(&device).await;
        let dispatches = async |tuning: Tuning| {
            let engine = Engine::new(&model, &options(tuning)).await.expect("an engine");
            let mut session = engine.session();
            session.forward(&[1, 2, 3]).await.expect("logits");
            let mut reply = session.generate(&[4], &greedy(2)).expect("a reply");
            while reply.next().await.expect("a token").is_some() {}
            drop(reply);
            engine.decode_dispatches().await
        };
        let mut tuning = tune(&model, Duration::ZERO, Tuning::default()).await.tuning;
        assert!(tuning.choices.is_empty() && tuning.matches(&model));
        let default = dispatches(tuning.clone()).await;
        tuning.set(TuningChoice::DownProj(DownProj::Combined));
        assert_ne!(dispatches(tuning.clone()).await, default);
        for other in [
            Tuning { device: Device::cpu().fingerprint(), ..tuning.clone() },
            Tuning { device: tuning.device.replace("ferrum-wgpu", "ferrum-wgpu 0.0.1"), ..tuning.clone() },
            Tuning { model: "48 layers".to_owned(), ..tuning.clone() },
            Tuning { version: Tuning::VERSION - 1, ..tuning.clone() },
        ] {
            assert_eq!(dispatches(other.clone()).await, default, "{other:?}");
        }
    });
}

#[test]
fn the_budget_is_kept_and_known_choices_are_not_measured_again() {
    pollster::block_on(async {
        let device = shared_gpu();
        let model = tiny(&device, tiny_models()[0].0).await;
        let all = tune(&model, Duration::MAX, Tuning::default()).await;
        let keys = |tuned: &Tuned| tuned.tuning.choices.len();
        // Each reading of the clock takes a millisecond.
        let readings = AtomicU32::new(0);
        let mut clock = || Duration::from_millis(readings.fetch_add(1, Ordering::Relaxed).into());
        let budget = Duration::from_millis(70);
        let some = Engine::tune(&model, &options(Tuning::default()), budget, &mut clock).await.expect("choices");
        let readings = readings.into_inner();
        assert!(!some.complete && keys(&some) > 0 && keys(&some) < keys(&all), "{some:?}");
        assert!(readings < 80, "{readings} readings of the clock");
        // It continues where it ended.
        let rest = tune(&model, Duration::MAX, some.tuning.clone()).await;
        assert!(rest.complete && keys(&rest) == keys(&all));
        let measured_again = |key| rest.timings.iter().any(|timing| timing.candidate.key() == key);
        assert!(!some.tuning.choices.iter().any(|choice| measured_again(choice.key())));
        assert!(tune(&model, Duration::MAX, rest.tuning).await.timings.is_empty());
    });
}

#[test]
fn software_drivers_and_the_cpu_are_never_tuned() {
    pollster::block_on(async {
        for device in [shared_gpu(), Device::cpu()] {
            let model = tiny(&device, tiny_models()[0].0).await;
            let by_default = options(Tuning::default()).plan(PlanOptions::default());
            let mut clock = ticking(Duration::from_millis(1));
            let tuned = Engine::tune(&model, &by_default, Duration::MAX, &mut clock).await.expect("no choices");
            assert!(!device.is_software() || tuned.timings.is_empty() && tuned.complete);
        }
        let model = tiny(&Device::cpu(), tiny_models()[0].0).await;
        assert!(tune(&model, Duration::MAX, Tuning::default()).await.timings.is_empty());
    });
}
