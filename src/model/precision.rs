//! How exactly passes compute.

/// How exactly passes compute: which [`KernelSelection`](super::KernelSelection) suit a device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Precision {
    /// Every value that is multiplied or added is f32.
    #[default]
    Exact,
    /// Products may be of fewer bits where the device is faster so: tiles of halves, whose sums are f32. On the demo model the
    /// likeliest token is the reference's in 99 % of places or more, and the mean divergence from its probabilities at most
    /// 1e-3 nats. KernelSelection that are given can have int8 activations too, with 3e-3.
    Fast,
}

impl Precision {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Exact, Self::Fast];

    /// Its name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Exact => "exact",
            Self::Fast => "fast",
        }
    }
}
