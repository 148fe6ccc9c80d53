//! Random schedules on a fake device, against each sequence alone.

use std::collections::{BTreeMap, VecDeque};

use super::{
    EngineError, FinishReason, Limits, Output, Scheduler, SequenceId, SessionEvent, StateLimits, StepOutput, StepPlan,
    fake::{Device, token_of, value},
    tests::take_events,
};
use crate::{
    kv::{Pool, Pools, Window},
    quant::Rng,
};

/// The expected state of a sequence.
#[derive(Clone, Default)]
struct Alone {
    tokens: Vec<u32>,
    values: Vec<u64>,
    request: Option<Asked>,
}

#[derive(Clone)]
struct Asked {
    output: Output,
    number: u64,
    /// Tokens before it.
    start: usize,
    sampled: u32,
    logits: u32,
    /// All its logits were computed.
    computed: bool,
}

impl Alone {
    fn push(&mut self, token: u32) {
        self.values.push(value(&self.values, token));
        self.tokens.push(token);
    }

    fn truncate(&mut self, len: usize) {
        self.tokens.truncate(len);
        self.values.truncate(len);
    }

    /// Ends the request early.
    fn give_up(&mut self) {
        if let Some(asked) = self.request.take().filter(|asked| asked.sampled == 0 && !asked.computed) {
            self.truncate(asked.start);
        }
    }

    fn next(&self) -> u32 {
        token_of(*self.values.last().expect("a token"))
    }
}

/// Counts of what happened, over all schedules.
#[derive(Default, Debug)]
struct Counts {
    tokens: u32,
    cached: u32,
    stopped: u32,
    wasted: u32,
    limit: u32,
    context_full: u32,
    pool_full: u32,
    pool_full_later: u32,
    lost: u32,
    logits: u32,
    forks: u32,
    copies: u32,
    abandoned: u32,
    stale: u32,
    paused: u32,
    alone: u32,
    /// Requests that began from a snapshot.
    resumed: u32,
    /// Replies with a snapshot of their own.
    of_replies: u32,
    /// Requests that found a prefix longer than their window.
    behind_window: u32,
    /// Steps that freed blocks before a window.
    slid: u32,
    /// Sequences that lost their blocks to others' windows.
    reclaimed: u32,
    drafted: u64,
    accepted: u64,
}

struct World {
    limits: Limits,
    scheduler: Scheduler,
    device: Device,
    alone: BTreeMap<SequenceId, Alone>,
    in_flight: VecDeque<StepOutput>,
    /// The most decode rows that requests may have had.
    bounds: BTreeMap<u64, u32>,
    admitted: u64,
}

impl World {
    fn new(rng: &mut Rng) -> Self {
        let (blocks, block) = (1 + rng.below(30), 1 + rng.below(5));
        let states =
            (rng.below(2) > 0).then(|| StateLimits { snapshots: rng.below(5), spacing: block * (1 + rng.below(3)) });
        let drafts = rng.below(2) * rng.below(6);
        let limits = Limits {
            context: 1 + rng.below(40),
            slots: 1 + rng.below(5),
            prefill_rows: 1 + rng.below(12),
            max_logit_rows: 1 + rng.below(4),
            masks_later: true,
            prefix_sharing: rng.below(4) > 0,
            share_decode_blocks: rng.below(2) > 0,
            pipelined: rng.below(3) > 0,
            drafts,
            states,
        };
        let pools = Pools::from(Pool::new(blocks, block));
        let pools = match rng.below(2) {
            0 => pools,
            _ => {
                let size = 1 + rng.below(12);
                let window = Window { size: 1 + rng.below(size), slack: limits.drafts + rng.below(4) };
                pools.with_window(2 + rng.below(28), window)
            }
        };
        let (device, drafts) = (Device::new(&pools), limits.drafts);
        Self {
            limits,
            scheduler: Scheduler::new(limits, pools),
            device: device
                .with_states(states.map_or(0, |states| StateLimits::slots(states.snapshots, limits.slots, drafts))),
            alone: BTreeMap::new(),
            in_flight: VecDeque::new(),
            bounds: BTreeMap::new(),
            admitted: 0,
        }
    }

    fn audit(&self) {
        let scheduler = &self.scheduler;
        scheduler.pool.audit(scheduler.sequences.values().map(|sequence| &sequence.table)).expect("a sound pool");
        assert_eq!(scheduler.sequences.len(), self.alone.len());
        let requests = scheduler.sequences.values().filter_map(|sequence| sequence.request.as_ref());
        let held = requests.filter(|request| request.snapshot.is_some()).count();
        let planned = scheduler.planned.as_ref().map_or(0, |planned| planned.snapshots.len());
        assert_eq!(scheduler.snapshots.held() as usize, held + planned);
        let mut running = true;
        for id in scheduler.requests.values() {
            let slot = scheduler.sequences[id].request.as_ref().expect("a request").slot;
            assert!(slot.is_none_or(|slot| running && scheduler.slots[slot as usize].sequence == Some(*id)));
            running = slot.is_some();
        }
        let slots = scheduler.slots.iter().filter_map(|slot| slot.sequence);
        assert!(slots.into_iter().all(|id| scheduler.is_busy(id)));
        for (id, alone) in &self.alone {
            assert_eq!(scheduler.is_busy(*id), alone.request.is_some());
            if alone.request.is_none() {
                assert_eq!(scheduler.tokens(*id), Some(&*alone.tokens));
                assert!(scheduler.sequences[id].table.len() as usize <= alone.tokens.len());
            }
        }
    }

    fn events(&mut self, counts: &mut Counts) {
        for (id, event) in take_events(&mut self.scheduler) {
            let alone = self.alone.get_mut(&id).expect("a sequence");
            let asked = alone.request.as_mut().expect("a request");
            match event {
                SessionEvent::Admitted { cached } => {
                    assert!(asked.number > self.admitted, "a later request was admitted before");
                    self.admitted = asked.number;
                    counts.cached += u32::from(cached > 0);
                    let request = self.scheduler.sequences[&id].request.as_ref();
                    counts.resumed += u32::from(request.is_some_and(|request| request.snapshot.is_some()));
                    let table = &self.scheduler.sequences[&id].table;
                    counts.behind_window += u32::from(cached > 0 && table.group(1).freed() > 0);
                    assert!(cached == 0 || self.limits.prefix_sharing);
                    assert!(self.limits.share_decode_blocks || self.device.is_prefilled(table, cached));
                }
                SessionEvent::Token(token) => {
                    asked.sampled += 1;
                    assert_eq!(token, alone.next());
                    alone.push(token);
                    counts.tokens += 1;
                }
                SessionEvent::Logprobs(_) => panic!("no log-probabilities were requested"),
                SessionEvent::Row { last, .. } => {
                    assert!(!last || asked.computed);
                    if last {
                        alone.request = None;
                    }
                }
                SessionEvent::Finished(reason) => {
                    let Asked { output, number, sampled, .. } = asked.clone();
                    let Output::Tokens { max_tokens, stop_tokens } = output else { panic!("no tokens were requested") };
                    // The first token comes from the prompt's last row.
                    let mut bound = sampled.saturating_sub(1);
                    match reason {
                        FinishReason::StopToken(token) => {
                            assert!(token == alone.next() && stop_tokens.contains(&token));
                            bound = sampled + u32::from(self.limits.pipelined);
                            counts.stopped += 1;
                        }
                        FinishReason::MaxTokens => {
                            assert_eq!(sampled, max_tokens);
                            counts.limit += 1;
                        }
                        FinishReason::ContextFull => {
                            assert!(alone.tokens.len() as u32 == self.limits.context + 1 && sampled < max_tokens);
                            counts.context_full += 1;
                        }
                    }
                    self.bounds.insert(number, bound);
                    alone.request = None;
                }
                SessionEvent::Failed(error) => {
                    let Asked { output, number, sampled, .. } = asked.clone();
                    let mut bound = sampled.saturating_sub(1);
                    match error {
                        EngineError::PoolFull { needed, free } => {
                            assert!(
                                needed > free,
                                "{needed} of {free}, request {} of {:?}: {:?}",
                                asked.number,
                                asked.output,
                                self.scheduler
                            );
                            counts.pool_full += 1;
                            counts.pool_full_later += u32::from(sampled > 0);
                        }
                        EngineError::DeviceLost => {
                            counts.lost += 1;
                            bound += 2;
                        }
                        error => panic!("{error}"),
                    }
                    if matches!(output, Output::Tokens { .. }) {
                        self.bounds.insert(number, bound);
                    }
                    alone.give_up();
                }
            }
        }
    }

    /// Returns a random sequence.
    fn any(&self, rng: &mut Rng) -> Option<SequenceId> {
        self.alone.keys().nth(rng.below(self.alone.len() as u32) as usize).copied()
    }

    /// Does something that callers or the device do.
    fn call(&mut self, rng: &mut Rng, counts: &mut Counts) {
        match (rng.below(16), self.any(rng)) {
            (0, _) | (_, None) => {
                self.alone.insert(self.scheduler.open(), Alone::default());
            }
            (1, Some(id)) => {
                self.scheduler.cancel(id);
                self.alone.get_mut(&id).expect("a sequence").give_up();
            }
            (2, Some(id)) if rng.below(2) == 0 => {
                self.scheduler.release(id);
                self.alone.remove(&id);
            }
            (3, Some(id)) => match self.scheduler.fork(id) {
                Ok(fork) => {
                    self.alone.insert(fork, self.alone[&id].clone());
                    counts.forks += 1;
                }
                Err(error) => assert!(matches!(error, EngineError::Busy) && self.alone[&id].request.is_some()),
            },
            (4, Some(id)) => {
                let len = rng.below(self.limits.context + 2);
                match self.scheduler.truncate(id, len) {
                    Ok(()) => self.alone.get_mut(&id).expect("a sequence").truncate(len as usize),
                    Err(error) => assert!(matches!(error, EngineError::Busy) && self.alone[&id].request.is_some()),
                }
            }
            (5, Some(_)) => self.scheduler.set_prefill_rows(rng.below(self.limits.prefill_rows + 1)),
            (6, Some(_)) if rng.below(8) == 0 => {
                self.scheduler.forget_device(&EngineError::DeviceLost);
                self.device.lose();
                self.in_flight.clear();
            }
            (7..10, Some(_)) => self.deliver(),
            (_, Some(id)) => self.submit(id, rng),
        }
        self.events(counts);
        self.audit();
    }

    fn submit(&mut self, id: SequenceId, rng: &mut Rng) {
        let mut tokens: Vec<u32> = (0..rng.below(self.limits.context.min(20) + 2)).map(|_| rng.below(2)).collect();
        let output = match rng.below(9) {
            0 => Output::LastLogits,
            1 => Output::AllLogits,
            7 => Output::LastHidden,
            8 => Output::AllHidden,
            2 if !tokens.is_empty() => {
                tokens.truncate(1);
                Output::DecodeLogits
            }
            _ => Output::Tokens {
                max_tokens: rng.below(12),
                stop_tokens: if rng.below(3) == 0 { vec![] } else { vec![3, 4] },
            },
        };
        let alone = self.alone.get_mut(&id).expect("a sequence");
        let all = alone.tokens.len() + tokens.len();
        match self.scheduler.submit(id, &tokens, output.clone(), None) {
            Ok(_) => {
                assert!(alone.request.is_none() && all <= self.limits.context as usize);
                let number = self.scheduler.sequences[&id].request.as_ref().expect("a request").number;
                let start = alone.tokens.len();
                tokens.into_iter().for_each(|token| alone.push(token));
                alone.request = Some(Asked { output, number, start, sampled: 0, logits: 0, computed: false });
            }
            Err(EngineError::NoTokens) => assert!(tokens.is_empty()),
            Err(EngineError::Busy) => assert!(alone.request.is_some()),
            Err(EngineError::ContextFull { needed, capacity }) => {
                assert!(needed == all as u64 && all > capacity as usize);
            }
            Err(EngineError::NeverFits { needed, blocks }) => assert!(needed > u64::from(blocks)),
            Err(error) => panic!("{error}"),
        }
    }

    fn deliver(&mut self) {
        if let Some(output) = self.in_flight.pop_front() {
            let samples = !output.tokens.is_empty();
            assert_eq!(self.scheduler.finish_step(output).is_ok(), samples, "it is the oldest step");
        }
    }

    /// Runs a step and checks its logits.
    fn run(&mut self, step: &StepPlan, counts: &mut Counts) {
        let computed = self.device.run(step);
        assert_eq!(computed.tokens().count(), step.sampled().count());
        self.in_flight.push_back(computed.output);
        for (row, position, value) in computed.values {
            let Some(alone) = self.alone.get_mut(&row.sequence) else { continue };
            let Some(asked) = alone.request.as_mut().filter(|asked| asked.number == row.request) else { continue };
            assert_eq!(value, alone.values[position as usize]);
            asked.logits += 1;
            counts.logits += 1;
            if position as usize + 1 == alone.tokens.len() {
                let all = (alone.tokens.len() - asked.start) as u32;
                assert_eq!(
                    asked.logits,
                    if matches!(asked.output, Output::AllLogits | Output::AllHidden) { all } else { 1 }
                );
                asked.computed = true;
            }
        }
    }

    /// Returns the sequences that hold blocks and have no request.
    fn idle_with_blocks(&self) -> impl Iterator<Item = SequenceId> {
        let sequences = self.scheduler.sequences.iter();
        sequences.filter(|(_, sequence)| sequence.request.is_none() && !sequence.table.is_empty()).map(|(id, _)| *id)
    }

    /// Commits a step. Returns whether it is still the expected one.
    fn commit(&mut self, step: &StepPlan, counts: &mut Counts) -> bool {
        let freed = |scheduler: &Scheduler| -> u32 {
            scheduler.sequences.values().map(|sequence| sequence.table.group(1).freed()).sum()
        };
        let before = freed(&self.scheduler);
        let committed = self.scheduler.commit(step).is_ok();
        counts.slid += u32::from(freed(&self.scheduler) > before);
        let requests = self.scheduler.sequences.values().filter_map(|sequence| sequence.request.as_ref());
        counts.of_replies += u32::from(requests.into_iter().any(|request| request.reply_snapshot.is_some()));
        committed
    }

    /// Plans a step and does something with it, other calls in between. Returns whether there was one.
    fn step(&mut self, rng: &mut Rng, counts: &mut Counts, calls: u32) -> bool {
        let alone = self.any(rng).filter(|_| calls > 0 && rng.below(6) == 0);
        let idle: Vec<SequenceId> = self.idle_with_blocks().collect();
        let planned = match alone {
            Some(id) => self.scheduler.plan_alone(id),
            None => self.scheduler.plan(),
        };
        let still: Vec<SequenceId> = self.idle_with_blocks().collect();
        counts.reclaimed += idle.iter().filter(|id| !still.contains(id)).count() as u32;
        counts.alone += u32::from(planned.is_some() && alone.is_some());
        assert!(planned.iter().flat_map(StepPlan::sequences).all(|id| alone.is_none_or(|alone| alone == id)));
        self.events(counts);
        self.audit();
        let Some(step) = planned else { return false };
        assert!(step.decode.len() <= self.limits.slots as usize && step.rows() > 0);
        assert!(step.rows() - step.decode_rows() <= self.limits.prefill_rows);
        let decoding = self.scheduler.sequences.values().filter(|sequence| {
            let request = sequence.request.as_ref();
            request.is_some_and(|request| request.sampled > 0 && request.sampled < request.max_tokens())
        });
        counts.paused += u32::from(decoding.count() > step.decode.len());
        for _ in 0..rng.below(calls + 1) {
            self.call(rng, counts);
        }
        let submitted = match rng.below(if calls > 0 { 8 } else { 1 }) {
            // Dropped, or refused, before or after the lists of blocks were written.
            1 => false,
            2 => {
                self.scheduler.abandon(&step);
                false
            }
            _ => true,
        };
        if submitted || rng.below(2) == 0 {
            self.device.write(&step);
        }
        if !submitted {
            counts.abandoned += 1;
        } else if self.commit(&step, counts) {
            self.run(&step, counts);
        } else {
            // The device was lost.
            self.device.lose();
            counts.stale += 1;
        }
        self.events(counts);
        self.audit();
        true
    }
}

/// Runs a schedule, and adds to the counts of those without and with states.
fn schedule(seed: u64, counts: &mut [Counts; 2]) {
    let mut rng = Rng::new(seed);
    let mut world = World::new(&mut rng);
    let counts = &mut counts[usize::from(world.limits.states.is_some())];
    for _ in 0..1 + rng.below(120) {
        if rng.below(3) == 0 {
            world.step(&mut rng, counts, 2);
        } else {
            world.call(&mut rng, counts);
        }
    }
    // All requests end.
    let mut turns = 0;
    while world.scheduler.requests() > 0 {
        turns += 1;
        assert!(turns < 2000, "no end in sight: {:?}", world.scheduler);
        if !world.step(&mut rng, counts, 0) {
            world.deliver();
            world.events(counts);
        }
    }
    while !world.in_flight.is_empty() {
        world.deliver();
        world.events(counts);
    }
    for (number, bound) in &world.bounds {
        let rows = world.device.decode_rows.get(number).copied().unwrap_or(0);
        assert!(rows <= *bound, "{rows} decode rows for a request that needs {bound}");
        counts.wasted += u32::from(rows == *bound && rows > 0);
    }
    counts.copies += world.device.copies;
    let lookup = world.scheduler.lookup();
    counts.drafted += lookup.drafted;
    counts.accepted += lookup.accepted;
    assert!(lookup.accepted <= lookup.drafted && (lookup.drafted == 0 || world.limits.drafts > 0));
    assert_eq!(world.scheduler.in_flight(), 0);
    for id in std::mem::take(&mut world.alone).into_keys() {
        world.scheduler.release(id);
    }
    world.audit();
    assert_eq!(world.scheduler.pool().held(), 0);
    assert!(take_events(&mut world.scheduler).is_empty());
}

#[test]
fn sequences_get_the_tokens_that_they_get_alone() {
    let mut both = [Counts::default(), Counts::default()];
    for seed in 0..6000 {
        schedule(seed, &mut both);
    }
    assert!(both.iter().map(|counts| counts.behind_window).sum::<u32>() > 100, "{both:?}");
    for (states, counts) in both.iter().enumerate() {
        let Counts { tokens, cached, stopped, wasted, limit, context_full, pool_full, pool_full_later, .. } = *counts;
        let Counts { lost, logits, forks, copies, abandoned, stale, paused, alone, .. } = *counts;
        let Counts { behind_window, slid, reclaimed, resumed, of_replies, .. } = *counts;
        let of_requests = [tokens, cached, stopped, wasted, limit, context_full, pool_full, pool_full_later, logits];
        let of_others = [lost, forks, copies, abandoned, stale, paused, alone, slid, reclaimed];
        assert!(counts.accepted > 50 && counts.drafted > counts.accepted, "{counts:?}");
        assert!(of_requests.into_iter().chain(of_others).all(|count| count > 50), "{counts:?}");
        assert!(behind_window > 20, "{counts:?}");
        assert_eq!([resumed, of_replies].map(|count| count > 100), [states > 0; 2], "{counts:?}");
    }
}
