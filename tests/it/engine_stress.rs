//! Eight threads drop futures, replies and sessions at random points, fork sessions and truncate them. Each reply is the
//! solo reply, and nothing leaks.

use std::{
    collections::HashMap,
    future::Future,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    thread::{self, Thread},
    time::{Duration, Instant},
};

use crate::common::{
    alone::alone,
    micro_model::{SamplingKind, SoloReplies, VOCAB, all, borrowed_device, gguf, gpu, load, micro_model, options},
    tiny_model::Arch,
    within::within,
};
use ferrum_wgpu::{
    Device, Engine, EngineError, EngineOptions, Model, Reply, Session,
    low_level::{engine::KvLayout, quant::Rng},
};
use pollster::block_on;

const THREADS: u64 = 8;

/// Tokens of a reply.
const LEN: usize = 14;

/// Tokens of a reply that a second prompt follows.
const KEPT: usize = 3;

const SAMPLING_KINDS: [SamplingKind; 3] = [SamplingKind::Greedy, SamplingKind::Sampled, SamplingKind::Penalised];

/// Resident memory of this process in KiB; only Linux tells.
fn resident() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}

/// Returns first prompts. Some share a prefix.
fn first_prompts() -> Vec<Vec<u32>> {
    let common = |first: u32| (0..20).map(move |i| (first + 7 * i) % VOCAB);
    let ending = |i: u32| (0..=i).map(move |j| (50 * i + j) % VOCAB);
    vec![
        common(1).chain(ending(1)).collect(),
        common(1).chain(ending(2)).collect(),
        common(90).collect(),
        common(90).chain(ending(9)).collect(),
        ending(4).collect(),
    ]
}

fn second_prompts() -> [Vec<u32>; 2] {
    [vec![200, 3], vec![17, 18, 19, 20, 21, 22, 23]]
}

/// The solo results of each request.
struct Expected {
    replies: HashMap<(Vec<u32>, SamplingKind), Vec<u32>>,
    /// The logits' bits behind each first prompt.
    logits: Vec<Vec<u32>>,
}

impl Expected {
    fn new(model: &Model) -> Self {
        let mut alone = block_on(SoloReplies::new(model));
        let mut replies = HashMap::new();
        let mut logits = Vec::new();
        let engine = block_on(Engine::new(model, &options(1, 256))).expect("an engine");
        for first in first_prompts() {
            logits.push(bits(&block_on(engine.session().forward(&first)).expect("logits")));
            for sampling_kind in SAMPLING_KINDS {
                let reply = alone.reply(&first, sampling_kind, LEN);
                for (second, next) in
                    second_prompts().into_iter().flat_map(|second| SAMPLING_KINDS.map(|w| (second.clone(), w)))
                {
                    let all = [&first, &reply[..KEPT], &second].concat();
                    replies.insert((all.clone(), next), alone.reply(&all, next, LEN));
                }
                replies.insert((first.clone(), sampling_kind), reply);
            }
        }
        Self { replies, logits }
    }
}

fn bits(logits: &[f32]) -> Vec<u32> {
    logits.iter().map(|logit| logit.to_bits()).collect()
}

/// Wakes a thread.
struct Parked(Thread);

impl Wake for Parked {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Returns the output of a future, or drops it after `limit` polls.
fn within_polls<F: Future>(future: F, limit: u32) -> Option<F::Output> {
    let mut future = pin!(future);
    let waker = Waker::from(Arc::new(Parked(thread::current())));
    for _ in 0..limit {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return Some(output);
        }
        thread::park();
    }
    None
}

/// What happened.
#[derive(Debug, Default)]
struct Counts {
    tokens: AtomicU64,
    whole: AtomicU64,
    given_up: AtomicU64,
    forks: AtomicU64,
    logits: AtomicU64,
    full: AtomicU64,
}

impl Counts {
    /// Whether enough happened to tell a leak from what is created once.
    fn suffice(&self) -> bool {
        let of = |what: &AtomicU64| what.load(Ordering::Relaxed);
        let often = of(&self.tokens) > 400 && of(&self.whole) > 20 && of(&self.given_up) > 20;
        often && of(&self.forks) > 0 && of(&self.logits) > 0
    }
}

fn count(what: &AtomicU64) {
    what.fetch_add(1, Ordering::Relaxed);
}

/// One thread's sessions.
struct Chat<'a> {
    engine: &'a Engine,
    expected: &'a Expected,
    counts: &'a Counts,
    rng: Rng,
    /// Whether there are too few blocks for all.
    may_be_full: bool,
}

impl Chat<'_> {
    fn one_in(&mut self, n: u32) -> bool {
        self.rng.below(n) == 0
    }

    /// How often a future is polled: some are dropped.
    fn polls(&mut self) -> u32 {
        if self.one_in(12) { self.rng.below(6) } else { u32::MAX }
    }

    /// Takes in a reply, or some of it, and checks it. Gives whether it may go on.
    fn listen(
        &mut self,
        reply: &mut Reply,
        request: (&[u32], SamplingKind),
        expected: &[u32],
        received: &mut Vec<u32>,
    ) -> bool {
        let polls = self.polls();
        match within_polls(reply.next(), polls) {
            // A dropped request may be repeated.
            None => !self.one_in(2),
            Some(Ok(Some(token))) => {
                received.push(token);
                count(&self.counts.tokens);
                let cached = reply.cached();
                assert!(
                    expected.starts_with(received),
                    "{received:?} instead of {expected:?}: {request:?}, {cached} cached"
                );
                true
            }
            Some(Ok(None)) => {
                assert_eq!(received, expected);
                count(&self.counts.whole);
                false
            }
            Some(Err(EngineError::PoolFull { .. })) if self.may_be_full => {
                count(&self.counts.full);
                false
            }
            Some(Err(error)) => panic!("{error}"),
        }
    }

    /// Makes a request of a session and listens for a while.
    fn speak(&mut self, session: &mut Session, input: &[u32], sampling_kind: SamplingKind) {
        let whole = [&session.tokens()[..], input].concat();
        let expected = &self.expected.replies[&(whole.clone(), sampling_kind)];
        let limit = if self.one_in(3) { self.rng.below(LEN as u32) as usize } else { usize::MAX };
        let mut received = Vec::new();
        let mut reply = session.generate(input, &sampling_kind.tokens(LEN as u32)).expect("a request");
        while received.len() < limit && self.listen(&mut reply, (&whole, sampling_kind), expected, &mut received) {}
        if reply.finish_reason().is_none() {
            count(&self.counts.given_up);
        }
        drop(reply);
        // Sampled tokens that were not received are in the session too.
        let (all, tokens) = ([&whole, &expected[..]].concat(), session.tokens());
        assert!(all.starts_with(&tokens), "{tokens:?} instead of {all:?}");
        assert!(received.is_empty() || tokens.len() >= whole.len() + received.len(), "{tokens:?}, {received:?}");
    }

    /// A session from its first request to its end, which may come at any time.
    fn converse(&mut self) {
        let (firsts, seconds) = (first_prompts(), second_prompts());
        let number = self.rng.below(firsts.len() as u32) as usize;
        let (first, mut session) = (&firsts[number], self.engine.session());
        if self.one_in(4) {
            let polls = self.polls();
            match within_polls(session.forward(first), polls) {
                Some(Ok(logits)) => {
                    assert!(bits(&logits) == self.expected.logits[number], "logits of prompt {number}");
                    assert_eq!(session.tokens(), *first);
                    count(&self.counts.logits);
                }
                Some(Err(EngineError::PoolFull { .. })) if self.may_be_full => count(&self.counts.full),
                Some(Err(error)) => panic!("{error}"),
                None => count(&self.counts.given_up),
            }
            session.truncate(0).expect("an idle session");
        }
        let sampling_kind = SAMPLING_KINDS[self.rng.below(3) as usize];
        self.speak(&mut session, first, sampling_kind);
        let next = first.len() + KEPT;
        while session.len() as usize >= next && !self.one_in(4) {
            session.truncate(next as u32).expect("an idle session");
            let fork = self.one_in(3).then(|| session.fork().expect("an idle session"));
            let mut both = [Some(session), fork];
            if self.one_in(2) {
                both.reverse();
            }
            for session in both.iter_mut().flatten() {
                let (second, sampling_kind) = (self.rng.below(2) as usize, SAMPLING_KINDS[self.rng.below(3) as usize]);
                self.speak(session, &seconds[second], sampling_kind);
            }
            let mut left = both.into_iter().flatten();
            let Some(kept) = left.next() else { return };
            session = kept;
            for fork in left {
                count(&self.counts.forks);
                drop(fork);
            }
        }
        if self.one_in(5) {
            // Its request is dropped with it.
            session.truncate(0).expect("an idle session");
            drop(session.generate(first, &sampling_kind.tokens(LEN as u32)).expect("a request"));
        }
    }
}

/// Threads converse with one engine for `time`, and on slow machines until enough happened.
fn stress(device: &Device, model: &Model, options: &EngineOptions, expected: &Expected, time: Duration) {
    let engine = block_on(Engine::new(model, options)).expect("an engine");
    block_on(engine.warm_up()).expect("it compiles");
    // The first penalised request creates the history.
    for sampling_kind in SAMPLING_KINDS {
        let mut session = engine.session();
        let mut reply = session.generate(&first_prompts()[0], &sampling_kind.tokens(LEN as u32)).expect("a request");
        block_on(all(&mut reply)).expect("a reply");
    }
    let counts = Counts::default();
    let may_be_full = options.kv_tokens < Some(16 * 64);
    let over = AtomicBool::new(false);
    let converse = |seed: u64| {
        let rng = Rng::new(seed);
        let mut chat = Chat { engine: &engine, expected, counts: &counts, rng, may_be_full };
        while !over.load(Ordering::Relaxed) {
            chat.converse();
            // Awaits are pending, now and then.
            if chat.one_in(20) {
                device.pend(chat.rng.below(3));
            }
        }
    };
    let (warm, after) = thread::scope(|scope| {
        let converse = &converse;
        let threads: Vec<_> = (0..THREADS).map(|seed| scope.spawn(move || converse(seed))).collect();
        let seen = || (device.created(), resident(), Instant::now());
        // Whoever panics ends it.
        let wait = |time: Duration| {
            let start = Instant::now();
            while (start.elapsed() < time || !counts.suffice()) && !threads.iter().any(|thread| thread.is_finished()) {
                thread::sleep(Duration::from_millis(20));
            }
        };
        wait(time / 3);
        let warm = seen();
        wait(time - time / 3);
        let after = seen();
        over.store(true, Ordering::Relaxed);
        threads.into_iter().for_each(|thread| thread.join().expect("no panic"));
        (warm, after)
    });
    device.pend(0);
    println!("{}: {counts:?}; {:?}, then {:?}; {:?} KiB, then {:?}", device.name(), warm.0, after.0, warm.1, after.1);
    assert!(counts.suffice(), "{counts:?}");

    let blocks = engine.blocks();
    assert_eq!((blocks.free, engine.requests()), (blocks.total, 0));
    assert_eq!((after.0.buffers, after.0.pipelines), (warm.0.buffers, warm.0.pipelines), "something is created");
    // Now and then a batch is the first of its kind.
    assert!(after.0.bind_groups < warm.0.bind_groups + 30, "{:?}, then {:?}", warm.0, after.0);
    if let (Some(before), Some(after)) = (warm.1, after.1) {
        assert!(after < before + 8192, "{before} KiB have become {after}");
    }
    let mut chat = Chat { engine: &engine, expected, counts: &counts, rng: Rng::new(99), may_be_full: false };
    for first in first_prompts() {
        chat.speak(&mut engine.session(), &first, SamplingKind::Sampled);
    }
    assert_eq!(engine.blocks(), blocks);
}

#[test]
fn eight_threads_that_drop_futures_and_sessions_leak_nothing() {
    alone("engine_stress::eight_threads_that_drop_futures_and_sessions_leak_nothing", || eight_threads(8, 3));
}

#[test]
#[ignore = "long: `make soak` runs it"]
fn eight_threads_leak_nothing_in_a_minute() {
    alone("engine_stress::eight_threads_leak_nothing_in_a_minute", || eight_threads(60, 10));
}

/// Stresses an engine with blocks for all sequences for `roomy` seconds. Then stresses an engine with blocks for some of
/// them, on an application's device, for `tight` seconds.
fn eight_threads(roomy: u64, tight: u64) {
    let (roomy, tight) = (Duration::from_secs(roomy), Duration::from_secs(tight));
    // A deadlock would otherwise last for ever.
    within(roomy + tight + Duration::from_secs(180), move || {
        let paged = KvLayout::Paged { block: 8 };
        let file = gguf(&micro_model(Arch::Qwen3Moe));
        let base = options(6, 64).kv_layout(paged).prefill_rows(24);
        let device = block_on(gpu());
        let model = block_on(load(&device, &file));
        let expected = Expected::new(&model);
        println!("{} replies are known", expected.replies.len());
        let options = base.clone().kv_tokens(16 * 64);
        stress(&device, &model, &options, &expected, roomy);
        let device = block_on(borrowed_device());
        let model = block_on(load(&device, &file));
        let options = base.kv_tokens(4 * 64);
        stress(&device, &model, &options, &expected, tight);
    });
}
