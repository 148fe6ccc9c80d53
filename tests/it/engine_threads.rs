//! Sessions of one engine in several threads, and owners that look after something else.

use std::{
    future::Future,
    pin::pin,
    sync::{
        Barrier,
        atomic::{AtomicU32, Ordering},
    },
    task::{Context, Poll, Waker},
    thread,
    time::{Duration, Instant},
};

use crate::common::{
    smallest::{Alone, VOCAB, Way, all, gguf, gpu, lent, load, options, smallest},
    tiny_model::Arch,
};
use ferrum_wgpu::{
    engine::{Engine, EngineOptions, Progress},
    gpu::Device,
    model::Model,
    quant::Rng,
};
use pollster::block_on;

fn model_on(device: &Device) -> Model {
    block_on(load(device, &gguf(&smallest(Arch::Qwen3Moe))))
}

fn engine(model: &Model, options: &EngineOptions) -> Engine {
    block_on(Engine::new(model, options)).expect("an engine")
}

fn prompt(first: u32, len: u32) -> Vec<u32> {
    (0..len).map(|i| (first + 3 * i) % VOCAB).collect()
}

#[test]
fn sessions_and_their_futures_may_go_to_other_threads() {
    fn send<T: Send>(value: T) -> T {
        value
    }
    fn shared<T: Sync>(_: &T) {}
    let device = Device::cpu();
    let model = model_on(&device);
    let options = options(2, 64);
    let file = gguf(&smallest(Arch::Qwen3Moe));
    let engine = block_on(send(Engine::new(&model, &options))).expect("an engine");
    shared(&engine);
    block_on(send(engine.prepare())).expect("it compiles");
    block_on(send(engine.recover(&device, &file))).expect("it is as good as another");
    block_on(send(engine.profile()));
    let mut session = send(engine.session());
    shared(&session);
    block_on(send(session.forward(&[1]))).expect("logits");
    block_on(send(session.decode(2))).expect("logits");
    block_on(send(session.forward_each(&[3, 4], |_| ()))).expect("logits");
    let mut reply = send(session.generate(&[5], &Way::Greedy.tokens(3)).expect("a request"));
    block_on(send(reply.next())).expect("a token");
    block_on(send(reply.step())).expect("a step");
}

#[test]
fn eight_threads_get_what_each_gets_alone() {
    for device in [block_on(gpu()), block_on(lent()), Device::cpu()] {
        // The lent one is waited for by polling, and so is the one that pretends.
        device.pend(u32::from(device.is_cpu()));
        let model = model_on(&device);
        // One has to wait for a place.
        let engine = engine(&model, &EngineOptions { kv_tokens: Some(8 * 64), prefill_rows: 16, ..options(7, 64) });
        let given_up = AtomicU32::new(0);
        let said: Vec<_> = thread::scope(|scope| {
            let chat = |i: u32| {
                let mut rng = Rng::new(u64::from(i));
                let (mut session, mut said) = (engine.session(), Vec::new());
                for turn in 0..12 {
                    let way = [Way::Greedy, Way::Sampled, Way::Penalised][(turn % 3) as usize];
                    if session.len() > 30 {
                        session.truncate(rng.below(5));
                    }
                    let before = session.tokens();
                    let given = prompt(10 * i + turn, 1 + rng.below(9));
                    let mut reply = session.generate(&given, &way.tokens(1 + rng.below(12))).expect("a request");
                    let mut tokens = Vec::new();
                    let most = if turn % 4 == 3 { rng.below(6) } else { u32::MAX };
                    while (tokens.len() as u32) < most {
                        match block_on(reply.next()).expect("a step") {
                            Some(token) => tokens.push(token),
                            None => break,
                        }
                    }
                    given_up.fetch_add(u32::from(reply.stop().is_none()), Ordering::Relaxed);
                    drop(reply);
                    said.push(([before, given].concat(), way, tokens));
                }
                said
            };
            let threads: Vec<_> = (0..8).map(|i| scope.spawn(move || chat(i))).collect();
            threads.into_iter().flat_map(|thread| thread.join().expect("no panic")).collect()
        });
        let mut alone = block_on(Alone::new(&model));
        for (prompt, way, tokens) in said {
            assert_eq!(tokens, alone.reply(&prompt, way, tokens.len()), "{way:?} after {prompt:?}");
        }
        assert!(given_up.load(Ordering::Relaxed) > 5);
        let (blocks, free) = engine.blocks();
        assert_eq!(blocks, free);
    }
}

#[test]
fn threads_get_equal_shares() {
    const THREADS: usize = 8;
    for device in [block_on(gpu()), block_on(lent())] {
        let model = model_on(&device);
        let engine = engine(&model, &options(THREADS as u32, 256));
        block_on(engine.prepare()).expect("it compiles");
        let begin = Barrier::new(THREADS);
        let speak = |i: usize| {
            let mut session = engine.session();
            let (mut tokens, mut longest) = (0, Duration::ZERO);
            begin.wait();
            let (start, mut last) = (Instant::now(), Instant::now());
            while start.elapsed() < Duration::from_secs(2) {
                session.truncate(0);
                let mut reply = session.generate(&prompt(i as u32, 5), &Way::Greedy.tokens(200)).expect("a request");
                while start.elapsed() < Duration::from_secs(2) && block_on(reply.next()).expect("a step").is_some() {
                    tokens += 1;
                    longest = longest.max(last.elapsed());
                    last = Instant::now();
                }
            }
            (tokens, longest)
        };
        let shares: Vec<_> = thread::scope(|scope| {
            let speak = &speak;
            let threads: Vec<_> = (0..THREADS).map(|i| scope.spawn(move || speak(i))).collect();
            threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
        });
        println!("{}: tokens and the longest wait of each: {shares:?}", device.name());
        let tokens = shares.iter().map(|(tokens, _)| *tokens);
        let (least, most) = (tokens.clone().min().unwrap_or(0), tokens.max().unwrap_or(0));
        assert!(least > 20 && 2 * least >= most, "{shares:?}");
        assert!(shares.iter().all(|(_, longest)| *longest < Duration::from_secs(1)), "{shares:?}");
    }
}

/// An owner has its future begin the work, and then never polls it again; or blocks its thread between tokens.
#[test]
fn owners_that_look_after_something_else_hold_nobody_up() {
    for device in [Device::cpu(), block_on(lent())] {
        let model = model_on(&device);
        let mut alone = block_on(Alone::new(&model));
        device.pend(3);
        let engine = engine(&model, &options(4, 128));
        let mut sleeper = engine.session();
        let mut reply = sleeper.generate(&prompt(1, 9), &Way::Greedy.tokens(5)).expect("a request");
        let mut slept_on = Box::pin(reply.next());
        // It has the device in the middle of a step.
        assert!(slept_on.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        let mut forward = engine.session();
        let given = prompt(2, 7);
        let mut also_slept_on = Box::pin(forward.forward(&given));
        assert!(also_slept_on.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        thread::scope(|scope| {
            let slow = scope.spawn(|| {
                let (mut session, start) = (engine.session(), Instant::now());
                let mut reply = session.generate(&prompt(3, 5), &Way::Greedy.tokens(10)).expect("a request");
                let mut tokens = Vec::new();
                while let Some(token) = block_on(reply.next()).expect("a step") {
                    tokens.push(token);
                    thread::sleep(Duration::from_millis(200));
                }
                (tokens, start.elapsed())
            });
            let quick = scope.spawn(|| {
                let (mut session, start) = (engine.session(), Instant::now());
                let mut reply = session.generate(&prompt(4, 5), &Way::Greedy.tokens(40)).expect("a request");
                (block_on(all(&mut reply)).expect("tokens"), start.elapsed())
            });
            let (of_slow, slow) = slow.join().expect("no panic");
            let (of_quick, quick) = quick.join().expect("no panic");
            device.pend(0);
            assert_eq!(of_slow, alone.reply(&prompt(3, 5), Way::Greedy, 10));
            assert_eq!(of_quick, alone.reply(&prompt(4, 5), Way::Greedy, 40));
            assert!(2 * quick < slow, "{quick:?} beside {slow:?}");
        });
        // What they were waiting for has long been there.
        let mut tokens = Vec::new();
        let first = pin!(&mut slept_on).poll(&mut Context::from_waker(Waker::noop()));
        let Poll::Ready(Ok(first)) = first else { panic!("{first:?}") };
        tokens.extend(first);
        drop(slept_on);
        tokens.extend(block_on(all(&mut reply)).expect("tokens"));
        assert_eq!(tokens, alone.reply(&prompt(1, 9), Way::Greedy, 5));
        block_on(also_slept_on).expect("logits");
        assert_eq!(forward.tokens(), given);
    }
}

#[test]
fn one_executor_serves_many_sessions() {
    // All in one thread, polled in turn: no future blocks the others while the device is waited for.
    let device = block_on(lent());
    device.pend(2);
    let model = model_on(&device);
    let engine = engine(&model, &options(3, 64));
    let mut sessions: Vec<_> = (0..6).map(|_| engine.session()).collect();
    let mut said = vec![Vec::new(); 6];
    {
        let mut replies: Vec<_> = (0..)
            .zip(&mut sessions)
            .map(|(i, session)| {
                let mut reply = session.generate(&prompt(i, 6), &Way::Sampled.tokens(8 + i)).expect("a request");
                let tokens = async move {
                    let mut tokens = Vec::new();
                    loop {
                        match reply.step().await.expect("a step") {
                            Progress::Token(token) => tokens.push(token),
                            Progress::Ended(_) => return tokens,
                            Progress::Computed => {}
                        }
                    }
                };
                Some(Box::pin(tokens))
            })
            .collect();
        let mut turns = 0;
        while replies.iter().any(Option::is_some) {
            turns += 1;
            assert!(turns < 1_000_000, "no end in sight");
            for (reply, said) in replies.iter_mut().zip(&mut said) {
                let Some(future) = reply else { continue };
                if let Poll::Ready(tokens) = future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                    (*said, *reply) = (tokens, None);
                }
            }
        }
    }
    let mut alone = block_on(Alone::new(&model));
    for (i, tokens) in (0..).zip(said) {
        assert_eq!(tokens, alone.reply(&prompt(i, 6), Way::Sampled, 8 + i as usize));
    }
}
