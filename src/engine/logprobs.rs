//! Log-probabilities of sampled tokens.

/// The log-probabilities of a sampled token and of the most likely tokens at its place.
///
/// They are the log-softmax of the model's logits with bias, penalties and constraint, before temperature and cuts.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct TokenLogprobs {
    /// That of the sampled token.
    pub logprob: f32,
    /// The most likely tokens with theirs, in descending order.
    pub top: Vec<(u32, f32)>,
}

impl TokenLogprobs {
    /// Returns those of `token` and of the `top` most likely tokens.
    pub(crate) fn new(logits: &[f32], token: u32, top: u32) -> Self {
        let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = logits.iter().map(|logit| f64::from(logit - largest).exp()).sum();
        let normaliser = f64::from(largest) + sum.ln();
        let of = |logit: f32| (f64::from(logit) - normaliser) as f32;
        let top = (top as usize).min(logits.len());
        let mut ids: Vec<u32> = (0..logits.len() as u32).collect();
        let order = |a: &u32, b: &u32| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b));
        if top < ids.len() {
            ids.select_nth_unstable_by(top, order);
            ids.truncate(top);
        }
        ids.sort_unstable_by(order);
        Self {
            logprob: logits.get(token as usize).map_or(f32::NEG_INFINITY, |logit| of(*logit)),
            top: ids.into_iter().map(|id| (id, of(logits[id as usize]))).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::TokenLogprobs;

    #[test]
    fn they_are_the_log_softmax() {
        let logits = [1.0f32, 3.0, 2.0, 3.0];
        let of = TokenLogprobs::new(&logits, 2, 2);
        let sum: f32 = logits.iter().map(|l| l.exp()).sum();
        assert!((of.logprob - (2.0 - sum.ln())).abs() < 1e-6);
        assert_eq!(of.top.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [1, 3]);
        assert_eq!(TokenLogprobs::new(&logits, 0, 9).top.len(), 4);
    }
}
