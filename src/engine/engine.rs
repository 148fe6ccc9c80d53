//! Many sequences over one model.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures_util::lock::Mutex as AsyncMutex;

use super::{
    DecodePass, EngineError, EngineOptions, Profile, Session,
    pace::Moment,
    runner::{Drawings, Landed, Runner, Work, rooms},
    scheduler::{End, Event, Give, Limits, Scheduler, SequenceId, Step},
};
use crate::{
    gguf::Gguf,
    gpu::{Device, GpuError, Program},
    kernels::{KvType, sample},
    kv::Pool,
    model::{Config, MemoryPlan, Model},
};

/// Computes many sequences with one model: their KV cache, and whose turn it is. Clones share it.
///
/// No thread and no task works for it. Whoever awaits something of a [`Session`] drives the device for all sessions until
/// that is there, so that sessions can be awaited from any number of tasks or threads, on any executor, and in a browser.
/// Futures may be dropped at any time.
#[derive(Clone, Debug)]
pub struct Engine {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    config: Config,
    options: EngineOptions,
    context: u32,
    /// Held for moments only.
    schedule: Mutex<Schedule>,
    /// Held by whoever drives the device.
    runner: AsyncMutex<Runner>,
}

/// Requests, and what became of them.
#[derive(Debug)]
pub(super) struct Schedule {
    pub(super) scheduler: Scheduler,
    pub(super) drawings: Drawings,
    inboxes: HashMap<SequenceId, VecDeque<News>>,
    next_number: u64,
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
    fn new(options: &EngineOptions, context: u32, block: u32, blocks: u32, one_order: bool) -> Self {
        let limits = Limits {
            context,
            slots: options.sequences,
            prefill_rows: options.prefill_rows,
            logit_rows: options.logit_rows,
            sharing: options.prefix_sharing,
            share_drawn: one_order || options.order_crossing,
            run_ahead: options.run_ahead && !options.host_sampling,
        };
        Self {
            scheduler: Scheduler::new(limits, Pool::new(blocks, block)),
            drawings: HashMap::new(),
            inboxes: HashMap::new(),
            next_number: 0,
        }
    }

    /// The oldest news of a sequence.
    pub(super) fn news(&mut self, id: SequenceId) -> Option<News> {
        self.inboxes.get_mut(&id).and_then(VecDeque::pop_front)
    }

    fn tell(&mut self, id: SequenceId, news: News) {
        // A sequence that was released has no inbox.
        if let Some(inbox) = self.inboxes.get_mut(&id) {
            inbox.push_back(news);
        }
    }

    pub(super) fn open(&mut self, id: SequenceId) {
        self.inboxes.insert(id, VecDeque::new());
    }

    pub(super) fn release(&mut self, id: SequenceId) {
        self.scheduler.release(id);
        self.drawings.remove(&id);
        self.inboxes.remove(&id);
    }

    /// Ends a request without news of it, and forgets those there are.
    pub(super) fn cancel(&mut self, id: SequenceId) {
        self.scheduler.cancel(id);
        self.drawings.remove(&id);
        if let Some(inbox) = self.inboxes.get_mut(&id) {
            inbox.clear();
        }
    }

    /// A number for a request.
    pub(super) fn number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number
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

    /// Takes in what a step has computed.
    fn landed(&mut self, landed: Landed) {
        let mut tokens = landed.tokens;
        for (row, logits) in landed.logits {
            match row.give {
                Give::Logits { last } => self.tell(row.sequence, News::Logits { logits, last }),
                // The host draws.
                Give::Draw => match self.drawings.get_mut(&row.sequence).map(|d| d.sampler.sample(&logits)) {
                    Some(Ok(token)) => tokens.push((row.sequence, token)),
                    Some(Err(_)) => tokens.push((row.sequence, sample::NO_TOKEN)),
                    None => {}
                },
            }
        }
        for (sequence, token) in &tokens {
            if *token == sample::NO_TOKEN && self.drawings.contains_key(sequence) {
                self.cancel(*sequence);
                self.tell(*sequence, News::Failed(EngineError::NotANumber));
            }
        }
        // A step is out of date when the device was given up meanwhile.
        let _ = self.scheduler.drawn(landed.step, &tokens);
        self.deliver();
    }

    /// Ends the requests that a step computes.
    fn fail(&mut self, step: &Step, error: &Arc<GpuError>) {
        let of_prompts = step.prompts.iter().map(|rows| rows.sequence);
        let ids: Vec<_> = step.decode.iter().map(|row| row.sequence).chain(of_prompts).collect();
        for id in ids {
            self.cancel(id);
            self.tell(id, News::Failed(EngineError::Gpu(Arc::clone(error))));
        }
    }
}

impl Engine {
    /// An engine without sequences.
    ///
    /// # Errors
    /// [`EngineError`] for options that cannot be, or when memory runs out.
    pub async fn new(model: &Model, options: &EngineOptions) -> Result<Self, EngineError> {
        let runner = Runner::new(model, options).await?;
        let shape = runner.kv().shape;
        let one_order = options.plan.tiers_on(model.device()).one_order();
        let schedule = Schedule::new(options, shape.context, shape.block, shape.blocks, one_order);
        Ok(Self {
            shared: Arc::new(Shared {
                config: model.config().clone(),
                options: options.clone(),
                context: shape.context,
                schedule: Mutex::new(schedule),
                runner: AsyncMutex::new(runner),
            }),
        })
    }

    /// The memory that an engine for `gguf` takes, before anything is allocated. `kv_type`: how the cache is stored on the
    /// device that is meant.
    ///
    /// # Errors
    /// [`EngineError::Model`] when the file is no model that can be run; others for options that cannot be.
    pub fn memory(gguf: &Gguf, options: &EngineOptions, kv_type: KvType) -> Result<MemoryPlan, EngineError> {
        let config = Config::from_gguf(gguf)?;
        let shape = options.cache(&config, kv_type)?;
        Ok(MemoryPlan::new(gguf, shape, rooms(options, shape.context))?)
    }

    /// A sequence of no tokens; it takes no room yet.
    pub fn session(&self) -> Session {
        let mut schedule = self.schedule();
        let id = schedule.scheduler.open();
        schedule.open(id);
        drop(schedule);
        Session::new(self.clone(), id)
    }

    /// The model's shape.
    pub fn config(&self) -> &Config {
        &self.shared.config
    }

    /// The options that it was made with.
    pub fn options(&self) -> &EngineOptions {
        &self.shared.options
    }

    /// Tokens that a sequence can have.
    pub fn context(&self) -> u32 {
        self.shared.context
    }

    /// Blocks of the KV cache: all, and those that no sequence has.
    pub fn blocks(&self) -> (u32, u32) {
        let schedule = self.schedule();
        let pool = schedule.scheduler.pool();
        (pool.blocks(), pool.free())
    }

    /// How the KV cache is stored.
    pub async fn kv_type(&self) -> KvType {
        self.shared.runner.lock().await.kv().shape.ty
    }

    /// Compiles what the model needs, so that no request waits for it. Touches no sequence.
    ///
    /// # Errors
    /// [`EngineError::Gpu`].
    pub async fn prepare(&self) -> Result<(), EngineError> {
        Ok(self.shared.runner.lock().await.warm_up().await?)
    }

    /// Where the time of the steps went until now; empty unless [`EngineOptions::profile`] is set.
    pub async fn profile(&self) -> Profile {
        self.shared.runner.lock().await.profile.clone()
    }

    /// Dispatches of the pass that computed drawn tokens last; zero before the first.
    pub async fn decode_dispatches(&self) -> usize {
        self.shared.runner.lock().await.decode_dispatches()
    }

    /// The pass that computed drawn tokens last, counting the bytes of `experts` different experts in a layer
    /// ([`Reads::experts`](crate::model::Reads::experts)); all zero before the first.
    pub async fn decode_pass(&self, experts: f64) -> DecodePass {
        self.shared.runner.lock().await.decode_pass(experts)
    }

    /// Goes on with another device after the first was lost: loads the model's weights again, from the same file. Requests
    /// that were under way have ended with an error; sequences keep their tokens, which are computed again with their next
    /// request.
    ///
    /// # Errors
    /// Those of [`Model::load`] and [`Engine::new`]; the engine is then as before. [`EngineError::OtherModel`] for a file
    /// of another shape.
    pub async fn recover(&self, device: &Device, gguf: &Gguf) -> Result<(), EngineError> {
        let mut runner = self.shared.runner.lock().await;
        let model = Model::load(device, gguf, |_, _| ()).await?;
        if *model.config() != self.shared.config {
            return Err(EngineError::OtherModel);
        }
        let new = Runner::new(&model, &self.shared.options).await?;
        self.forget_device();
        *runner = new;
        Ok(())
    }

    pub(super) fn schedule(&self) -> MutexGuard<'_, Schedule> {
        self.shared.schedule.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn forget_device(&self) {
        let mut schedule = self.schedule();
        schedule.scheduler.forget_device();
        schedule.deliver();
    }

    /// News of a sequence: if there are none, drives the device a step further. `None` when there are still none.
    ///
    /// # Errors
    /// [`EngineError::NoRequest`] when there can be none, [`EngineError::Gpu`].
    pub(super) async fn step(&self, id: SequenceId) -> Result<Option<News>, EngineError> {
        if let Some(news) = self.schedule().news(id) {
            return Ok(Some(news));
        }
        let mut runner = self.shared.runner.lock().await;
        // Whoever drove the device before may have brought some.
        if let Some(news) = self.schedule().news(id) {
            return Ok(Some(news));
        }
        let busy = self.turn(&mut runner).await?;
        let news = self.schedule().news(id);
        if news.is_none() && !busy { Err(EngineError::NoRequest) } else { Ok(news) }
    }

    /// Sends the next step, and takes in the oldest one that is under way. Gives whether there was anything to do.
    async fn turn(&self, runner: &mut Runner) -> Result<bool, EngineError> {
        let Some(step) = self.plan(runner) else { return self.land(runner).await };
        let sent = async {
            let work = self.begin(runner, &step).await?;
            let submitted = Moment::now();
            runner.submit(&step, &work).await?;
            self.sent(runner, &step, work, submitted)
        };
        if let Err(error) = sent.await {
            self.failed(runner, &step, error);
            return Ok(true);
        }
        let ahead = usize::from(self.shared.options.run_ahead);
        while runner.under_way() > ahead {
            self.land(runner).await?;
        }
        Ok(true)
    }

    /// As [`Self::next`], for a caller who runs the programs.
    pub(super) async fn next_by<E: From<EngineError>>(
        &self,
        id: SequenceId,
        run: &mut impl AsyncFnMut(&Device, &Program) -> Result<(), E>,
    ) -> Result<News, E> {
        loop {
            let mut runner = self.shared.runner.lock().await;
            if let Some(news) = self.schedule().news(id) {
                return Ok(news);
            }
            let Some(step) = self.plan(&runner) else {
                if self.land(&mut runner).await? {
                    continue;
                }
                let news = self.schedule().news(id);
                return news.ok_or_else(|| EngineError::NoRequest.into());
            };
            let work = self.begin(&mut runner, &step).await?;
            for program in runner.programs(&step, &work) {
                run(runner.device(), program).await?;
            }
            self.sent(&mut runner, &step, work, Moment::now())?;
        }
    }

    fn plan(&self, runner: &Runner) -> Option<Step> {
        let options = &self.shared.options;
        let mut schedule = self.schedule();
        schedule.scheduler.set_prefill_rows(runner.pace.prompt_rows(options.prefill_rows, options.max_submit));
        let step = schedule.scheduler.plan();
        // Requests that nothing can serve have ended.
        schedule.deliver();
        step
    }

    /// Makes ready and writes what a step needs.
    async fn begin(&self, runner: &mut Runner, step: &Step) -> Result<Work, EngineError> {
        let drawings = self.schedule().drawings.clone();
        let work = runner.prepare(step, &drawings).await?;
        runner.write(step, &work, &drawings)?;
        Ok(work)
    }

    /// Takes in that a step was sent.
    fn sent(&self, runner: &mut Runner, step: &Step, work: Work, submitted: Moment) -> Result<(), EngineError> {
        let mut schedule = self.schedule();
        if schedule.scheduler.commit(step).is_ok() {
            runner.take_off(step, work, submitted)?;
        }
        schedule.deliver();
        Ok(())
    }

    /// Takes in the oldest step that is under way; gives whether there was one.
    async fn land(&self, runner: &mut Runner) -> Result<bool, EngineError> {
        match runner.land().await {
            Ok(None) => Ok(false),
            Ok(Some(landed)) => {
                self.schedule().landed(landed);
                Ok(true)
            }
            Err(error) => {
                // What was under way cannot be told from what is.
                runner.clear();
                self.forget_device();
                Err(error)
            }
        }
    }

    /// Ends the requests of a step that could not be sent; all of them when the device is lost.
    fn failed(&self, runner: &mut Runner, step: &Step, error: EngineError) {
        let error = match error {
            EngineError::Gpu(error) => error,
            other => {
                let mut schedule = self.schedule();
                let message = Arc::new(GpuError::Lost(other.to_string()));
                return schedule.fail(step, &message);
            }
        };
        self.schedule().fail(step, &error);
        if matches!(*error, GpuError::Lost(_)) {
            runner.clear();
            self.forget_device();
        }
    }
}
