//! Sessions of one engine in several threads, and owners that look after something else.

use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::{
        Arc, Barrier,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    thread::{self, Thread},
    time::{Duration, Instant},
};

use crate::common::{
    micro_model::{SamplingKind, SoloReplies, VOCAB, all, borrowed_device, gguf, gpu, load, micro_model, options},
    tiny_model::Arch,
};
use ferrum_wgpu::{
    Device, Engine, EngineError, EngineOptions, FinishReason, Model, Progress,
    low_level::{gpu::WaitMode, quant::Rng},
};
use futures_core::Stream;
use pollster::block_on;

fn model_on(device: &Device) -> Model {
    block_on(load(device, &gguf(&micro_model(Arch::Qwen3Moe))))
}

fn engine(model: &Model, options: &EngineOptions) -> Engine {
    block_on(Engine::new(model, options)).expect("an engine")
}

fn prompt(first: u32, len: u32) -> Vec<u32> {
    (0..len).map(|i| (first + 3 * i) % VOCAB).collect()
}

#[test]
fn sessions_and_their_futures_are_send() {
    fn send<T: Send>(value: T) -> T {
        value
    }
    fn shared<T: Sync>(_: &T) {}
    let device = Device::cpu();
    let model = model_on(&device);
    let options = options(2, 64);
    let file = gguf(&micro_model(Arch::Qwen3Moe));
    let engine = block_on(send(Engine::new(&model, &options))).expect("an engine");
    shared(&engine);
    block_on(send(engine.warm_up())).expect("it compiles");
    block_on(send(engine.recover(&device, &file))).expect("it is as good as another");
    block_on(send(engine.profile()));
    let mut session = send(engine.session());
    shared(&session);
    block_on(send(session.forward(&[1]))).expect("logits");
    block_on(send(session.decode(2))).expect("logits");
    block_on(send(session.forward_each(&[3, 4], |_| ()))).expect("logits");
    let mut reply = send(session.generate(&[5], &SamplingKind::Greedy.tokens(3)).expect("a request"));
    block_on(send(reply.next())).expect("a token");
    block_on(send(reply.step())).expect("a step");
}

#[test]
fn eight_threads_get_solo_replies() {
    for device in [block_on(gpu()), block_on(borrowed_device()), Device::cpu()] {
        // The lent one is waited for by polling, and so is the one that pretends.
        device.pend(u32::from(device.is_cpu()));
        let model = model_on(&device);
        // One has to wait for a place.
        let engine = engine(&model, &options(7, 64).kv_tokens(8 * 64).prefill_rows(16));
        let given_up = AtomicU32::new(0);
        let received: Vec<_> = thread::scope(|scope| {
            let chat = |i: u32| {
                let mut rng = Rng::new(u64::from(i));
                let (mut session, mut received) = (engine.session(), Vec::new());
                for turn in 0..12 {
                    let sampling_kind =
                        [SamplingKind::Greedy, SamplingKind::Sampled, SamplingKind::Penalised][(turn % 3) as usize];
                    if session.len() > 30 {
                        session.truncate(rng.below(5)).expect("an idle session");
                    }
                    let before = session.tokens();
                    let input = prompt(10 * i + turn, 1 + rng.below(9));
                    let mut reply =
                        session.generate(&input, &sampling_kind.tokens(1 + rng.below(12))).expect("a request");
                    let mut tokens = Vec::new();
                    let limit = if turn % 4 == 3 { rng.below(6) } else { u32::MAX };
                    while (tokens.len() as u32) < limit {
                        match block_on(reply.next()).expect("a step") {
                            Some(token) => tokens.push(token),
                            None => break,
                        }
                    }
                    given_up.fetch_add(u32::from(reply.finish_reason().is_none()), Ordering::Relaxed);
                    drop(reply);
                    received.push(([before, input].concat(), sampling_kind, tokens));
                }
                received
            };
            let threads: Vec<_> = (0..8).map(|i| scope.spawn(move || chat(i))).collect();
            threads.into_iter().flat_map(|thread| thread.join().expect("no panic")).collect()
        });
        let mut alone = block_on(SoloReplies::new(&model));
        for (prompt, sampling_kind, tokens) in received {
            assert_eq!(tokens, alone.reply(&prompt, sampling_kind, tokens.len()), "{sampling_kind:?} after {prompt:?}");
        }
        assert!(given_up.load(Ordering::Relaxed) > 5);
        let blocks = engine.blocks();
        assert_eq!(blocks.free, blocks.total);
    }
}

#[test]
fn threads_get_equal_shares() {
    const THREADS: usize = 8;
    for device in [block_on(gpu()), block_on(borrowed_device())] {
        let model = model_on(&device);
        let engine = engine(&model, &options(THREADS as u32, 256));
        block_on(engine.warm_up()).expect("it compiles");
        let begin = Barrier::new(THREADS);
        let speak = |i: usize| {
            let mut session = engine.session();
            let (mut tokens, mut longest) = (0, Duration::ZERO);
            begin.wait();
            let (start, mut last) = (Instant::now(), Instant::now());
            while start.elapsed() < Duration::from_secs(2) {
                session.truncate(0).expect("an idle session");
                let mut reply =
                    session.generate(&prompt(i as u32, 5), &SamplingKind::Greedy.tokens(200)).expect("a request");
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
        let (least, limit) = (tokens.clone().min().unwrap_or(0), tokens.max().unwrap_or(0));
        assert!(least > 20 && 2 * least >= limit, "{shares:?}");
        assert!(shares.iter().all(|(_, longest)| *longest < Duration::from_secs(1)), "{shares:?}");
    }
}

/// An owner has its future begin the work, and then never polls it again; or blocks its thread between tokens.
#[test]
fn busy_owners_block_no_session() {
    for device in [Device::cpu(), block_on(borrowed_device())] {
        let model = model_on(&device);
        let mut alone = block_on(SoloReplies::new(&model));
        device.pend(3);
        let engine = engine(&model, &options(4, 128));
        let mut sleeper = engine.session();
        let mut reply = sleeper.generate(&prompt(1, 9), &SamplingKind::Greedy.tokens(5)).expect("a request");
        let mut slept_on = Box::pin(reply.next());
        // It has the device in the middle of a step.
        assert!(slept_on.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        let mut forward = engine.session();
        let input = prompt(2, 7);
        let mut also_slept_on = Box::pin(forward.forward(&input));
        assert!(also_slept_on.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        thread::scope(|scope| {
            let slow = scope.spawn(|| {
                let (mut session, start) = (engine.session(), Instant::now());
                let mut reply = session.generate(&prompt(3, 5), &SamplingKind::Greedy.tokens(10)).expect("a request");
                let mut tokens = Vec::new();
                while let Some(token) = block_on(reply.next()).expect("a step") {
                    tokens.push(token);
                    thread::sleep(Duration::from_millis(400));
                }
                (tokens, start.elapsed())
            });
            let quick = scope.spawn(|| {
                let (mut session, start) = (engine.session(), Instant::now());
                let mut reply = session.generate(&prompt(4, 5), &SamplingKind::Greedy.tokens(40)).expect("a request");
                (block_on(all(&mut reply)).expect("tokens"), start.elapsed())
            });
            let (of_slow, slow) = slow.join().expect("no panic");
            let (of_quick, quick) = quick.join().expect("no panic");
            device.pend(0);
            assert_eq!(of_slow, alone.reply(&prompt(3, 5), SamplingKind::Greedy, 10));
            assert_eq!(of_quick, alone.reply(&prompt(4, 5), SamplingKind::Greedy, 40));
            assert!(2 * quick < slow, "{quick:?} beside {slow:?}");
        });
        // What they were waiting for has long been there.
        let mut tokens = Vec::new();
        let first = pin!(&mut slept_on).poll(&mut Context::from_waker(Waker::noop()));
        let Poll::Ready(Ok(first)) = first else { panic!("{first:?}") };
        tokens.extend(first);
        drop(slept_on);
        tokens.extend(block_on(all(&mut reply)).expect("tokens"));
        assert_eq!(tokens, alone.reply(&prompt(1, 9), SamplingKind::Greedy, 5));
        block_on(also_slept_on).expect("logits");
        assert_eq!(forward.tokens(), input);
    }
}

#[test]
fn one_executor_serves_many_sessions() {
    // All in one thread, polled in turn: no future blocks the others while the device is waited for.
    let device = block_on(borrowed_device());
    device.pend(2);
    let model = model_on(&device);
    let engine = engine(&model, &options(3, 64));
    let mut sessions: Vec<_> = (0..6).map(|_| engine.session()).collect();
    let mut received = vec![Vec::new(); 6];
    {
        let mut replies: Vec<_> = (0..)
            .zip(&mut sessions)
            .map(|(i, session)| {
                let mut reply =
                    session.generate(&prompt(i, 6), &SamplingKind::Sampled.tokens(8 + i)).expect("a request");
                let tokens = async move {
                    let mut tokens = Vec::new();
                    loop {
                        match reply.step().await.expect("a step") {
                            Progress::Token(token) => tokens.push(token),
                            Progress::Finished(_) => return tokens,
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
            for (reply, received) in replies.iter_mut().zip(&mut received) {
                let Some(future) = reply else { continue };
                if let Poll::Ready(tokens) = future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                    (*received, *reply) = (tokens, None);
                }
            }
        }
    }
    let mut alone = block_on(SoloReplies::new(&model));
    for (i, tokens) in (0..).zip(received) {
        assert_eq!(tokens, alone.reply(&prompt(i, 6), SamplingKind::Sampled, 8 + i as usize));
    }
}

/// Polls futures in this thread, each when it was woken, until all are ready. Returns the number of polls.
fn poll_all(mut futures: Vec<Option<Pin<Box<dyn Future<Output = ()> + '_>>>>) -> u64 {
    struct Woken {
        woken: AtomicBool,
        thread: Thread,
    }
    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.woken.store(true, Ordering::SeqCst);
            self.thread.unpark();
        }
    }
    let woken: Vec<_> =
        futures.iter().map(|_| Arc::new(Woken { woken: AtomicBool::new(true), thread: thread::current() })).collect();
    let mut polls = 0;
    while futures.iter().any(Option::is_some) {
        let mut idle = true;
        for (future, woken) in futures.iter_mut().zip(&woken) {
            let Some(pending) = future.as_mut().filter(|_| woken.woken.swap(false, Ordering::SeqCst)) else { continue };
            (idle, polls) = (false, polls + 1);
            if pending.as_mut().poll(&mut Context::from_waker(&Waker::from(Arc::clone(woken)))).is_ready() {
                *future = None;
            }
        }
        if idle {
            thread::park_timeout(Duration::from_secs(60));
        }
    }
    polls
}

#[test]
fn a_step_costs_a_few_polls_for_each_session() {
    const TOKENS: u32 = 40;
    for device in [block_on(gpu()), block_on(borrowed_device())] {
        let model = model_on(&device);
        let mut each = Vec::new();
        for count in [2_u32, 16] {
            // Half of the sessions wait for a slot.
            let engine = engine(&model, &options(count / 2, 64).kv_tokens(16 * 64));
            block_on(engine.warm_up()).expect("it compiles");
            let start = Instant::now();
            let replies = (0..count).map(|i| {
                let mut reply =
                    engine.session().generate(&prompt(i, 6), &SamplingKind::Greedy.tokens(TOKENS)).expect("a request");
                let future: Pin<Box<dyn Future<Output = ()>>> = Box::pin(async move {
                    assert_eq!(all(&mut reply).await.expect("tokens").len(), TOKENS as usize);
                });
                Some(future)
            });
            let polls = poll_all(replies.collect());
            // Who drives is polled for heartbeats too.
            let heartbeats = start.elapsed().as_millis() as u64 / 5;
            let per_token = polls.saturating_sub(heartbeats) as f64 / f64::from(count * TOKENS);
            println!("{}: {count} sessions, {polls} polls, {heartbeats} heartbeats at most", device.name());
            each.push(per_token);
        }
        assert!(each.iter().all(|polls| *polls <= 5.0), "{each:?} polls for a token");
    }
}

#[test]
fn a_reply_is_a_stream_that_outlives_its_session() {
    fn owned<T: Stream<Item = Result<u32, EngineError>> + Send + Unpin + 'static>(stream: T) -> T {
        stream
    }
    for device in [Device::cpu(), block_on(gpu())] {
        let model = model_on(&device);
        let engine = engine(&model, &options(2, 64));
        let reply =
            owned(engine.session().generate(&prompt(1, 6), &SamplingKind::Sampled.tokens(9)).expect("a request"));
        let tokens = thread::spawn(move || {
            let mut reply = reply;
            let mut tokens = Vec::new();
            while let Some(token) = block_on(poll_fn(|context| Pin::new(&mut reply).poll_next(context))) {
                tokens.push(token.expect("a token"));
            }
            assert!(block_on(poll_fn(|context| Pin::new(&mut reply).poll_next(context))).is_none());
            assert_eq!(reply.finish_reason(), Some(FinishReason::MaxTokens));
            tokens
        });
        let tokens = tokens.join().expect("no panic");
        assert_eq!(tokens, block_on(SoloReplies::new(&model)).reply(&prompt(1, 6), SamplingKind::Sampled, 9));
        // Its sequence went with it.
        assert_eq!(engine.blocks().free, engine.blocks().total);

        // One that is dropped midway is cancelled.
        let mut reply = engine.session().generate(&prompt(2, 6), &SamplingKind::Greedy.tokens(50)).expect("a request");
        block_on(reply.next()).expect("a token");
        assert!(engine.requests() == 1 && engine.blocks().free < engine.blocks().total);
        drop(reply);
        assert!(engine.requests() == 0 && engine.blocks().free == engine.blocks().total);
    }
}

#[test]
fn a_session_is_busy_while_its_reply_is_in_progress() {
    let device = Device::cpu();
    let model = model_on(&device);
    let engine = engine(&model, &options(2, 64));
    let mut session = engine.session();
    let greedy = SamplingKind::Greedy.tokens(4);
    let mut reply = session.generate(&prompt(1, 5), &greedy).expect("a request");
    let busy = |error: Option<EngineError>| assert!(matches!(error, Some(EngineError::Busy)), "{error:?}");
    for _ in 0..4 {
        busy(session.fork().err());
        busy(session.truncate(0).err());
        busy(block_on(session.forward(&[1])).err());
        busy(session.generate(&[1], &greedy).err());
        assert!(block_on(reply.next()).expect("a step").is_some());
    }
    // All is computed, but the reply's end was not seen.
    busy(session.fork().err());
    assert_eq!(block_on(reply.next()).expect("a step"), None);
    block_on(session.forward(&[1])).expect("logits");
    drop(session);
    // The reply still has the sequence.
    let mut session = reply.into_session();
    assert_eq!(session.len(), 5 + 4 + 1);
    let mut reply = session.generate(&[2], &greedy).expect("a request");
    block_on(reply.next()).expect("a step");
    reply.cancel();
    assert!(matches!(block_on(reply.next()), Err(EngineError::NoRequest)) && reply.finish_reason().is_none());
    // A cancelled reply does not disturb the next one.
    let mut next = session.generate(&[3], &greedy).expect("a request");
    drop(reply);
    assert_eq!(block_on(all(&mut next)).expect("tokens").len(), 4);
}

#[test]
fn futures_block_only_in_blocking_mode() {
    let device = block_on(gpu());
    let engine_on = |device: &Device| {
        let engine = engine(&model_on(device), &options(2, 64));
        block_on(engine.warm_up()).expect("it compiles");
        engine
    };
    let engine = engine_on(&device);
    device.hang();
    let mut session = engine.session();
    let input = prompt(1, 5);
    let mut future = pin!(session.forward(&input));
    let start = Instant::now();
    for _ in 0..10 {
        assert!(future.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    }
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());

    let device = block_on(gpu());
    device.set_wait_mode(WaitMode::Blocking);
    let engine = engine_on(&device);
    let mut session = engine.session();
    let logits = pin!(session.forward(&input)).poll(&mut Context::from_waker(Waker::noop()));
    assert!(matches!(logits, Poll::Ready(Ok(_))));
}
