//! One kernel, one declaration: parameters, named bindings, variants, grid, CPU kernel and test cases in one place.

use std::{
    any::{Any, TypeId},
    fmt::Debug,
    hash::{Hash, Hasher},
    sync::Arc,
};

use bytemuck::Pod;

use super::{Caps, Case, Element, GpuError, RawBuffer, Source};

/// A choice among a kernel's shaders: plain data that names slot fillings and injected constants.
pub trait Variant: Copy + Eq + Hash + Debug + Send + Sync + 'static {}
impl<T: Copy + Eq + Hash + Debug + Send + Sync + 'static> Variant for T {}

/// The declaration of a compute kernel: its name, parameters and bindings. The macro `kernel!` writes it.
pub trait Declaration: Copy + Debug + Send + Sync + 'static {
    /// Path of the body below `wgsl/`, without the extension.
    const NAME: &'static str;
    /// The doc comment: what the kernel computes, in which shapes, within what bound.
    const DOC: &'static str;
    /// What distinguishes the kernel's shaders.
    type Variant: Variant;
    /// The uniform parameters.
    type Params: Pod + Debug + Send + Sync;
    /// The buffers of a dispatch.
    type Binds<'a>: Binds;
    /// The bindings as slices, for the CPU kernel.
    type Host<'a>: Host<'a>;
    /// The bindings as vectors, for a test case.
    type Data: Data;
    /// What a test case expects of each written binding.
    type Expected: Expected;

    /// Returns the WGSL members of `Params`, one a line.
    fn params_wgsl() -> String;
    /// Returns the bindings in order. Those that `variant` does not have are marked absent.
    fn bindings(variant: &Self::Variant) -> Vec<Binding>;
}

/// A compute kernel: what its declaration computes, on a GPU and on the CPU, and how it is judged.
pub trait Kernel: Declaration {
    /// Returns every variant that a plan can record on a device with `caps`.
    fn supported(caps: &Caps) -> Vec<Self::Variant>;

    /// Returns the sample of [`Kernel::supported`] that the conformance suite runs. It contains every variant that a plan
    /// of the models of `tests/it/coverage.rs` records.
    fn covered(caps: &Caps) -> Vec<Self::Variant> {
        Self::supported(caps)
    }

    /// Returns the order in which a variant sums. The default is an order of the kernel's own, one with subgroups and one
    /// without.
    fn reduction_order(variant: Self::Variant) -> ReductionOrder {
        ReductionOrder { name: Self::NAME, subgroups: Self::source(variant).has_subgroups() }
    }

    /// Returns what a variant's shader is composed of.
    fn source(variant: Self::Variant) -> Source;

    /// Returns the number of workgroups of a dispatch. No workgroup may depend on another of the same dispatch: a dispatch
    /// may be split.
    fn grid(variant: Self::Variant, params: &Self::Params) -> Grid;

    /// Returns about how many multiply-adds a dispatch takes. The default counts four an invocation.
    fn cost(variant: Self::Variant, params: &Self::Params) -> u64 {
        let (grid, workgroup) = (Self::grid(variant, params), Self::source(variant).workgroup());
        times([grid.x, grid.y, workgroup, 4])
    }

    /// Returns the binding of which a dispatch reads only a part that data choose, if there is one.
    fn sparse_reads(_: Self::Variant, _: &Self::Params) -> Option<SparseReads> {
        None
    }

    /// Computes a dispatch on the CPU, on the same parameters and buffers.
    fn cpu(variant: Self::Variant, params: &Self::Params, host: Self::Host<'_>);

    /// Returns inputs with the expected outputs, for the conformance suite.
    fn cases(variant: Self::Variant) -> Vec<Case<Self>>;

    /// Returns what the buffers must hold after a dispatch, given what they hold `before`: the f64 reference with the
    /// documented bound. `None` where a kernel has no reference but its CPU kernel; then
    /// [`Expect::near_cpu_kernel`](super::Expect::near_cpu_kernel) judges.
    fn reference(_: Self::Variant, _: &Self::Params, _: Self::Host<'_>) -> Option<Self::Expected> {
        None
    }
}

/// An order of summation. Where two variants have the same, one row's inputs give the same bits on one adapter, whichever
/// of them computes it, and whatever the number of rows, tiles or chunks that are computed with it; tests/it/order.rs
/// compares those that share one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ReductionOrder {
    name: &'static str,
    subgroups: bool,
}

impl ReductionOrder {
    /// The order called `name`.
    pub const fn new(name: &'static str) -> Self {
        Self { name, subgroups: false }
    }

    /// The same, with parts of the sums taken by subgroups or not.
    pub const fn subgroups(self, taken: bool) -> Self {
        Self { subgroups: taken, ..self }
    }

    /// What it is called: of a kernel that shares it with no other, the kernel's name.
    pub const fn name(self) -> &'static str {
        self.name
    }

    /// Whether subgroups take parts of the sums: then it is as the adapter's subgroups are.
    pub const fn by_subgroups(self) -> bool {
        self.subgroups
    }
}

/// A binding of which a dispatch reads only what its data choose: for counting bytes. Where a stack is bound in parts, the
/// same share of each part is counted, and of all together what is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SparseReads {
    /// The binding's name.
    pub binding: &'static str,
    /// What is chosen.
    pub choice: SparseUnit,
    /// How many of them at most.
    pub most: u32,
    /// Of how many, in all parts.
    pub of: u32,
}

/// What data choose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SparseUnit {
    /// Rows of a table, by token.
    Rows,
    /// Matrices of a stack, by expert.
    Experts,
}

/// The product of counts.
pub(crate) fn times<const N: usize>(counts: [u32; N]) -> u64 {
    counts.into_iter().fold(1, |product: u64, count| product.saturating_mul(count.into()))
}

/// How a binding is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Only read.
    Read,
    /// Written, perhaps read too.
    Write,
}

/// A storage binding of a kernel variant.
#[derive(Clone, Copy, Debug)]
pub struct Binding {
    /// Its name in WGSL and in Rust.
    pub name: &'static str,
    /// How it is used.
    pub access: Access,
    /// The WGSL type of its elements.
    pub element: &'static str,
    /// Whether the variant has it.
    pub present: bool,
}

/// A logical grid of workgroups. `x` may exceed a device's limit: it is folded over `z`, and `grid_id` of
/// `wgsl/lib/grid.wgsl` unfolds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grid {
    /// Workgroups along x.
    pub x: u32,
    /// Workgroups along y.
    pub y: u32,
}

impl Grid {
    /// Workgroups a folded row of the grid has; `wgsl/lib/grid.wgsl` knows the same number.
    pub const FOLD: u32 = 32_768;

    /// What is dispatched, `[x, y, z]`; `None` when it is more than `max` along an axis even when folded.
    pub fn workgroups(self, max: u32) -> Option<[u32; 3]> {
        let folded = if self.x <= max.min(Self::FOLD) {
            [self.x, self.y, 1]
        } else {
            [Self::FOLD, self.y, self.x.div_ceil(Self::FOLD)]
        };
        folded.iter().all(|n| *n <= max).then_some(folded)
    }
}

/// A field of a kernel's uniform parameters: a scalar of four bytes, or a group of them that [`param_group!`] declares.
pub trait Param: Pod {
    /// Returns the WGSL members of a field called `name`, one a line. A group's members are flat: WGSL does not see the group.
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

/// The buffers of one dispatch, in the order of the declaration.
pub trait Binds {
    /// The buffers; `None` for one that the variant does not have.
    fn list(&self) -> Vec<Option<Arc<RawBuffer>>>;
}

/// A CPU kernel's view of its bindings.
pub trait Host<'a>: Sized {
    /// Takes the slots in the order of the declaration. An absent or misused slot becomes an empty slice.
    fn bind(slots: Vec<HostSlot<'a>>) -> Self;
}

/// The memory behind one binding, for a CPU kernel.
#[derive(Debug)]
pub enum HostSlot<'a> {
    /// The variant has no such binding.
    Absent,
    /// Words that are read.
    Read(&'a [u32]),
    /// Words that are written.
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

/// The slots of buffers that are held as words, one of which each binding has.
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

/// A test case's buffers before the dispatch.
pub trait Data: Clone + Default + Send {
    /// Every binding's words, in the order of the declaration.
    fn words(&self) -> Vec<Vec<u32>>;
}

/// A test case's expectations.
pub trait Expected: Default + Send {
    /// Per binding, in the order of the declaration.
    fn list(self) -> Vec<Option<super::Expect>>;
}

/// A dispatch with its types erased, as plans keep it.
pub trait Op: Debug + Send + Sync {
    /// [`Kernel::NAME`].
    fn kernel(&self) -> &'static str;
    /// The variant in its `Debug` form.
    fn variant(&self) -> String;
    /// What distinguishes its pipeline from others.
    fn pipeline_key(&self) -> PipelineKey;
    /// [`Kernel::reduction_order`].
    fn reduction_order(&self) -> ReductionOrder;
    /// The composed WGSL.
    fn shader(&self) -> super::Shader;
    /// Its bindings.
    fn bindings(&self) -> Vec<Binding>;
    /// The uniform parameters' bytes.
    fn params(&self) -> &[u8];
    /// The uniform parameters in their `Debug` form.
    fn shape(&self) -> String;
    /// Its grid.
    fn grid(&self) -> Grid;
    /// [`Kernel::cost`].
    fn cost(&self) -> u64;
    /// [`Kernel::sparse_reads`].
    fn sparse_reads(&self) -> Option<SparseReads>;
    /// Runs the CPU kernel.
    fn run_cpu(&self, slots: Vec<HostSlot<'_>>);
    /// [`Kernel::reference`], per binding.
    fn reference(&self, before: Vec<HostSlot<'_>>) -> Option<Vec<Option<super::Expect>>>;
}

/// A dispatch of `K`.
#[derive(Debug)]
pub(crate) struct Dispatch<K: Kernel> {
    pub(crate) variant: K::Variant,
    pub(crate) params: K::Params,
}

/// A dispatch of `K` without its types.
pub(crate) fn erase<K: Kernel>(variant: K::Variant, params: K::Params) -> Box<dyn Op> {
    Box::new(Dispatch::<K> { variant, params })
}

/// The WGSL of a variant, as it is compiled.
pub fn shader<K: Kernel>(variant: K::Variant) -> super::Shader {
    K::source(variant).compose(&K::params_wgsl(), &K::bindings(&variant))
}

impl<K: Kernel> Op for Dispatch<K> {
    fn kernel(&self) -> &'static str {
        K::NAME
    }
    fn variant(&self) -> String {
        format!("{:?}", self.variant)
    }
    fn pipeline_key(&self) -> PipelineKey {
        PipelineKey { kernel: TypeId::of::<K>(), variant: Arc::new(self.variant) }
    }
    fn reduction_order(&self) -> ReductionOrder {
        K::reduction_order(self.variant)
    }
    fn shader(&self) -> super::Shader {
        shader::<K>(self.variant)
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
    fn reference(&self, before: Vec<HostSlot<'_>>) -> Option<Vec<Option<super::Expect>>> {
        K::reference(self.variant, &self.params, K::Host::bind(before)).map(Expected::list)
    }
}

/// Kernel and variant: what a pipeline cache is keyed by.
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

/// Refuses a dispatch that wgpu would refuse: a written buffer that is bound twice.
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

/// Declares parameters that several kernels share: a struct that is a field of their `params`, and in WGSL its members one
/// after the other.
///
/// ```text
/// param_group! {
///     /// The shape of a matrix product.
///     pub struct MatmulShape {
///         /// Rows of the output.
///         rows: u32,
///         /// Outputs of a row.
///         n: u32,
///     }
/// }
/// ```
macro_rules! param_group {
    (
        $(#[$meta:meta])*
        $vis:vis struct $Group:ident { $($(#[$pmeta:meta])* $param:ident: $ptype:ty),* $(,)? }
    ) => {
        $(#[$meta])*
        #[repr(C)]
        #[derive(Clone, Copy, Debug, Default, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
        $vis struct $Group { $($(#[$pmeta])* pub $param: $ptype),* }

        impl $crate::gpu::Param for $Group {
            fn members(_: &str) -> String {
                let members: &[String] = &[$(<$ptype as $crate::gpu::Param>::members(stringify!($param))),*];
                members.concat()
            }
        }
    };
}
pub(crate) use param_group;

/// Declares a kernel: its marker type, `Params`, `Binds`, `Host`, `Data` and `Expected`, and the WGSL of the parameters
/// and bindings ([`Declaration`]). What it computes is then written as an implementation of [`Kernel`]. The type of a
/// parameter is `u32`, `f32`, or a [`param_group!`]: the CPU kernel then reads `p.shape.n` and WGSL `p.n`.
///
/// ```text
/// kernel! {
///     /// y = x · Wᵀ
///     pub struct Gemv("linear/gemv") for Variant;
///     params { shape: MatmulShape, eps: f32 }
///     binds {
///         w: read [[u32; 4]],
///         ids: read [u32] if |v| v.rows == Rows::Expert,
///         y: write [f32],
///     }
/// }
/// ```
macro_rules! kernel {
    (
        $(#[doc = $doc:literal])+
        pub struct $Kernel:ident($name:literal) for $Variant:ty;
        params { $($(#[$pmeta:meta])* $param:ident: $ptype:ty),* $(,)? }
        binds { $($(#[$bmeta:meta])* $bind:ident: $access:ident [$element:ty] $(if $when:expr)?),* $(,)? }
    ) => {
        $(#[doc = $doc])+
        #[derive(Clone, Copy, Debug)]
        pub struct $Kernel;

        /// Uniform parameters.
        #[repr(C)]
        #[derive(Clone, Copy, Debug, Default, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
        pub struct Params { $($(#[$pmeta])* pub $param: $ptype),* }

        /// The buffers of a dispatch.
        #[derive(Debug)]
        pub struct Binds<'a> { $($(#[$bmeta])* pub $bind: $crate::gpu::kernel!(@buffer $element $(, $when)?)),* }

        impl $crate::gpu::Binds for Binds<'_> {
            fn list(&self) -> Vec<Option<std::sync::Arc<$crate::gpu::RawBuffer>>> {
                vec![$($crate::gpu::kernel!(@raw self.$bind $(, $when)?)),*]
            }
        }

        /// The bindings as the CPU kernel sees them.
        #[derive(Debug)]
        pub struct Host<'a> { $($(#[$bmeta])* pub $bind: $crate::gpu::kernel!(@slice $access $element)),* }

        impl<'a> $crate::gpu::Host<'a> for Host<'a> {
            fn bind(slots: Vec<$crate::gpu::HostSlot<'a>>) -> Self {
                let mut slots = slots.into_iter();
                Self { $($bind: slots.next().unwrap_or($crate::gpu::HostSlot::Absent).$access()),* }
            }
        }

        /// A test case's buffers.
        #[derive(Clone, Debug, Default)]
        pub struct Data { $($(#[$bmeta])* pub $bind: Vec<$element>),* }

        impl $crate::gpu::Data for Data {
            fn words(&self) -> Vec<Vec<u32>> {
                vec![$(bytemuck::cast_slice::<$element, u32>(&self.$bind).to_vec()),*]
            }
        }

        /// What a test case expects.
        #[derive(Debug, Default)]
        pub struct Expected { $($(#[$bmeta])* pub $bind: Option<$crate::gpu::Expect>),* }

        impl $crate::gpu::Expected for Expected {
            fn list(self) -> Vec<Option<$crate::gpu::Expect>> {
                vec![$(self.$bind),*]
            }
        }

        impl $crate::gpu::Declaration for $Kernel {
            const NAME: &'static str = $name;
            const DOC: &'static str = concat!($($doc, "\n"),+);
            type Variant = $Variant;
            type Params = Params;
            type Binds<'a> = Binds<'a>;
            type Host<'a> = Host<'a>;
            type Data = Data;
            type Expected = Expected;

            fn params_wgsl() -> String {
                let members: &[String] = &[$(<$ptype as $crate::gpu::Param>::members(stringify!($param))),*];
                members.concat()
            }
            fn bindings(variant: &$Variant) -> Vec<$crate::gpu::Binding> {
                let _ = variant;
                vec![$($crate::gpu::Binding {
                    name: stringify!($bind),
                    access: $crate::gpu::kernel!(@access $access),
                    element: <$element as $crate::gpu::Element>::WGSL,
                    present: $crate::gpu::kernel!(@present variant, $Variant $(, $when)?),
                }),*]
            }
        }
    };
    (@buffer $element:ty) => { &'a $crate::gpu::Buffer<$element> };
    (@buffer $element:ty, $when:expr) => { Option<&'a $crate::gpu::Buffer<$element>> };
    (@raw $self:ident.$bind:ident) => { Some(std::sync::Arc::clone(&$self.$bind.raw)) };
    (@raw $self:ident.$bind:ident, $when:expr) => { $self.$bind.map(|buffer| std::sync::Arc::clone(&buffer.raw)) };
    (@slice read $element:ty) => { &'a [$element] };
    (@slice write $element:ty) => { &'a mut [$element] };
    (@access read) => { $crate::gpu::Access::Read };
    (@access write) => { $crate::gpu::Access::Write };
    (@present $variant:ident, $Variant:ty) => { true };
    (@present $variant:ident, $Variant:ty, $when:expr) => {{ let when: fn(&$Variant) -> bool = $when; when($variant) }};
}
pub(crate) use kernel;

#[cfg(test)]
mod tests {
    mod grouped {
        use crate::gpu::{Caps, Case, Grid, Kernel, Source, wgsl};

        param_group! {
            /// Two members.
            pub struct Shape {
                /// Rows.
                rows: u32,
                /// Columns.
                n: u32,
            }
        }

        kernel! {
            /// Has a group between two parameters of its own.
            pub struct Grouped("elementwise/add_rows") for ();
            params {
                /// The first.
                scale: f32,
                /// The second and third.
                shape: Shape,
                /// The last.
                eps: f32,
            }
            binds {
                /// The output.
                y: write [f32],
            }
        }

        impl Kernel for Grouped {
            fn supported(_: &Caps) -> Vec<()> {
                vec![()]
            }
            fn source((): ()) -> Source {
                Source::new(wgsl!("elementwise/add_rows.wgsl"), 64)
            }
            fn grid((): (), p: &Params) -> Grid {
                Grid { x: p.shape.n, y: p.shape.rows }
            }
            fn cpu((): (), p: &Params, host: Host<'_>) {
                host.y.fill(p.scale + p.eps);
            }
            fn cases((): ()) -> Vec<Case<Self>> {
                Vec::new()
            }
        }
    }

    #[test]
    fn groups_of_parameters_are_flat_in_wgsl() {
        use super::Declaration;
        use grouped::{Grouped, Params, Shape};
        assert_eq!(Grouped::params_wgsl(), "    scale: f32,\n    rows: u32,\n    n: u32,\n    eps: f32,\n");
        let params = Params { scale: 1.0, shape: Shape { rows: 2, n: 3 }, eps: 4.0 };
        let words: [u32; 4] = bytemuck::cast(params);
        assert_eq!(words, [1f32.to_bits(), 2, 3, 4f32.to_bits()]);
    }
}
