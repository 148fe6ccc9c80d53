//! What goes wrong in an engine, each an error value of the request that it is about: the others go on, and so does this one
//! when the cause is gone.

use std::time::Duration;

use crate::common::{
    micro_model::{SamplingKind, SoloReplies, VOCAB, all, borrowed_device, gguf, gpu, load, micro_model, options},
    tiny_model::{Arch, TinyModel},
    within::within,
};
use ferrum_wgpu::{
    Device, Engine, EngineError, EngineOptions, GenerateOptions, Gguf, GpuError, Model, ModelError, Reply,
    SamplingOptions, Session, low_level::engine::KvLayout,
};
use pollster::block_on;

fn model_on(device: &Device) -> (Model, SoloReplies) {
    block_on(async {
        let model = load(device, &gguf(&micro_model(Arch::Qwen3Moe))).await;
        let alone = SoloReplies::new(&model).await;
        (model, alone)
    })
}

fn engine(model: &Model, options: &EngineOptions) -> Engine {
    block_on(Engine::new(model, options)).expect("an engine")
}

fn prompt(first: u32, len: u32) -> Vec<u32> {
    (0..len).map(|i| (first + 3 * i) % VOCAB).collect()
}

/// The next few tokens of a reply.
fn some(reply: &mut Reply, tokens: usize) -> Vec<u32> {
    (0..tokens).map(|_| block_on(reply.next()).expect("a step").expect("a token")).collect()
}

/// A session says what it says alone.
fn speaks(session: &mut Session, alone: &mut SoloReplies, first: u32) {
    let input = prompt(first, 5);
    let whole = [&session.tokens()[..], &input].concat();
    let mut reply = session.generate(&input, &SamplingKind::Greedy.tokens(6)).expect("a request");
    assert_eq!(block_on(all(&mut reply)).expect("tokens"), alone.reply(&whole, SamplingKind::Greedy, 6));
}

#[test]
fn a_full_pool_ends_one_request_and_released_blocks_serve_others() {
    let (model, mut alone) = model_on(&Device::cpu());
    let paged = KvLayout::Paged { block: 4 };
    let engine = engine(&model, &options(2, 32).kv_layout(paged).kv_tokens(32));
    let mut holder = engine.session();
    let input = prompt(1, 15);
    block_on(holder.forward(&input)).expect("logits");
    assert_eq!((engine.blocks().total, engine.blocks().free), (8, 4));

    // Two requests need more blocks than the pool has: the younger one ends, the older one continues.
    let (mut older, mut younger) = (engine.session(), engine.session());
    let mut old = older.generate(&prompt(2, 6), &SamplingKind::Greedy.tokens(9)).expect("a request");
    let mut tokens = some(&mut old, 2);
    let mut young = younger.generate(&prompt(3, 6), &SamplingKind::Greedy.tokens(9)).expect("a request");
    let error = block_on(all(&mut young)).expect_err("there are too few blocks");
    let EngineError::PoolFull { needed, free } = error else { panic!("{error}") };
    assert!(needed > free);
    drop(young);
    tokens.extend(block_on(all(&mut old)).expect("the older goes on"));
    assert_eq!(tokens, alone.reply(&prompt(2, 6), SamplingKind::Greedy, 9));
    drop(old);
    drop(older);

    // It continues where it stopped.
    let so_far = younger.tokens();
    let sampled = so_far.len().saturating_sub(6);
    assert_eq!(so_far.get(6..).unwrap_or_default(), alone.reply(&prompt(3, 6), SamplingKind::Greedy, sampled));
    let error = block_on(younger.forward(&prompt(50, 17))).map(drop).expect_err("the holder has too many");
    assert!(matches!(error, EngineError::PoolFull { .. }), "{error}");
    assert_eq!(younger.tokens(), so_far);
    holder.truncate(2).expect("an idle session");
    speaks(&mut younger, &mut alone, 50);
    speaks(&mut holder, &mut alone, 70);
    drop((holder, younger));
    assert_eq!((engine.blocks().total, engine.blocks().free), (8, 8));
}

#[test]
fn invalid_requests_are_refused_at_once() {
    let (model, mut alone) = model_on(&Device::cpu());
    let small = options(1, 40).kv_layout(KvLayout::Paged { block: 4 }).kv_tokens(16);
    let engine = engine(&model, &small);
    let mut session = engine.session();
    let refused = |session: &mut Session, tokens: &[u32], options: &GenerateOptions| {
        let before = session.tokens();
        let error = session.generate(tokens, options).expect_err("it cannot be");
        assert_eq!(session.tokens(), before);
        error
    };
    let greedy = || SamplingKind::Greedy.tokens(3);
    let error = refused(&mut session, &[], &greedy());
    assert!(matches!(error, EngineError::NoTokens), "{error}");
    let error = refused(&mut session, &prompt(0, 17), &greedy());
    assert!(matches!(error, EngineError::NeverFits { needed: 5, blocks: 4 }), "{error}");
    let error = refused(&mut session, &prompt(0, 41), &greedy());
    assert!(matches!(error, EngineError::ContextFull { needed: 41, capacity: 40 }), "{error}");
    let error = refused(&mut session, &[3, VOCAB], &greedy());
    assert!(matches!(error, EngineError::TokenId { id: VOCAB, vocab: VOCAB }), "{error}");
    let biased = |id, by| SamplingOptions::greedy().logit_bias(vec![(id, by)]);
    let with = |sampling| greedy().sampling(sampling);
    let error = refused(&mut session, &[3], &with(biased(VOCAB, 1.0)));
    assert!(matches!(error, EngineError::TokenId { id: VOCAB, .. }), "{error}");
    for sampling in [
        SamplingOptions::default().temperature(f32::NAN),
        SamplingOptions::default().temperature(-1.0),
        SamplingOptions::default().temperature(f32::INFINITY),
        SamplingOptions::default().top_p(0.0),
        SamplingOptions::default().top_p(f32::NAN),
        SamplingOptions::default().min_p(1.5),
        SamplingOptions::default().repetition_penalty(0.0),
        SamplingOptions::default().presence_penalty(f32::NAN),
        SamplingOptions::default().frequency_penalty(f32::INFINITY),
        biased(1, f32::NAN),
    ] {
        let error = refused(&mut session, &[3], &with(sampling.clone()));
        assert!(matches!(error, EngineError::Option { .. }), "{error} for {sampling:?}");
    }
    block_on(async {
        let error = session.forward(&[]).await.expect_err("no tokens");
        assert!(matches!(error, EngineError::NoTokens), "{error}");
        let error = session.forward(&[u32::MAX]).await.expect_err("no such token");
        assert!(matches!(error, EngineError::TokenId { .. }), "{error}");
        let error = session.decode(VOCAB).await.expect_err("no such token");
        assert!(matches!(error, EngineError::TokenId { .. }), "{error}");
        let error = session.forward_each(&prompt(0, 99), |_| ()).await.expect_err("too long");
        assert!(matches!(error, EngineError::ContextFull { .. }), "{error}");
    });
    assert_eq!((engine.blocks().total, engine.blocks().free), (4, 4));
    speaks(&mut session, &mut alone, 9);
}

#[test]
fn invalid_options_are_refused() {
    let (model, _) = model_on(&Device::cpu());
    let base = || options(2, 32);
    let paged = |block| KvLayout::Paged { block };
    for (options, option) in [
        (base().sequences(0).kv_tokens(None), "sequences"),
        (base().prefill_rows(0), "prefill_rows"),
        (base().max_logit_rows(0), "max_logit_rows"),
        (base().kv_layout(paged(0)), "block"),
    ] {
        let error = block_on(Engine::new(&model, &options)).expect_err("it cannot be");
        assert!(matches!(&error, EngineError::Option { option: of, .. } if *of == option), "{error}");
    }
    for context in [0, 257] {
        let options = base().context(context);
        let error = block_on(Engine::new(&model, &options)).expect_err("it cannot be");
        assert!(matches!(error, EngineError::Context { longest: 256, .. }), "{error}");
    }
    // What is larger than anything can be is an error of memory, of a size or of the option, and no panic.
    for options in [
        base().kv_tokens(u32::MAX),
        base().sequences(u32::MAX),
        base().prefill_rows(u32::MAX).max_logit_rows(u32::MAX),
        base().kv_layout(paged(u32::MAX)),
    ] {
        for device in [Device::cpu(), block_on(gpu())] {
            // Nothing so large is to be allocated here.
            device.fail_allocations_after(0);
            let free = Device::clone(&device);
            let model = {
                free.fail_allocations_after(u64::MAX);
                block_on(load(&free, &gguf(&micro_model(Arch::Qwen3))))
            };
            device.fail_allocations_after(0);
            let error = block_on(Engine::new(&model, &options)).expect_err("there is no memory");
            assert!(matches!(error, EngineError::Gpu(_) | EngineError::Option { .. }), "{error}");
        }
    }
}

#[test]
fn out_of_memory_at_creation_is_an_error() {
    for device in [Device::cpu(), block_on(gpu())] {
        let file = gguf(&micro_model(Arch::Qwen3Moe));
        let mut tries = 0;
        let model = loop {
            device.fail_allocations_after(tries);
            match block_on(Model::load(&device, &file, |_, _| ())) {
                Ok(model) => break model,
                Err(ModelError::Gpu(GpuError::OutOfMemory { .. })) => tries += 1,
                Err(error) => panic!("{error}"),
            }
        };
        assert!(tries > 10, "{tries}");
        tries = 0;
        let engine = loop {
            device.fail_allocations_after(tries);
            match block_on(Engine::new(&model, &options(2, 32))) {
                Ok(engine) => break engine,
                Err(EngineError::Gpu(error)) => assert!(matches!(*error, GpuError::OutOfMemory { .. }), "{error}"),
                Err(error) => panic!("{error}"),
            }
            tries += 1;
        };
        assert!(tries > 20, "{tries}");
        // The first step needs some too, but on the CPU kernels.
        let mut session = engine.session();
        device.fail_allocations_after(0);
        let error = block_on(session.forward(&[1, 2, 3])).err();
        assert_eq!(error.is_some(), !device.is_cpu(), "{error:?}");
        device.fail_allocations_after(u64::MAX);
        session.truncate(0).expect("an idle session");
        speaks(&mut session, &mut block_on(SoloReplies::new(&model)), 4);
    }
}

/// Two greedy sessions go on while a third one's request fails, as `check` likes it; it succeeds when the cause is gone.
fn only_one_fails(
    device: &Device,
    sampling_kind: SamplingKind,
    cause: impl Fn(bool),
    check: impl Fn(&GpuError) -> bool,
) {
    let (model, mut alone) = model_on(device);
    let engine = engine(&model, &options(3, 64));
    let mut sessions = [engine.session(), engine.session(), engine.session()];
    let [first, second, third] = &mut sessions;
    // All that greedy replies need is there then.
    for session in [&mut *first, &mut *second, &mut *third] {
        speaks(session, &mut alone, 100);
        session.truncate(0).expect("an idle session");
    }
    let mut one = first.generate(&prompt(1, 5), &SamplingKind::Greedy.tokens(20)).expect("a request");
    let mut two = second.generate(&prompt(2, 7), &SamplingKind::Greedy.tokens(20)).expect("a request");
    let (mut of_one, mut of_two) = (some(&mut one, 4), some(&mut two, 3));
    cause(true);
    for _ in 0..2 {
        let mut failing = third.generate(&prompt(3, 6), &sampling_kind.tokens(8)).expect("a request");
        // It is driven by others too.
        of_one.extend(some(&mut one, 2));
        let error = block_on(all(&mut failing)).expect_err("it fails");
        assert!(matches!(&error, EngineError::Gpu(error) if check(error)), "{error}");
        assert!(!error.needs_recovery());
        let again = block_on(failing.next()).expect_err("it has no more to say");
        assert!(matches!(again, EngineError::NoRequest), "{again}");
        drop(failing);
        assert!(third.is_empty());
        of_two.extend(some(&mut two, 2));
    }
    cause(false);
    let mut served = third.generate(&prompt(3, 6), &sampling_kind.tokens(8)).expect("a request");
    assert_eq!(block_on(all(&mut served)).expect("tokens"), alone.reply(&prompt(3, 6), sampling_kind, 8));
    of_one.extend(block_on(all(&mut one)).expect("tokens"));
    of_two.extend(block_on(all(&mut two)).expect("tokens"));
    assert_eq!(of_one, alone.reply(&prompt(1, 5), SamplingKind::Greedy, 20));
    assert_eq!(of_two, alone.reply(&prompt(2, 7), SamplingKind::Greedy, 20));
}

#[test]
fn out_of_memory_for_penalties_ends_their_request() {
    for device in [Device::cpu(), block_on(gpu())] {
        // The first ones of an engine need some.
        let cause = |there| device.fail_allocations_after(if there { 0 } else { u64::MAX });
        only_one_fails(&device, SamplingKind::Penalised, cause, |error| matches!(error, GpuError::OutOfMemory { .. }));
    }
}

#[test]
fn a_kernel_that_does_not_compile_ends_requests_that_need_it() {
    let device = block_on(gpu());
    let cause = |there| {
        let (from, to) = ("fn kernel(", "fn nonsense(");
        let [from, to] = if there { [from, to] } else { [to, from] };
        device.edit_shaders("sample/top_k", from, to);
    };
    let check = |error: &GpuError| matches!(error, GpuError::Shader { kernel: "sample/top_k", .. });
    only_one_fails(&device, SamplingKind::Sampled, cause, check);
}

/// The model, but that the embedding of one token is not a number.
fn with_a_bad_token(token: u32) -> Gguf {
    let model = TinyModel { tied: false, ..micro_model(Arch::Qwen3Moe) };
    let mut bytes = model.to_bytes().expect("a model");
    let file = gguf(&model);
    let embedding = file.tensors().iter().find(|tensor| tensor.name == "token_embd.weight").expect("an embedding");
    let row = 4 * model.hidden as usize;
    let bad = &file.data(embedding)[row * token as usize..][..row];
    let at = bytes.windows(row).position(|window| window == bad).expect("the row is in the file");
    bytes[at..at + row].chunks_exact_mut(4).for_each(|value| value.copy_from_slice(&f32::NAN.to_le_bytes()));
    Gguf::from_bytes(bytes).expect("a GGUF")
}

#[test]
fn nan_logits_end_their_request_and_no_other() {
    let sampling_kinds = [SamplingKind::Greedy, SamplingKind::Sampled, SamplingKind::Penalised];
    for device in [Device::cpu(), block_on(gpu())] {
        let (model, mut alone) = model_on(&device);
        drop(model);
        // One that nobody says.
        let received: Vec<u32> = sampling_kinds
            .iter()
            .flat_map(|sampling_kind| [1, 2].map(|i| alone.reply(&prompt(i, 3 + 2 * i), *sampling_kind, 16)))
            .flatten()
            .collect();
        let bad_token = (100..VOCAB).find(|token| !received.contains(token)).expect("they say little");
        let model = block_on(load(&device, &with_a_bad_token(bad_token)));
        for host_sampling in [false, true] {
            // Few blocks, so that those with what is not a number are used again.
            let few = options(2, 32).kv_layout(KvLayout::Paged { block: 8 }).kv_tokens(48);
            let engine = engine(&model, &few.host_sampling(host_sampling));
            let (mut good, mut bad) = (engine.session(), engine.session());
            for sampling_kind in sampling_kinds {
                let mut going = good.generate(&prompt(1, 5), &sampling_kind.tokens(16)).expect("a request");
                let mut tokens = some(&mut going, 3);
                let mut failing = bad.generate(&[4, bad_token, 6], &sampling_kind.tokens(5)).expect("a request");
                let error = block_on(all(&mut failing)).expect_err("not a number");
                assert!(matches!(error, EngineError::NotANumber), "{error}");
                drop(failing);
                assert!(bad.is_empty());
                // Its blocks have what is not a number where this one has nothing yet.
                let mut after = bad.generate(&prompt(2, 7), &sampling_kind.tokens(16)).expect("a request");
                let received = block_on(all(&mut after)).expect("tokens");
                drop(after);
                tokens.extend(block_on(all(&mut going)).expect("tokens"));
                drop(going);
                assert_eq!(tokens, alone.reply(&prompt(1, 5), sampling_kind, 16));
                assert_eq!(received, alone.reply(&prompt(2, 7), sampling_kind, 16));
                good.truncate(0).expect("an idle session");
                bad.truncate(0).expect("an idle session");
            }
        }
    }
}

/// How long these tests wait for a queue that hangs.
const DEADLINE: Duration = Duration::from_millis(300);

/// What makes a device useless.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Lost,
    Hangs,
}

impl End {
    fn arrive_at(self, device: &Device) {
        device.set_deadline(Some(DEADLINE));
        match self {
            Self::Lost => device.lose(),
            Self::Hangs => device.hang(),
        }
    }

    /// Whether it is what `error` says.
    fn is_reported(self, error: &EngineError) -> bool {
        let EngineError::Gpu(gpu) = error else { return false };
        let right = match **gpu {
            GpuError::Lost(_) => self == Self::Lost,
            GpuError::Hung { waited } => self == Self::Hangs && waited == DEADLINE,
            _ => false,
        };
        right && error.needs_recovery()
    }
}

/// A device is lost during requests: each gets an error, and continues on another device.
fn lost_and_recovered(first: &Device, second: &Device, end: End) {
    let file = gguf(&micro_model(Arch::Qwen3Moe));
    let (model, mut alone) = model_on(&Device::cpu());
    drop(model);
    let engine = engine(&block_on(load(first, &file)), &options(4, 64));
    let mut sessions: Vec<_> = (0..5).map(|_| engine.session()).collect();
    let mut received = Vec::new();
    {
        let mut replies: Vec<_> = (1..)
            .zip(&mut sessions)
            .map(|(i, session)| {
                session.generate(&prompt(i, 4 + i), &SamplingKind::Greedy.tokens(20)).expect("a request")
            })
            .collect();
        // The fifth waits for a place.
        for (i, reply) in replies.iter_mut().take(4).enumerate() {
            received.push(some(reply, 1 + i));
        }
        end.arrive_at(first);
        for (i, reply) in replies.iter_mut().enumerate() {
            // Tokens sampled before may still arrive.
            let error = loop {
                match block_on(reply.next()) {
                    Ok(token) => received[i].push(token.expect("it is not at its end")),
                    Err(error) => break error,
                }
            };
            assert!(end.is_reported(&error), "{error}");
            let error = block_on(reply.next()).expect_err("it has no more to say");
            assert!(matches!(error, EngineError::NoRequest), "{error}");
        }
    }
    let still_lost = |sessions: &mut [Session]| {
        for session in sessions {
            let before = session.tokens();
            let error = block_on(session.forward(&[7, 8])).expect_err("the device is lost");
            assert!(end.is_reported(&error) && session.tokens() == before, "{error}");
            let mut reply = session.generate(&[7], &SamplingKind::Greedy.tokens(2)).expect("a request");
            let error = block_on(all(&mut reply)).expect_err("the device is lost");
            drop(reply);
            assert!(end.is_reported(&error) && session.tokens() == before, "{error}");
        }
        let error = block_on(engine.warm_up()).expect_err("the device is lost");
        assert!(end.is_reported(&error), "{error}");
    };
    still_lost(&mut sessions);

    // What does not help leaves everything as it is.
    let other = gguf(&TinyModel { layers: 2, ..micro_model(Arch::Qwen3Moe) });
    let error = block_on(engine.recover(second, &other)).expect_err("another model");
    assert!(matches!(error, EngineError::OtherModel), "{error}");
    for allocations in [0, 3, 30] {
        second.fail_allocations_after(allocations);
        let error = block_on(engine.recover(second, &file)).expect_err("no memory");
        assert!(
            matches!(&error, EngineError::Gpu(error) if matches!(**error, GpuError::OutOfMemory { .. })),
            "{error}"
        );
    }
    second.fail_allocations_after(u64::MAX);
    if !first.is_cpu() {
        let error = block_on(engine.recover(first, &file)).expect_err("it is lost");
        assert!(error.needs_recovery(), "{error}");
    }
    still_lost(&mut sessions);

    block_on(engine.recover(second, &file)).expect("another device");
    for (i, session) in (1..).zip(&mut sessions) {
        let input = prompt(i, 4 + i);
        let received = session.tokens().get(input.len()..).unwrap_or_default().to_vec();
        let left = 20 - received.len() as u32;
        // The fifth had nothing computed, so that it is as before its request.
        let again = if session.is_empty() { &input[..] } else { &[] };
        let mut reply = session.generate(again, &SamplingKind::Greedy.tokens(left)).expect("a request");
        let rest = block_on(all(&mut reply)).expect("tokens");
        assert_eq!([received, rest].concat(), alone.reply(&input, SamplingKind::Greedy, 20));
    }
    drop(sessions);
    let blocks = engine.blocks();
    assert_eq!(blocks.free, blocks.total);
}

#[test]
fn a_lost_device_is_reported_to_all_and_another_takes_over() {
    within(Duration::from_secs(120), || {
        lost_and_recovered(&block_on(gpu()), &block_on(gpu()), End::Lost);
        lost_and_recovered(&block_on(borrowed_device()), &Device::cpu(), End::Lost);
    });
}

#[test]
fn a_hung_queue_is_reported_to_all_and_another_device_takes_over() {
    within(Duration::from_secs(120), || {
        lost_and_recovered(&block_on(gpu()), &Device::cpu(), End::Hangs);
        lost_and_recovered(&block_on(borrowed_device()), &block_on(gpu()), End::Hangs);
    });
}

/// Sessions wait in threads for a device that is lost then.
fn blocks_no_session(end: End) {
    for device in [block_on(gpu()), block_on(borrowed_device())] {
        let model = block_on(load(&device, &gguf(&micro_model(Arch::Qwen3Moe))));
        let engine = engine(&model, &options(4, 200));
        std::thread::scope(|scope| {
            for i in 0..4 {
                let mut session = engine.session();
                scope.spawn(move || {
                    let error = loop {
                        session.truncate(0).expect("an idle session");
                        let mut reply =
                            session.generate(&prompt(i, 9), &SamplingKind::Greedy.tokens(100)).expect("a request");
                        if let Err(error) = block_on(all(&mut reply)) {
                            break error;
                        }
                    };
                    assert!(end.is_reported(&error), "{error}");
                });
            }
            std::thread::sleep(Duration::from_millis(300));
            end.arrive_at(&device);
        });
    }
}

#[test]
fn a_device_lost_during_a_wait_blocks_no_session() {
    within(Duration::from_secs(120), || blocks_no_session(End::Lost));
}

#[test]
fn a_hung_queue_blocks_no_session() {
    within(Duration::from_secs(120), || blocks_no_session(End::Hangs));
}

#[test]
fn a_hung_queue_fails_loads_and_engines() {
    within(Duration::from_secs(120), || {
        for device in [block_on(gpu()), block_on(borrowed_device())] {
            let file = gguf(&micro_model(Arch::Qwen3Moe));
            let engine = engine(&block_on(load(&device, &file)), &options(2, 32));
            End::Hangs.arrive_at(&device);
            let mut session = engine.session();
            let error = block_on(session.forward(&prompt(1, 5))).expect_err("it hangs");
            assert!(End::Hangs.is_reported(&error) && session.is_empty(), "{error}");
            let Err(error) = block_on(Model::load(&device, &file, |_, _| ())) else { panic!("it hangs") };
            assert!(End::Hangs.is_reported(&error.into()));
        }
    });
}

#[test]
fn sessions_learn_that_another_device_took_over() {
    let device = Device::cpu();
    let (model, mut alone) = model_on(&device);
    let engine = engine(&model, &options(2, 64));
    let mut session = engine.session();
    let mut reply = session.generate(&prompt(1, 5), &SamplingKind::Greedy.tokens(20)).expect("a request");
    let mut received = some(&mut reply, 2);
    block_on(engine.recover(&device, &gguf(&micro_model(Arch::Qwen3Moe)))).expect("it is as good as another");
    let error = loop {
        match block_on(reply.next()) {
            Ok(token) => received.push(token.expect("it is not at its end")),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, EngineError::DeviceLost) && !error.needs_recovery(), "{error}");
    drop(reply);
    assert_eq!(session.tokens()[5..], received);
    let mut reply = session.generate(&[], &SamplingKind::Greedy.tokens(20 - received.len() as u32)).expect("a request");
    received.extend(block_on(all(&mut reply)).expect("tokens"));
    assert_eq!(received, alone.reply(&prompt(1, 5), SamplingKind::Greedy, 20));
}
