//! Many sequences over one model.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{
    DecodePass, EngineError, EngineOptions, Profile, Session,
    drive::{Drive, Woken, Work},
    runner::{Runner, workspace_sizes},
    schedule::{News, Schedule},
    scheduler::SequenceId,
    turn::{SharedSchedule, Turn, lock},
};
use crate::{
    gguf::Gguf,
    gpu::{Device, Program},
    kernels::KvType,
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
    schedule: Arc<SharedSchedule>,
    drive: Drive<Box<Runner>>,
}

impl Engine {
    /// An engine without sequences.
    ///
    /// # Errors
    /// [`EngineError`] for options that cannot be, or when memory runs out.
    pub async fn new(model: &Model, options: &EngineOptions) -> Result<Self, EngineError> {
        let runner = Box::new(Runner::new(model, options).await?);
        let shape = runner.kv().shape;
        let schedule = Schedule::new(options, shape.context, shape.block, shape.blocks, one_order(model, options));
        Ok(Self {
            shared: Arc::new(Shared {
                config: model.config().clone(),
                options: options.clone(),
                context: shape.context,
                schedule: Arc::new(Mutex::new(schedule)),
                drive: Drive::new(runner),
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
        Ok(MemoryPlan::new(gguf, shape, workspace_sizes(options, shape.context))?)
    }

    /// Compiles all kernels that an engine for `gguf` needs on `device`, as [`Engine::prepare`] does, but before there is a
    /// model: it takes no memory of the device, and may go on in a thread while another loads the weights.
    ///
    /// # Errors
    /// [`EngineError::Model`] when the file is no model that can be run, [`EngineError::Gpu`]; others for options that cannot
    /// be.
    pub async fn compile(device: &Device, gguf: &Gguf, options: &EngineOptions) -> Result<(), EngineError> {
        let model = Model::dry_run(device, gguf).await?;
        Ok(Runner::new(&model, options).await?.compile(device).await?)
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

    /// Requests that are served or wait.
    pub fn requests(&self) -> usize {
        self.schedule().scheduler.requests()
    }

    /// How the KV cache is stored.
    pub async fn kv_type(&self) -> KvType {
        self.shared.drive.with(|runner| runner.kv().shape.ty).await
    }

    /// Compiles all kernels that requests of any kind and size need, so that none waits for them: natively on several
    /// threads, while the caller's waits. Touches no sequence.
    ///
    /// # Errors
    /// [`EngineError::Gpu`].
    pub async fn prepare(&self) -> Result<(), EngineError> {
        let told = Arc::new(Mutex::new(None));
        let told_by_work = Arc::clone(&told);
        let work = |runner: Box<Runner>| -> Work<Box<Runner>> {
            Box::pin(async move {
                let result = runner.compile(runner.device()).await;
                *told_by_work.lock().unwrap_or_else(PoisonError::into_inner) = Some(result);
                (runner, true)
            })
        };
        self.shared.drive.begin(work).await;
        let result = || told.lock().unwrap_or_else(PoisonError::into_inner).take();
        loop {
            if let Woken::News(result) = self.shared.drive.step(result, |runner| self.turn(runner)).await {
                return Ok(result?);
            }
        }
    }

    /// Where the time of the steps went until now; empty unless [`EngineOptions::profile`] is set.
    pub async fn profile(&self) -> Profile {
        self.shared.drive.with(|runner| runner.profile.clone()).await
    }

    /// Dispatches of the pass that computed drawn tokens last; zero before the first.
    pub async fn decode_dispatches(&self) -> usize {
        self.shared.drive.with(|runner| runner.decode_dispatches()).await
    }

    /// The pass that computed drawn tokens last, counting the bytes of `experts` different experts in a layer
    /// ([`MemoryTraffic::experts`](crate::model::MemoryTraffic::experts)); all zero before the first.
    pub async fn decode_pass(&self, experts: f64) -> DecodePass {
        self.shared.drive.with(|runner| runner.decode_pass(experts)).await
    }

    /// Goes on with another device after the first was lost ([`EngineError::needs_recovery`]): loads the model's weights
    /// again, from the same file. Requests that are under way end with [`EngineError::DeviceLost`]; sequences keep their
    /// tokens, which are computed again with their next request.
    ///
    /// # Errors
    /// Those of [`Model::load`] and [`Engine::new`]; [`EngineError::OtherModel`] for a file of another shape. The engine is
    /// then as before, and so it is when the future is dropped.
    pub async fn recover(&self, device: &Device, gguf: &Gguf) -> Result<(), EngineError> {
        if Config::from_gguf(gguf)? != self.shared.config {
            return Err(EngineError::OtherModel);
        }
        let before = self.shared.drive.with(|runner| runner.model().clone()).await;
        let model = before.load_again(device, gguf).await?;
        let new = Runner::new(&model, &self.shared.options).await?;
        let one_order = one_order(&model, &self.shared.options);
        self.shared
            .drive
            .with(|runner| {
                **runner = new;
                let mut schedule = self.schedule();
                schedule.forget_device(&EngineError::DeviceLost);
                schedule.scheduler.set_share_drawn(one_order);
            })
            .await;
        Ok(())
    }

    pub(super) fn schedule(&self) -> MutexGuard<'_, Schedule> {
        lock(&self.shared.schedule)
    }

    /// News of a sequence: if there are none, drives the device a step further. `None` when there are still none. May be
    /// dropped at any time.
    ///
    /// # Errors
    /// [`EngineError::NoRequest`] when there can be none.
    pub(super) async fn step(&self, id: SequenceId) -> Result<Option<News>, EngineError> {
        let news = || self.schedule().news(id);
        match self.shared.drive.step(news, |runner| self.turn(runner)).await {
            Woken::News(news) => Ok(Some(news)),
            Woken::Worked(busy) => match self.schedule().news(id) {
                None if !busy => Err(EngineError::NoRequest),
                news => Ok(news),
            },
        }
    }

    fn turn(&self, mut runner: Box<Runner>) -> Work<Box<Runner>> {
        let schedule = Arc::clone(&self.shared.schedule);
        Box::pin(async move {
            let busy = Turn { schedule, runner: &mut runner }.run().await;
            (runner, busy)
        })
    }

    /// News of a sequence, for a caller who runs the programs; other sequences wait.
    ///
    /// # Errors
    /// [`EngineError::NoPlace`] while requests of others have all places or blocks, [`EngineError::NoRequest`], and those
    /// of `run`.
    pub(super) async fn next_by<E: From<EngineError>>(
        &self,
        id: SequenceId,
        run: &mut impl AsyncFnMut(&Device, &Program) -> Result<(), E>,
    ) -> Result<News, E> {
        let mut lent = self.shared.drive.lend().await;
        let Some(runner) = lent.get() else { return Err(EngineError::NoRequest.into()) };
        let mut turn = Turn { schedule: &*self.shared.schedule, runner };
        loop {
            while turn.land().await {}
            if let Some(news) = self.schedule().news(id) {
                return Ok(news);
            }
            if !turn.run_by(id, run).await? {
                return Err(EngineError::NoPlace.into());
            }
        }
    }
}

/// Whether drawn tokens and prompts have one order of sums where `model` is.
fn one_order(model: &Model, options: &EngineOptions) -> bool {
    options.plan.selection_on(model.device()).one_order() || options.order_crossing
}
