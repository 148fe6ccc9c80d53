use std::collections::BTreeMap;

use super::{
    End, Event, Give, Limits, Refusal, Scheduler, SequenceId, Stale, Step, Want,
    fake::{Device, next_token, values},
};
use crate::kv::Pool;

const LIMITS: Limits = Limits {
    context: 1000,
    slots: 8,
    prefill_rows: 8,
    logit_rows: 8,
    sharing: true,
    share_drawn: false,
    run_ahead: true,
};

/// A scheduler with its device, and the events so far.
struct World {
    scheduler: Scheduler,
    device: Device,
    events: Vec<Event>,
    flights: Vec<(Step, Vec<(SequenceId, u32)>)>,
    /// Sequences are released when their requests end; then their tokens are here.
    release: bool,
    released: BTreeMap<SequenceId, Vec<u32>>,
}

impl World {
    fn new(limits: Limits, blocks: u32, block: u32) -> Self {
        let scheduler = Scheduler::new(limits, Pool::new(blocks, block));
        let device = Device::new(blocks, block);
        Self { scheduler, device, events: vec![], flights: vec![], release: false, released: BTreeMap::new() }
    }

    /// A sequence with a request.
    fn start(&mut self, tokens: &[u32], want: Want) -> SequenceId {
        let id = self.scheduler.open();
        self.scheduler.submit(id, tokens, want).expect("a request");
        id
    }

    /// Submits the next step, and returns how many rows each sequence has in it.
    fn submit(&mut self) -> Option<Vec<(SequenceId, usize)>> {
        let step = self.scheduler.plan();
        self.events.extend(self.scheduler.take_events());
        let step = step?;
        self.scheduler.commit(&step).expect("the step that was planned");
        self.device.write(&step);
        let tokens = self.device.run(&step).tokens;
        let rows = step.decode.iter().map(|row| (row.sequence, 1));
        let rows = rows.chain(step.prompts.iter().map(|rows| (rows.sequence, rows.tokens.len()))).collect();
        if !tokens.is_empty() {
            self.flights.push((step, tokens));
        }
        self.events.extend(self.scheduler.take_events());
        Some(rows)
    }

    fn deliver(&mut self) {
        if !self.flights.is_empty() {
            let (step, tokens) = self.flights.remove(0);
            self.scheduler.drawn(step.id, &tokens).expect("the oldest step");
            self.events.extend(self.scheduler.take_events());
        }
        for (id, _) in self.ends() {
            if self.release && !self.released.contains_key(&id) {
                self.released.insert(id, self.tokens(id).to_vec());
                self.scheduler.release(id);
            }
        }
    }

    /// A step whose tokens are known at once.
    fn turn(&mut self) -> Option<Vec<(SequenceId, usize)>> {
        let rows = self.submit();
        self.deliver();
        rows
    }

    /// All steps that there are.
    fn drain(&mut self) -> Vec<Vec<(SequenceId, usize)>> {
        std::iter::from_fn(|| self.turn()).collect()
    }

    fn ends(&self) -> Vec<(SequenceId, End)> {
        let end = |event: &Event| match event {
            Event::Ended { sequence, end } => Some((*sequence, *end)),
            _ => None,
        };
        self.events.iter().filter_map(end).collect()
    }

    fn cached(&self, id: SequenceId) -> Option<u32> {
        self.events.iter().rev().find_map(|event| match event {
            Event::Admitted { sequence, cached } if *sequence == id => Some(*cached),
            _ => None,
        })
    }

    fn tokens(&self, id: SequenceId) -> &[u32] {
        let kept = self.released.get(&id).map(|tokens| &**tokens);
        kept.or_else(|| self.scheduler.tokens(id)).expect("a sequence")
    }
}

fn draw(most: u32) -> Want {
    Want::Draw { most, stops: Vec::new() }
}

/// Token ids that no other prompt begins with.
fn prompt(first: u32, len: u32) -> Vec<u32> {
    (0..len).map(|i| 100 * first + i).collect()
}

/// A prompt, continued by one sequence alone.
fn continued(prompt: &[u32], drawn: usize) -> Vec<u32> {
    let mut tokens = prompt.to_vec();
    for _ in 0..drawn {
        tokens.push(next_token(&tokens));
    }
    tokens
}

#[test]
fn prompts_go_in_chunks_in_order_of_arrival_beside_those_that_draw() {
    let mut world = World::new(LIMITS, 100, 4);
    let drawing = world.start(&prompt(1, 2), draw(6));
    assert_eq!(world.turn(), Some(vec![(drawing, 2)]));
    let long = world.start(&prompt(2, 19), draw(2));
    let short: Vec<_> = (3..6).map(|first| world.start(&prompt(first, 2), draw(1))).collect();
    let [a, b, c] = short[..] else { panic!("three") };
    assert_eq!(
        world.drain(),
        [
            vec![(drawing, 1), (long, 8)],
            vec![(drawing, 1), (long, 8)],
            vec![(drawing, 1), (long, 3), (a, 2), (b, 2), (c, 1)],
            vec![(drawing, 1), (long, 1), (c, 1)],
            vec![(drawing, 1)],
        ]
    );
    assert_eq!(world.tokens(long), continued(&prompt(2, 19), 2));
    assert_eq!(world.tokens(drawing), continued(&prompt(1, 2), 6));
    assert!(world.ends().iter().all(|(_, end)| *end == End::Limit));
}

#[test]
fn many_short_requests_do_not_starve_a_long_one() {
    // Few slots and blocks, and always another short request: the long one, behind which they wait, gets its turn.
    let mut world = World::new(Limits { slots: 3, ..LIMITS }, 24, 4);
    world.release = true;
    world.start(&prompt(1, 4), draw(20));
    world.start(&prompt(2, 4), draw(20));
    world.turn();
    let long = world.start(&prompt(3, 40), draw(2));
    let mut turns = 0;
    while world.scheduler.is_busy(long) {
        world.start(&prompt(4 + turns, 2), draw(3));
        assert!(world.turn().is_some() && turns < 60);
        turns += 1;
    }
    assert_eq!(world.tokens(long), continued(&prompt(3, 40), 2));
    let admitted: Vec<_> = world.events.iter().filter(|event| matches!(event, Event::Admitted { .. })).collect();
    assert!(admitted.iter().map(|event| event.sequence()).is_sorted());
    world.drain();
    assert!(world.ends().iter().all(|(_, end)| *end == End::Limit));
}

#[test]
fn at_most_one_step_is_wasted() {
    for run_ahead in [true, false] {
        let mut world = World::new(Limits { run_ahead, ..LIMITS }, 10, 4);
        let all = continued(&[1, 2, 3], 20);
        let (at, stop) = (3..).zip(&all[3..]).nth(4).expect("a token");
        let first = all[3..].iter().position(|token| token == stop).expect("itself") + 3;
        let id = world.start(&all[..3], Want::Draw { most: 100, stops: vec![*stop] });
        let mut rows = 0;
        while world.scheduler.is_busy(id) {
            while let Some(step) = world.submit() {
                rows += step.iter().map(|(_, rows)| rows).sum::<usize>();
            }
            assert_eq!(world.flights.len(), 1 + usize::from(run_ahead));
            world.deliver();
        }
        assert!(first <= at);
        assert_eq!(rows, first + usize::from(run_ahead), "the stop token's row is wasted, if any");
        assert_eq!((world.tokens(id), world.ends()), (&all[..first], vec![(id, End::Stop(*stop))]));
        // What is still under way does not matter to the next request.
        world.scheduler.submit(id, &[5], draw(2)).expect("a request");
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
    let (limit, context) = (world.start(&[1, 2], draw(3)), world.start(&[3, 4, 5], draw(100)));
    let mut rows = 0;
    while let Some(step) = world.submit().or_else(|| (!world.flights.is_empty()).then(Vec::new)) {
        rows += step.iter().map(|(_, rows)| rows).sum::<usize>();
        if world.flights.len() == 2 || step.is_empty() {
            world.deliver();
        }
    }
    assert_eq!(rows, 4 + 6);
    assert_eq!(world.ends(), [(limit, End::Limit), (context, End::ContextFull)]);
    assert_eq!(world.tokens(context), continued(&[3, 4, 5], 4));
    let refused = world.scheduler.submit(context, &[], draw(1));
    assert_eq!(refused, Err(Refusal::Context { needed: 7, capacity: 6 }));
    world.scheduler.truncate(context, 4).expect("idle");
    assert_eq!(world.scheduler.submit(context, &[], draw(1)), Err(Refusal::NoTokens), "all is computed");
    // A last token that was not computed is, before what follows.
    world.scheduler.submit(limit, &[], draw(1)).expect("a request");
    assert_eq!(world.turn(), Some(vec![(limit, 1)]));
    assert_eq!(world.tokens(limit), continued(&[1, 2], 4));
}

#[test]
fn a_sequence_without_a_block_pauses_until_others_end() {
    let mut world = World::new(Limits { sharing: false, ..LIMITS }, 5, 2);
    world.release = true;
    let (older, younger) = (world.start(&prompt(1, 3), draw(4)), world.start(&prompt(2, 3), draw(5)));
    let third = world.start(&prompt(3, 2), draw(1));
    assert_eq!(
        world.drain(),
        [
            vec![(older, 3), (younger, 3)],
            vec![(older, 1), (younger, 1)],
            // One block was left.
            vec![(older, 1)],
            vec![(older, 1)],
            // Of the three blocks that are free now, one is for whoever draws.
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
    let (older, younger) = (world.start(&prompt(1, 3), draw(7)), world.start(&prompt(2, 3), draw(7)));
    world.drain();
    assert_eq!(world.ends(), [(younger, End::PoolFull { needed: 1, free: 0 }), (older, End::Limit)]);
    assert_eq!(world.tokens(older), continued(&prompt(1, 3), 7));
    // It has what was drawn, and goes on when there are blocks.
    assert_eq!(world.tokens(younger), continued(&prompt(2, 3), 2));
    world.scheduler.release(older);
    world.scheduler.submit(younger, &[], draw(2)).expect("a request");
    world.drain();
    assert_eq!(world.tokens(younger), continued(&prompt(2, 3), 4));
}

#[test]
fn who_cannot_be_served_ends_and_who_can_is_served() {
    let mut world = World::new(Limits { sharing: false, ..LIMITS }, 6, 2);
    let idle = world.start(&prompt(1, 8), Want::Last);
    world.drain();
    let (large, small) = (world.start(&prompt(2, 6), draw(2)), world.start(&prompt(3, 3), draw(2)));
    world.drain();
    assert_eq!(world.ends(), [(large, End::PoolFull { needed: 3, free: 2 }), (small, End::Limit)]);
    assert!(world.tokens(large).is_empty(), "as before the request");
    let refused = world.scheduler.submit(large, &prompt(2, 13), Want::Last);
    assert_eq!(refused, Err(Refusal::Pool { needed: 7, blocks: 6 }));
    assert_eq!(world.scheduler.submit(idle, &[], Want::Last), Err(Refusal::NoTokens));
    assert!(world.scheduler.submit(large, &[1], Want::Each).is_ok());
    assert_eq!(world.scheduler.submit(large, &[1], Want::Each), Err(Refusal::Busy));
    world.scheduler.release(large);
    assert_eq!(world.scheduler.submit(large, &[1], Want::Each), Err(Refusal::Unknown));
}

#[test]
fn a_common_beginning_is_computed_once() {
    let mut world = World::new(LIMITS, 32, 4);
    let tokens = prompt(1, 10);
    let first = world.start(&tokens, draw(1));
    world.drain();
    let (second, each) = (world.start(&tokens, draw(3)), world.start(&tokens, Want::Each));
    let rows: usize = world.drain().iter().flatten().filter(|(id, _)| *id == second).map(|(_, rows)| rows).sum();
    assert_eq!((world.cached(first), world.cached(second), rows), (Some(0), Some(8), 2 + 2));
    assert_eq!(world.cached(each), Some(0), "all logits are wanted");
    assert_eq!(world.tokens(second), continued(&tokens, 3));
    // A prompt's rows are shared, what comes behind drawn ones is not.
    world.scheduler.submit(second, &[1, 2, 3, 4, 5, 6, 7, 8], draw(1)).expect("a request");
    world.drain();
    let mut mixed = continued(&tokens, 3);
    mixed.extend([1, 2, 3, 4, 5, 6, 7, 8, 9]);
    let mixed = [world.start(&mixed, draw(1)), world.start(&mixed, draw(1))];
    world.turn();
    world.drain();
    assert_eq!(mixed.map(|id| world.cached(id)), [Some(8), Some(16)], "until they are a prompt's");
}

#[test]
fn drawn_blocks_are_shared_where_that_is_asked_for() {
    let mut world = World::new(Limits { share_drawn: true, ..LIMITS }, 32, 4);
    let first = world.start(&prompt(1, 3), draw(10));
    world.drain();
    // All but the last drawn token are computed: 12.
    let second = world.start(&continued(&prompt(1, 3), 12), draw(1));
    world.drain();
    assert_eq!((world.tokens(first).len(), world.cached(second)), (13, Some(12)));
    assert_eq!(world.tokens(second), continued(&prompt(1, 3), 13));
}

#[test]
fn a_step_that_is_not_committed_is_planned_again() {
    let mut world = World::new(LIMITS, 8, 4);
    let id = world.start(&prompt(1, 5), draw(3));
    let dropped = world.scheduler.plan().expect("a step");
    let abandoned = world.scheduler.plan().expect("a step");
    assert_eq!((&dropped.prompts, &dropped.blocks), (&abandoned.prompts, &abandoned.blocks));
    assert_eq!(world.scheduler.commit(&dropped), Err(Stale));
    world.scheduler.abandon(&dropped);
    world.scheduler.abandon(&abandoned);
    assert_eq!((world.scheduler.commit(&abandoned), world.scheduler.pool().held()), (Err(Stale), 0));
    world.drain();
    assert_eq!(world.tokens(id), continued(&prompt(1, 5), 3));
    assert_eq!(world.scheduler.drawn(dropped.id, &[]), Err(Stale));
}

#[test]
fn requests_that_end_between_plan_and_commit_are_left_alone() {
    let mut world = World::new(LIMITS, 8, 4);
    let (cancelled, released) = (world.start(&prompt(1, 3), draw(3)), world.start(&prompt(2, 3), draw(3)));
    let step = world.scheduler.plan().expect("a step");
    world.scheduler.cancel(cancelled);
    world.scheduler.release(released);
    world.scheduler.submit(cancelled, &prompt(3, 3), draw(2)).expect("a request");
    world.scheduler.commit(&step).expect("the step that was planned");
    world.device.write(&step);
    let tokens = world.device.run(&step).tokens;
    world.flights.push((step, tokens));
    world.drain();
    assert_eq!(world.tokens(cancelled), continued(&prompt(3, 3), 2));
    assert_eq!(world.scheduler.tokens(released), None);
    assert!(world.events.iter().all(|event| event.sequence() == cancelled));
}

#[test]
fn forks_share_until_they_write() {
    let mut world = World::new(LIMITS, 8, 4);
    let first = world.start(&prompt(1, 6), draw(2));
    world.drain();
    let fork = world.scheduler.fork(first).expect("idle");
    assert_eq!(world.scheduler.pool().held(), 2);
    world.scheduler.submit(first, &[1], draw(3)).expect("a request");
    assert_eq!(world.scheduler.fork(first), Err(Refusal::Busy));
    world.scheduler.submit(fork, &[2], draw(3)).expect("a request");
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
    let idle = world.start(&prompt(1, 6), draw(2));
    world.drain();
    let (drawing, waiting) = (world.start(&prompt(2, 6), draw(9)), world.start(&prompt(3, 6), Want::Last));
    world.turn();
    let planned = world.scheduler.plan().expect("a step");
    world.scheduler.forget_device();
    world.device.lose();
    world.events = world.scheduler.take_events();
    assert_eq!(world.ends(), [(drawing, End::DeviceLost), (waiting, End::DeviceLost)]);
    assert_eq!((world.scheduler.commit(&planned), world.scheduler.pool().held()), (Err(Stale), 0));
    for (id, tokens) in [(idle, continued(&prompt(1, 6), 2)), (drawing, continued(&prompt(2, 6), 1)), (waiting, vec![])]
    {
        assert_eq!(world.tokens(id), tokens);
        world.scheduler.submit(id, &[7], draw(2)).expect("a request");
        world.drain();
        let tokens = [tokens, vec![7]].concat();
        assert_eq!((world.tokens(id), world.cached(id)), (&*continued(&tokens, 2), Some(0)));
    }
}

#[test]
fn logits_are_given_of_the_rows_that_are_asked_for() {
    let mut world = World::new(Limits { logit_rows: 3, ..LIMITS }, 16, 4);
    let id = world.start(&prompt(1, 3), draw(1));
    world.drain();
    let mut tokens = continued(&prompt(1, 3), 1);
    tokens.extend([1, 2, 3, 4]);
    world.scheduler.submit(id, &tokens[4..], Want::Each).expect("a request");
    let mut given = Vec::new();
    while let Some(step) = world.scheduler.plan() {
        world.scheduler.commit(&step).expect("the step that was planned");
        world.device.write(&step);
        given.push(world.device.run(&step).logits.iter().map(|(.., at, value)| (*at, *value)).collect::<Vec<_>>());
        let last = step.picks.last().map(|pick| pick.give);
        assert_eq!(last, Some(Give::Logits { last: given.len() == 2 }));
    }
    let alone = values(&tokens);
    // The drawn token is computed too, and its logits are of no interest.
    assert_eq!(given, [vec![(4, alone[4]), (5, alone[5]), (6, alone[6])], vec![(7, alone[7])]]);
    assert!(!world.scheduler.is_busy(id));
}

#[test]
fn sequences_in_blocks_of_their_own_all_run() {
    // A contiguous cache: nobody who runs needs another block.
    let mut world = World::new(LIMITS, 8, 1000);
    let ids: Vec<_> = (0..8).map(|first| world.start(&prompt(first, 1), draw(2))).collect();
    assert_eq!(world.turn().map(|rows| rows.len()), Some(8));
    world.drain();
    assert!((0..).zip(ids).all(|(first, id)| world.tokens(id) == continued(&prompt(first, 1), 2)));
}
