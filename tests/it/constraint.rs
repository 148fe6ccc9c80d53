//! Constrained replies, and log-probabilities.

use crate::common::{
    device::shared_gpu,
    engines::{demo, engine, greedy, sampled, sampling},
};
use ferrum_wgpu::{Constraint, Device, Engine, EngineError, EngineOptions, GenerateOptions, Model};

/// Allows the tokens that a function allows at each place.
struct Allow<F>(F, u32);

impl<F: Fn(u32, u32) -> bool + Send> Constraint for Allow<F> {
    fn mask(&mut self, mask: &mut [u32]) -> Result<(), String> {
        for id in (0..32 * mask.len() as u32).filter(|id| self.0(self.1, *id)) {
            mask[id as usize / 32] |= 1 << (id % 32);
        }
        Ok(())
    }

    fn accept(&mut self, token: u32) -> Result<(), String> {
        assert!(self.0(self.1, token), "{token} is not allowed");
        self.1 += 1;
        Ok(())
    }
}

fn prompt(seed: u32) -> Vec<u32> {
    (0..20).map(|i| 300 + i * 7 + seed).collect()
}

/// Returns constrained replies, computed together: one for each constraint, or free.
async fn together(engine: &Engine, all: Vec<(GenerateOptions, Option<Box<dyn Constraint>>)>) -> Vec<Vec<u32>> {
    let mut replies = Vec::new();
    for (i, (options, constraint)) in (0..).zip(all) {
        let mut session = engine.session();
        replies.push(match constraint {
            Some(constraint) => session.generate_constrained(&prompt(i), &options, constraint).expect("a reply"),
            None => session.generate(&prompt(i), &options).expect("a reply"),
        });
    }
    let mut tokens = vec![Vec::new(); replies.len()];
    let mut any = true;
    while any {
        any = false;
        for (reply, tokens) in replies.iter_mut().zip(&mut tokens) {
            if let Some(token) = reply.next().await.expect("a token") {
                tokens.push(token);
                any = true;
            }
        }
    }
    tokens
}

async fn check(model: &Model, options: EngineOptions) {
    let engine = engine(model, &options.sequences(4).context(128).kv_tokens(1024)).await;
    let kinds = [greedy(12), sampled(12, sampling(5)), sampled(12, sampling(2)), sampled(12, sampling(8))];
    let requests = || kinds.clone();
    let free = together(&engine, requests().map(|options| (options, None)).into()).await;
    // Masks that forbid nothing change nothing, beside a free sequence.
    let all: [Option<Box<dyn Constraint>>; 4] = [
        Some(Box::new(Allow(|_, _| true, 0))),
        None,
        Some(Box::new(Allow(|_, _| true, 0))),
        Some(Box::new(Allow(|_, _| true, 0))),
    ];
    assert_eq!(together(&engine, requests().into_iter().zip(all).collect()).await, free);
    // Masks are obeyed at each place, and the others' tokens stay.
    let rule = |place: u32, id: u32| id % 5 == place % 5;
    let some: [Option<Box<dyn Constraint>>; 4] =
        [Some(Box::new(Allow(rule, 0))), None, Some(Box::new(Allow(rule, 0))), Some(Box::new(Allow(rule, 0)))];
    let constrained = together(&engine, requests().into_iter().zip(some).collect()).await;
    assert_eq!(constrained[1], free[1]);
    for tokens in [&constrained[0], &constrained[2], &constrained[3]] {
        assert_eq!(tokens.len(), 12);
        assert!((0..).zip(tokens.iter()).all(|(place, id)| rule(place, *id)), "{tokens:?}");
    }
    // A mask without tokens is an error at once, or after the token before it.
    let mut session = engine.session();
    let none = session.generate_constrained(&prompt(0), &greedy(3), Box::new(Allow(|_, _| false, 0)));
    assert!(matches!(none, Err(EngineError::Constraint(_))));
    let two = Box::new(Allow(|place, _| place < 2, 0));
    let mut reply = session.generate_constrained(&prompt(0), &greedy(5), two).expect("a reply");
    assert!(matches!(reply.next().await, Ok(Some(_))));
    assert!(matches!(reply.next().await, Err(EngineError::Constraint(_))));
}

#[test]
fn masks_are_obeyed_and_forbid_nothing_else() {
    pollster::block_on(async {
        let device = shared_gpu();
        let model = demo(&device).await;
        check(&model, EngineOptions::default()).await;
        check(&model, EngineOptions::default().host_sampling(true)).await;
    });
}

/// Prints the rates of replies without and with masks that take a while, as those of grammars do. The masks forbid nothing, so the
/// tokens must be equal.
#[test]
#[ignore = "a measurement"]
fn rates_of_constrained_replies() {
    pollster::block_on(async {
        let device = shared_gpu();
        let model = demo(&device).await;
        let slow = || -> Option<Box<dyn Constraint>> {
            Some(Box::new(Allow(
                |place, id| {
                    if id == 0 {
                        std::thread::sleep(std::time::Duration::from_micros(500 * u64::from(place > 0)));
                    }
                    true
                },
                0,
            )))
        };
        for _ in 0..2 {
            let options = EngineOptions::default().sequences(4).context(256).kv_tokens(1024);
            let engine = engine(&model, &options).await;
            engine.warm_up().await.expect("kernels");
            let free = together(&engine, (0..4).map(|_| (greedy(64), None)).collect()).await;
            for (sequences, constrained) in [(1, 0), (1, 1), (4, 0), (4, 1), (4, 2), (4, 4)] {
                let all = (0..sequences).map(|i| (greedy(64), if i < constrained { slow() } else { None }));
                let start = std::time::Instant::now();
                let replies = together(&engine, all.collect()).await;
                let seconds = start.elapsed().as_secs_f64();
                assert_eq!(replies, free[..sequences]);
                let rate = replies.iter().map(Vec::len).sum::<usize>() as f64 / seconds;
                println!("{constrained} of {sequences} constrained: {rate:.1} tokens/s");
            }
        }
    });
}

#[test]
fn masks_work_on_the_cpu() {
    pollster::block_on(async { check(&demo(&Device::cpu()).await, EngineOptions::default()).await });
}

#[test]
fn log_probabilities_are_those_of_the_logits() {
    pollster::block_on(async {
        let device = shared_gpu();
        let model = demo(&device).await;
        for host_sampling in [false, true] {
            let options = EngineOptions::default().sequences(2).context(128).host_sampling(host_sampling);
            let engine = engine(&model, &options).await;
            let mut session = engine.session();
            let (mut reference, mut other) = (engine.session(), engine.session());
            let with = sampled(6, sampling(5)).logprobs(4);
            let mut reply = session.generate(&prompt(0), &greedy(6).logprobs(4)).expect("a reply");
            let mut beside = other.generate(&prompt(1), &with).expect("a reply");
            let mut logits = reference.forward(&prompt(0)).await.expect("logits");
            let mut tokens = 0;
            while let Some(token) = reply.next().await.expect("a token") {
                let logprobs = reply.take_logprobs().expect("log-probabilities");
                let largest = logits.iter().copied().fold(f32::MIN, f32::max);
                let sum: f64 = logits.iter().map(|l| f64::from(l - largest).exp()).sum();
                let wanted = f64::from(logits[token as usize] - largest) - sum.ln();
                assert!((f64::from(logprobs.logprob) - wanted).abs() < 1e-4, "{logprobs:?}, {wanted}");
                assert_eq!((logprobs.top.len(), logprobs.top[0]), (4, (token, logprobs.logprob)));
                assert!(logprobs.top.is_sorted_by(|a, b| a.1 >= b.1));
                logits = reference.decode(token).await.expect("logits");
                tokens += 1;
            }
            assert_eq!(tokens, 6);
            while beside.next().await.expect("a token").is_some() {
                assert_eq!(beside.take_logprobs().expect("log-probabilities").top.len(), 4);
            }
        }
    });
}
