//! An executor that is shared by all waiting futures: the one that is polled runs its steps.

use std::{
    future::{Future, poll_fn},
    mem,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError},
    task::{Context, Poll, Waker, ready},
};

use super::wakers::{WaiterId, Waiting, Wakers};

/// A step in progress. It owns the executor and gives it back, with whether there was anything to do.
#[cfg(not(target_arch = "wasm32"))]
pub(super) type StepFuture<T> = Pin<Box<dyn Future<Output = (T, bool)> + Send>>;
/// A step in progress. It owns the executor and gives it back, with whether there was anything to do. A browser's objects stay
/// in their thread.
#[cfg(target_arch = "wasm32")]
pub(super) type StepFuture<T> = Pin<Box<dyn Future<Output = (T, bool)>>>;

/// An executor that runs one step at a time.
///
/// A step is not owned by the task that started it: any waiter may poll it, and [`Wakers`] chooses which one. So a step is never
/// dropped half done, futures may be dropped at any time, and a task that is no longer polled cannot hold up the others.
pub(super) struct SharedExecutor<T> {
    state: Mutex<State<T>>,
    wakers: Arc<Wakers>,
}

enum State<T> {
    Idle(T),
    Running(StepFuture<T>),
    Lent,
}

/// What ended a wait.
#[derive(Debug, PartialEq)]
pub(super) enum Waited<R> {
    /// An event came.
    Event(R),
    /// A step finished; whether there was anything to do.
    Step(bool),
}

impl<T> std::fmt::Debug for SharedExecutor<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SharedExecutor").finish_non_exhaustive()
    }
}

impl<T> State<T> {
    /// Begins a step, unless one is in progress, and polls it.
    fn begin_or_poll(&mut self, begin: impl FnOnce(T) -> StepFuture<T>, wakers: &Arc<Wakers>) -> Poll<bool> {
        *self = match mem::replace(self, Self::Lent) {
            Self::Idle(executor) => Self::Running(begin(executor)),
            other => other,
        };
        self.poll(wakers)
    }

    /// Polls the step in progress; returns whether there was anything to do.
    fn poll(&mut self, wakers: &Arc<Wakers>) -> Poll<bool> {
        let Self::Running(step) = self else { return Poll::Pending };
        let waker = Waker::from(Arc::clone(wakers));
        let (executor, worked) = ready!(step.as_mut().poll(&mut Context::from_waker(&waker)));
        *self = Self::Idle(executor);
        Poll::Ready(worked)
    }
}

impl<T> SharedExecutor<T> {
    pub(super) fn new(executor: T, wakers: Arc<Wakers>) -> Self {
        Self { state: Mutex::new(State::Idle(executor)), wakers }
    }

    /// Polls for an event, or the end of a step: the one in progress, or else one that `begin` begins. With `go_on`, steps are
    /// run until there is an event or nothing to do. The waiter stays registered while it is pending:
    /// [`Wakers::leave`] says that it is not polled any more.
    pub(super) fn poll_event<R>(
        &self,
        id: WaiterId,
        context: &mut Context<'_>,
        mut event: impl FnMut() -> Option<R>,
        begin: impl Fn(T) -> StepFuture<T>,
        go_on: bool,
    ) -> Poll<Waited<R>> {
        self.wakers.register(id, context.waker());
        loop {
            if let Some(event) = event() {
                self.wakers.leave(id);
                return Poll::Ready(Waited::Event(event));
            }
            // The driver wakes us when it stops.
            if !self.wakers.may_drive(id) {
                return Poll::Pending;
            }
            let Some(mut state) = self.try_lock() else { return Poll::Pending };
            self.wakers.begin_poll(id);
            // The last owner of the lock may have brought an event.
            let early = event();
            let polled = if early.is_some() { Poll::Pending } else { state.begin_or_poll(&begin, &self.wakers) };
            drop(state);
            self.wakers.end_poll(id, polled.is_pending());
            match polled {
                Poll::Pending => {
                    let Some(event) = early.or_else(&mut event) else { return Poll::Pending };
                    self.wakers.leave(id);
                    return Poll::Ready(Waited::Event(event));
                }
                Poll::Ready(worked) => {
                    self.wakers.wake_callers();
                    if !(worked && go_on) {
                        self.wakers.leave(id);
                        return Poll::Ready(Waited::Step(worked));
                    }
                }
            }
        }
    }

    /// Waits for an event, or the end of a step, as [`SharedExecutor::poll_event`].
    pub(super) async fn event<R>(
        &self,
        id: WaiterId,
        mut event: impl FnMut() -> Option<R>,
        begin: impl Fn(T) -> StepFuture<T>,
        go_on: bool,
    ) -> Waited<R> {
        let _waiting = Waiting { wakers: &self.wakers, id };
        poll_fn(|context| self.poll_event(id, context, &mut event, &begin, go_on)).await
    }

    /// Waits until no step is in progress, and calls `then`.
    pub(super) async fn with<R>(&self, then: impl FnOnce(&mut T) -> R) -> R {
        let mut then = Some(then);
        self.when_idle(|state| match (&mut *state, then.take()) {
            (State::Idle(executor), Some(then)) => Some(then(executor)),
            (_, not_yet) => {
                then = not_yet;
                None
            }
        })
        .await
    }

    /// Waits until no step is in progress, and begins one.
    pub(super) async fn begin(&self, begin: impl FnOnce(T) -> StepFuture<T>) {
        let mut begin = Some(begin);
        self.when_idle(|state| match (mem::replace(state, State::Lent), begin.take()) {
            (State::Idle(executor), Some(begin)) => {
                *state = State::Running(begin(executor));
                Some(())
            }
            (other, not_yet) => {
                (*state, begin) = (other, not_yet);
                None
            }
        })
        .await;
    }

    /// Waits until no step is in progress, and lends the executor: others wait meanwhile.
    pub(super) async fn lend(&self) -> Lent<'_, T> {
        self.when_idle(|state| match mem::replace(state, State::Lent) {
            State::Idle(executor) => Some(Lent { shared: self, executor: Some(executor) }),
            other => {
                *state = other;
                None
            }
        })
        .await
    }

    /// Waits until `then` has found the executor idle.
    async fn when_idle<R>(&self, mut then: impl FnMut(&mut State<T>) -> Option<R>) -> R {
        let id = self.wakers.caller();
        let waiting = Waiting { wakers: &self.wakers, id };
        let done = poll_fn(|context| {
            self.wakers.register(id, context.waker());
            let Some(mut state) = self.try_lock() else { return Poll::Pending };
            if matches!(*state, State::Running(_)) {
                self.wakers.begin_poll(id);
                let polled = state.poll(&self.wakers);
                self.wakers.end_poll(id, polled.is_pending());
            }
            then(&mut state).map_or(Poll::Pending, Poll::Ready)
        })
        .await;
        drop(waiting);
        // Others may have met the lock, or wait for events of the step.
        self.wakers.wake_all();
        done
    }

    fn try_lock(&self) -> Option<MutexGuard<'_, State<T>>> {
        match self.state.try_lock() {
            Ok(state) => Some(state),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }
}

/// A lent executor; given back when dropped.
pub(super) struct Lent<'a, T> {
    shared: &'a SharedExecutor<T>,
    executor: Option<T>,
}

impl<T> Lent<'_, T> {
    /// Returns the executor; `None` only while it is given back.
    pub(super) fn get(&mut self) -> Option<&mut T> {
        self.executor.as_mut()
    }
}

impl<T> Drop for Lent<'_, T> {
    fn drop(&mut self) {
        if let Some(executor) = self.executor.take() {
            *self.shared.state.lock().unwrap_or_else(PoisonError::into_inner) = State::Idle(executor);
            self.shared.wakers.wake_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicBool, AtomicU32, Ordering},
        task::Wake,
        thread,
    };

    use futures_channel::oneshot;

    use super::*;
    use crate::engine::scheduler::SequenceId;

    /// Counts its wakes.
    #[derive(Default)]
    struct Woken(AtomicU32);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    impl Woken {
        fn count(&self) -> u32 {
            self.0.load(Ordering::SeqCst)
        }
    }

    fn poll<F: Future>(future: Pin<&mut F>, woken: &Arc<Woken>) -> Poll<F::Output> {
        future.poll(&mut Context::from_waker(&Waker::from(Arc::clone(woken))))
    }

    fn shared<T>(executor: T) -> SharedExecutor<T> {
        SharedExecutor::new(executor, Arc::default())
    }

    /// Returns a step that adds one when a sender sends.
    fn after(gate: oneshot::Receiver<()>) -> impl Fn(u32) -> StepFuture<u32> {
        let gate = Mutex::new(Some(gate));
        move |executor| {
            let gate = gate.lock().expect("a lock").take();
            Box::pin(async move {
                let opened = gate.expect("it begins once").await;
                (executor + 1, opened.is_ok())
            })
        }
    }

    fn no_event() -> Option<()> {
        None
    }

    fn session(number: u64) -> WaiterId {
        WaiterId::Session(SequenceId::of(number))
    }

    #[test]
    fn a_step_is_finished_by_the_next_waiter() {
        let shared = shared(7);
        let (open, gate) = oneshot::channel();
        let begin = after(gate);
        let mut first = Box::pin(shared.event(session(1), no_event, &begin, false));
        assert!(poll(first.as_mut(), &Arc::default()).is_pending());
        drop(first);
        let woken = Arc::default();
        let mut second = Box::pin(shared.event(session(2), no_event, &begin, false));
        assert!(poll(second.as_mut(), &woken).is_pending());
        open.send(()).expect("the step waits");
        assert_eq!(woken.count(), 1);
        assert_eq!(poll(second.as_mut(), &woken), Poll::Ready(Waited::Step(true)));
        drop(second);
        assert_eq!(pollster::block_on(shared.with(|executor| *executor)), 8);
    }

    #[test]
    fn a_driver_that_is_not_polled_any_more_holds_up_nobody() {
        let shared = shared(7);
        let (open, gate) = oneshot::channel();
        let begin = after(gate);
        let mut sleeper = Box::pin(shared.event(session(1), no_event, &begin, false));
        assert!(poll(sleeper.as_mut(), &Arc::default()).is_pending());
        let woken = Arc::default();
        let sent = AtomicBool::new(false);
        let event = || sent.load(Ordering::SeqCst).then_some(());
        let mut other = Box::pin(shared.event(session(2), event, &begin, false));
        assert!(poll(other.as_mut(), &woken).is_pending());
        // Events come before the end of the step.
        sent.store(true, Ordering::SeqCst);
        assert_eq!(poll(other.as_mut(), &woken), Poll::Ready(Waited::Event(())));
        drop(other);
        let mut third = Box::pin(shared.event(session(3), no_event, &begin, false));
        assert!(poll(third.as_mut(), &woken).is_pending());
        // The sleeper drives, and is woken alone. It does not answer the wake, so that a repeated one goes to all.
        open.send(()).expect("the step waits");
        assert_eq!(woken.count(), 0);
        shared.wakers.wake_by_ref();
        assert_eq!(woken.count(), 1);
        assert_eq!(poll(third.as_mut(), &woken), Poll::Ready(Waited::Step(true)));
    }

    #[test]
    fn a_waiter_that_comes_later_passes_over_a_driver_that_does_not_answer() {
        let shared = shared(7);
        let (open, gate) = oneshot::channel();
        let begin = after(gate);
        let mut sleeper = Box::pin(shared.event(session(1), no_event, &begin, false));
        assert!(poll(sleeper.as_mut(), &Arc::default()).is_pending());
        open.send(()).expect("the step waits");
        let mut late = Box::pin(shared.event(session(2), no_event, &begin, false));
        assert_eq!(poll(late.as_mut(), &Arc::default()), Poll::Ready(Waited::Step(true)));
    }

    #[test]
    fn a_driver_that_leaves_wakes_the_others() {
        let shared = shared(7);
        let (_open, gate) = oneshot::channel();
        let begin = after(gate);
        let mut driver = Box::pin(shared.event(session(1), no_event, &begin, false));
        assert!(poll(driver.as_mut(), &Arc::default()).is_pending());
        let others: Vec<_> = (2..5).map(|number| (session(number), Arc::new(Woken::default()))).collect();
        let mut waiting: Vec<_> =
            others.iter().map(|(id, _)| Box::pin(shared.event(*id, no_event, &begin, false))).collect();
        for (future, (_, woken)) in waiting.iter_mut().zip(&others) {
            assert!(poll(future.as_mut(), woken).is_pending());
        }
        // One that does not drive leaves in silence.
        waiting.pop();
        assert!(others.iter().all(|(_, woken)| woken.count() == 0));
        drop(driver);
        assert_eq!(others.iter().map(|(_, woken)| woken.count()).collect::<Vec<_>>(), [1, 1, 0]);
    }

    #[test]
    fn the_end_of_a_poll_takes_no_wake_of_the_next() {
        for (first_pends, next_pends) in [(false, true), (true, true), (false, false)] {
            let (wakers, woken) = (Arc::new(Wakers::default()), Arc::new(Woken::default()));
            wakers.register(session(1), Waker::noop());
            wakers.begin_poll(session(1));
            // The first waiter's thread rests between the unlocked executor and the end of its poll.
            wakers.register(session(2), &Waker::from(Arc::clone(&woken)));
            wakers.begin_poll(session(2));
            wakers.wake_by_ref();
            wakers.end_poll(session(1), first_pends);
            wakers.end_poll(session(2), next_pends);
            assert_eq!(woken.count(), u32::from(next_pends), "{first_pends}");
        }
    }

    #[test]
    fn the_executor_is_lent_to_one() {
        let shared = shared(7);
        let mut lent = pollster::block_on(shared.lend());
        let woken = Arc::default();
        let mut other = Box::pin(shared.with(|executor| *executor));
        assert!(poll(other.as_mut(), &woken).is_pending());
        let mut session = Box::pin(shared.event(session(1), no_event, |_| panic!("it is lent"), false));
        assert!(poll(session.as_mut(), &woken).is_pending());
        *lent.get().expect("it is lent") = 9;
        drop(lent);
        assert_eq!(woken.count(), 2);
        assert_eq!(poll(other.as_mut(), &woken), Poll::Ready(9));
    }

    /// N sessions get a token each in every step, as from a scheduler. Each is polled when it was woken.
    #[test]
    fn a_step_costs_a_few_polls_for_each_session() {
        const STEPS: u32 = 50;
        for sessions in [1_u64, 4, 32] {
            let shared = shared(0_u32);
            let mailboxes: Arc<Vec<AtomicU32>> = Arc::new((0..sessions).map(|_| AtomicU32::new(0)).collect());
            let device: Arc<Mutex<Option<oneshot::Sender<()>>>> = Arc::default();
            let ids: Vec<_> = (1..=sessions).map(SequenceId::of).collect();
            let begin = |executor: u32| -> StepFuture<u32> {
                let (sender, done) = oneshot::channel();
                *device.lock().expect("a lock") = Some(sender);
                let (wakers, mailboxes, ids) = (Arc::clone(&shared.wakers), Arc::clone(&mailboxes), ids.clone());
                Box::pin(async move {
                    let _ = done.await;
                    for mailbox in mailboxes.iter() {
                        mailbox.fetch_add(1, Ordering::SeqCst);
                    }
                    wakers.notify(&ids);
                    (executor + 1, true)
                })
            };
            let woken: Vec<_> = ids.iter().map(|_| Arc::new(Woken(AtomicU32::new(1)))).collect();
            let (mut polls, mut tokens) = (0, vec![0; ids.len()]);
            let mut waiting: Vec<_> = ids.iter().map(|_| None).collect();
            while tokens.iter().any(|tokens| *tokens < STEPS) {
                let mut idle = true;
                for (i, id) in ids.iter().enumerate() {
                    if tokens[i] == STEPS || woken[i].0.swap(0, Ordering::SeqCst) == 0 {
                        continue;
                    }
                    idle = false;
                    let mailbox = &mailboxes[i];
                    let event = move || {
                        let less = |tokens: u32| tokens.checked_sub(1);
                        mailbox.fetch_update(Ordering::SeqCst, Ordering::SeqCst, less).ok()
                    };
                    let future = waiting[i]
                        .get_or_insert_with(|| Box::pin(shared.event(WaiterId::Session(*id), event, begin, true)));
                    polls += 1;
                    if poll(future.as_mut(), &woken[i]).is_ready() {
                        waiting[i] = None;
                        tokens[i] += 1;
                        // Its owner asks for the next one.
                        woken[i].0.store(1, Ordering::SeqCst);
                    }
                }
                if idle {
                    let sender = device.lock().expect("a lock").take().expect("a step in progress");
                    sender.send(()).expect("the step waits");
                }
            }
            let each = f64::from(polls) / (f64::from(STEPS) * sessions as f64);
            assert!(each <= 3.0, "{polls} polls of {sessions} sessions in {STEPS} steps");
        }
    }

    #[test]
    fn threads_run_one_step_at_a_time_and_none_sleeps_for_ever() {
        let shared = shared(0);
        let begin = |executor: u32| -> StepFuture<u32> {
            let mut pending = executor % 3;
            Box::pin(async move {
                // Some steps are pending, and wake the driver.
                poll_fn(|context| {
                    thread::yield_now();
                    context.waker().wake_by_ref();
                    pending = pending.saturating_sub(1);
                    if pending > 0 { Poll::Pending } else { Poll::Ready(()) }
                })
                .await;
                (executor + 1, true)
            })
        };
        let done = AtomicU32::new(0);
        thread::scope(|scope| {
            for thread in 0..8 {
                let (shared, done) = (&shared, &done);
                scope.spawn(move || {
                    for turn in 0..500 {
                        if (turn + thread) % 7 == 0 {
                            // Dropped half done.
                            let mut dropped = Box::pin(shared.event(session(thread), no_event, begin, false));
                            let _ = poll(dropped.as_mut(), &Arc::default());
                            drop(dropped);
                        }
                        if (turn + thread) % 50 == 0 {
                            pollster::block_on(shared.with(|executor| *executor += 1));
                        }
                        pollster::block_on(shared.event(session(thread), no_event, begin, false));
                        done.fetch_add(1, Ordering::SeqCst);
                    }
                });
            }
        });
        assert_eq!(done.load(Ordering::SeqCst), 8 * 500);
        assert!(pollster::block_on(shared.with(|executor| *executor)) >= 500);
    }
}
