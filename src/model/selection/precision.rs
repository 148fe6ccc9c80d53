/// How exactly a model computes. [`KernelSelection::select`](super::KernelSelection::select) translates it to kernels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Precision {
    /// All operands of multiplications and additions are f32.
    #[default]
    Exact,
    /// Prefill may multiply f16 operands with f32 accumulation where the device is faster so. On the demo model at least
    /// 99 % of the likeliest tokens are the reference's, and the mean KL divergence is at most 1e-3 nats. A selection made
    /// by hand can have int8 activations as well: at most 3e-3 nats.
    Fast,
}

impl Precision {
    /// All values.
    pub const ALL: [Self; 2] = [Self::Exact, Self::Fast];

    /// Returns its name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Exact => "exact",
            Self::Fast => "fast",
        }
    }
}
