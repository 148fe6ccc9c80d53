//! Who works for an engine: whoever waits for something of it.

use std::{
    collections::BTreeMap,
    future::{Future, poll_fn},
    mem,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, TryLockError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker, ready},
};

/// A piece of work with what it works with, which it gives back, and whether there was anything to do.
#[cfg(not(target_arch = "wasm32"))]
pub(super) type Work<T> = Pin<Box<dyn Future<Output = (T, bool)> + Send>>;
#[cfg(target_arch = "wasm32")]
pub(super) type Work<T> = Pin<Box<dyn Future<Output = (T, bool)>>>;

/// What only one piece of work at a time can be done with.
///
/// Work that has begun belongs to nobody: all who wait may poll it, and it wakes them all. So it is never dropped half
/// done, whatever becomes of the future that began it, and who is not polled any more holds nobody up.
pub(super) struct Drive<T> {
    seat: Mutex<Seat<T>>,
    waiting: Arc<Waiting>,
    /// Somebody found the seat locked since it was left last, and sleeps.
    missed: AtomicBool,
}

enum Seat<T> {
    Free(T),
    Working(Work<T>),
    Lent,
}

/// What has come of waiting.
pub(super) enum Woken<R> {
    /// There are news.
    News(R),
    /// A piece of work is done; whether there was anything to do.
    Worked(bool),
}

impl<T> std::fmt::Debug for Drive<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Drive").finish_non_exhaustive()
    }
}

impl<T> Drive<T> {
    pub(super) fn new(with: T) -> Self {
        Self { seat: Mutex::new(Seat::Free(with)), waiting: Arc::default(), missed: AtomicBool::new(false) }
    }

    /// Waits until there are news, or a piece of work is done: the one under way, or else one that `begin` begins. May be
    /// dropped at any time; the work is then done by whoever waits next.
    pub(super) async fn step<R>(&self, mut news: impl FnMut() -> Option<R>, begin: impl Fn(T) -> Work<T>) -> Woken<R> {
        let ticket = Ticket::new(&self.waiting);
        poll_fn(|context| {
            ticket.wait(context.waker());
            if let Some(news) = news() {
                return Poll::Ready(Woken::News(news));
            }
            let Some(mut seated) = self.sit() else { return Poll::Pending };
            // Whoever worked before may have brought some.
            if let Some(news) = news() {
                return Poll::Ready(Woken::News(news));
            }
            let worked = seated.poll(&begin);
            drop(seated);
            if worked.is_ready() {
                drop(ticket.leave());
                self.waiting.wake_all();
            }
            worked.map(Woken::Worked)
        })
        .await
    }

    /// Waits until nobody works with it, and does something with it at once.
    pub(super) async fn with<R>(&self, then: impl FnOnce(&mut T) -> R) -> R {
        let mut then = Some(then);
        self.when_free(|seat| match (&mut *seat, then.take()) {
            (Seat::Free(with), Some(then)) => Some(then(with)),
            (_, not_yet) => {
                then = not_yet;
                None
            }
        })
        .await
    }

    /// Waits until nobody works with it, and begins some work.
    pub(super) async fn begin(&self, begin: impl FnOnce(T) -> Work<T>) {
        let mut begin = Some(begin);
        self.when_free(|seat| match (mem::replace(seat, Seat::Lent), begin.take()) {
            (Seat::Free(with), Some(begin)) => {
                *seat = Seat::Working(begin(with));
                Some(())
            }
            (other, not_yet) => {
                (*seat, begin) = (other, not_yet);
                None
            }
        })
        .await;
    }

    /// Waits until nobody works with it, and has it alone: others wait for as long as it is lent.
    pub(super) async fn lend(&self) -> Lent<'_, T> {
        self.when_free(|seat| match mem::replace(seat, Seat::Lent) {
            Seat::Free(with) => Some(Lent { drive: self, with: Some(with) }),
            other => {
                *seat = other;
                None
            }
        })
        .await
    }

    /// Waits until `then` has found the seat free.
    async fn when_free<R>(&self, mut then: impl FnMut(&mut Seat<T>) -> Option<R>) -> R {
        let ticket = Ticket::new(&self.waiting);
        let done = poll_fn(|context| {
            ticket.wait(context.waker());
            let Some(mut seated) = self.sit() else { return Poll::Pending };
            let _ = seated.work();
            then(&mut seated.seat).map_or(Poll::Pending, Poll::Ready)
        })
        .await;
        // What was under way may have brought news.
        self.waiting.wake_all();
        done
    }

    /// The seat, unless somebody has it: that one wakes us when leaving it.
    fn sit(&self) -> Option<Seated<'_, T>> {
        let seat = || match self.seat.try_lock() {
            Ok(seat) => Some(seat),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        };
        let seat = seat().or_else(|| {
            self.missed.store(true, Ordering::SeqCst);
            // Whoever left it in between did not see that.
            seat()
        })?;
        Some(Seated { seat, left: Left(self) })
    }

    fn put(&self, seat: Seat<T>) {
        *self.seat.lock().unwrap_or_else(PoisonError::into_inner) = seat;
        self.waiting.wake_all();
    }
}

/// Who has the seat, for the time of a poll.
struct Seated<'a, T> {
    seat: MutexGuard<'a, Seat<T>>,
    /// Dropped after the lock is.
    left: Left<'a, T>,
}

struct Left<'a, T>(&'a Drive<T>);

impl<T> Drop for Left<'_, T> {
    fn drop(&mut self) {
        if self.0.missed.swap(false, Ordering::SeqCst) {
            self.0.waiting.wake_all();
        }
    }
}

impl<T> Seated<'_, T> {
    /// Polls the work, or what `begin` begins.
    fn poll(&mut self, begin: impl FnOnce(T) -> Work<T>) -> Poll<bool> {
        *self.seat = match mem::replace(&mut *self.seat, Seat::Lent) {
            Seat::Free(with) => Seat::Working(begin(with)),
            other => other,
        };
        self.work()
    }

    /// Polls the work that is under way.
    fn work(&mut self) -> Poll<bool> {
        let Seat::Working(work) = &mut *self.seat else { return Poll::Pending };
        let waker = Waker::from(Arc::clone(&self.left.0.waiting));
        let (with, did) = ready!(work.as_mut().poll(&mut Context::from_waker(&waker)));
        *self.seat = Seat::Free(with);
        Poll::Ready(did)
    }
}

/// What somebody has alone; given back when dropped.
pub(super) struct Lent<'a, T> {
    drive: &'a Drive<T>,
    with: Option<T>,
}

impl<T> Lent<'_, T> {
    /// It; none only when it is being given back.
    pub(super) fn get(&mut self) -> Option<&mut T> {
        self.with.as_mut()
    }
}

impl<T> Drop for Lent<'_, T> {
    fn drop(&mut self) {
        if let Some(with) = self.with.take() {
            self.drive.put(Seat::Free(with));
        }
    }
}

/// All who wait.
#[derive(Default)]
struct Waiting {
    wakers: Mutex<Wakers>,
}

#[derive(Default)]
struct Wakers {
    by_ticket: BTreeMap<u64, Waker>,
    next_ticket: u64,
}

impl Waiting {
    fn lock(&self) -> MutexGuard<'_, Wakers> {
        self.wakers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes all: one that were woken alone might not be polled any more.
    fn wake_all(&self) {
        let wakers = mem::take(&mut self.lock().by_ticket);
        wakers.into_values().for_each(Waker::wake);
    }
}

impl Wake for Waiting {
    fn wake(self: Arc<Self>) {
        self.wake_all();
    }
}

/// The place of one who waits.
struct Ticket<'a> {
    waiting: &'a Waiting,
    number: u64,
}

impl<'a> Ticket<'a> {
    fn new(waiting: &'a Waiting) -> Self {
        let mut wakers = waiting.lock();
        wakers.next_ticket += 1;
        Self { waiting, number: wakers.next_ticket }
    }

    fn wait(&self, waker: &Waker) {
        self.waiting.lock().by_ticket.insert(self.number, waker.clone());
    }

    fn leave(&self) -> Option<Waker> {
        self.waiting.lock().by_ticket.remove(&self.number)
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        drop(self.leave());
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::atomic::AtomicU32, thread};

    use futures_channel::oneshot;

    use super::*;

    /// Counts how often it is woken.
    #[derive(Default)]
    struct Woke(AtomicU32);

    impl Wake for Woke {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn polled<F: Future>(future: Pin<&mut F>, woke: &Arc<Woke>) -> Poll<F::Output> {
        future.poll(&mut Context::from_waker(&Waker::from(Arc::clone(woke))))
    }

    /// Work that adds one when a sender sends.
    fn after(gate: oneshot::Receiver<()>) -> impl Fn(u32) -> Work<u32> {
        let gate = Mutex::new(Some(gate));
        move |with| {
            let gate = gate.lock().expect("a lock").take();
            Box::pin(async move {
                let opened = gate.expect("it begins once").await;
                (with + 1, opened.is_ok())
            })
        }
    }

    fn nothing() -> Option<()> {
        None
    }

    #[test]
    fn work_is_finished_by_who_waits_next() {
        let drive = Drive::new(7);
        let (open, gate) = oneshot::channel();
        let begin = after(gate);
        let mut first = Box::pin(drive.step(nothing, &begin));
        assert!(polled(first.as_mut(), &Arc::default()).is_pending());
        drop(first);
        let woke = Arc::default();
        let mut second = Box::pin(drive.step(nothing, &begin));
        assert!(polled(second.as_mut(), &woke).is_pending());
        open.send(()).expect("somebody waits");
        assert_eq!(woke.0.load(Ordering::SeqCst), 1);
        assert!(matches!(polled(second.as_mut(), &woke), Poll::Ready(Woken::Worked(true))));
        drop(second);
        assert_eq!(pollster::block_on(drive.with(|with| *with)), 8);
    }

    #[test]
    fn who_is_not_polled_any_more_holds_nobody_up() {
        let drive = Drive::new(7);
        let (open, gate) = oneshot::channel();
        let begin = after(gate);
        let mut sleeper = Box::pin(drive.step(nothing, &begin));
        assert!(polled(sleeper.as_mut(), &Arc::default()).is_pending());
        let woke = Arc::default();
        let told = AtomicBool::new(false);
        let mut other = Box::pin(drive.step(|| told.load(Ordering::SeqCst).then_some(()), &begin));
        assert!(polled(other.as_mut(), &woke).is_pending());
        // Its news come before the work is done, and are not kept from it by that.
        told.store(true, Ordering::SeqCst);
        assert!(matches!(polled(other.as_mut(), &woke), Poll::Ready(Woken::News(()))));
        drop(other);
        let mut third = Box::pin(drive.with(|with| *with));
        assert!(polled(third.as_mut(), &woke).is_pending());
        open.send(()).expect("somebody waits");
        assert_eq!(polled(third.as_mut(), &woke), Poll::Ready(8));
    }

    #[test]
    fn others_wait_for_what_is_lent() {
        let drive = Drive::new(7);
        let mut lent = pollster::block_on(drive.lend());
        let woke = Arc::default();
        let mut other = Box::pin(drive.with(|with| *with));
        assert!(polled(other.as_mut(), &woke).is_pending());
        *lent.get().expect("it is lent") = 9;
        drop(lent);
        assert_eq!(woke.0.load(Ordering::SeqCst), 1);
        assert_eq!(polled(other.as_mut(), &woke), Poll::Ready(9));
    }

    #[test]
    fn threads_work_one_at_a_time_and_none_sleeps_for_ever() {
        let drive = Drive::new(0);
        let begin = |with: u32| -> Work<u32> {
            let mut pending = with % 3;
            Box::pin(async move {
                // Some of it is pending, and wakes whoever waits then.
                poll_fn(|context| {
                    thread::yield_now();
                    context.waker().wake_by_ref();
                    pending = pending.saturating_sub(1);
                    if pending > 0 { Poll::Pending } else { Poll::Ready(()) }
                })
                .await;
                (with + 1, true)
            })
        };
        let done = AtomicU32::new(0);
        thread::scope(|scope| {
            for thread in 0..8 {
                let (drive, done) = (&drive, &done);
                scope.spawn(move || {
                    for turn in 0..500 {
                        if (turn + thread) % 7 == 0 {
                            // Given up half done.
                            let mut given_up = Box::pin(drive.step(nothing, begin));
                            let _ = polled(given_up.as_mut(), &Arc::default());
                            drop(given_up);
                        }
                        pollster::block_on(drive.step(nothing, begin));
                        done.fetch_add(1, Ordering::SeqCst);
                    }
                });
            }
        });
        assert_eq!(done.load(Ordering::SeqCst), 8 * 500);
        assert!(pollster::block_on(drive.with(|with| *with)) >= 8 * 500);
    }
}
