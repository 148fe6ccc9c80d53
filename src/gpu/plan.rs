//! A forward pass as data: the dispatches in order, each with its kernel, parameters and buffers.

use std::sync::Arc;

use super::{
    Binds, Buffer, GpuError, Kernel, Op, RawBuffer,
    kernel::{Dispatch, check_aliases},
};

/// One dispatch of a plan.
#[derive(Debug)]
pub struct Step {
    /// Kernel, variant and parameters.
    pub(crate) op: Box<dyn Op>,
    /// One per binding of the kernel; `None` where the variant has none.
    pub(crate) buffers: Vec<Option<Arc<RawBuffer>>>,
    /// The part of the model it belongs to, as `blk.3 router`.
    pub(crate) label: String,
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

    /// The part of the model it belongs to.
    pub fn label(&self) -> &str {
        &self.label
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
        Self { steps: vec![Step { op, buffers, label: String::new() }] }
    }

    /// The dispatches.
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }
}

/// Records dispatches into a [`Plan`].
#[derive(Debug, Default)]
pub struct Recorder {
    plan: Plan,
    scope: String,
}

impl Recorder {
    /// A recorder with nothing in it.
    pub fn new() -> Self {
        Self::default()
    }

    /// Names the part of the model that the next dispatches belong to.
    pub fn scope(&mut self, name: impl Into<String>) {
        self.scope = name.into();
    }

    /// Appends a dispatch of `K`; one with an empty grid is left out.
    ///
    /// # Errors
    /// [`GpuError::Aliased`] when a written buffer is bound twice.
    pub fn dispatch<K: Kernel>(
        &mut self,
        _kernel: K,
        variant: K::Variant,
        params: K::Params,
        binds: K::Binds<'_>,
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
        self.plan.steps.push(Step { op: Box::new(op), buffers, label: self.scope.clone() });
        Ok(())
    }

    /// The recorded plan.
    pub fn finish(self) -> Plan {
        self.plan
    }
}
