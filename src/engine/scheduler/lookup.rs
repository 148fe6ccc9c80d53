//! Prompt lookup decoding (Saxena 2023): draft tokens without a draft model.
//!
//! The last tokens of a sequence, an n-gram, are looked up in the tokens before them, and what followed there is the draft. A
//! decode step computes the last token and its draft as rows of one sequence, and samples from each. A draft token is
//! accepted if it is the token that was sampled before it. So the tokens are those of plain decoding, whatever the draft:
//! a row's bits do not depend on the rows beside it, and each row has the random number of its position.

/// The longest and the shortest n-gram that is looked up. A single token is followed by too many others.
const NGRAMS: [usize; 2] = [4, 2];

/// Draft tokens and what became of them, over all requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LookupStats {
    /// Decode steps of requests that may have drafts, counted for each request.
    pub steps: u64,
    /// Draft tokens that were computed.
    pub drafted: u64,
    /// Draft tokens that were accepted.
    pub accepted: u64,
}

impl LookupStats {
    /// Returns the share of draft tokens that were accepted, if there were any.
    pub fn acceptance(&self) -> Option<f64> {
        (self.drafted > 0).then(|| self.accepted as f64 / self.drafted as f64)
    }

    /// Returns the mean tokens of a step, 1 without drafts.
    pub fn tokens_per_step(&self) -> f64 {
        if self.steps > 0 { 1.0 + self.accepted as f64 / self.steps as f64 } else { 1.0 }
    }

    /// Adds other counts.
    pub(super) fn add(&mut self, other: Self) {
        self.steps += other.steps;
        self.drafted += other.drafted;
        self.accepted += other.accepted;
    }

    /// Returns what was added since `before`.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        Self {
            steps: self.steps.saturating_sub(before.steps),
            drafted: self.drafted.saturating_sub(before.drafted),
            accepted: self.accepted.saturating_sub(before.accepted),
        }
    }
}

/// Returns `count` draft tokens, or none if no n-gram at the end of `tokens` occurs before. The longest n-gram counts, and its
/// last occurrence.
pub(super) fn draft(tokens: &[u32], count: usize) -> Vec<u32> {
    let [longest, shortest] = NGRAMS;
    let Some(before) = tokens.len().checked_sub(1).filter(|_| count > 0) else { return Vec::new() };
    let occurrence = (shortest..=longest).rev().find_map(|len| {
        let last = &tokens[tokens.len().checked_sub(len)?..];
        tokens[..before].windows(len).rposition(|ngram| ngram == last).map(|at| at + len)
    });
    let mut draft = Vec::new();
    if let Some(next) = occurrence {
        // The occurrence may overlap the end: a period goes on.
        (next..next + count).for_each(|at| {
            let token = tokens.get(at).or_else(|| draft.get(at - tokens.len())).copied();
            draft.extend(token);
        });
    }
    draft
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_followed_the_longest_ngram_is_the_draft() {
        assert_eq!(draft(&[], 3), [0; 0]);
        assert_eq!(draft(&[1, 2, 3], 3), [0; 0]);
        assert_eq!(draft(&[1, 2, 9, 5, 1, 2], 0), [0; 0]);
        assert_eq!(draft(&[1, 2, 9, 5, 1, 2], 3), [9, 5, 1]);
        // The last of two occurrences, but a longer n-gram first.
        assert_eq!(draft(&[1, 2, 9, 1, 2, 8, 1, 2], 1), [8]);
        assert_eq!(draft(&[0, 1, 2, 9, 5, 1, 2, 8, 0, 1, 2], 1), [9]);
        // A single token is not looked up.
        assert_eq!(draft(&[7, 1, 2, 7], 2), [0; 0]);
    }

    #[test]
    fn periods_go_on() {
        assert_eq!(draft(&[4, 4, 4], 5), [4; 5]);
        assert_eq!(draft(&[9, 1, 2, 3, 1, 2, 3, 1, 2], 7), [3, 1, 2, 3, 1, 2, 3]);
    }
}
