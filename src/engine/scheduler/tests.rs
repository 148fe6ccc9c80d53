use std::collections::BTreeMap;

use super::{
    EngineError, FinishReason, Limits, LogitRow, LogitsUse, Output, Scheduler, SequenceId, SessionEvent, StaleStep,
    StepOutput,
    fake::{Device, next_token, values},
};
use crate::{
    engine::{Sampler, SamplingOptions},
    kv::{Pool, Pools, Window},
};

const LIMITS: Limits = Limits {
    context: 1000,
    slots: 8,
    prefill_rows: 8,
    max_logit_rows: 8,
    masks_later: true,
    prefix_sharing: true,
    share_decode_blocks: false,
    pipelined: true,
    drafts: 0,
    states: None,
};

/// A scheduler with its device, and the events so far.
struct World {
    scheduler: Scheduler,
    device: Device,
    events: Vec<(SequenceId, SessionEvent)>,
    in_flight: Vec<StepOutput>,
    /// Sequences are released when their requests end; their tokens are then in `released`.
    release: bool,
    released: BTreeMap<SequenceId, Vec<u32>>,
}

impl World {
    fn new(limits: Limits, blocks: u32, block: u32) -> Self {
        Self::with_pools(limits, Pool::new(blocks, block).into())
    }

    fn with_pools(limits: Limits, pools: Pools) -> Self {
        let device = Device::new(&pools);
        let scheduler = Scheduler::new(limits, pools);
        Self { scheduler, device, events: vec![], in_flight: vec![], release: false, released: BTreeMap::new() }
    }

    /// Opens a sequence with a request.
    fn start(&mut self, tokens: &[u32], output: Output) -> SequenceId {
        let id = self.scheduler.open();
        self.scheduler.submit(id, tokens, output, None).expect("a request");
        id
    }

    /// Takes all events, as their sessions do.
    fn take_events(&mut self) {
        self.events.extend(take_events(&mut self.scheduler));
    }

    /// Submits the next step, and returns the number of rows of each sequence in it.
    fn submit(&mut self) -> Option<Vec<(SequenceId, usize)>> {
        let step = self.scheduler.plan();
        self.take_events();
        let step = step?;
        self.scheduler.commit(&step).expect("the planned step");
        self.device.write(&step);
        let output = self.device.run(&step).output;
        let rows = step.decode.iter().map(|row| (row.sequence, 1));
        let rows = rows.chain(step.prefill.iter().map(|rows| (rows.sequence, rows.tokens.len()))).collect();
        if output.tokens.is_empty() {
            assert!(self.scheduler.finish_step(output).is_err(), "it samples nothing");
        } else {
            self.in_flight.push(output);
        }
        self.take_events();
        Some(rows)
    }

    fn deliver(&mut self) {
        if !self.in_flight.is_empty() {
            self.scheduler.finish_step(self.in_flight.remove(0)).expect("the oldest step");
            self.take_events();
        }
        for (id, _) in self.ends() {
            if self.release && !self.released.contains_key(&id) {
                self.released.insert(id, self.tokens(id).to_vec());
                self.scheduler.release(id);
            }
        }
    }

    /// Runs a step and takes in its tokens at once.
    fn step(&mut self) -> Option<Vec<(SequenceId, usize)>> {
        let rows = self.submit();
        self.deliver();
        rows
    }

    /// Runs all steps.
    fn drain(&mut self) -> Vec<Vec<(SequenceId, usize)>> {
        std::iter::from_fn(|| self.step()).collect()
    }

    fn ends(&self) -> Vec<(SequenceId, End)> {
        let end = |event: &SessionEvent| match event {
            SessionEvent::Finished(reason) => Some(End::Finished(*reason)),
            SessionEvent::Failed(EngineError::PoolFull { needed, free }) => {
                Some(End::PoolFull { needed: *needed, free: *free })
            }
            SessionEvent::Failed(EngineError::DeviceLost) => Some(End::DeviceLost),
            SessionEvent::Failed(error) => panic!("{error}"),
            _ => None,
        };
        self.events.iter().filter_map(|(id, event)| Some((*id, end(event)?))).collect()
    }

    fn cached(&self, id: SequenceId) -> Option<u32> {
        self.events.iter().rev().find_map(|(sequence, event)| match event {
            SessionEvent::Admitted { cached } if *sequence == id => Some(*cached),
            _ => None,
        })
    }

    fn tokens(&self, id: SequenceId) -> &[u32] {
        let kept = self.released.get(&id).map(|tokens| &**tokens);
        kept.or_else(|| self.scheduler.tokens(id)).expect("a sequence")
    }
}

/// The end of a request.
#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    Finished(FinishReason),
    PoolFull { needed: u32, free: u32 },
    DeviceLost,
}

const MAX_TOKENS: End = End::Finished(FinishReason::MaxTokens);

/// Takes all events of a scheduler, in order.
pub(super) fn take_events(scheduler: &mut Scheduler) -> Vec<(SequenceId, SessionEvent)> {
    let notified = scheduler.take_notified();
    notified.into_iter().filter_map(|id| Some((id, scheduler.next_event(id)?))).collect()
}

fn reply(max_tokens: u32) -> Output {
    Output::Tokens { max_tokens, stop_tokens: Vec::new() }
}

/// Returns token ids that no other prompt begins with.
fn prompt(first: u32, len: u32) -> Vec<u32> {
    (0..len).map(|i| 100 * first + i).collect()
}

/// Returns a prompt, continued by one sequence alone.
fn continued(prompt: &[u32], sampled: usize) -> Vec<u32> {
    let mut tokens = prompt.to_vec();
    for _ in 0..sampled {
        tokens.push(next_token(&tokens));
    }
    tokens
}

#[test]
fn prefill_goes_in_chunks_in_order_of_arrival_beside_decoding() {
    let mut world = World::new(LIMITS, 100, 4);
    let decoding = world.start(&prompt(1, 2), reply(6));
    assert_eq!(world.step(), Some(vec![(decoding, 2)]));
    let long = world.start(&prompt(2, 19), reply(2));
    let short: Vec<_> = (3..6).map(|first| world.start(&prompt(first, 2), reply(1))).collect();
    let [a, b, c] = short[..] else { panic!("three") };
    assert_eq!(
        world.drain(),
        [
            vec![(decoding, 1), (long, 8)],
            vec![(decoding, 1), (long, 8)],
            vec![(decoding, 1), (long, 3), (a, 2), (b, 2), (c, 1)],
            vec![(decoding, 1), (long, 1), (c, 1)],
            vec![(decoding, 1)],
        ]
    );
    assert_eq!(world.tokens(long), continued(&prompt(2, 19), 2));
    assert_eq!(world.tokens(decoding), continued(&prompt(1, 2), 6));
    assert!(world.ends().iter().all(|(_, end)| *end == MAX_TOKENS));
}

#[test]
fn many_short_requests_do_not_starve_a_long_one() {
    // Few slots and blocks, and always another short request: the long one, behind which they wait, is served.
    let mut world = World::new(Limits { slots: 3, ..LIMITS }, 24, 4);
    world.release = true;
    world.start(&prompt(1, 4), reply(20));
    world.start(&prompt(2, 4), reply(20));
    world.step();
    let long = world.start(&prompt(3, 40), reply(2));
    let mut steps = 0;
    while world.scheduler.is_busy(long) {
        world.start(&prompt(4 + steps, 2), reply(3));
        assert!(world.step().is_some() && steps < 60);
        steps += 1;
    }
    assert_eq!(world.tokens(long), continued(&prompt(3, 40), 2));
    let admitted = world.events.iter().filter(|(_, event)| matches!(event, SessionEvent::Admitted { .. }));
    assert!(admitted.map(|(id, _)| id).is_sorted());
    world.drain();
    assert!(world.ends().iter().all(|(_, end)| *end == MAX_TOKENS));
}

#[test]
fn at_most_one_step_is_wasted() {
    for pipelined in [true, false] {
        let mut world = World::new(Limits { pipelined, ..LIMITS }, 10, 4);
        let all = continued(&[1, 2, 3], 20);
        let (at, stop) = (3..).zip(&all[3..]).nth(4).expect("a token");
        let first = all[3..].iter().position(|token| token == stop).expect("itself") + 3;
        let id = world.start(&all[..3], Output::Tokens { max_tokens: 100, stop_tokens: vec![*stop] });
        let mut rows = 0;
        while world.scheduler.is_busy(id) {
            while let Some(step) = world.submit() {
                rows += step.iter().map(|(_, rows)| rows).sum::<usize>();
            }
            assert_eq!(world.in_flight.len(), 1 + usize::from(pipelined));
            world.deliver();
        }
        assert!(first <= at);
        assert_eq!(rows, first + usize::from(pipelined), "the stop token's row is wasted, if any");
        assert_eq!(
            (world.tokens(id), world.ends()),
            (&all[..first], vec![(id, End::Finished(FinishReason::StopToken(*stop)))])
        );
        // A step still in flight does not matter to the next request.
        world.scheduler.submit(id, &[5], reply(2), None).expect("a request");
        world.submit();
        world.deliver();
        world.deliver();
        world.drain();
        let mut next = all[..first].to_vec();
        next.push(5);
        assert_eq!(world.tokens(id), continued(&next, 2));
    }
}

#[test]
fn nothing_is_wasted_at_the_limit_or_the_end_of_the_context() {
    let mut world = World::new(Limits { context: 6, ..LIMITS }, 10, 4);
    let (limit, context) = (world.start(&[1, 2], reply(3)), world.start(&[3, 4, 5], reply(100)));
    let mut rows = 0;
    while let Some(step) = world.submit().or_else(|| (!world.in_flight.is_empty()).then(Vec::new)) {
        rows += step.iter().map(|(_, rows)| rows).sum::<usize>();
        if world.in_flight.len() == 2 || step.is_empty() {
            world.deliver();
        }
    }
    assert_eq!(rows, 4 + 6);
    assert_eq!(world.ends(), [(limit, MAX_TOKENS), (context, End::Finished(FinishReason::ContextFull))]);
    assert_eq!(world.tokens(context), continued(&[3, 4, 5], 4));
    let error = world.scheduler.submit(context, &[], reply(1), None);
    assert!(matches!(error, Err(EngineError::ContextFull { needed: 7, capacity: 6 })));
    world.scheduler.truncate(context, 4).expect("idle");
    let error = world.scheduler.submit(context, &[], reply(1), None);
    assert!(matches!(error, Err(EngineError::NoTokens)), "all is computed");
    // A last token that was not computed comes first.
    world.scheduler.submit(limit, &[], reply(1), None).expect("a request");
    assert_eq!(world.step(), Some(vec![(limit, 1)]));
    assert_eq!(world.tokens(limit), continued(&[1, 2], 4));
}

#[test]
fn a_sequence_without_a_block_pauses_until_others_end() {
    let mut world = World::new(Limits { prefix_sharing: false, ..LIMITS }, 5, 2);
    world.release = true;
    let (older, younger) = (world.start(&prompt(1, 3), reply(4)), world.start(&prompt(2, 3), reply(5)));
    let third = world.start(&prompt(3, 2), reply(1));
    assert_eq!(
        world.drain(),
        [
            vec![(older, 3), (younger, 3)],
            vec![(older, 1), (younger, 1)],
            // One block was left.
            vec![(older, 1)],
            vec![(older, 1)],
            // Of the three blocks that are free now, one is reserved for decoding.
            vec![(younger, 1), (third, 2)],
            vec![(younger, 1)],
            vec![(younger, 1)],
        ]
    );
    for (id, tokens) in [(older, (1, 3, 4)), (younger, (2, 3, 5)), (third, (3, 2, 1))] {
        assert_eq!(world.tokens(id), continued(&prompt(tokens.0, tokens.1), tokens.2));
    }
}

#[test]
fn when_none_can_go_on_the_youngest_ends() {
    let mut world = World::new(LIMITS, 5, 2);
    let (older, younger) = (world.start(&prompt(1, 3), reply(7)), world.start(&prompt(2, 3), reply(7)));
    world.drain();
    assert_eq!(world.ends(), [(younger, End::PoolFull { needed: 1, free: 0 }), (older, MAX_TOKENS)]);
    assert_eq!(world.tokens(older), continued(&prompt(1, 3), 7));
    // It keeps its sampled tokens, and goes on when there are blocks.
    assert_eq!(world.tokens(younger), continued(&prompt(2, 3), 2));
    world.scheduler.release(older);
    world.scheduler.submit(younger, &[], reply(2), None).expect("a request");
    world.drain();
    assert_eq!(world.tokens(younger), continued(&prompt(2, 3), 4));
}

#[test]
fn a_request_that_cannot_be_served_fails_and_others_are_served() {
    let mut world = World::new(Limits { prefix_sharing: false, ..LIMITS }, 6, 2);
    let idle = world.start(&prompt(1, 8), Output::LastLogits);
    world.drain();
    let (large, small) = (world.start(&prompt(2, 6), reply(2)), world.start(&prompt(3, 3), reply(2)));
    world.drain();
    assert_eq!(world.ends(), [(large, End::PoolFull { needed: 3, free: 2 }), (small, MAX_TOKENS)]);
    assert!(world.tokens(large).is_empty(), "as before the request");
    let mut submit = |id, tokens: &[u32], output| world.scheduler.submit(id, tokens, output, None);
    let error = submit(large, &prompt(2, 13), Output::LastLogits);
    assert!(matches!(error, Err(EngineError::NeverFits { needed: 7, blocks: 6 })));
    assert!(matches!(submit(idle, &[], Output::LastLogits), Err(EngineError::NoTokens)));
    assert!(submit(large, &[1], Output::AllLogits).is_ok());
    assert!(matches!(submit(large, &[1], Output::AllLogits), Err(EngineError::Busy)));
    world.scheduler.release(large);
    let error = world.scheduler.submit(large, &[1], Output::AllLogits, None);
    assert!(matches!(error, Err(EngineError::NoRequest)));
}

#[test]
fn a_common_beginning_is_computed_once() {
    let mut world = World::new(LIMITS, 32, 4);
    let tokens = prompt(1, 10);
    let first = world.start(&tokens, reply(1));
    world.drain();
    let (second, each) = (world.start(&tokens, reply(3)), world.start(&tokens, Output::AllLogits));
    let rows: usize = world.drain().iter().flatten().filter(|(id, _)| *id == second).map(|(_, rows)| rows).sum();
    assert_eq!((world.cached(first), world.cached(second), rows), (Some(0), Some(8), 2 + 2));
    assert_eq!(world.cached(each), Some(0), "all logits are wanted");
    assert_eq!(world.tokens(second), continued(&tokens, 3));
    // Prefilled blocks are shared; those behind decode rows are not.
    world.scheduler.submit(second, &[1, 2, 3, 4, 5, 6, 7, 8], reply(1), None).expect("a request");
    world.drain();
    let mut mixed = continued(&tokens, 3);
    mixed.extend([1, 2, 3, 4, 5, 6, 7, 8, 9]);
    let mixed = [world.start(&mixed, reply(1)), world.start(&mixed, reply(1))];
    world.step();
    world.drain();
    assert_eq!(mixed.map(|id| world.cached(id)), [Some(8), Some(16)], "until they are prefilled");
}

#[test]
fn blocks_filled_by_decode_are_shared_on_request() {
    let mut world = World::new(Limits { share_decode_blocks: true, ..LIMITS }, 32, 4);
    let first = world.start(&prompt(1, 3), reply(10));
    world.drain();
    // All but the last sampled token are computed: 12.
    let second = world.start(&continued(&prompt(1, 3), 12), reply(1));
    world.drain();
    assert_eq!((world.tokens(first).len(), world.cached(second)), (13, Some(12)));
    assert_eq!(world.tokens(second), continued(&prompt(1, 3), 13));
}

#[test]
fn a_step_that_is_not_committed_is_planned_again() {
    let mut world = World::new(LIMITS, 8, 4);
    let id = world.start(&prompt(1, 5), reply(3));
    let dropped = world.scheduler.plan().expect("a step");
    let abandoned = world.scheduler.plan().expect("a step");
    assert_eq!((&dropped.prefill, &dropped.block_tables), (&abandoned.prefill, &abandoned.block_tables));
    assert_eq!(world.scheduler.commit(&dropped), Err(StaleStep));
    world.scheduler.abandon(&dropped);
    world.scheduler.abandon(&abandoned);
    assert_eq!((world.scheduler.commit(&abandoned), world.scheduler.pool().held()), (Err(StaleStep), 0));
    world.drain();
    assert_eq!(world.tokens(id), continued(&prompt(1, 5), 3));
    let output = StepOutput { step: dropped.id, tokens: Vec::new(), read_back: Vec::new() };
    assert_eq!(world.scheduler.finish_step(output), Err(StaleStep));
}

#[test]
fn requests_that_end_between_plan_and_commit_are_left_alone() {
    let mut world = World::new(LIMITS, 8, 4);
    let (cancelled, released) = (world.start(&prompt(1, 3), reply(3)), world.start(&prompt(2, 3), reply(3)));
    let step = world.scheduler.plan().expect("a step");
    world.scheduler.cancel(cancelled);
    world.scheduler.release(released);
    world.scheduler.submit(cancelled, &prompt(3, 3), reply(2), None).expect("a request");
    world.scheduler.commit(&step).expect("the planned step");
    world.device.write(&step);
    world.in_flight.push(world.device.run(&step).output);
    world.drain();
    assert_eq!(world.tokens(cancelled), continued(&prompt(3, 3), 2));
    assert_eq!(world.scheduler.tokens(released), None);
    assert!(world.events.iter().all(|(id, _)| *id == cancelled));
}

#[test]
fn forks_share_until_they_write() {
    let mut world = World::new(LIMITS, 8, 4);
    let first = world.start(&prompt(1, 6), reply(2));
    world.drain();
    let fork = world.scheduler.fork(first).expect("idle");
    assert_eq!(world.scheduler.pool().held(), 2);
    world.scheduler.submit(first, &[1], reply(3), None).expect("a request");
    assert!(matches!(world.scheduler.fork(first), Err(EngineError::Busy)));
    world.scheduler.submit(fork, &[2], reply(3), None).expect("a request");
    world.drain();
    for (id, token) in [(first, 1), (fork, 2)] {
        let mut tokens = continued(&prompt(1, 6), 2);
        tokens.push(token);
        assert_eq!(world.tokens(id), continued(&tokens, 3));
    }
    assert!(world.device.copies > 0);
}

#[test]
fn a_lost_device_leaves_the_tokens() {
    let mut world = World::new(LIMITS, 16, 4);
    let idle = world.start(&prompt(1, 6), reply(2));
    world.drain();
    let (decoding, waiting) = (world.start(&prompt(2, 6), reply(9)), world.start(&prompt(3, 6), Output::LastLogits));
    world.step();
    let planned = world.scheduler.plan().expect("a step");
    world.scheduler.forget_device(&EngineError::DeviceLost);
    world.device.lose();
    world.in_flight.clear();
    world.events.clear();
    world.take_events();
    assert_eq!(world.ends(), [(decoding, End::DeviceLost), (waiting, End::DeviceLost)]);
    assert_eq!((world.scheduler.commit(&planned), world.scheduler.pool().held()), (Err(StaleStep), 0));
    for (id, tokens) in
        [(idle, continued(&prompt(1, 6), 2)), (decoding, continued(&prompt(2, 6), 1)), (waiting, vec![])]
    {
        assert_eq!(world.tokens(id), tokens);
        world.scheduler.submit(id, &[7], reply(2), None).expect("a request");
        world.drain();
        let tokens = [tokens, vec![7]].concat();
        assert_eq!((world.tokens(id), world.cached(id)), (&*continued(&tokens, 2), Some(0)));
    }
}

#[test]
fn logits_are_given_of_the_rows_that_are_asked_for() {
    let mut world = World::new(Limits { max_logit_rows: 3, ..LIMITS }, 16, 4);
    let id = world.start(&prompt(1, 3), reply(1));
    world.drain();
    let mut tokens = continued(&prompt(1, 3), 1);
    tokens.extend([1, 2, 3, 4]);
    world.scheduler.submit(id, &tokens[4..], Output::AllLogits, None).expect("a request");
    let mut given = Vec::new();
    while let Some(step) = world.scheduler.plan() {
        world.scheduler.commit(&step).expect("the planned step");
        world.device.write(&step);
        let computed = world.device.run(&step);
        given.push(computed.values.iter().map(|(_, at, value)| (*at, *value)).collect::<Vec<_>>());
        let last = step.logit_rows.last().map(|row| row.usage);
        assert_eq!(last, Some(LogitsUse::Return { last: given.len() == 2 }));
        assert_eq!(world.scheduler.finish_step(computed.output), Err(StaleStep), "it samples nothing");
        assert!(world.scheduler.is_busy(id), "the session has not taken them");
        world.take_events();
    }
    let alone = values(&tokens);
    // The sampled token is computed too, and its logits are not used.
    assert_eq!(given, [vec![(4, alone[4]), (5, alone[5]), (6, alone[6])], vec![(7, alone[7])]]);
    assert!(!world.scheduler.is_busy(id));
}

#[test]
fn sequences_in_blocks_of_their_own_all_run() {
    // A contiguous cache: no running sequence needs another block.
    let mut world = World::new(LIMITS, 8, 1000);
    let ids: Vec<_> = (0..8).map(|first| world.start(&prompt(first, 1), reply(2))).collect();
    assert_eq!(world.step().map(|rows| rows.len()), Some(8));
    world.drain();
    assert!((0..).zip(ids).all(|(first, id)| world.tokens(id) == continued(&prompt(first, 1), 2)));
}

#[test]
fn a_request_that_is_over_has_no_sampler_for_the_next() {
    let mut world = World::new(LIMITS, 8, 4);
    let (one, other) = (world.scheduler.open(), world.scheduler.open());
    let sampler = Sampler::new(SamplingOptions::default()).expect("a sampler");
    world.scheduler.submit(one, &[1, 2], reply(3), Some(sampler)).expect("a request");
    let step = world.scheduler.plan().expect("a step");
    let row = *step.sampled().next().expect("a row");
    let has = |row: LogitRow| world.scheduler.sampling_of(&row).is_some();
    assert!(has(row));
    // Of the request before; of another sequence; to be returned.
    assert!(!has(LogitRow { request: row.request - 1, ..row }));
    assert!(!has(LogitRow { sequence: other, ..row }));
    assert!(!has(LogitRow { usage: LogitsUse::Return { last: true }, ..row }));
}

#[test]
fn a_session_is_busy_until_it_has_taken_the_last_event() {
    let mut world = World::new(LIMITS, 8, 4);
    let id = world.scheduler.open();
    world.scheduler.submit(id, &[1], reply(1), None).expect("a request");
    let step = world.scheduler.plan().expect("a step");
    world.scheduler.commit(&step).expect("the planned step");
    world.device.write(&step);
    world.scheduler.finish_step(world.device.run(&step).output).expect("the oldest step");
    assert_eq!(world.scheduler.requests(), 0);
    let events = [
        |event: &SessionEvent| matches!(event, SessionEvent::Admitted { cached: 0 }),
        |event: &SessionEvent| matches!(event, SessionEvent::Token(_)),
        |event: &SessionEvent| matches!(event, SessionEvent::Finished(FinishReason::MaxTokens)),
    ];
    for is_next in events {
        assert!(matches!(world.scheduler.submit(id, &[2], reply(1), None), Err(EngineError::Busy)));
        assert!(world.scheduler.next_event(id).is_some_and(|event| is_next(&event)));
    }
    world.scheduler.submit(id, &[2], reply(1), None).expect("a request");
    // A cancelled request leaves no event.
    world.scheduler.cancel(id);
    assert!(!world.scheduler.is_busy(id) && world.scheduler.next_event(id).is_none());
}

#[test]
fn a_window_keeps_few_blocks_of_a_long_sequence() {
    // A row sees 10 positions, in blocks of 4; 8 rows at most are computed at once.
    let pools = Pools::from(Pool::new(100, 4)).with_window(8, Window { size: 10, slack: 2 });
    let mut world = World::with_pools(LIMITS, pools);
    let prompt: Vec<u32> = (0..200).map(|i| i % 5).collect();
    let id = world.start(&prompt, Output::Tokens { max_tokens: 100, stop_tokens: vec![] });
    world.drain();
    assert_eq!(world.ends(), [(id, End::Finished(FinishReason::MaxTokens))]);
    let mut expected = prompt;
    (0..100).for_each(|_| expected.push(next_token(&expected)));
    assert_eq!(world.tokens(id), expected);
    let tables = &world.scheduler.sequences[&id].table;
    // 299 positions; a row at 297 sees those from 288 on.
    assert_eq!((tables.group(0).held().len(), tables.group(1).held().len()), (75, 3));

    // What it has lost is computed again: behind the last tokens, it goes on; before, it begins again.
    world.scheduler.truncate(id, 297).expect("an idle sequence");
    assert_eq!(world.scheduler.sequences[&id].table.len(), 297);
    world.scheduler.truncate(id, 250).expect("an idle sequence");
    assert_eq!(world.scheduler.sequences[&id].table.len(), 0);
    world.scheduler.submit(id, &[], Output::Tokens { max_tokens: 50, stop_tokens: vec![] }, None).expect("a request");
    world.drain();
    assert_eq!(world.tokens(id), expected);
}

#[test]
fn idle_sequences_make_room_in_a_windows_pool() {
    let pools = Pools::from(Pool::new(100, 4)).with_window(8, Window { size: 10, slack: 2 });
    let mut world = World::with_pools(LIMITS, pools);
    let prompts: Vec<Vec<u32>> = (0..5).map(|i| (0..40).map(|at| (at + i) % 5).collect()).collect();
    let output = || Output::Tokens { max_tokens: 3, stop_tokens: vec![] };
    let ids: Vec<_> = prompts.iter().map(|prompt| world.start(prompt, output())).collect();
    world.drain();
    ids.iter().for_each(|id| world.scheduler.submit(*id, &[1], output(), None).expect("a request"));
    world.drain();
    for (id, mut expected) in ids.into_iter().zip(prompts) {
        for _ in 0..2 {
            (0..3).for_each(|_| expected.push(next_token(&expected)));
            expected.extend([1]);
        }
        assert_eq!(world.tokens(id), &expected[..expected.len() - 1]);
    }
    assert_eq!(world.ends().iter().filter(|(_, end)| *end == End::Finished(FinishReason::MaxTokens)).count(), 10);
}
