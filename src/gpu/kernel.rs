//! The traits of a kernel: its declaration, its implementation, and its buffers on a GPU and on the host.

use std::{fmt::Debug, hash::Hash, sync::Arc};

use bytemuck::Pod;

use super::{
    Access, Binding, Caps, Element, Expect, Grid, RawBuffer, ReductionOrder, Source, SparseReads, binding::times,
};

/// A choice of one of a kernel's shaders: plain data that selects fragments and constants.
pub trait Variant: Copy + Eq + Hash + Debug + Send + Sync + 'static {}
impl<T: Copy + Eq + Hash + Debug + Send + Sync + 'static> Variant for T {}

/// The declaration of a compute kernel: its name, parameters and bindings. The macro `kernel!` writes it.
pub trait Declaration: Copy + Debug + Send + Sync + 'static {
    /// The path of the body below `wgsl/`, without the extension.
    const NAME: &'static str;
    /// The doc comment: formula, shapes and error bound.
    const DOC: &'static str;
    /// The choice of a shader.
    type Variant: Variant;
    /// The uniform parameters.
    type Params: Pod + Debug + Send + Sync;
    /// The buffers of a dispatch.
    type Binds<'a>: Binds;
    /// The bindings of the CPU kernel, as slices.
    type Host<'a>: Host<'a>;
    /// The bindings of a test case, as vectors.
    type Data: Data;
    /// The expected contents of the written bindings.
    type Expected: Expected;

    /// Returns the WGSL members of `Params`, one per line.
    fn params_wgsl() -> String;
    /// Returns the bindings in order, including those that `variant` does not have.
    fn bindings(variant: &Self::Variant) -> Vec<Binding>;
}

/// A compute kernel: its shaders, its CPU kernel, and its test cases.
pub trait Kernel: Declaration {
    /// Returns every variant that a plan can record on a device with `caps`.
    fn supported(caps: &Caps) -> Vec<Self::Variant>;

    /// Returns the sample of [`Kernel::supported`] that the conformance suite runs. It contains every variant that a plan
    /// of the models of `tests/it/coverage.rs` records.
    fn covered(caps: &Caps) -> Vec<Self::Variant> {
        Self::supported(caps)
    }

    /// Returns the reduction order of a variant. By default the kernel has an order of its own with subgroups, and another
    /// without.
    fn reduction_order(variant: Self::Variant) -> ReductionOrder {
        ReductionOrder::new(Self::NAME).subgroups(Self::source(variant).has_subgroups())
    }

    /// Returns the parts of a variant's shader.
    fn source(variant: Self::Variant) -> Source;

    /// Returns the number of workgroups of a dispatch. No workgroup may depend on another of the same dispatch: a dispatch
    /// may be split.
    fn grid(variant: Self::Variant, params: &Self::Params) -> Grid;

    /// Estimates the cost of a dispatch in multiply-adds. The default counts four per invocation.
    fn cost(variant: Self::Variant, params: &Self::Params) -> u64 {
        let (grid, workgroup) = (Self::grid(variant, params), Self::source(variant).workgroup());
        times([grid.x, grid.y, workgroup, 4])
    }

    /// Returns the binding that a dispatch reads only in part, depending on data.
    fn sparse_reads(_: Self::Variant, _: &Self::Params) -> Option<SparseReads> {
        None
    }

    /// Computes a dispatch on the CPU.
    fn cpu(variant: Self::Variant, params: &Self::Params, host: Self::Host<'_>);

    /// Returns test cases for the conformance suite.
    fn cases(variant: Self::Variant) -> Vec<Case<Self>>;

    /// Computes the expected contents of the buffers in f64, with the documented bound, from their contents `before` the
    /// dispatch. `None` for a kernel without a reference: then [`Expect::near_cpu_kernel`] judges.
    fn reference(_: Self::Variant, _: &Self::Params, _before: Self::Host<'_>) -> Option<Self::Expected> {
        None
    }
}

/// A field of a kernel's uniform parameters: a scalar of four bytes, or a group of them, declared by the macro `param_group!`.
pub trait Param: Pod {
    /// Returns the WGSL members of a field called `name`, one per line. A group becomes its members.
    fn members(name: &str) -> String;
}

impl Param for u32 {
    fn members(name: &str) -> String {
        format!("    {name}: u32,\n")
    }
}

impl Param for f32 {
    fn members(name: &str) -> String {
        format!("    {name}: f32,\n")
    }
}

/// The buffers of a dispatch.
pub trait Binds {
    /// Returns the buffers in the order of the declaration; `None` for a binding that the variant does not have.
    fn list(&self) -> Vec<Option<Arc<RawBuffer>>>;
}

/// The bindings of a CPU kernel.
pub trait Host<'a>: Sized {
    /// Takes the slots in the order of the declaration. An absent or misused slot becomes an empty slice.
    fn bind(slots: Vec<HostSlot<'a>>) -> Self;
}

/// The memory of a binding, for a CPU kernel.
#[derive(Debug)]
pub enum HostSlot<'a> {
    /// The variant has no such binding.
    Absent,
    /// The words of a read binding.
    Read(&'a [u32]),
    /// The words of a written binding.
    Write(&'a mut [u32]),
}

impl<'a> HostSlot<'a> {
    #[doc(hidden)]
    pub fn read<T: Element>(self) -> &'a [T] {
        match self {
            Self::Read(words) => elements(words),
            Self::Write(words) => elements(words),
            Self::Absent => &[],
        }
    }

    #[doc(hidden)]
    pub fn write<T: Element>(self) -> &'a mut [T] {
        match self {
            Self::Write(words) => {
                let whole = words.len() - words.len() % (size_of::<T>() / 4);
                bytemuck::cast_slice_mut(&mut words[..whole])
            }
            Self::Read(_) | Self::Absent => &mut [],
        }
    }
}

/// Returns the slots of bindings, from the words of each.
pub(crate) fn host_slots<'a>(bindings: &[Binding], words: &'a mut [Vec<u32>]) -> Vec<HostSlot<'a>> {
    let slot = |(words, binding): (&'a mut Vec<u32>, &Binding)| match (binding.present, binding.access) {
        (false, _) => HostSlot::Absent,
        (true, Access::Read) => HostSlot::Read(words),
        (true, Access::Write) => HostSlot::Write(words),
    };
    words.iter_mut().zip(bindings).map(slot).collect()
}

fn elements<T: Element>(words: &[u32]) -> &[T] {
    bytemuck::cast_slice(&words[..words.len() - words.len() % (size_of::<T>() / 4)])
}

/// The buffers of a test case before the dispatch.
pub trait Data: Clone + Default + Send {
    /// Returns the words of each binding in the order of the declaration.
    fn words(&self) -> Vec<Vec<u32>>;
}

/// The expected buffers of a test case.
pub trait Expected: Default + Send {
    /// Returns the expected contents of each binding in the order of the declaration.
    fn list(self) -> Vec<Option<Expect>>;
}

/// A test case: one dispatch of `K` with its inputs and expected outputs.
#[derive(Debug)]
pub struct Case<K: Kernel> {
    /// The case's name.
    pub name: String,
    /// The uniform parameters.
    pub params: K::Params,
    /// The buffers before the dispatch.
    pub data: K::Data,
    /// The expected contents of the written buffers.
    pub expected: K::Expected,
}

impl<K: Kernel> Case<K> {
    /// Creates a case that expects the result of [`Kernel::reference`].
    pub fn of_reference(name: impl Into<String>, variant: K::Variant, params: K::Params, data: K::Data) -> Self {
        let mut words = data.words();
        let before = K::Host::bind(host_slots(&K::bindings(&variant), &mut words));
        // A case without expectations fails.
        let expected = K::reference(variant, &params, before).unwrap_or_default();
        Self { name: name.into(), params, data, expected }
    }
}
