//! Test cases of kernels: inputs, and what must come out.

use super::Kernel;

/// One dispatch of `K` with its inputs and what it must compute.
#[derive(Debug)]
pub struct Case<K: Kernel> {
    /// What is special about it.
    pub name: String,
    /// The uniform parameters.
    pub params: K::Params,
    /// The buffers' contents before the dispatch.
    pub data: K::Data,
    /// What the written ones must hold after it.
    pub expected: K::Expected,
}

/// What a written buffer must hold.
#[derive(Clone, Debug, PartialEq)]
pub enum Expect {
    /// Floats: the exact value in f64, and the largest allowed distance from it.
    Near(Vec<(f64, f64)>),
    /// Halves, two in a word: the distance grows by the half's last place, or 2⁻¹⁴ where the device flushes small ones.
    Halves(Vec<(f64, f64)>),
    /// Words, exactly.
    Exact(Vec<u32>),
}

impl Expect {
    /// The worst error as a share of its bound (over 1 is a failure; a NaN is infinitely wrong), and where it is.
    /// A wrong number of words is a failure at the first missing one.
    pub fn worst(&self, words: &[u32]) -> (f64, usize) {
        let share = |found: f64, exact: f64, bound: f64| {
            let error = (found - exact).abs();
            if error == 0.0 || (found.is_nan() && exact.is_nan()) {
                0.0
            } else if error.is_nan() {
                f64::INFINITY
            } else {
                error / bound
            }
        };
        let (wanted, shares): (usize, Vec<f64>) = match self {
            Self::Near(values) => (
                values.len(),
                values.iter().zip(words).map(|(v, w)| share(f64::from(f32::from_bits(*w)), v.0, v.1)).collect(),
            ),
            Self::Halves(values) => {
                let halves = words.iter().flat_map(|w| [*w as u16, (*w >> 16) as u16]);
                let found = halves.map(|bits| f64::from(half::f16::from_bits(bits).to_f32()));
                let smallest = 1.0 / f64::from(1 << 14);
                let last_place = |v: f64| if v.abs() < smallest { smallest } else { v.abs() / 1024.0 };
                let shares = values.iter().zip(found).map(|(v, found)| share(found, v.0, v.1 + last_place(v.0)));
                (values.len() / 2, shares.collect())
            }
            Self::Exact(values) => (
                values.len(),
                values.iter().zip(words).map(|(a, b)| if a == b { 0.0 } else { f64::INFINITY }).collect(),
            ),
        };
        if wanted != words.len() {
            return (f64::INFINITY, shares.len());
        }
        let mut worst = (0.0, 0);
        for (i, share) in shares.into_iter().enumerate() {
            if share > worst.0 {
                worst = (share, i);
            }
        }
        worst
    }
}
