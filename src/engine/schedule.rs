//! Requests, and what became of them.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use super::{
    EngineError, EngineOptions, Sampler,
    runner::{Drawing, Drawings, Landed},
    scheduler::{End, Event, Give, Limits, Scheduler, SequenceId, Step, Want},
};
use crate::{gpu::GpuError, kernels::sample, kv::Pool};

/// Requests, and what became of them.
#[derive(Debug)]
pub(super) struct Schedule {
    pub(super) scheduler: Scheduler,
    pub(super) drawings: Drawings,
    inboxes: HashMap<SequenceId, Inbox>,
    /// Those that are tried alone: with others a step could not be made ready.
    apart: VecDeque<SequenceId>,
}

/// What a session has been told and not asked for yet.
#[derive(Debug, Default)]
struct Inbox {
    news: VecDeque<News>,
    /// The request of which there will be more.
    request: Option<u64>,
}

/// What a session is told.
#[derive(Debug)]
pub(super) enum News {
    /// Its request runs; so many tokens were found in the cache.
    Admitted { cached: u32 },
    /// A token was drawn.
    Token(u32),
    /// Logits of a row.
    Logits { logits: Vec<f32>, last: bool },
    /// The request is over.
    Ended(End),
    /// It is over for an error.
    Failed(EngineError),
}

impl Schedule {
    pub(super) fn new(options: &EngineOptions, context: u32, block: u32, blocks: u32, one_order: bool) -> Self {
        let limits = Limits {
            context,
            slots: options.sequences,
            prefill_rows: options.prefill_rows,
            logit_rows: options.logit_rows,
            sharing: options.prefix_sharing,
            share_drawn: one_order,
            run_ahead: options.run_ahead && !options.host_sampling,
        };
        Self {
            scheduler: Scheduler::new(limits, Pool::new(blocks, block)),
            drawings: HashMap::new(),
            inboxes: HashMap::new(),
            apart: VecDeque::new(),
        }
    }

    /// The oldest news of a sequence.
    pub(super) fn news(&mut self, id: SequenceId) -> Option<News> {
        self.inboxes.get_mut(&id).and_then(|inbox| inbox.news.pop_front())
    }

    /// Tells a session something of its request; after the last there is no more.
    fn tell(&mut self, id: SequenceId, news: News) {
        // A sequence that was released has no inbox.
        let Some(inbox) = self.inboxes.get_mut(&id) else { return };
        if matches!(news, News::Ended(_) | News::Failed(_) | News::Logits { last: true, .. }) {
            inbox.request = None;
        }
        inbox.news.push_back(news);
    }

    pub(super) fn open(&mut self, id: SequenceId) {
        self.inboxes.insert(id, Inbox::default());
    }

    pub(super) fn release(&mut self, id: SequenceId) {
        self.scheduler.release(id);
        self.drawings.remove(&id);
        self.inboxes.remove(&id);
    }

    /// Makes a request of an idle sequence; `sampler` draws its tokens, where some are wanted.
    pub(super) fn ask(
        &mut self,
        id: SequenceId,
        tokens: &[u32],
        want: Want,
        sampler: Option<Sampler>,
    ) -> Result<(), EngineError> {
        let number = self.scheduler.submit(id, tokens, want)?;
        // At once: a step may be planned as soon as the schedule is free.
        self.drawings.extend(sampler.map(|sampler| (id, Drawing { number, sampler })));
        self.inboxes.insert(id, Inbox { request: Some(number), ..Inbox::default() });
        Ok(())
    }

    /// Ends a request without news of it, and forgets those there are.
    pub(super) fn cancel(&mut self, id: SequenceId) {
        self.scheduler.cancel(id);
        self.drawings.remove(&id);
        if let Some(inbox) = self.inboxes.get_mut(&id) {
            *inbox = Inbox::default();
        }
    }

    /// Delivers what the scheduler has to tell.
    fn deliver(&mut self) {
        for event in self.scheduler.take_events() {
            match event {
                Event::Admitted { sequence, cached } => self.tell(sequence, News::Admitted { cached }),
                Event::Token { sequence, token } => self.tell(sequence, News::Token(token)),
                Event::Ended { sequence, end } => {
                    self.drawings.remove(&sequence);
                    self.tell(sequence, News::Ended(end));
                }
            }
        }
    }

    /// The next step.
    pub(super) fn plan(&mut self) -> Option<Step> {
        let step = loop {
            if !self.scheduler.may_plan() {
                break None;
            }
            let Some(id) = self.apart.pop_front() else { break self.scheduler.plan() };
            if let Some(step) = self.scheduler.plan_alone(id) {
                break Some(step);
            }
        };
        // Requests that nothing can serve have ended.
        self.deliver();
        step
    }

    /// The next step, of one sequence alone.
    pub(super) fn plan_alone(&mut self, id: SequenceId) -> Option<Step> {
        let step = self.scheduler.plan_alone(id);
        self.deliver();
        step
    }

    /// Takes in that a step was sent.
    pub(super) fn sent(&mut self, step: &Step) {
        // A step is out of date when another was planned meanwhile, which who has the device does not do.
        let _ = self.scheduler.commit(step);
        self.deliver();
    }

    /// Takes in what a step has computed.
    pub(super) fn landed(&mut self, landed: Landed) {
        let mut tokens = landed.tokens;
        for (row, logits) in landed.logits {
            // They may be of a request that was given up, after which the session made another.
            match row.give {
                Give::Logits { last } => {
                    if self.inboxes.get(&row.sequence).is_some_and(|inbox| inbox.request == Some(row.request)) {
                        self.tell(row.sequence, News::Logits { logits, last });
                    }
                }
                // The host draws.
                Give::Draw => {
                    let drawing = self.drawings.get_mut(&row.sequence).filter(|d| d.number == row.request);
                    let token = drawing.and_then(|drawing| drawing.sampler.sample(&logits).ok());
                    tokens.extend(token.map(|token| (row.sequence, token)));
                }
            }
        }
        // The scheduler knows whether somebody misses one.
        tokens.retain(|(_, token)| *token != sample::NO_TOKEN);
        // A step is out of date when the device was given up meanwhile.
        let _ = self.scheduler.drawn(landed.step, &tokens);
        self.deliver();
    }

    /// Takes in that a step could not be made ready.
    pub(super) fn not_ready(&mut self, step: &Step, error: &Arc<GpuError>) {
        let ids: Vec<_> = step.sequences().collect();
        match ids[..] {
            [_] => self.fail(step, error),
            _ => self.apart.extend(ids),
        }
    }

    /// Ends the requests that a step computes.
    pub(super) fn fail(&mut self, step: &Step, error: &Arc<GpuError>) {
        for id in step.sequences() {
            self.scheduler.cancel(id);
            self.drawings.remove(&id);
            self.tell(id, News::Failed(EngineError::Gpu(Arc::clone(error))));
        }
    }

    /// Forgets all that the device knew: requests end, those too of which only the logits have not come.
    pub(super) fn forget_device(&mut self, error: &EngineError) {
        self.deliver();
        self.scheduler.forget_device();
        // They say the same of some.
        drop(self.scheduler.take_events());
        self.drawings.clear();
        self.apart.clear();
        for inbox in self.inboxes.values_mut().filter(|inbox| inbox.request.is_some()) {
            inbox.request = None;
            inbox.news.push_back(News::Failed(error.clone()));
        }
    }
}
