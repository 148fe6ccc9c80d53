//! Random schedules: whatever is started, forked, given up, cut and released in whatever order, each session gets the tokens
//! that it gets alone, and all blocks come back.

use std::{
    cell::RefCell,
    future::{Future, poll_fn},
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker},
};

use crate::common::{
    smallest::{Alone, VOCAB, Way, gguf, gpu, lent, load, options, smallest},
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

/// What was asked of a session, and what its future has seen of the answer.
#[derive(Clone, Debug)]
struct Asked {
    want: Want,
    before: Vec<u32>,
    given: Vec<u32>,
    drawn: Vec<u32>,
    logits: Vec<Vec<f32>>,
    end: Option<Result<Option<FinishReason>, EngineError>>,
}

#[derive(Clone, Debug)]
enum Want {
    Tokens {
        way: Way,
        most: u32,
        stops: Vec<u32>,
    },
    Last,
    Each,
    /// Of a token as if it had been drawn.
    Next,
}

/// A session, which is at home unless a future has it.
struct Place {
    home: Rc<RefCell<Option<Session>>>,
    asked: Rc<RefCell<Option<Asked>>>,
    future: Option<Pin<Box<dyn Future<Output = ()>>>>,
}

/// Brings a session home, whatever becomes of the future that has it.
struct Away {
    session: Option<Session>,
    home: Rc<RefCell<Option<Session>>>,
}

impl Drop for Away {
    fn drop(&mut self) {
        *self.home.borrow_mut() = self.session.take();
    }
}

async fn pause() {
    let mut paused = false;
    poll_fn(|_| if std::mem::replace(&mut paused, true) { Poll::Ready(()) } else { Poll::Pending }).await;
}

/// Does what was asked. Of a pending future only that polls it again drives anything, and it may be dropped.
async fn answer(mut away: Away, asked: Rc<RefCell<Option<Asked>>>, pauses: bool) {
    let session = away.session.as_mut().expect("a session");
    let (want, given) = {
        let asked = asked.borrow();
        let asked = asked.as_ref().expect("something is asked");
        (asked.want.clone(), asked.given.clone())
    };
    let saw = |what: &dyn Fn(&mut Asked)| what(asked.borrow_mut().as_mut().expect("something is asked"));
    let end = match want {
        Want::Tokens { way, most, stops } => {
            let request = way.tokens(most).stop(stops);
            match session.generate(&given, &request) {
                Err(refused) => Err(refused),
                Ok(mut reply) => loop {
                    match reply.step().await {
                        Ok(Progress::Computed) => {}
                        Ok(Progress::Token(token)) => saw(&|asked| asked.drawn.push(token)),
                        Ok(Progress::Finished(stop)) => break Ok(Some(stop)),
                        Err(error) => break Err(error),
                    }
                    if pauses {
                        pause().await;
                    }
                },
            }
        }
        Want::Last => {
            session.forward(&given).await.map(|row| saw(&|asked| asked.logits.push(row.clone()))).map(|()| None)
        }
        Want::Next => {
            session.decode(given[0]).await.map(|row| saw(&|asked| asked.logits.push(row.clone()))).map(|()| None)
        }
        Want::Each => {
            let sink = |row: &[f32]| saw(&|asked| asked.logits.push(row.to_vec()));
            session.forward_each(&given, sink).await.map(|()| None)
        }
    };
    saw(&|asked| asked.end = Some(end.clone()));
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
    alone: Alone,
    places: Vec<Place>,
    /// Whether answers pause between steps.
    pauses: bool,
}

impl World {
    fn open(&mut self, session: Session) {
        let home = Rc::new(RefCell::new(Some(session)));
        self.places.push(Place { home, asked: Rc::default(), future: None });
    }

    fn ask(&mut self, at: usize, rng: &mut Rng) {
        let place = &mut self.places[at];
        let session = place.home.borrow_mut().take().expect("it is at home");
        // Few beginnings, so that some are shared.
        let kind = rng.below(3);
        let len = [rng.below(4), 1 + rng.below(12), rng.below(CONTEXT + 4)][rng.below(3) as usize];
        let mut given: Vec<u32> = (0..len).map(|i| (kind * 7 + i * 5) % VOCAB).collect();
        given.iter_mut().skip(9).for_each(|token| *token = rng.below(VOCAB));
        let want = match rng.below(8) {
            0 => Want::Last,
            1 => Want::Each,
            2 if !given.is_empty() => {
                given.truncate(1);
                Want::Next
            }
            _ => {
                let way = [Way::Greedy, Way::Greedy, Way::Sampled, Way::Penalised][rng.below(4) as usize];
                let stops = if rng.below(3) == 0 { (0..VOCAB / 8).map(|i| i * 8).collect() } else { Vec::new() };
                Want::Tokens { way, most: rng.below(14), stops }
            }
        };
        let before = session.tokens();
        let (drawn, logits) = (Vec::new(), Vec::new());
        *place.asked.borrow_mut() = Some(Asked { want, before, given, drawn, logits, end: None });
        let away = Away { session: Some(session), home: Rc::clone(&place.home) };
        place.future = Some(Box::pin(answer(away, Rc::clone(&place.asked), self.pauses)));
    }

    /// Polls a future once; when it is done its answer is checked.
    fn poll(&mut self, at: usize, counts: &mut Counts) {
        let Some(future) = &mut self.places[at].future else { return };
        if future.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready() {
            self.places[at].future = None;
            self.check(at, counts);
        } else {
            counts.pending += 1;
        }
    }

    fn give_up(&mut self, at: usize, counts: &mut Counts) {
        if self.places[at].future.take().is_some() {
            self.check(at, counts);
        }
    }

    /// What an answer must be, complete or not.
    fn check(&mut self, at: usize, counts: &mut Counts) {
        let place = &self.places[at];
        let asked = place.asked.borrow_mut().take().expect("something was asked");
        let tokens = place.home.borrow().as_ref().expect("it came home").tokens();
        let Asked { want, before, given, drawn, logits, end } = &asked;
        let all = [&before[..], &given[..]].concat();
        match (want, end) {
            (_, Some(Err(EngineError::NoTokens))) => assert!(given.is_empty(), "{asked:?}"),
            (_, Some(Err(EngineError::ContextFull { .. }))) => assert!(all.len() > CONTEXT as usize, "{asked:?}"),
            (_, Some(Err(EngineError::NeverFits { needed, blocks }))) => {
                assert!(*needed > u64::from(*blocks));
                counts.never_fits += 1;
            }
            (_, Some(Err(EngineError::PoolFull { needed, free }))) => {
                assert!(needed > free);
                counts.pool_full += 1;
            }
            (_, Some(Err(error))) => panic!("{error}: {asked:?}"),
            (_, Some(Ok(_))) => {}
            (_, None) => {
                counts.given_up += 1;
                counts.given_up_late += u32::from(!drawn.is_empty());
            }
        }
        if let Want::Tokens { way, most, stops } = want {
            // Those that the session keeps; the future may not have been told of the last ones.
            let kept = tokens.get(all.len()..).unwrap_or_default();
            let ended = matches!(end, Some(Ok(_)));
            assert!(tokens == *before || tokens.starts_with(&all), "{tokens:?} {asked:?}");
            // Without a token a prompt is taken back, unless the reply had come to its end.
            let mut over = || *most == 0 || stops.contains(&self.alone.reply(&all, *way, 1)[0]);
            assert!(ended || !kept.is_empty() || tokens == *before || over(), "{tokens:?} {asked:?}");
            assert!(kept.starts_with(drawn) && kept.len() <= *most as usize, "{tokens:?} {asked:?}");
            let stopped = usize::from(matches!(end, Some(Ok(Some(FinishReason::StopToken(_))))));
            let alone = self.alone.reply(&all, *way, kept.len() + stopped);
            assert_eq!(kept, &alone[..kept.len()], "{asked:?}");
            assert!(kept.iter().all(|token| !stops.contains(token)));
            counts.tokens += kept.len() as u32;
            match end {
                Some(Ok(Some(FinishReason::StopToken(token)))) => {
                    assert!(*token == alone[kept.len()] && stops.contains(token));
                    counts.stopped += 1;
                }
                Some(Ok(Some(FinishReason::MaxTokens))) => {
                    assert_eq!(kept.len(), *most as usize);
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
                assert_eq!(kept, drawn);
            }
        } else {
            let answered = matches!(end, Some(Ok(_)));
            assert_eq!(&tokens, if answered { &all } else { before }, "{asked:?}");
            let rows = if matches!(want, Want::Each) { given.len() } else { 1 };
            assert!(logits.len() == rows || (!answered && logits.len() < rows), "{asked:?}");
            let first = all.len() + 1 - rows;
            for (row, len) in logits.iter().zip(first..) {
                let alone = self.alone.reply(&all[..len], Way::Greedy, 1);
                assert_eq!(argmax(row).as_slice(), alone, "{asked:?}");
                counts.logits += 1;
            }
        }
        counts.refused += u32::from(matches!(end, Some(Err(EngineError::NoTokens | EngineError::ContextFull { .. }))));
    }

    fn any(&self, rng: &mut Rng, busy: bool) -> Option<usize> {
        let of_kind: Vec<_> = (0..self.places.len()).filter(|at| self.places[*at].future.is_some() == busy).collect();
        of_kind.get(rng.below(of_kind.len() as u32) as usize).copied()
    }

    fn act(&mut self, rng: &mut Rng, counts: &mut Counts) {
        match rng.below(20) {
            0 if self.places.len() < 7 => self.open(self.engine.session()),
            1 if self.places.len() < 7 => {
                let Some(at) = self.any(rng, false) else { return };
                let fork = self.places[at].home.borrow().as_ref().expect("at home").fork().expect("it is idle");
                self.open(fork);
                counts.forks += 1;
            }
            2 => {
                let Some(at) = self.any(rng, false) else { return };
                let mut home = self.places[at].home.borrow_mut();
                let session = home.as_mut().expect("at home");
                let (mut tokens, len) = (session.tokens(), rng.below(CONTEXT));
                session.truncate(len).expect("an idle session");
                tokens.truncate(len as usize);
                assert_eq!(session.tokens(), tokens);
            }
            // A session that is released with its request, or without one.
            3 if rng.below(2) == 0 && !self.places.is_empty() => {
                let mut place = self.places.swap_remove(rng.below(self.places.len() as u32) as usize);
                drop(place.future.take());
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
        // Whatever was asked for ends.
        for turn in 0.. {
            assert!(turn < polls, "no end in sight");
            let busy: Vec<_> = (0..self.places.len()).filter(|at| self.places[*at].future.is_some()).collect();
            if busy.is_empty() {
                break;
            }
            busy.into_iter().for_each(|at| self.poll(at, counts));
        }
        self.places.clear();
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
        let model = load(device, &gguf(&smallest(arch))).await;
        (Engine::new(&model, options).await.expect("an engine"), Alone::new(&model).await)
    });
    let mut world = World { engine, alone, places: Vec::new(), pauses: device.is_cpu() };
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
fn schedules_on_the_cpu_kernels() {
    let mut counts = Counts::default();
    for (i, options) in (0..).zip(all_options()) {
        let device = Device::cpu();
        device.pend(i as u32 % 3);
        run(&device, Arch::Qwen3, &options, 1000 * i..1000 * i + 400, &mut counts);
    }
    happened(&counts, 50);
}

#[test]
fn schedules_on_a_device_that_is_waited_for() {
    let mut counts = Counts::default();
    let devices = pollster::block_on(async { [lent().await, gpu().await] });
    for (i, options) in (0..).zip(all_options()) {
        let device = &devices[i as usize % 2];
        device.pend(1 + i as u32 % 2);
        run(device, Arch::Qwen3Moe, &options, 100_000 + 1000 * i..100_030 + 1000 * i, &mut counts);
    }
    happened(&counts, 5);
}
