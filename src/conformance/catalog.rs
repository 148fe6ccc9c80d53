//! The kernels and their variants.

use super::Feature;
use crate::{
    gpu::{Binding, Data, Host, Kernel, Shader, host_slots, shader},
    kernels::{self, Visitor},
};

/// A kernel and its variants.
#[derive(Clone, Debug)]
pub struct KernelEntry {
    /// Its name: the path of its body below `wgsl/`.
    pub name: &'static str,
    /// Its doc comment.
    pub doc: &'static str,
    /// Its supported variants: those that a plan can record on some device.
    pub variants: Vec<VariantEntry>,
    has_reference: fn() -> bool,
}

/// A kernel variant.
#[derive(Clone, Debug)]
pub struct VariantEntry {
    /// Its `Debug` form.
    pub variant: String,
    /// Its bindings, including those that it does not have.
    pub bindings: Vec<Binding>,
    /// Invocations of a workgroup.
    pub workgroup: u32,
    /// The features that a device must have to run it.
    pub needs: Vec<Feature>,
    /// Whether the suite runs it on devices that support it.
    pub covered: bool,
    /// Its shader.
    pub shader: Shader,
}

/// Returns every kernel with its supported variants, for devices of WebGPU's default limits with any features.
pub fn catalog() -> Vec<KernelEntry> {
    struct Collect(Vec<KernelEntry>);
    impl Visitor for Collect {
        fn visit<K: Kernel>(&mut self, _: K) {
            let without = |feature| Feature::ALL.into_iter().filter(|f| *f != feature).collect::<Vec<_>>();
            let lacking = Feature::ALL.map(|feature| (feature, K::supported(&Feature::caps(&without(feature)))));
            let covered = K::covered(&Feature::caps(&Feature::ALL));
            let variants = K::supported(&Feature::caps(&Feature::ALL)).into_iter().map(|variant| VariantEntry {
                variant: format!("{variant:?}"),
                bindings: K::bindings(&variant),
                workgroup: K::source(variant).workgroup(),
                needs: lacking.iter().filter(|(_, has)| !has.contains(&variant)).map(|(feature, _)| *feature).collect(),
                covered: covered.contains(&variant),
                shader: shader::<K>(variant),
            });
            let has_reference = || {
                let covered = K::covered(&Feature::caps(&Feature::ALL));
                covered.into_iter().next().is_some_and(variant_has_reference::<K>)
            };
            let variants = variants.collect();
            self.0.push(KernelEntry { name: K::NAME, doc: K::DOC, variants, has_reference });
        }
    }
    let mut collect = Collect(Vec::new());
    kernels::visit(&mut collect);
    collect.0
}

/// Returns whether a variant has a reference, on the inputs of its first case.
fn variant_has_reference<K: Kernel>(variant: K::Variant) -> bool {
    K::cases(variant).into_iter().next().is_some_and(|case| {
        let mut words = case.data.words();
        let before = K::Host::bind(host_slots(&K::bindings(&variant), &mut words));
        K::reference(variant, &case.params, before).is_some()
    })
}

impl KernelEntry {
    /// Returns its covered variants.
    pub fn covered(&self) -> impl Iterator<Item = &VariantEntry> {
        self.variants.iter().filter(|variant| variant.covered)
    }

    /// Returns whether it has a [reference](Kernel::reference) with a bound for any inputs. Otherwise `replay` compares it
    /// with its CPU kernel.
    pub fn has_reference(&self) -> bool {
        (self.has_reference)()
    }
}
