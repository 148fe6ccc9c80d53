//! A forward pass as data: dispatches in order, each with its kernel, parameters and buffers.

use std::{fmt::Debug, future::Future, pin::Pin, sync::Arc};

use super::{
    Access, Binds, Buffer, Device, GpuError, Grid, Kernel, Op, RawBuffer, Scope,
    op::{Dispatch, check_aliases},
};

/// One dispatch of a plan.
#[derive(Debug)]
pub struct Step {
    /// Kernel, variant and parameters.
    pub(crate) op: Box<dyn Op>,
    /// One per binding of the kernel; `None` for a binding that the variant does not have.
    pub(crate) buffers: Vec<Option<Arc<RawBuffer>>>,
    /// The part of the model it belongs to.
    pub(crate) scope: Scope,
    /// The grid of an indirect dispatch.
    pub(crate) args: Option<GridArgs>,
    /// Whether the CPU kernel runs on every device.
    pub(crate) on_host: bool,
    /// An action of the host before it.
    pub(crate) before: Option<Arc<dyn HostAction>>,
}

/// An action of the host between two dispatches of a plan, such as loading weights that an earlier one asks for.
pub(crate) trait HostAction: Debug + Shareable {
    /// Runs it, after all earlier dispatches are submitted to `device` and before any later one is.
    fn run<'a>(&'a self, device: &'a Device) -> Acting<'a>;
}

/// The future of a [`HostAction`].
#[cfg(not(target_arch = "wasm32"))]
pub(crate) type Acting<'a> = Pin<Box<dyn Future<Output = Result<(), GpuError>> + Send + 'a>>;
/// The future of a [`HostAction`]. Objects of a browser are bound to their thread.
#[cfg(target_arch = "wasm32")]
pub(crate) type Acting<'a> = Pin<Box<dyn Future<Output = Result<(), GpuError>> + 'a>>;

/// `Send + Sync`, except in a browser.
#[cfg(not(target_arch = "wasm32"))]
pub(crate) trait Shareable: Send + Sync {}
#[cfg(not(target_arch = "wasm32"))]
impl<T: Send + Sync> Shareable for T {}
/// `Send + Sync`, except in a browser.
#[cfg(target_arch = "wasm32")]
pub(crate) trait Shareable {}
#[cfg(target_arch = "wasm32")]
impl<T> Shareable for T {}

/// A grid in a buffer: the words x, y and z.
#[derive(Debug)]
pub(crate) struct GridArgs {
    pub(crate) buffer: Arc<RawBuffer>,
    /// The offset of x in bytes.
    pub(crate) offset: u64,
}

impl Step {
    /// Returns the kernel, its variant and its parameters.
    pub fn op(&self) -> &dyn Op {
        &*self.op
    }

    /// Returns its buffers in the order of the bindings, as words; `None` for a binding that the variant does not have.
    pub fn buffers(&self) -> impl Iterator<Item = Option<Buffer<u32>>> {
        self.buffers.iter().map(|buffer| buffer.as_ref().map(Buffer::of))
    }

    /// Returns whether `other` has the same kernel, variant, parameters, buffers and grid.
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

    /// Returns the buffers that it writes.
    pub(crate) fn written(&self) -> impl Iterator<Item = &Arc<RawBuffer>> {
        let bound = self.buffers.iter().zip(self.op.bindings());
        bound.filter(|(_, binding)| binding.access == Access::Write).filter_map(|(buffer, _)| buffer.as_ref())
    }

    /// Returns whether the device has counted its workgroups: those of the kernel's grid are the most that there can be.
    pub fn is_indirect(&self) -> bool {
        self.args.is_some()
    }

    /// Returns the part of the model it belongs to.
    pub fn scope(&self) -> Scope {
        self.scope
    }

    /// Returns whether `next` can be submitted with it: both run in the same place, with no action of the host in between.
    pub(crate) fn is_contiguous_with(&self, next: &Self) -> bool {
        self.on_host == next.on_host && next.before.is_none()
    }
}

/// Dispatches in the order in which they run.
#[derive(Debug, Default)]
pub struct Plan {
    pub(crate) steps: Vec<Step>,
}

impl Plan {
    /// Creates a plan of one dispatch. `buffers` are in the order of the bindings.
    pub(crate) fn single(op: Box<dyn Op>, buffers: &[Option<Buffer<u32>>]) -> Self {
        let buffers = buffers.iter().map(|b| b.as_ref().map(|b| Arc::clone(&b.raw))).collect();
        Self { steps: vec![Step { op, buffers, scope: Scope::default(), args: None, on_host: false, before: None }] }
    }

    /// Returns its dispatches.
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// Returns its dispatches, each for itself.
    pub(crate) fn into_steps(self) -> Vec<Step> {
        self.steps
    }

    /// Keeps the steps for which `wanted` returns true.
    pub(crate) fn filtered(mut self, wanted: impl FnMut(&Step) -> bool) -> Self {
        self.steps.retain(wanted);
        self
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
    /// Creates an empty recorder.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the part of the model that the next dispatches belong to.
    pub fn scope(&mut self, scope: impl Into<Scope>) {
        self.scope = scope.into();
    }

    /// Sets whether the CPU kernels run the next dispatches on a GPU's device too: [`Program::run`](super::Program::run) then
    /// waits for the GPU, reads their buffers, and writes those that they change.
    pub fn on_host(&mut self, on: bool) {
        self.on_host = on;
    }

    /// Records an action of the host before the next dispatch.
    pub(crate) fn before(&mut self, action: impl HostAction + 'static) {
        self.before = Some(Arc::new(action));
    }

    /// Appends a dispatch of `K`, unless its grid is empty.
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

    /// Appends an indirect dispatch of `K`: on a GPU the grid is the words x, y and z that an earlier dispatch has written to
    /// `args` from element `first` on.
    ///
    /// The indirect grid must be contained in the kernel's own, and leave out only workgroups that do nothing: the CPU kernel
    /// and the reference compute the kernel's own grid. The device's limit is checked for that grid.
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
        _: K,
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
            // The kernel that writes the words does not fold the grid.
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

    /// Returns the recorded plan.
    pub fn finish(self) -> Plan {
        self.plan
    }
}
