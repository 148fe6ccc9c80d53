//! The engine: a scheduler and an executor behind locks, shared by sessions.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
};

use super::{
    DecodePass, EngineError, EngineOptions, LookupStats, Profile, Session,
    executor::{Executor, workspace_sizes},
    scheduler::{Limits, Scheduler, SequenceId, SessionEvent, StateLimits},
    shared_executor::{SharedExecutor, StepFuture, Waited},
    step_runner::{SharedScheduler, StepRunner},
    wakers::{NotifyingGuard, WaiterId, Waiting},
};
use crate::{
    gguf::Gguf,
    gpu::{Device, Program},
    kernels::KvType,
    kv::{Pool, Pools, Window},
    model::{CacheShape, Config, MemoryPlan, Model, PlannedKernels, WindowPool},
};

/// Computes many sequences with one model, by continuous batching over a paged KV cache. Clones share it.
///
/// An engine has no thread or task of its own. A task that awaits something of a [`Session`] or [`Reply`](super::Reply)
/// drives the device for all sessions until that is there. Sessions can be awaited from any number of tasks or threads, on
/// any executor, and in a browser. Futures may be dropped at any time.
#[derive(Clone, Debug)]
pub struct Engine {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    config: Config,
    options: EngineOptions,
    context: u32,
    scheduler: Arc<SharedScheduler>,
    executor: SharedExecutor<Box<Executor>>,
    /// The device is the CPU.
    is_cpu: AtomicBool,
}

/// The blocks of an engine's KV cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct BlockUsage {
    /// All blocks.
    pub total: u32,
    /// Blocks that no sequence holds; they may hold cached prefixes.
    pub free: u32,
    /// Snapshots of the states of gated delta nets, from which prefixes can be continued.
    pub snapshots: u32,
}

impl Engine {
    /// Returns an engine without sequences.
    ///
    /// # Errors
    /// [`EngineError`] for invalid options, or when memory runs out.
    pub async fn new(model: &Model, options: &EngineOptions) -> Result<Self, EngineError> {
        let executor = Box::new(Executor::new(model, options).await?);
        let shape = executor.kv().shape;
        let limits = Limits {
            context: shape.context,
            slots: options.sequences,
            prefill_rows: options.prefill_rows,
            max_logit_rows: options.max_logit_rows,
            prefix_sharing: options.prefix_sharing,
            share_decode_blocks: shares_decode_blocks(model, options),
            pipelined: options.pipelined && !options.host_sampling,
            // Programs are timed as a whole.
            masks_later: !options.profile,
            drafts: options.lookup,
            states: model.config().delta_net.is_some().then(|| StateLimits {
                snapshots: options.state_snapshots,
                spacing: options.snapshot_spacing.max(1).next_multiple_of(shape.block),
            }),
        };
        let scheduler = SharedScheduler::new(Scheduler::new(limits, pools(shape)));
        let executor = SharedExecutor::new(executor, Arc::clone(&scheduler.wakers));
        Ok(Self {
            shared: Arc::new(Shared {
                config: model.config().clone(),
                options: options.clone(),
                context: shape.context,
                scheduler: Arc::new(scheduler),
                executor,
                is_cpu: AtomicBool::new(model.device().is_cpu()),
            }),
        })
    }

    /// Plans the memory of an engine for `gguf`, before anything is allocated. `kv_type` is the storage type of the KV cache on
    /// the intended device.
    ///
    /// # Errors
    /// [`EngineError::Model`] when the file is not a model that can be run; others for invalid options.
    pub fn memory(gguf: &Gguf, options: &EngineOptions, kv_type: KvType) -> Result<MemoryPlan, EngineError> {
        let config = Config::from_gguf(gguf)?;
        let shape = options.cache(&config, kv_type)?;
        Ok(MemoryPlan::new(gguf, shape, workspace_sizes(options, shape.context))?)
    }

    /// Compiles all kernels that an engine for `gguf` needs on `device`, as [`Engine::warm_up`] does, but before there is a
    /// model. It takes no device memory, and may run in a thread while another one loads the weights.
    ///
    /// # Errors
    /// [`EngineError::Model`] when the file is not a model that can be run, [`EngineError::Gpu`]; others for invalid options.
    pub async fn precompile(device: &Device, gguf: &Gguf, options: &EngineOptions) -> Result<(), EngineError> {
        Self::precompile_with(device, gguf, options, |_, _| ()).await
    }

    /// Compiles what [`Engine::precompile`] does. Calls `progress` with the number of kernels compiled so far, and of all.
    /// Decode's kernels and those of small prompts come first. Only the header of `gguf` is read, so that a page can compile while it
    /// downloads the file. In a browser each kernel is awaited, so that the page goes on between them.
    ///
    /// # Errors
    /// Those of [`Engine::precompile`].
    pub async fn precompile_with(
        device: &Device,
        gguf: &Gguf,
        options: &EngineOptions,
        progress: impl FnMut(usize, usize),
    ) -> Result<(), EngineError> {
        let model = Model::dry_run(device, gguf).await?;
        Ok(Executor::new(&model, options).await?.precompile(device, progress).await?)
    }

    /// Compiles the kernels that a first reply to a short prompt waits for, as [`Engine::precompile_with`] compiles all. The
    /// others are compiled when they are first used.
    ///
    /// # Errors
    /// Those of [`Engine::precompile`].
    pub async fn precompile_first(
        device: &Device,
        gguf: &Gguf,
        options: &EngineOptions,
        progress: impl FnMut(usize, usize),
    ) -> Result<(), EngineError> {
        let model = Model::dry_run(device, gguf).await?;
        Ok(Executor::new(&model, options).await?.precompile_first(device, progress).await?)
    }

    /// Returns the kernels that an engine for `gguf` needs on `device`, each once, in the order of [`Engine::precompile_with`].
    /// Only the header of `gguf` is read.
    ///
    /// # Errors
    /// Those of [`Engine::precompile`].
    pub async fn planned_kernels(
        device: &Device,
        gguf: &Gguf,
        options: &EngineOptions,
    ) -> Result<PlannedKernels, EngineError> {
        let model = Model::dry_run(device, gguf).await?;
        let (kernels, first) = Executor::new(&model, options).await?.planned_kernels()?;
        Ok(PlannedKernels { kernels, first })
    }

    /// Opens an empty sequence. It takes no memory yet.
    pub fn session(&self) -> Session {
        let id = self.scheduler().open();
        Session::new(self.clone(), id)
    }

    /// Returns the shape of the model.
    pub fn config(&self) -> &Config {
        &self.shared.config
    }

    /// Returns the options that it was made with.
    pub fn options(&self) -> &EngineOptions {
        &self.shared.options
    }

    /// Returns the most tokens of a sequence.
    pub fn context(&self) -> u32 {
        self.shared.context
    }

    /// Returns how many blocks of the KV cache are in use.
    pub fn blocks(&self) -> BlockUsage {
        let scheduler = self.scheduler();
        let pool = scheduler.pool().full();
        BlockUsage { total: pool.blocks(), free: pool.free(), snapshots: scheduler.valid_snapshots() }
    }

    /// Returns whether the CPU computes. A future then computes while it is polled, and its thread does nothing else meanwhile.
    pub fn is_cpu(&self) -> bool {
        self.shared.is_cpu.load(Ordering::Relaxed)
    }

    /// Returns how many snapshots of the states of gated delta nets are kept at most; 0 for models without them.
    pub fn snapshot_capacity(&self) -> u32 {
        self.config().delta_net.as_ref().map_or(0, |_| self.options().state_snapshots)
    }

    /// Returns the counts of draft tokens so far ([`EngineOptions::lookup`]).
    pub fn lookup(&self) -> LookupStats {
        self.scheduler().lookup()
    }

    /// Returns the number of waiting and running requests.
    pub fn requests(&self) -> usize {
        self.scheduler().requests()
    }

    /// Returns the storage type of the KV cache.
    pub async fn kv_type(&self) -> KvType {
        self.shared.executor.with(|executor| executor.kv().shape.ty).await
    }

    /// Compiles all kernels that requests of any kind and size need, so that none waits for them: natively on several threads,
    /// while the caller's waits. Touches no sequence.
    ///
    /// # Errors
    /// [`EngineError::Gpu`].
    pub async fn warm_up(&self) -> Result<(), EngineError> {
        let done = Arc::new(Mutex::new(None));
        let done_by_step = Arc::clone(&done);
        let step = |executor: Box<Executor>| -> StepFuture<Box<Executor>> {
            Box::pin(async move {
                let result = executor.precompile(executor.device(), |_, _| ()).await;
                *done_by_step.lock().unwrap_or_else(PoisonError::into_inner) = Some(result);
                (executor, true)
            })
        };
        self.shared.executor.begin(step).await;
        let result = || done.lock().unwrap_or_else(PoisonError::into_inner).take();
        let waiter = self.shared.scheduler.wakers.caller();
        loop {
            let waited = self.shared.executor.event(waiter, result, |executor| self.begin_step(executor), false).await;
            if let Waited::Event(result) = waited {
                return Ok(result?);
            }
        }
    }

    /// Returns the times of all steps so far; empty unless [`EngineOptions::profile`] is set.
    pub async fn profile(&self) -> Profile {
        self.shared.executor.with(|executor| executor.profile.clone()).await
    }

    /// Returns the number of dispatches of the last decode pass; zero before the first.
    pub async fn decode_dispatches(&self) -> usize {
        self.shared.executor.with(|executor| executor.decode_dispatches()).await
    }

    /// Describes the last decode pass, counting the bytes of `experts` different experts in a layer
    /// ([`MemoryTraffic::experts`](crate::model::MemoryTraffic::experts)); all zero before the first.
    pub async fn decode_pass(&self, experts: f64) -> DecodePass {
        self.shared.executor.with(|executor| executor.decode_pass(experts)).await
    }

    /// Continues on another device after the first was lost ([`EngineError::needs_recovery`]): loads the model's weights again,
    /// from the same file. Requests in progress fail with [`EngineError::DeviceLost`]; sequences keep their tokens, which are
    /// computed again with their next request.
    ///
    /// # Errors
    /// Those of [`Model::load`] and [`Engine::new`]; [`EngineError::OtherModel`] for a file of another shape. The engine is
    /// then unchanged, as it is when the future is dropped.
    pub async fn recover(&self, device: &Device, gguf: &Gguf) -> Result<(), EngineError> {
        if Config::from_gguf(gguf)? != self.shared.config {
            return Err(EngineError::OtherModel);
        }
        let before = self.shared.executor.with(|executor| executor.model().clone()).await;
        let model = before.load_again(device, gguf).await?;
        let new = Executor::new(&model, &self.shared.options).await?;
        let share_decode_blocks = shares_decode_blocks(&model, &self.shared.options);
        self.shared
            .executor
            .with(|executor| {
                **executor = new;
                self.shared.is_cpu.store(device.is_cpu(), Ordering::Relaxed);
                let mut scheduler = self.scheduler();
                scheduler.forget_device(&EngineError::DeviceLost);
                scheduler.set_share_decode_blocks(share_decode_blocks);
            })
            .await;
        Ok(())
    }

    /// Locks the scheduler.
    pub(super) fn scheduler(&self) -> NotifyingGuard<'_> {
        self.shared.scheduler.lock()
    }

    /// Polls for the next event of a sequence, running steps if there is none. With `go_on` it is pending until there is one;
    /// else it is `None` after a step that brought none.
    ///
    /// # Errors
    /// [`EngineError::NoRequest`] when no event can come.
    pub(super) fn poll_event(
        &self,
        id: SequenceId,
        context: &mut Context<'_>,
        go_on: bool,
    ) -> Poll<Result<Option<SessionEvent>, EngineError>> {
        let next_event = || self.scheduler().next_event(id);
        let begin = |executor| self.begin_step(executor);
        let waited = ready!(self.shared.executor.poll_event(WaiterId::Session(id), context, next_event, begin, go_on));
        Poll::Ready(match waited {
            Waited::Event(event) => Ok(Some(event)),
            Waited::Step(worked) => match next_event() {
                None if !worked => Err(EngineError::NoRequest),
                event => Ok(event),
            },
        })
    }

    /// Returns a guard that ends the wait for a sequence's events when it is dropped.
    pub(super) fn waiting(&self, id: SequenceId) -> Waiting<'_> {
        Waiting { wakers: &self.shared.scheduler.wakers, id: WaiterId::Session(id) }
    }

    fn begin_step(&self, mut executor: Box<Executor>) -> StepFuture<Box<Executor>> {
        let scheduler = Arc::clone(&self.shared.scheduler);
        Box::pin(async move {
            let worked = StepRunner { scheduler, executor: &mut executor }.run().await;
            (executor, worked)
        })
    }

    /// Returns the next event of a sequence, for a caller who runs the programs; other sequences wait.
    ///
    /// # Errors
    /// [`EngineError::NoFreeSlot`] while requests of others have all slots or blocks, [`EngineError::NoRequest`], and those of
    /// `run`.
    pub(super) async fn next_event_by<E: From<EngineError>>(
        &self,
        id: SequenceId,
        run: &mut impl AsyncFnMut(&Device, &Program) -> Result<(), E>,
    ) -> Result<SessionEvent, E> {
        let mut lent = self.shared.executor.lend().await;
        let Some(executor) = lent.get() else { return Err(EngineError::NoRequest.into()) };
        let mut runner = StepRunner { scheduler: &*self.shared.scheduler, executor };
        loop {
            while runner.finish_step().await {}
            if let Some(event) = self.scheduler().next_event(id) {
                return Ok(event);
            }
            if !runner.run_by(id, run).await? {
                return Err(EngineError::NoFreeSlot.into());
            }
        }
    }
}

/// Returns the empty pools of a KV cache.
fn pools(shape: CacheShape) -> Pools {
    let pools = Pools::from(Pool::new(shape.blocks, shape.block));
    match shape.windowed {
        None => pools,
        Some(WindowPool { size, slack, blocks }) => pools.with_window(blocks, Window { size, slack }),
    }
}

/// Returns whether blocks filled by decode are shared: where decode and prefill reduce in the same order, or on request.
fn shares_decode_blocks(model: &Model, options: &EngineOptions) -> bool {
    options.plan.selection_on(model.device()).one_order() || options.share_decode_blocks
}
