//! The names of kernels.

use std::collections::BTreeSet;

use ferrum_wgpu::low_level::{
    gpu::{Caps, Kernel},
    kernels::{Visitor, visit},
};

/// Returns the names of the kernels.
pub fn kernel_names() -> BTreeSet<&'static str> {
    struct All(BTreeSet<&'static str>);
    impl Visitor for All {
        fn visit<K: Kernel>(&mut self, _: K) {
            self.0.insert(K::NAME);
        }
    }
    let mut all = All(BTreeSet::new());
    visit(&mut all);
    all.0
}

/// Returns the names of the kernels with covered variants on a device with `caps`.
pub fn covered_kernels(caps: &Caps) -> BTreeSet<&'static str> {
    struct Covered<'a>(&'a Caps, BTreeSet<&'static str>);
    impl Visitor for Covered<'_> {
        fn visit<K: Kernel>(&mut self, _: K) {
            if !K::covered(self.0).is_empty() {
                self.1.insert(K::NAME);
            }
        }
    }
    let mut covered = Covered(caps, BTreeSet::new());
    visit(&mut covered);
    covered.1
}
