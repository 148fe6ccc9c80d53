//! How exactly passes compute.

/// How exactly passes compute: which [`Tiers`](super::Tiers) suit a device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Precision {
    /// Every value that is multiplied or added is f32.
    #[default]
    Exact,
    /// Products may be of fewer bits where the device is faster so: of halves, or of 8-bit activations. Sums of products stay f32
    /// or exact integers. Against an exact pass the likeliest token is the same in 99 % of places or more, and the mean
    /// divergence of probabilities at most 1e-3 nats (3e-3 with 8-bit activations).
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
