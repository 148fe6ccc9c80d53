//! Random schedules: requests start, fork, are dropped, truncated and released in any order. Each session gets the tokens
//! of a solo reply, and all KV blocks return to the pool.

use std::{
    cell::RefCell,
    future::{Future, poll_fn},
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker},
};

use crate::common::{
    micro_model::{SamplingKind, SoloReplies, VOCAB, borrowed_device, gguf, gpu, load, micro_model, options},
    tiny_model::Arch,
};
use ferrum_wgpu::{
    Device, Engine, EngineError, EngineOptions, FinishReason, Progress, Session,
    low_level::{
        engine::{KvLayout, argmax},
        quant::Rng,
    },
};

const CONTEXT: u32 = 40;

/// A request to a session, and the part of its answer that the future has received.
#[derive(Clone, Debug)]
struct Request {
    request_kind: RequestKind,
    before: Vec<u32>,
    input: Vec<u32>,
    sampled: Vec<u32>,
    logits: Vec<Vec<f32>>,
    end: Option<Result<Option<FinishReason>, EngineError>>,
}

#[derive(Clone, Debug)]
enum RequestKind {
    Tokens {
        sampling_kind: SamplingKind,
        limit: u32,
        stops: Vec<u32>,
    },
    Last,
    Each,
    /// Logits after one token, by a decode step.
    Next,
}

/// A session, which a future may have checked out.
struct SessionCell {
    owner: Rc<RefCell<Option<Session>>>,
    request: Rc<RefCell<Option<Request>>>,
    future: Option<Pin<Box<dyn Future<Output = ()>>>>,
}

/// A session that returns to its cell when its future is dropped.
struct CheckedOut {
    session: Option<Session>,
    owner: Rc<RefCell<Option<Session>>>,
}

impl Drop for CheckedOut {
    fn drop(&mut self) {
        *self.owner.borrow_mut() = self.session.take();
    }
}

async fn pause() {
    let mut paused = false;
    poll_fn(|_| if std::mem::replace(&mut paused, true) { Poll::Ready(()) } else { Poll::Pending }).await;
}

/// Runs a request. With `pauses` it yields between steps, and may be dropped there.
async fn answer(mut checked_out: CheckedOut, request: Rc<RefCell<Option<Request>>>, pauses: bool) {
    let session = checked_out.session.as_mut().expect("a session");
    let (request_kind, input) = {
        let request = request.borrow();
        let request = request.as_ref().expect("something is asked");
        (request.request_kind.clone(), request.input.clone())
    };
    let record = |what: &dyn Fn(&mut Request)| what(request.borrow_mut().as_mut().expect("something is asked"));
    let end = match request_kind {
        RequestKind::Tokens { sampling_kind, limit, stops } => {
            let request = sampling_kind.tokens(limit).stop(stops);
            match session.generate(&input, &request) {
                Err(refused) => Err(refused),
                Ok(mut reply) => loop {
                    match reply.step().await {
                        Ok(Progress::Computed) => {}
                        Ok(Progress::Token(token)) => record(&|request| request.sampled.push(token)),
                        Ok(Progress::Finished(stop)) => break Ok(Some(stop)),
                        Err(error) => break Err(error),
                    }
                    if pauses {
                        pause().await;
                    }
                },
            }
        }
        RequestKind::Last => {
            session.forward(&input).await.map(|row| record(&|request| request.logits.push(row.clone()))).map(|()| None)
        }
        RequestKind::Next => {
            session.decode(input[0]).await.map(|row| record(&|request| request.logits.push(row.clone()))).map(|()| None)
        }
        RequestKind::Each => {
            let sink = |row: &[f32]| record(&|request| request.logits.push(row.to_vec()));
            session.forward_each(&input, sink).await.map(|()| None)
        }
    };
    record(&|request| request.end = Some(end.clone()));
}

/// How often something happened.
#[derive(Debug, Default)]
struct Counts {
    tokens: u32,
    limit: u32,
    stopped: u32,
    context_full: u32,
    pool_full: u32,
    never_fits: u32,
    refused: u32,
    given_up: u32,
    given_up_late: u32,
    logits: u32,
    forks: u32,
    pending: u32,
}

struct World {
    engine: Engine,
    alone: SoloReplies,
    cells: Vec<SessionCell>,
    /// Whether answers pause between steps.
    pauses: bool,
}

impl World {
    fn open(&mut self, session: Session) {
        let owner = Rc::new(RefCell::new(Some(session)));
        self.cells.push(SessionCell { owner, request: Rc::default(), future: None });
    }

    fn ask(&mut self, at: usize, rng: &mut Rng) {
        let cell = &mut self.cells[at];
        let session = cell.owner.borrow_mut().take().expect("it is at home");
        // Few beginnings, so that some are shared.
        let kind = rng.below(3);
        let len = [rng.below(4), 1 + rng.below(12), rng.below(CONTEXT + 4)][rng.below(3) as usize];
        let mut input: Vec<u32> = (0..len).map(|i| (kind * 7 + i * 5) % VOCAB).collect();
        input.iter_mut().skip(9).for_each(|token| *token = rng.below(VOCAB));
        let request_kind = match rng.below(8) {
            0 => RequestKind::Last,
            1 => RequestKind::Each,
            2 if !input.is_empty() => {
                input.truncate(1);
                RequestKind::Next
            }
            _ => {
                let sampling_kind =
                    [SamplingKind::Greedy, SamplingKind::Greedy, SamplingKind::Sampled, SamplingKind::Penalised]
                        [rng.below(4) as usize];
                let stops = if rng.below(3) == 0 { (0..VOCAB / 8).map(|i| i * 8).collect() } else { Vec::new() };
                RequestKind::Tokens { sampling_kind, limit: rng.below(14), stops }
            }
        };
        let before = session.tokens();
        let (sampled, logits) = (Vec::new(), Vec::new());
        *cell.request.borrow_mut() = Some(Request { request_kind, before, input, sampled, logits, end: None });
        let checked_out = CheckedOut { session: Some(session), owner: Rc::clone(&cell.owner) };
        cell.future = Some(Box::pin(answer(checked_out, Rc::clone(&cell.request), self.pauses)));
    }

    /// Polls a future once; when it is done its answer is checked.
    fn poll(&mut self, at: usize, counts: &mut Counts) {
        let Some(future) = &mut self.cells[at].future else { return };
        if future.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready() {
            self.cells[at].future = None;
            self.check(at, counts);
        } else {
            counts.pending += 1;
        }
    }

    fn give_up(&mut self, at: usize, counts: &mut Counts) {
        if self.cells[at].future.take().is_some() {
            self.check(at, counts);
        }
    }

    /// What an answer must be, complete or not.
    fn check(&mut self, at: usize, counts: &mut Counts) {
        let cell = &self.cells[at];
        let request = cell.request.borrow_mut().take().expect("something was asked");
        let tokens = cell.owner.borrow().as_ref().expect("it came home").tokens();
        let Request { request_kind, before, input, sampled, logits, end } = &request;
        let all = [&before[..], &input[..]].concat();
        match (request_kind, end) {
            (_, Some(Err(EngineError::NoTokens))) => assert!(input.is_empty(), "{request:?}"),
            (_, Some(Err(EngineError::ContextFull { .. }))) => assert!(all.len() > CONTEXT as usize, "{request:?}"),
            (_, Some(Err(EngineError::NeverFits { needed, blocks }))) => {
                assert!(*needed > u64::from(*blocks));
                counts.never_fits += 1;
            }
            (_, Some(Err(EngineError::PoolFull { needed, free }))) => {
                assert!(needed > free);
                counts.pool_full += 1;
            }
            (_, Some(Err(error))) => panic!("{error}: {request:?}"),
            (_, Some(Ok(_))) => {}
            (_, None) => {
                counts.given_up += 1;
                counts.given_up_late += u32::from(!sampled.is_empty());
            }
        }
        if let RequestKind::Tokens { sampling_kind, limit, stops } = request_kind {
            // The tokens of the session. The future may not have received the last ones.
            let kept = tokens.get(all.len()..).unwrap_or_default();
            let ended = matches!(end, Some(Ok(_)));
            assert!(tokens == *before || tokens.starts_with(&all), "{tokens:?} {request:?}");
            // Without a token a prompt is taken back, unless the reply had come to its end.
            let mut over = || *limit == 0 || stops.contains(&self.alone.reply(&all, *sampling_kind, 1)[0]);
            assert!(ended || !kept.is_empty() || tokens == *before || over(), "{tokens:?} {request:?}");
            assert!(kept.starts_with(sampled) && kept.len() <= *limit as usize, "{tokens:?} {request:?}");
            let stopped = usize::from(matches!(end, Some(Ok(Some(FinishReason::StopToken(_))))));
            let alone = self.alone.reply(&all, *sampling_kind, kept.len() + stopped);
            assert_eq!(kept, &alone[..kept.len()], "{request:?}");
            assert!(kept.iter().all(|token| !stops.contains(token)));
            counts.tokens += kept.len() as u32;
            match end {
                Some(Ok(Some(FinishReason::StopToken(token)))) => {
                    assert!(*token == alone[kept.len()] && stops.contains(token));
                    counts.stopped += 1;
                }
                Some(Ok(Some(FinishReason::MaxTokens))) => {
                    assert_eq!(kept.len(), *limit as usize);
                    counts.limit += 1;
                }
                Some(Ok(Some(FinishReason::ContextFull))) => {
                    assert_eq!(tokens.len(), CONTEXT as usize + 1);
                    counts.context_full += 1;
                }
                Some(Ok(None)) => panic!("a reply ends for a reason"),
                _ => {}
            }
            if ended {
                assert_eq!(kept, sampled);
            }
        } else {
            let answered = matches!(end, Some(Ok(_)));
            assert_eq!(&tokens, if answered { &all } else { before }, "{request:?}");
            let rows = if matches!(request_kind, RequestKind::Each) { input.len() } else { 1 };
            assert!(logits.len() == rows || (!answered && logits.len() < rows), "{request:?}");
            let first = all.len() + 1 - rows;
            for (row, len) in logits.iter().zip(first..) {
                let alone = self.alone.reply(&all[..len], SamplingKind::Greedy, 1);
                assert_eq!(argmax(row).as_slice(), alone, "{request:?}");
                counts.logits += 1;
            }
        }
        counts.refused += u32::from(matches!(end, Some(Err(EngineError::NoTokens | EngineError::ContextFull { .. }))));
    }

    fn any(&self, rng: &mut Rng, busy: bool) -> Option<usize> {
        let of_kind: Vec<_> = (0..self.cells.len()).filter(|at| self.cells[*at].future.is_some() == busy).collect();
        of_kind.get(rng.below(of_kind.len() as u32) as usize).copied()
    }

    fn act(&mut self, rng: &mut Rng, counts: &mut Counts) {
        match rng.below(20) {
            0 if self.cells.len() < 7 => self.open(self.engine.session()),
            1 if self.cells.len() < 7 => {
                let Some(at) = self.any(rng, false) else { return };
                let fork = self.cells[at].owner.borrow().as_ref().expect("at home").fork().expect("it is idle");
                self.open(fork);
                counts.forks += 1;
            }
            2 => {
                let Some(at) = self.any(rng, false) else { return };
                let mut owner = self.cells[at].owner.borrow_mut();
                let session = owner.as_mut().expect("at home");
                let (mut tokens, len) = (session.tokens(), rng.below(CONTEXT));
                session.truncate(len).expect("an idle session");
                tokens.truncate(len as usize);
                assert_eq!(session.tokens(), tokens);
            }
            // A session that is released with its request, or without one.
            3 if rng.below(2) == 0 && !self.cells.is_empty() => {
                let mut cell = self.cells.swap_remove(rng.below(self.cells.len() as u32) as usize);
                drop(cell.future.take());
            }
            4 => {
                if let Some(at) = self.any(rng, true) {
                    self.give_up(at, counts);
                }
            }
            5..9 => {
                if let Some(at) = self.any(rng, false) {
                    self.ask(at, rng);
                }
            }
            _ => {
                if let Some(at) = self.any(rng, true) {
                    self.poll(at, counts);
                }
            }
        }
    }

    fn schedule(&mut self, seed: u64, polls: u32, counts: &mut Counts) {
        let mut rng = Rng::new(seed);
        for _ in 0..2 {
            self.open(self.engine.session());
        }
        for _ in 0..10 + rng.below(60) {
            self.act(&mut rng, counts);
        }
        // Every request ends.
        for turn in 0.. {
            assert!(turn < polls, "no end in sight");
            let busy: Vec<_> = (0..self.cells.len()).filter(|at| self.cells[*at].future.is_some()).collect();
            if busy.is_empty() {
                break;
            }
            busy.into_iter().for_each(|at| self.poll(at, counts));
        }
        self.cells.clear();
        let blocks = self.engine.blocks();
        assert_eq!(blocks.free, blocks.total, "blocks are lost");
    }
}

/// Engines of every kind, for few sequences and many, with small pools and large ones.
fn all_options() -> Vec<EngineOptions> {
    let paged = |sequences, block, tokens| {
        options(sequences, CONTEXT)
            .kv_layout(KvLayout::Paged { block })
            .kv_tokens(tokens)
            .prefill_rows(8)
            .max_logit_rows(3)
    };
    vec![
        paged(3, 4, 64),
        paged(2, 4, 36),
        paged(4, 5, 200).pipelined(false),
        paged(3, 3, 48).host_sampling(true),
        paged(5, 2, 60).prefix_sharing(false),
        paged(3, 4, 64).kv_layout(KvLayout::Contiguous),
        paged(1, 8, 40),
    ]
}

fn run(device: &Device, arch: Arch, options: &EngineOptions, schedules: std::ops::Range<u64>, counts: &mut Counts) {
    let (engine, alone) = pollster::block_on(async {
        let model = load(device, &gguf(&micro_model(arch))).await;
        (Engine::new(&model, options).await.expect("an engine"), SoloReplies::new(&model).await)
    });
    let mut world = World { engine, alone, cells: Vec::new(), pauses: device.is_cpu() };
    // Where futures wait they are polled until the device is ready.
    let polls = if device.is_cpu() { 2_000 } else { 1_000_000 };
    for seed in schedules {
        world.schedule(seed, polls, counts);
    }
}

fn happened(counts: &Counts, at_least: u32) {
    let &Counts { tokens, limit, stopped, context_full, pool_full, never_fits, refused, .. } = counts;
    let &Counts { given_up, given_up_late, logits, forks, pending, .. } = counts;
    let all = [tokens, limit, stopped, context_full, pool_full, never_fits, refused];
    let more = [given_up, given_up_late, logits, forks, pending];
    assert!(all.iter().chain(&more).all(|count| *count >= at_least), "{counts:?}");
}

#[test]
fn random_schedules_on_cpu_kernels() {
    let mut counts = Counts::default();
    for (i, options) in (0..).zip(all_options()) {
        let device = Device::cpu();
        device.pend(i as u32 % 3);
        run(&device, Arch::Qwen3, &options, 1000 * i..1000 * i + 400, &mut counts);
    }
    happened(&counts, 50);
}

#[test]
fn random_schedules_on_a_blocking_device() {
    let mut counts = Counts::default();
    let devices = pollster::block_on(async { [borrowed_device().await, gpu().await] });
    for (i, options) in (0..).zip(all_options()) {
        let device = &devices[i as usize % 2];
        device.pend(1 + i as u32 % 2);
        run(device, Arch::Qwen3Moe, &options, 100_000 + 1000 * i..100_030 + 1000 * i, &mut counts);
    }
    happened(&counts, 5);
}
