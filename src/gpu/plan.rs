//! A forward pass as data: the dispatches in order, each with its kernel, parameters and buffers.

use std::{fmt::Debug, future::Future, pin::Pin, sync::Arc};

use super::{
    Access, Binds, Buffer, Device, GpuError, Grid, Kernel, Op, RawBuffer, Scope, encode,
    kernel::{Dispatch, check_aliases},
};

/// One dispatch of a plan.
#[derive(Debug)]
pub struct Step {
    /// Kernel, variant and parameters.
    pub(crate) op: Box<dyn Op>,
    /// One per binding of the kernel; `None` where the variant has none.
    pub(crate) buffers: Vec<Option<Arc<RawBuffer>>>,
    /// The part of the model it belongs to.
    pub(crate) scope: Scope,
    /// Where a GPU finds the grid, if not in the kernel's parameters.
    pub(crate) args: Option<GridArgs>,
    /// Run by the CPU kernel, whatever the device.
    pub(crate) on_host: bool,
    /// What the host does before it.
    pub(crate) before: Option<Arc<dyn HostAction>>,
}

/// Something that the host does between two dispatches of a plan, as to bring weights that an earlier one asks for.
pub(crate) trait HostAction: Debug + Shareable {
    /// Does it: `device` has been sent all earlier dispatches, and is sent no later one before this is done.
    fn run<'a>(&'a self, device: &'a Device) -> Acting<'a>;
}

/// A [`HostAction`] under way.
#[cfg(not(target_arch = "wasm32"))]
pub(crate) type Acting<'a> = Pin<Box<dyn Future<Output = Result<(), GpuError>> + Send + 'a>>;
/// A [`HostAction`] under way. A browser's objects stay in their thread.
#[cfg(target_arch = "wasm32")]
pub(crate) type Acting<'a> = Pin<Box<dyn Future<Output = Result<(), GpuError>> + 'a>>;

/// What threads may share, where there are threads.
#[cfg(not(target_arch = "wasm32"))]
pub(crate) trait Shareable: Send + Sync {}
#[cfg(not(target_arch = "wasm32"))]
impl<T: Send + Sync> Shareable for T {}
/// What threads may share, where there are threads.
#[cfg(target_arch = "wasm32")]
pub(crate) trait Shareable {}
#[cfg(target_arch = "wasm32")]
impl<T> Shareable for T {}

/// A grid in a buffer: three words, x, y and z.
#[derive(Debug)]
pub(crate) struct GridArgs {
    pub(crate) buffer: Arc<RawBuffer>,
    /// Its first byte.
    pub(crate) offset: u64,
}

impl Step {
    /// The kernel, its variant and its parameters.
    pub fn op(&self) -> &dyn Op {
        &*self.op
    }

    /// Its buffers in the order of the kernel's bindings, as words; `None` where the variant has none.
    pub fn buffers(&self) -> impl Iterator<Item = Option<Buffer<u32>>> {
        self.buffers.iter().map(|buffer| buffer.as_ref().map(Buffer::of))
    }

    /// Whether `other` does the same: kernel, variant, parameters, buffers and grid.
    pub(crate) fn same(&self, other: &Self) -> bool {
        let ids = |step: &Self| step.buffers.iter().map(|b| b.as_ref().map(|b| b.id)).collect::<Vec<_>>();
        let args = |step: &Self| step.args.as_ref().map(|args| (args.buffer.id, args.offset));
        self.op.pipeline_key() == other.op.pipeline_key()
            && self.op.params() == other.op.params()
            && ids(self) == ids(other)
            && args(self) == args(other)
            && self.on_host == other.on_host
            && self.before.is_some() == other.before.is_some()
    }

    /// The buffers that it writes.
    pub(crate) fn written(&self) -> impl Iterator<Item = &Arc<RawBuffer>> {
        let bound = self.buffers.iter().zip(self.op.bindings());
        bound.filter(|(_, binding)| binding.access == Access::Write).filter_map(|(buffer, _)| buffer.as_ref())
    }

    /// Returns the part of the model it belongs to.
    pub fn scope(&self) -> Scope {
        self.scope
    }

    /// Whether `next` can be sent with it: on the same side, and with nothing to do in between.
    pub(crate) fn goes_on(&self, next: &Self) -> bool {
        self.on_host == next.on_host && next.before.is_none()
    }
}

/// Dispatches in the order in which they run.
#[derive(Debug, Default)]
pub struct Plan {
    pub(crate) steps: Vec<Step>,
}

impl Plan {
    /// A plan of one dispatch, its buffers in the order of the bindings.
    pub(crate) fn single(op: Box<dyn Op>, buffers: &[Option<Buffer<u32>>]) -> Self {
        let buffers = buffers.iter().map(|b| b.as_ref().map(|b| Arc::clone(&b.raw))).collect();
        Self { steps: vec![Step { op, buffers, scope: Scope::default(), args: None, on_host: false, before: None }] }
    }

    /// The dispatches.
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// Only those of its steps that `wanted` wants.
    pub(crate) fn filtered(mut self, wanted: impl FnMut(&Step) -> bool) -> Self {
        self.steps.retain(wanted);
        self
    }

    /// Compiles the kernels that it needs and `device` has not compiled yet, so that no program waits for them: natively on
    /// several threads, while the caller's waits.
    ///
    /// # Errors
    /// [`GpuError::Shader`] for a kernel that does not compile, [`GpuError::Lost`].
    pub async fn compile(&self, device: &Device) -> Result<(), GpuError> {
        match device.gpu() {
            Some(gpu) => encode::compile(gpu, self).await,
            None => Ok(()),
        }
    }
}

/// Records dispatches into a [`Plan`].
#[derive(Debug, Default)]
pub struct Recorder {
    plan: Plan,
    scope: Scope,
    on_host: bool,
    before: Option<Arc<dyn HostAction>>,
}

impl Recorder {
    /// A recorder with nothing in it.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the part of the model that the next dispatches belong to.
    pub fn scope(&mut self, scope: impl Into<Scope>) {
        self.scope = scope.into();
    }

    /// Whether the next dispatches are run by their CPU kernels on the host although the device is a GPU:
    /// [`Program::run`](super::Program::run) then waits for the GPU, reads their buffers, and writes what they change.
    pub fn on_host(&mut self, on: bool) {
        self.on_host = on;
    }

    /// Has the host do something before the next dispatch.
    pub(crate) fn before(&mut self, action: impl HostAction + 'static) {
        self.before = Some(Arc::new(action));
    }

    /// Appends a dispatch of `K`; one with an empty grid is left out.
    ///
    /// # Errors
    /// [`GpuError::Aliased`] when a written buffer is bound twice.
    pub fn dispatch<K: Kernel>(
        &mut self,
        kernel: K,
        variant: K::Variant,
        params: K::Params,
        binds: K::Binds<'_>,
    ) -> Result<(), GpuError> {
        self.record(kernel, variant, params, binds, None)
    }

    /// As [`Recorder::dispatch`], but on a GPU the grid is the three words x, y and z that `args` has from element
    /// `first` on when the dispatch begins, written by an earlier one.
    ///
    /// It must be the kernel's own grid, less workgroups that would do nothing: what the dispatch computes is the same, so
    /// that the CPU kernel and the definition cover the kernel's own grid. That one is checked against the device's limit, and is
    /// the upper bound of what may be written.
    ///
    /// # Errors
    /// [`GpuError::Aliased`] when a written buffer is bound twice or is `args`; [`GpuError::GridTooLarge`] when the
    /// kernel's grid would be folded ([`Grid::FOLD`]); [`GpuError::OutOfRange`] when `args` has fewer words.
    pub fn dispatch_indirect<K: Kernel>(
        &mut self,
        kernel: K,
        variant: K::Variant,
        params: K::Params,
        binds: K::Binds<'_>,
        args: &Buffer<u32>,
        first: u32,
    ) -> Result<(), GpuError> {
        let end = u64::from(first) + 3;
        if end > args.len() {
            return Err(GpuError::OutOfRange { what: "a grid", buffer: args.raw.label.clone() });
        }
        let args = GridArgs { buffer: Arc::clone(&args.raw), offset: 4 * u64::from(first) };
        self.record(kernel, variant, params, binds, Some(args))
    }

    fn record<K: Kernel>(
        &mut self,
        _kernel: K,
        variant: K::Variant,
        params: K::Params,
        binds: K::Binds<'_>,
        args: Option<GridArgs>,
    ) -> Result<(), GpuError> {
        let op = Dispatch::<K> { variant, params };
        let grid = op.grid();
        if grid.x == 0 || grid.y == 0 {
            return Ok(());
        }
        let bindings = K::bindings(&variant);
        let buffers: Vec<_> =
            binds.list().into_iter().zip(&bindings).map(|(buffer, b)| buffer.filter(|_| b.present)).collect();
        check_aliases(K::NAME, &bindings, &buffers)?;
        if let Some(args) = &args {
            // Who writes the words knows nothing of folding.
            if grid.x > Grid::FOLD {
                return Err(GpuError::GridTooLarge { kernel: K::NAME, x: grid.x, y: grid.y });
            }
            let mut written = buffers.iter().zip(&bindings).filter(|(_, b)| b.access == Access::Write);
            if written.any(|(buffer, _)| buffer.as_ref().is_some_and(|b| b.id == args.buffer.id)) {
                return Err(GpuError::Aliased { kernel: K::NAME, buffer: args.buffer.label.clone() });
            }
        }
        let (scope, on_host, before) = (self.scope, self.on_host, self.before.take());
        self.plan.steps.push(Step { op: Box::new(op), buffers, scope, args, on_host, before });
        Ok(())
    }

    /// The recorded plan.
    pub fn finish(self) -> Plan {
        self.plan
    }
}
