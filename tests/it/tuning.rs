//! Tuning: choices change speed and no bits, and what was measured elsewhere is not used.

use std::{
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use crate::common::engines::{demo, gpu, greedy, prompt, tiny};
use ferrum_wgpu::{
    engine::{Engine, EngineOptions, Tuned},
    gpu::Device,
    model::{KernelSelection, Model, PlanOptions, Tuning},
};

fn options(tuning: Tuning) -> EngineOptions {
    EngineOptions {
        context: Some(128),
        kv_tokens: Some(4 * 160),
        sequences: 4,
        prefill_rows: 16,
        tuning,
        ..EngineOptions::default()
    }
}

/// A clock that goes on by so much each time that it is looked at.
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
    let mut replies: Vec<_> = sessions.iter_mut().map(|s| s.generate(&[5], &greedy(6)).expect("a reply")).collect();
    for reply in &mut replies {
        let mut tokens = Vec::new();
        while let Some(token) = reply.next().await.expect("a token") {
            tokens.push(token);
        }
        all.push(tokens);
    }
    drop(replies);
    for session in &mut sessions {
        let logits = session.forward(&[7]).await.expect("logits");
        all.push(logits.iter().map(|logit| logit.to_bits()).collect());
    }
    all
}

#[test]
fn whatever_is_chosen_the_bits_are_the_same() {
    pollster::block_on(async {
        let device = gpu().await;
        for model in [tiny(&device, crate::common::tiny_model::tiny_models()[0].0).await, demo(&device).await] {
            let tuned = tune(&model, Duration::MAX, Tuning::default()).await;
            assert!(tuned.complete && tuned.timings.len() >= 6, "{tuned:?}");
            let default = bits(&model, Tuning::default()).await;
            assert!(bits(&model, tuned.tuning.clone()).await == default);
            // The choices that were not made, too: each site's last candidate, and its first.
            for last in [true, false] {
                let mut forced = tuned.tuning.clone();
                let timings: Vec<_> = tuned.timings.iter().collect();
                let order: Vec<_> = if last { timings } else { timings.into_iter().rev().collect() };
                for timing in order {
                    forced.choices.insert(timing.site.clone(), timing.candidate.to_owned());
                }
                assert!(bits(&model, forced.clone()).await == default, "{forced:?}");
            }
        }
    });
}

#[test]
fn tiles_are_chosen_for_prompts_that_fill_them_and_change_no_bit() {
    pollster::block_on(async {
        let device = gpu().await;
        // All tokens go to all experts.
        let model = tiny(&device, crate::common::tiny_model::tiny_models()[1].0).await;
        let options = |tuning| EngineOptions {
            prefill_rows: 64,
            plan: PlanOptions { kernels: Some(KernelSelection::GPU), ..PlanOptions::default() },
            ..options(tuning)
        };
        let mut clock = ticking(Duration::from_millis(1));
        let tuned = Engine::tune(&model, &options(Tuning::default()), Duration::MAX, &mut clock).await;
        let tuning = tuned.expect("choices").tuning;
        let sites: Vec<_> = tuning.choices.keys().filter(|site| site.starts_with("tiles of ")).cloned().collect();
        for what in ["tiles of tokens", "tiles of experts"] {
            assert!(sites.iter().any(|site| site.starts_with(what)), "no {what} among {sites:?}");
        }
        let mut all = Vec::new();
        for rows in ["32 rows", "64 rows"] {
            let mut tuning = tuning.clone();
            for site in &sites {
                tuning.choices.insert(site.clone(), rows.to_owned());
            }
            let engine = Engine::new(&model, &options(tuning)).await.expect("an engine");
            let logits = engine.session().forward(&prompt(&model, 100, 1)).await.expect("logits");
            all.push(logits.iter().map(|logit| logit.to_bits()).collect::<Vec<_>>());
        }
        assert!(all[0] == all[1], "{sites:?}");
    });
}

#[test]
fn a_choice_makes_a_difference_to_the_plan_where_it_is_used() {
    pollster::block_on(async {
        let device = gpu().await;
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
        assert!(tuning.choices.is_empty() && tuning.is_of(&model));
        let default = dispatches(tuning.clone()).await;
        tuning.choices.insert("down, rows: 1".to_owned(), "then the sum".to_owned());
        assert!(dispatches(tuning.clone()).await > default);

        // Of another device, driver, engine, or model; and a choice that this engine does not know.
        for other in [
            Tuning { device: Device::cpu().fingerprint(), ..tuning.clone() },
            Tuning { device: tuning.device.replace("ferrum-wgpu", "ferrum-wgpu 0.0.1"), ..tuning.clone() },
            Tuning { model: "48 layers".to_owned(), ..tuning.clone() },
            Tuning { choices: [("down, rows: 1".to_owned(), "by magic".to_owned())].into(), ..tuning.clone() },
        ] {
            assert_eq!(dispatches(other.clone()).await, default, "{other:?}");
        }
    });
}

#[test]
fn the_budget_is_kept_and_what_is_known_is_not_measured_again() {
    pollster::block_on(async {
        let device = gpu().await;
        let model = tiny(&device, crate::common::tiny_model::tiny_models()[0].0).await;
        let all = tune(&model, Duration::MAX, Tuning::default()).await;
        let sites = |tuned: &Tuned| tuned.tuning.choices.len();
        // A look at the clock takes a millisecond, and a measurement looks twice.
        let looks = AtomicU32::new(0);
        let mut clock = || Duration::from_millis(looks.fetch_add(1, Ordering::Relaxed).into());
        let budget = Duration::from_millis(40);
        let some = Engine::tune(&model, &options(Tuning::default()), budget, &mut clock).await.expect("choices");
        let looks = looks.into_inner();
        assert!(!some.complete && sites(&some) > 0 && sites(&some) < sites(&all), "{some:?}");
        // Beside measurements each pass that is left looks once.
        assert!(looks < 60, "{looks} looks at the clock");
        // It goes on where it ended.
        let rest = tune(&model, Duration::MAX, some.tuning.clone()).await;
        assert!(rest.complete && sites(&rest) == sites(&all));
        assert!(rest.timings.iter().all(|timing| !some.tuning.choices.contains_key(&timing.site)));
        assert!(tune(&model, Duration::MAX, rest.tuning).await.timings.is_empty());
        // The CPU kernels have nothing to choose.
        let model = tiny(&Device::cpu(), crate::common::tiny_model::tiny_models()[0].0).await;
        assert!(tune(&model, Duration::MAX, Tuning::default()).await.timings.is_empty());
    });
}
