//! Dispatches without their kernels' types.

use std::{
    any::{Any, TypeId},
    fmt::Debug,
    hash::{Hash, Hasher},
    sync::Arc,
};

use super::{
    Access, Binding, Expect, Expected, Fragment, GpuError, Grid, Host, HostSlot, Kernel, RawBuffer, ReductionOrder,
    Shader, Source, SparseReads, Variant,
};

/// A dispatch without its kernel's types, as plans have it.
pub trait Op: Debug + Send + Sync {
    /// Returns [`Declaration::NAME`](super::Declaration::NAME).
    fn kernel(&self) -> &'static str;
    /// Returns the variant in `Debug` form.
    fn variant(&self) -> String;
    /// Returns the variant, of the kernel's type.
    fn typed_variant(&self) -> &dyn Any;
    /// Returns the parameters, of the kernel's type.
    fn typed_params(&self) -> &dyn Any;
    /// Returns the key of its pipeline.
    fn pipeline_key(&self) -> PipelineKey;
    /// Returns [`Kernel::reduction_order`].
    fn reduction_order(&self) -> ReductionOrder;
    /// Returns the composed WGSL.
    fn shader(&self) -> Shader {
        self.shader_with(None)
    }
    /// Returns the composed WGSL, with a fragment replaced by another one.
    fn shader_with(&self, replacement: Option<[Fragment; 2]>) -> Shader;
    /// Returns its bindings.
    fn bindings(&self) -> Vec<Binding>;
    /// Returns the bytes of the uniform parameters.
    fn params(&self) -> &[u8];
    /// Returns the uniform parameters in `Debug` form.
    fn shape(&self) -> String;
    /// Returns the invocations of a workgroup.
    fn workgroup(&self) -> u32;
    /// Returns its grid.
    fn grid(&self) -> Grid;
    /// Returns [`Kernel::cost`].
    fn cost(&self) -> u64;
    /// Returns [`Kernel::sparse_reads`].
    fn sparse_reads(&self) -> Option<SparseReads>;
    /// Runs the CPU kernel.
    fn run_cpu(&self, slots: Vec<HostSlot<'_>>);
    /// Returns [`Kernel::reference`] per binding.
    fn reference(&self, before: Vec<HostSlot<'_>>) -> Option<Vec<Option<Expect>>>;
}

/// A dispatch of `K`.
#[derive(Debug)]
pub(crate) struct Dispatch<K: Kernel> {
    pub(crate) variant: K::Variant,
    pub(crate) params: K::Params,
}

/// Returns a dispatch of `K` without its types.
pub(crate) fn erase<K: Kernel>(variant: K::Variant, params: K::Params) -> Box<dyn Op> {
    Box::new(Dispatch::<K> { variant, params })
}

/// Returns the composed WGSL of a variant.
pub fn shader<K: Kernel>(variant: K::Variant) -> Shader {
    compose::<K>(variant, K::source(variant))
}

fn compose<K: Kernel>(variant: K::Variant, source: Source) -> Shader {
    source.compose(&K::params_wgsl(), &K::bindings(&variant))
}

impl<K: Kernel> Op for Dispatch<K> {
    fn kernel(&self) -> &'static str {
        K::NAME
    }
    fn variant(&self) -> String {
        format!("{:?}", self.variant)
    }
    fn typed_variant(&self) -> &dyn Any {
        &self.variant
    }
    fn typed_params(&self) -> &dyn Any {
        &self.params
    }
    fn pipeline_key(&self) -> PipelineKey {
        PipelineKey { kernel: TypeId::of::<K>(), variant: Arc::new(self.variant) }
    }
    fn reduction_order(&self) -> ReductionOrder {
        K::reduction_order(self.variant)
    }
    fn shader_with(&self, replacement: Option<[Fragment; 2]>) -> Shader {
        let source = K::source(self.variant);
        compose::<K>(self.variant, replacement.into_iter().fold(source, |source, [old, new]| source.replace(old, new)))
    }
    fn bindings(&self) -> Vec<Binding> {
        K::bindings(&self.variant)
    }
    fn params(&self) -> &[u8] {
        bytemuck::bytes_of(&self.params)
    }
    fn shape(&self) -> String {
        format!("{:?}", self.params)
    }
    fn workgroup(&self) -> u32 {
        K::source(self.variant).workgroup()
    }
    fn grid(&self) -> Grid {
        K::grid(self.variant, &self.params)
    }
    fn cost(&self) -> u64 {
        K::cost(self.variant, &self.params)
    }
    fn sparse_reads(&self) -> Option<SparseReads> {
        K::sparse_reads(self.variant, &self.params)
    }
    fn run_cpu(&self, slots: Vec<HostSlot<'_>>) {
        K::cpu(self.variant, &self.params, K::Host::bind(slots));
    }
    fn reference(&self, before: Vec<HostSlot<'_>>) -> Option<Vec<Option<Expect>>> {
        K::reference(self.variant, &self.params, K::Host::bind(before)).map(Expected::list)
    }
}

/// A kernel and a variant: the key of a pipeline.
#[derive(Clone, Debug)]
pub struct PipelineKey {
    kernel: TypeId,
    variant: Arc<dyn AnyVariant>,
}

trait AnyVariant: Debug + Send + Sync {
    fn as_any(&self) -> &dyn Any;
    fn same(&self, other: &dyn AnyVariant) -> bool;
    fn hash_into(&self, state: &mut dyn Hasher);
}

impl<V: Variant> AnyVariant for V {
    fn as_any(&self) -> &dyn Any {
        self
    }
    fn same(&self, other: &dyn AnyVariant) -> bool {
        other.as_any().downcast_ref::<V>() == Some(self)
    }
    fn hash_into(&self, mut state: &mut dyn Hasher) {
        self.hash(&mut state);
    }
}

impl PartialEq for PipelineKey {
    fn eq(&self, other: &Self) -> bool {
        self.kernel == other.kernel && self.variant.same(&*other.variant)
    }
}
impl Eq for PipelineKey {}
impl Hash for PipelineKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.kernel.hash(state);
        self.variant.hash_into(state);
    }
}

/// Checks that no written buffer is bound twice.
pub(crate) fn check_aliases(
    kernel: &'static str,
    bindings: &[Binding],
    buffers: &[Option<Arc<RawBuffer>>],
) -> Result<(), GpuError> {
    for (i, (binding, buffer)) in bindings.iter().zip(buffers).enumerate() {
        let Some(buffer) = buffer.as_ref().filter(|_| binding.access == Access::Write) else { continue };
        let again =
            buffers.iter().enumerate().any(|(j, other)| j != i && other.as_ref().is_some_and(|o| o.id == buffer.id));
        if again {
            return Err(GpuError::Aliased { kernel, buffer: buffer.label.clone() });
        }
    }
    Ok(())
}
