//! A thread that polls a device while futures wait for it, so that these neither block nor spin.
//!
//! wgpu runs the callbacks of finished work inside [`wgpu::Device::poll`]. The thread starts with the first wait, blocks in the
//! driver while there are some, and ends when there was none for a while.

use std::{
    any::Any,
    collections::BTreeMap,
    convert::Infallible,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, RecvTimeoutError},
    },
    task::Waker,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use super::hooks::Hooks;

/// How a future waits for a device ([`Device::set_wait_mode`](super::Device::set_wait_mode)).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WaitMode {
    /// The future is pending until the device has finished: it never blocks the thread of an executor. A thread of the device's
    /// own polls wgpu meanwhile.
    #[default]
    Pending,
    /// The future blocks its thread in the driver. For callers who would block anyway, such as a command line: it saves the
    /// other thread.
    Blocking,
}

/// A pending wait is woken at least this often, until it is polled: for its deadline, and as the task that got the last wake
/// may not poll it.
const HEARTBEAT: Duration = Duration::from_millis(5);

/// The thread ends after so long without a wait.
const LINGER: Duration = Duration::from_secs(1);

/// The shortest and the longest time between two polls of a driver that is not to be blocked in; in between they take an eighth
/// of the time waited so far.
const SLEEP: [Duration; 2] = [Duration::from_micros(20), Duration::from_millis(1)];

/// The waits for a device, and its thread.
#[derive(Debug)]
pub(super) struct Poller {
    shared: Arc<Shared>,
    blocks: AtomicBool,
}

#[derive(Debug)]
struct Shared {
    device: wgpu::Device,
    hooks: Arc<Hooks>,
    /// Whether the thread may block in the driver: OpenGL's waits keep other threads from submitting, and an application may
    /// have callbacks of its own to run.
    may_block: bool,
    state: Mutex<State>,
    /// There is a new wait, or the device is dropped.
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// In order of their registration.
    waits: BTreeMap<u64, Wait>,
    next: u64,
    is_running: bool,
    is_closed: bool,
    thread: Option<PollThread>,
}

/// The thread that was started last.
#[derive(Debug)]
struct PollThread {
    handle: JoinHandle<()>,
    /// Disconnected when the thread no longer holds the device.
    ended: Receiver<Infallible>,
}

#[derive(Debug)]
struct Wait {
    /// `None`: all submitted work.
    submission: Option<wgpu::SubmissionIndex>,
    waker: Waker,
    /// When it was woken or polled last.
    touched: Instant,
    /// When it was registered.
    since: Instant,
    /// Its submission is finished: it need only be polled.
    is_finished: bool,
}

/// A registered wait, until it is dropped.
#[derive(Debug)]
pub(super) struct Registered {
    shared: Arc<Shared>,
    number: u64,
}

impl Drop for Registered {
    fn drop(&mut self) {
        drop(self.shared.lock().waits.remove(&self.number));
    }
}

impl Poller {
    pub(super) fn new(device: &wgpu::Device, hooks: Arc<Hooks>, is_of_application: bool) -> Self {
        let may_block = !is_of_application && device.adapter_info().backend != wgpu::Backend::Gl;
        Self {
            shared: Arc::new(Shared {
                device: device.clone(),
                hooks,
                may_block,
                state: Mutex::default(),
                changed: Condvar::new(),
            }),
            blocks: AtomicBool::new(false),
        }
    }

    pub(super) fn set_mode(&self, mode: WaitMode) {
        self.blocks.store(mode == WaitMode::Blocking, Ordering::Relaxed);
    }

    pub(super) fn mode(&self) -> WaitMode {
        if self.blocks.load(Ordering::Relaxed) { WaitMode::Blocking } else { WaitMode::Pending }
    }

    /// Has `waker` woken when `submission` is finished, or all submitted work is, and now and then before. Returns whether a
    /// thread does so. `registered` keeps the wait from one poll of a future to the next.
    pub(super) fn wait(
        &self,
        registered: &mut Option<Registered>,
        submission: Option<&wgpu::SubmissionIndex>,
        waker: &Waker,
    ) -> bool {
        let shared = &self.shared;
        let mut state = shared.lock();
        if !state.is_running {
            state.thread = start(shared);
            state.is_running = state.thread.is_some();
            if !state.is_running {
                return false;
            }
        }
        let now = Instant::now();
        match registered.as_ref().and_then(|registered| state.waits.get_mut(&registered.number)) {
            Some(wait) => {
                wait.waker.clone_from(waker);
                (wait.touched, wait.is_finished) = (now, false);
            }
            None => {
                state.next += 1;
                let number = state.next;
                let (submission, waker) = (submission.cloned(), waker.clone());
                state.waits.insert(number, Wait { submission, waker, touched: now, since: now, is_finished: false });
                drop(state);
                *registered = Some(Registered { shared: Arc::clone(shared), number });
            }
        }
        shared.changed.notify_one();
        true
    }
}

impl Drop for Poller {
    /// Ends the thread and waits for it: otherwise it could be the one that destroys the device, perhaps while the process
    /// exits. Waits for [`LINGER`] at most, for a waker of the application may block the thread.
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.is_closed = true;
        let thread = state.thread.take();
        drop(state);
        self.shared.changed.notify_one();
        // A waker of the application can drop the device on the thread itself.
        if let Some(PollThread { handle, ended }) = thread
            && handle.thread().id() != thread::current().id()
            && ended.recv_timeout(LINGER) == Err(RecvTimeoutError::Disconnected)
        {
            // A panic of an application's callback has been reported.
            let _ = handle.join();
        }
    }
}

/// Says that the thread has ended, also by a panic in an application's callback, and wakes all waits to start another.
struct Ended<'a>(&'a Shared);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.is_running = false;
        let wakers = state.touch(|_| true);
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
    }
}

/// Starts the thread, if one can be started.
#[cfg(not(target_arch = "wasm32"))]
fn start(shared: &Arc<Shared>) -> Option<PollThread> {
    let shared = Arc::clone(shared);
    let (ends, ended) = std::sync::mpsc::channel();
    let work = move || {
        run(&shared);
        drop(shared);
        drop(ends);
    };
    let handle = thread::Builder::new().name("ferrum-wgpu poll".to_owned()).spawn(work).ok()?;
    Some(PollThread { handle, ended })
}

/// Starts no thread: a browser has none.
#[cfg(target_arch = "wasm32")]
fn start(_: &Arc<Shared>) -> Option<PollThread> {
    None
}

fn run(shared: &Shared) {
    let _ended = Ended(shared);
    while let Some((number, submission, waited)) = shared.next_wait() {
        shared.poll(number, submission, waited);
        shared.heartbeat();
    }
}

impl State {
    /// Returns the wakers of some waits, which are to be woken now.
    fn touch(&mut self, which: impl Fn(&Wait) -> bool) -> Vec<Waker> {
        let now = Instant::now();
        let waits = self.waits.values_mut().filter(|wait| which(wait));
        waits
            .map(|wait| {
                wait.touched = now;
                wait.waker.clone()
            })
            .collect()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a wait whose submission is not finished; returns its number, its submission and how long it has waited. Returns
    /// `None` when the thread is to end.
    fn next_wait(&self) -> Option<(u64, Option<wgpu::SubmissionIndex>, Duration)> {
        let mut state = self.lock();
        loop {
            if state.is_closed {
                return None;
            }
            if let Some((number, wait)) = state.waits.iter().find(|(_, wait)| !wait.is_finished) {
                return Some((*number, wait.submission.clone(), wait.since.elapsed()));
            }
            let is_idle = state.waits.is_empty();
            let time = if is_idle { LINGER } else { HEARTBEAT };
            let (changed, timeout) = self.changed.wait_timeout(state, time).unwrap_or_else(PoisonError::into_inner);
            state = changed;
            if timeout.timed_out() && is_idle && state.waits.is_empty() {
                return None;
            }
            drop(state);
            self.heartbeat();
            state = self.lock();
        }
    }

    /// Polls the device, for a heartbeat at most, and takes in whether the wait's submission is finished: its callback has woken
    /// it then.
    fn poll(&self, number: u64, submission: Option<wgpu::SubmissionIndex>, waited: Duration) {
        if self.hooks.hangs() {
            return thread::sleep(HEARTBEAT);
        }
        let how = match self.may_block {
            true => wgpu::PollType::Wait { submission_index: submission, timeout: Some(HEARTBEAT) },
            false => wgpu::PollType::Poll,
        };
        let [least, most] = SLEEP;
        match poll(&self.device, how) {
            Ok(Some(status)) if self.may_block || status.is_queue_empty() => {
                if let Some(wait) = self.lock().waits.get_mut(&number) {
                    (wait.is_finished, wait.touched) = (true, Instant::now());
                }
            }
            Ok(_) if self.may_block => {}
            Ok(_) => thread::sleep((waited / 8).clamp(least, most)),
            // The waits find it out themselves.
            Err(_) => {
                let mut state = self.lock();
                state.waits.values_mut().for_each(|wait| wait.is_finished = true);
                let wakers = state.touch(|_| true);
                drop(state);
                wakers.into_iter().for_each(Waker::wake);
            }
        }
    }

    /// Wakes the waits that were not touched for a while.
    fn heartbeat(&self) {
        let wakers = self.lock().touch(|wait| wait.touched.elapsed() >= HEARTBEAT);
        wakers.into_iter().for_each(Waker::wake);
    }
}

/// Runs the callbacks of finished work. Returns `None` when a wait timed out, and an error when the device is lost.
pub(super) fn poll(device: &wgpu::Device, how: wgpu::PollType) -> Result<Option<wgpu::PollStatus>, String> {
    // wgpu panics where a driver reports here that the device is lost. Panics of an application's callbacks go on.
    match catch_unwind(AssertUnwindSafe(|| device.poll(how))) {
        Ok(Ok(status)) => Ok(Some(status)),
        Ok(Err(wgpu::PollError::Timeout)) => Ok(None),
        Ok(Err(error)) => Err(error.to_string()),
        Err(panic) if is_of_poll(&*panic) => Err("the driver reported it in a wait".to_owned()),
        Err(panic) => resume_unwind(panic),
    }
}

/// Returns whether a panic is wgpu's way to report that a poll failed.
fn is_of_poll(panic: &(dyn Any + Send)) -> bool {
    panic.downcast_ref::<String>().is_some_and(|message| message.starts_with("Error in Device::poll"))
}

#[cfg(all(test, not(target_arch = "wasm32")))]
mod tests {
    use super::*;
    use crate::gpu::{Adapter, Device};

    /// The thread must not be the one that destroys the device.
    #[test]
    fn a_dropped_poller_leaves_no_thread() {
        let device = pollster::block_on(async { Device::new(&Adapter::find(None).await?).await }).expect("a device");
        let context = device.context().expect("a GPU");
        let poller = Poller::new(&context.device, Arc::default(), false);
        let shared = Arc::downgrade(&poller.shared);
        let mut registered = None;
        assert!(poller.wait(&mut registered, None, Waker::noop()));
        drop(registered);
        assert!(poller.shared.lock().is_running);
        drop(poller);
        assert_eq!(shared.strong_count(), 0);
    }
}
