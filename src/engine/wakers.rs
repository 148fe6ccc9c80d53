//! The wakers of all who wait for an engine.
//!
//! One waiter drives the executor: it polls the step in progress, and is woken when the device makes progress. Others
//! are woken when their sessions get events, or when the driver stops: it has what it waited for, or its future was
//! dropped. A finished step therefore costs O(1) wakes for each waiting session.
//!
//! An executor may also stop polling the driver. The next waiter that is polled replaces a driver that has not answered
//! a wake, and the next wake then goes to all. `src/gpu/poller.rs` repeats its wakes until they are answered.

use std::{
    collections::BTreeMap,
    mem,
    ops::{Deref, DerefMut},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Wake, Waker},
};

use super::scheduler::{Scheduler, SequenceId};

/// One who waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum WaiterId {
    /// A session, for events of its request.
    Session(SequenceId),
    /// A caller, for the executor itself. It is woken whenever a step finishes.
    Caller(u64),
}

/// The wakers of all who wait. As a [`Wake`], it is the waker of the step in progress.
#[derive(Debug, Default)]
pub(super) struct Wakers {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    waiters: BTreeMap<WaiterId, Waiter>,
    /// The waiter that polled the step in progress last.
    driver: Option<WaiterId>,
    /// The waiter that is polling the step, and whether the step was woken meanwhile.
    polling: Option<(WaiterId, bool)>,
    next_caller: u64,
}

#[derive(Debug)]
struct Waiter {
    waker: Waker,
    /// It was not woken since it was polled last.
    armed: bool,
}

impl State {
    /// Takes the waker of a waiter, unless it was woken already.
    fn disarm(&mut self, id: WaiterId) -> Option<Waker> {
        let waiter = self.waiters.get_mut(&id)?;
        mem::take(&mut waiter.armed).then(|| waiter.waker.clone())
    }

    fn disarm_all(&mut self) -> Vec<Waker> {
        let armed =
            self.waiters.values_mut().filter_map(|waiter| mem::take(&mut waiter.armed).then_some(&waiter.waker));
        armed.cloned().collect()
    }

    fn is_armed(&self, id: WaiterId) -> bool {
        self.waiters.get(&id).is_some_and(|waiter| waiter.armed)
    }
}

impl Wakers {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns a new waiter for the executor.
    pub(super) fn caller(&self) -> WaiterId {
        let mut state = self.lock();
        state.next_caller += 1;
        WaiterId::Caller(state.next_caller)
    }

    /// Takes in that a waiter is polled, and is to be woken by `waker`.
    pub(super) fn register(&self, id: WaiterId, waker: &Waker) {
        let mut state = self.lock();
        match state.waiters.get_mut(&id) {
            Some(waiter) => {
                waiter.armed = true;
                waiter.waker.clone_from(waker);
            }
            None => {
                state.waiters.insert(id, Waiter { waker: waker.clone(), armed: true });
            }
        }
    }

    /// Takes in that a waiter does not wait any more. If it drove, all others are woken, for one of them to drive.
    pub(super) fn leave(&self, id: WaiterId) {
        let mut state = self.lock();
        let left = state.waiters.remove(&id);
        let wakers = if state.driver == Some(id) {
            state.driver = None;
            state.disarm_all()
        } else {
            Vec::new()
        };
        drop(state);
        drop(left);
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Returns whether a waiter is to poll the step in progress: no other one drives, or it does not answer.
    pub(super) fn may_drive(&self, id: WaiterId) -> bool {
        let state = self.lock();
        state.driver.is_none_or(|driver| driver == id || !state.is_armed(driver))
    }

    /// Takes in that a waiter begins to poll the step, and so drives.
    pub(super) fn begin_poll(&self, id: WaiterId) {
        let mut state = self.lock();
        (state.driver, state.polling) = (Some(id), Some((id, false)));
    }

    /// Takes in that a waiter polled the step. If it was woken meanwhile and is pending, all are woken: the driver might not
    /// be polled again.
    pub(super) fn end_poll(&self, id: WaiterId, pending: bool) {
        let mut state = self.lock();
        // The next waiter may be polling already: its wakes are its own.
        let woken = state.polling.take_if(|(polling, _)| *polling == id).is_some_and(|(_, woken)| woken);
        let wakers = if pending && woken { state.disarm_all() } else { Vec::new() };
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Wakes those who wait for the executor: a step is finished.
    pub(super) fn wake_callers(&self) {
        let mut state = self.lock();
        let callers: Vec<_> = state.waiters.range(WaiterId::Caller(0)..).map(|(id, _)| *id).collect();
        let wakers: Vec<_> = callers.into_iter().filter_map(|id| state.disarm(id)).collect();
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Wakes all.
    pub(super) fn wake_all(&self) {
        let wakers = self.lock().disarm_all();
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Wakes the sessions of some sequences. The one that is polling the step looks for its events anyway.
    pub(super) fn notify(&self, sequences: &[SequenceId]) {
        let mut state = self.lock();
        let polling = state.polling.map(|(id, _)| id);
        let ids = sequences.iter().map(|id| WaiterId::Session(*id)).filter(|id| Some(*id) != polling);
        let wakers: Vec<_> = ids.filter_map(|id| state.disarm(id)).collect();
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
    }
}

impl Wake for Wakers {
    /// Wakes the driver, or all if it has not answered the last wake.
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let mut state = self.lock();
        if let Some((_, woken)) = &mut state.polling {
            *woken = true;
            return;
        }
        // In a browser wakes are not repeated.
        let driver = state.driver.filter(|_| !cfg!(target_arch = "wasm32"));
        let wakers = match driver.and_then(|driver| state.disarm(driver)) {
            Some(waker) => vec![waker],
            None => state.disarm_all(),
        };
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
    }
}

/// A waiter, until it is dropped.
pub(super) struct Waiting<'a> {
    pub(super) wakers: &'a Wakers,
    pub(super) id: WaiterId,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.wakers.leave(self.id);
    }
}

/// A locked scheduler. When it is dropped, the sessions that got events are woken.
pub(super) struct NotifyingGuard<'a> {
    // Dropped before the sessions are woken.
    scheduler: MutexGuard<'a, Scheduler>,
    notified: Notified<'a>,
}

struct Notified<'a> {
    sequences: Vec<SequenceId>,
    wakers: &'a Wakers,
}

impl<'a> NotifyingGuard<'a> {
    pub(super) fn new(scheduler: &'a Mutex<Scheduler>, wakers: &'a Wakers) -> Self {
        Self {
            scheduler: scheduler.lock().unwrap_or_else(PoisonError::into_inner),
            notified: Notified { sequences: Vec::new(), wakers },
        }
    }
}

impl Drop for NotifyingGuard<'_> {
    fn drop(&mut self) {
        self.notified.sequences = self.scheduler.take_notified();
    }
}

impl Drop for Notified<'_> {
    fn drop(&mut self) {
        if !self.sequences.is_empty() {
            self.wakers.notify(&self.sequences);
        }
    }
}

impl Deref for NotifyingGuard<'_> {
    type Target = Scheduler;

    fn deref(&self) -> &Scheduler {
        &self.scheduler
    }
}

impl DerefMut for NotifyingGuard<'_> {
    fn deref_mut(&mut self) -> &mut Scheduler {
        &mut self.scheduler
    }
}
