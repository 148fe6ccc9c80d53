//! Mirostat: sampling that holds the surprise of tokens near a target (Basu et al. 2021, arXiv:2007.14966), as llama.cpp
//! defines both versions.

use std::cmp::Ordering;

use crate::kernels::sample::draw;

/// The tokens from which version 1 estimates the exponent of Zipf's law.
const ESTIMATED: usize = 100;

/// The state of Mirostat.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Mirostat {
    /// The surprise aimed at, in bits.
    tau: f64,
    /// The learning rate.
    eta: f64,
    /// The most surprise of the next token, in bits. It starts at twice the target.
    mu: f64,
}

/// Orders tokens by weight, of equal ones by id, likeliest first.
pub(super) fn by_likelihood(a: &(u32, f64), b: &(u32, f64)) -> Ordering {
    b.1.total_cmp(&a.1).then(a.0.cmp(&b.0))
}

impl Mirostat {
    /// Returns the state before the first token.
    pub(super) fn new(tau: f32, eta: f32) -> Self {
        let (tau, eta) = (f64::from(tau), f64::from(eta));
        Self { tau, eta, mu: 2.0 * tau }
    }

    /// Samples a token by version 1 or 2 from all tokens with their weights, by `number` in [0, 1), and learns from its surprise.
    /// Returns `None` for no tokens.
    pub(super) fn sample(&mut self, version: u32, mut tokens: Vec<(u32, f64)>, number: f64) -> Option<u32> {
        if version == 1 {
            self.keep_top(&mut tokens);
        } else {
            self.keep_expected(&mut tokens);
        }
        let id = draw::pick(&tokens, number)?;
        let mass: f64 = tokens.iter().map(|(_, weight)| weight).sum();
        let (_, weight) = tokens.into_iter().find(|(token, _)| *token == id)?;
        // A token of weight zero is sampled only if it is alone.
        let surprise = if weight > 0.0 { (mass / weight).log2() } else { 0.0 };
        self.mu -= self.eta * (surprise - self.tau);
        Some(id)
    }

    /// Version 2: keeps the tokens with at most the surprise `mu`, at least one.
    fn keep_expected(&self, tokens: &mut Vec<(u32, f64)>) {
        let mass: f64 = tokens.iter().map(|(_, weight)| weight).sum();
        let least = mass * (-self.mu).exp2();
        let Some(best) = tokens.iter().copied().min_by(by_likelihood) else { return };
        tokens.retain(|token| *token == best || (token.1 > 0.0 && token.1 >= least));
        tokens.sort_unstable_by(by_likelihood);
    }

    /// Version 1: keeps the `k` likeliest tokens, whose expected surprise is `mu` under Zipf's law.
    fn keep_top(&self, tokens: &mut Vec<(u32, f64)>) {
        let vocab = tokens.len();
        // Forbidden tokens have no weight.
        tokens.retain(|(_, weight)| *weight > 0.0);
        tokens.sort_unstable_by(by_likelihood);
        let k = self.top_k(tokens, vocab);
        tokens.truncate(k.max(1));
    }

    /// Returns the `k` of version 1, from the exponent that the likeliest tokens, which are sorted, have by least squares.
    fn top_k(&self, tokens: &[(u32, f64)], vocab: usize) -> usize {
        let mut sums = [0.0; 2];
        for (i, pair) in tokens[..tokens.len().min(ESTIMATED)].windows(2).enumerate() {
            let step = ((i + 2) as f64 / (i + 1) as f64).ln();
            sums[0] += step * (pair[0].1 / pair[1].1).ln();
            sums[1] += step * step;
        }
        let exponent = sums[0] / sums[1];
        let epsilon = exponent - 1.0;
        // The limit at an exponent of 1 is the logarithm.
        let sum = if epsilon.abs() < 1e-9 {
            1.0 / (vocab as f64).ln()
        } else {
            epsilon / (1.0 - (vocab as f64).powf(-epsilon))
        };
        let k = (sum * self.mu.exp2()).powf(1.0 / exponent);
        // Of a single token there is no exponent.
        if k.is_nan() { tokens.len() } else { k as usize }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::sample::philox;

    /// A version, tau, eta, the number of tokens, a scale of logits; and of each step the number of tokens that llama.cpp
    /// keeps, and the token that it samples (`llama_sampler_init_mirostat`, `llama_sampler_init_mirostat_v2`, seed 7).
    type Run = ((u32, f32, f32, usize, f64), [(usize, u32); 16]);

    const LLAMA_CPP: [Run; 6] = [
        (
            (1, 3.0, 0.2, 400, 1.0),
            [
                (8, 0),
                (10, 0),
                (11, 172),
                (10, 114),
                (12, 228),
                (12, 285),
                (15, 342),
                (12, 399),
                (30, 56),
                (30, 228),
                (25, 57),
                (9, 227),
                (23, 56),
                (17, 170),
                (19, 170),
                (10, 398),
            ],
        ),
        (
            (1, 6.0, 0.5, 60, 0.6),
            [
                (60, 27),
                (60, 1),
                (60, 5),
                (60, 43),
                (60, 34),
                (60, 9),
                (60, 42),
                (60, 8),
                (60, 59),
                (60, 26),
                (60, 20),
                (60, 16),
                (60, 53),
                (60, 51),
                (60, 44),
                (60, 16),
            ],
        ),
        (
            (1, 1.5, 0.1, 400, 1.0),
            [
                (1, 0),
                (1, 57),
                (3, 114),
                (2, 171),
                (2, 114),
                (1, 285),
                (3, 342),
                (3, 399),
                (1, 56),
                (2, 113),
                (3, 170),
                (3, 227),
                (1, 227),
                (4, 341),
                (4, 341),
                (4, 398),
            ],
        ),
        (
            (2, 3.0, 0.2, 400, 1.0),
            [
                (9, 0),
                (11, 0),
                (10, 344),
                (7, 114),
                (10, 228),
                (13, 285),
                (14, 342),
                (12, 399),
                (28, 56),
                (28, 228),
                (18, 343),
                (10, 227),
                (25, 56),
                (20, 56),
                (15, 170),
                (9, 398),
            ],
        ),
        (
            (2, 6.0, 0.5, 60, 0.6),
            [
                (60, 27),
                (60, 1),
                (60, 5),
                (60, 43),
                (60, 34),
                (60, 9),
                (60, 42),
                (60, 8),
                (60, 59),
                (60, 26),
                (60, 20),
                (60, 16),
                (60, 53),
                (60, 51),
                (60, 44),
                (60, 16),
            ],
        ),
        (
            (2, 1.5, 0.1, 400, 1.0),
            [
                (1, 0),
                (2, 57),
                (1, 114),
                (2, 171),
                (1, 228),
                (2, 228),
                (2, 342),
                (3, 399),
                (1, 56),
                (3, 113),
                (2, 170),
                (3, 227),
                (1, 227),
                (3, 341),
                (4, 341),
                (3, 398),
            ],
        ),
    ];

    fn weights(step: usize, n: usize, scale: f64) -> Vec<(u32, f64)> {
        let exponent = scale * (0.8 + 0.3 * (step % 4) as f64);
        let logit = |i: usize| {
            let ripple = 0.5 * (i as f64 * 1.7 + step as f64).sin();
            f64::from((ripple - exponent * ((1 + (i * 7 + step) % n) as f64).ln()) as f32)
        };
        (0..n).map(|i| (i as u32, logit(i).exp())).collect()
    }

    #[test]
    fn as_many_tokens_are_kept_as_by_llama_cpp() {
        for ((version, tau, eta, n, scale), steps) in LLAMA_CPP {
            let mut state = Mirostat::new(tau, eta);
            for (step, (kept, sampled)) in steps.into_iter().enumerate() {
                let all = weights(step, n, scale);
                let mut tokens = all.clone();
                match version {
                    1 => state.keep_top(&mut tokens),
                    _ => state.keep_expected(&mut tokens),
                }
                assert_eq!(tokens.len(), kept, "version {version}, tau {tau}, step {step}");
                // The random number that samples the same token.
                let mass = |tokens: &[(u32, f64)]| tokens.iter().map(|(_, weight)| weight).sum::<f64>();
                let at = tokens.iter().position(|(id, _)| *id == sampled).expect("a kept token");
                let number = (mass(&tokens[..at]) + tokens[at].1 / 2.0) / mass(&tokens);
                assert_eq!(state.sample(version, all, number), Some(sampled));
            }
        }
    }

    /// The mean surprise of the sampled tokens, among those kept, becomes the target where the model's entropy allows it.
    #[test]
    fn the_surprise_converges_to_the_target() {
        for version in [1, 2] {
            for tau in [1.0, 2.5, 4.0] {
                let mut state = Mirostat::new(tau, 0.1);
                let (mut surprise, mut counter) = (0.0, 0);
                for step in 0..4000 {
                    let before = state.mu;
                    let [number, _] = philox::uniform(11, counter);
                    counter += 1;
                    state.sample(version, weights(step, 300, 1.0), number).expect("a token");
                    if step >= 1000 {
                        surprise += (before - state.mu) / state.eta + state.tau;
                    }
                }
                let mean = surprise / 3000.0;
                // The sum of errors is the change of `mu` by `eta`, which stays within some bits.
                assert!((mean - f64::from(tau)).abs() < 0.02, "version {version}: {mean} bits, target {tau}");
            }
        }
    }

    #[test]
    fn hard_inputs_give_a_token() {
        let hard: [Vec<(u32, f64)>; 5] = [
            vec![(0, 1.0)],
            vec![(0, 0.0), (1, 1.0), (2, 0.0)],
            vec![(0, 1.0); 3],
            vec![(0, 1.0), (1, 5e-324)],
            vec![(0, 0.0), (1, 0.0)],
        ];
        for version in [1, 2] {
            for (tau, eta) in [(0.0, 0.0), (0.0, 100.0), (100.0, 100.0), (5.0, 0.1)] {
                let mut state = Mirostat::new(tau, eta);
                for tokens in hard.iter().cycle().take(50) {
                    let id = state.sample(version, tokens.clone(), 0.999);
                    let all_zero = tokens.iter().all(|(_, weight)| *weight == 0.0);
                    assert!(all_zero || id.is_some(), "{tokens:?}");
                    assert!(state.mu.is_finite());
                }
            }
            assert_eq!(Mirostat::new(5.0, 0.1).sample(version, Vec::new(), 0.5), None);
        }
    }
}
