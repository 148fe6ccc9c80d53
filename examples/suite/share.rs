//! A share of the suite, for stacks that take turns.

use std::{
    collections::BTreeSet,
    hash::{DefaultHasher, Hash as _, Hasher as _},
};

use ferrum_wgpu::low_level::conformance::Suite;

/// Keeps each kernel's first variant and an N-th of the others, which TEXT chooses. `share` is TEXT/N.
pub fn keep(suite: &mut Suite, share: &str) -> Result<(), String> {
    let parts = share.rsplit_once('/').and_then(|(text, n)| Some((text, n.parse().ok().filter(|n| *n > 0)?)));
    let (text, n): (_, u64) = parts.ok_or_else(|| format!("the share {share:?} is not TEXT/N"))?;
    let mut kernels = BTreeSet::new();
    suite.retain(|kernel, variant| {
        let mut hasher = DefaultHasher::new();
        (text, kernel, variant).hash(&mut hasher);
        kernels.insert(kernel) || hasher.finish().is_multiple_of(n)
    });
    Ok(())
}
