//! The macros that declare kernels and their parameters.

/// Declares a group of parameters that several kernels share: in Rust a struct that is a field of their `params`, in WGSL its
/// members.
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
/// and bindings ([`Declaration`](super::Declaration)). The kernel then implements [`Kernel`](super::Kernel). A parameter is a
/// `u32`, an `f32`, or a [`param_group!`]: of a group, the CPU kernel reads `p.shape.n` and WGSL `p.n`.
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

        /// The bindings of the CPU kernel.
        #[derive(Debug)]
        pub struct Host<'a> { $($(#[$bmeta])* pub $bind: $crate::gpu::kernel!(@slice $access $element)),* }

        impl<'a> $crate::gpu::Host<'a> for Host<'a> {
            fn bind(slots: Vec<$crate::gpu::HostSlot<'a>>) -> Self {
                let mut slots = slots.into_iter();
                Self { $($bind: slots.next().unwrap_or($crate::gpu::HostSlot::Absent).$access()),* }
            }
        }

        /// The buffers of a test case.
        #[derive(Clone, Debug, Default)]
        pub struct Data { $($(#[$bmeta])* pub $bind: Vec<$element>),* }

        impl $crate::gpu::Data for Data {
            fn words(&self) -> Vec<Vec<u32>> {
                vec![$(bytemuck::cast_slice::<$element, u32>(&self.$bind).to_vec()),*]
            }
        }

        /// The expected buffers of a test case.
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
        use super::super::Declaration;
        use grouped::{Grouped, Params, Shape};
        assert_eq!(Grouped::params_wgsl(), "    scale: f32,\n    rows: u32,\n    n: u32,\n    eps: f32,\n");
        let params = Params { scale: 1.0, shape: Shape { rows: 2, n: 3 }, eps: 4.0 };
        let words: [u32; 4] = bytemuck::cast(params);
        assert_eq!(words, [1f32.to_bits(), 2, 3, 4f32.to_bits()]);
    }
}
