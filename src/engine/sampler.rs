//! Sampling: the choice of the next token from logits, on the host, and its options.

use std::collections::{HashMap, HashSet, VecDeque};

use super::{
    EngineError,
    mirostat::{self, Mirostat},
};
use crate::{
    gguf::{GgufError, Metadata},
    kernels::sample::{Cuts, draw, penalties, philox},
};

/// The options of sampling, applied in the order of Hugging Face's generation, for which model authors recommend values: the
/// bias, the penalties of tokens in the sequence, the temperature, then `top_k`, `top_p`, `min_p` and XTC, or Mirostat in place
/// of these four.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(default))]
#[non_exhaustive]
pub struct SamplingOptions {
    /// Divides the logits. 0 is greedy: always the most likely token, of equal ones the lowest id.
    pub temperature: f32,
    /// Keeps the `top_k` most likely tokens; 0 keeps all.
    pub top_k: u32,
    /// Keeps the most likely tokens until their probabilities sum up to it (nucleus sampling); 1 keeps all.
    pub top_p: f32,
    /// Drops tokens less likely than `min_p` times the most likely one; 0 drops none.
    pub min_p: f32,
    /// The probability with which XTC ("exclude top choices") drops the likely tokens but the least likely of them; 0 drops none.
    pub xtc_probability: f32,
    /// The least probability of a token among those kept so far that XTC calls likely; above 0.5 it drops none.
    pub xtc_threshold: f32,
    /// The version of Mirostat (Basu et al. 2021), 1 or 2, which replaces `top_k`, `top_p`, `min_p` and XTC; 0 is none. Such a
    /// request samples on the host, each token once the one before it is known. Greedy decoding has none.
    pub mirostat: u32,
    /// The surprise of tokens in bits that Mirostat aims at.
    pub mirostat_tau: f32,
    /// The learning rate of Mirostat.
    pub mirostat_eta: f32,
    /// Divides positive logits of tokens in the prompt or the reply, and multiplies negative ones; 1 changes none.
    pub repetition_penalty: f32,
    /// Is subtracted from the logits of tokens in the reply.
    pub presence_penalty: f32,
    /// Is subtracted from the logit of a token for each of its occurrences in the reply.
    pub frequency_penalty: f32,
    /// The last tokens of the sequence that the penalties see: -1 is all of them, and 0 is none.
    pub penalty_last_n: i32,
    /// Is added to the logits of some tokens, by id.
    pub logit_bias: Vec<(u32, f32)>,
    /// The seed of the random numbers: equal seeds give equal tokens.
    pub seed: u64,
}

setters! {
    SamplingOptions {
        temperature: f32,
        top_k: u32,
        top_p: f32,
        min_p: f32,
        xtc_probability: f32,
        xtc_threshold: f32,
        mirostat: u32,
        mirostat_tau: f32,
        mirostat_eta: f32,
        repetition_penalty: f32,
        presence_penalty: f32,
        frequency_penalty: f32,
        penalty_last_n: i32,
        logit_bias: Vec<(u32, f32)>,
        seed: u64,
    }
    optional {
    }
}

impl Default for SamplingOptions {
    /// Returns the values recommended by Qwen3's authors.
    fn default() -> Self {
        Self {
            temperature: 0.6,
            top_k: 20,
            top_p: 0.95,
            min_p: 0.0,
            xtc_probability: 0.0,
            xtc_threshold: 0.1,
            mirostat: 0,
            mirostat_tau: 5.0,
            mirostat_eta: 0.1,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            penalty_last_n: -1,
            logit_bias: Vec::new(),
            seed: 0,
        }
    }
}

impl SamplingOptions {
    /// Returns options for greedy decoding.
    pub fn greedy() -> Self {
        Self { temperature: 0.0, ..Self::default() }
    }

    /// Returns the options that a file recommends (`general.sampling.*`), with defaults for the others.
    ///
    /// # Errors
    /// [`GgufError::WrongType`].
    pub fn from_metadata(metadata: &Metadata) -> Result<Self, GgufError> {
        let default = Self::default();
        let float = |key: &str| metadata.f32(&format!("general.sampling.{key}"));
        Ok(Self {
            temperature: float("temp")?.unwrap_or(default.temperature),
            // Files write -1, too, for all tokens.
            top_k: float("top_k")?.map_or(default.top_k, |top_k| top_k.max(0.0) as u32),
            top_p: float("top_p")?.unwrap_or(default.top_p),
            min_p: float("min_p")?.unwrap_or(default.min_p),
            xtc_probability: float("xtc_probability")?.unwrap_or(default.xtc_probability),
            xtc_threshold: float("xtc_threshold")?.unwrap_or(default.xtc_threshold),
            mirostat: float("mirostat")?.map_or(default.mirostat, |version| version.max(0.0) as u32),
            mirostat_tau: float("mirostat_tau")?.unwrap_or(default.mirostat_tau),
            mirostat_eta: float("mirostat_eta")?.unwrap_or(default.mirostat_eta),
            repetition_penalty: float("penalty_repeat")?.unwrap_or(default.repetition_penalty),
            penalty_last_n: float("penalty_last_n")?.map_or(default.penalty_last_n, |tokens| tokens.max(-1.0) as i32),
            ..default
        })
    }

    /// Checks the range of every value, and the ids of biased tokens against `vocab`.
    ///
    /// # Errors
    /// [`EngineError::Option`] for a value out of its range, [`EngineError::TokenId`].
    pub fn check(&self, vocab: u32) -> Result<(), EngineError> {
        let check = |option, value: f32, ok: bool, range| {
            if ok { Ok(()) } else { Err(EngineError::Option { option, value: value.to_string(), range }) }
        };
        let (repetition, top_p, min_p) = (self.repetition_penalty, self.top_p, self.min_p);
        check("temperature", self.temperature, self.temperature >= 0.0 && self.temperature.is_finite(), "at least 0")?;
        check("top_p", top_p, top_p > 0.0 && top_p <= 1.0, "above 0 and at most 1")?;
        for (option, value) in
            [("min_p", min_p), ("xtc_probability", self.xtc_probability), ("xtc_threshold", self.xtc_threshold)]
        {
            check(option, value, (0.0..=1.0).contains(&value), "between 0 and 1")?;
        }
        check("mirostat", self.mirostat as f32, self.mirostat <= 2, "0, 1 or 2")?;
        for (option, value) in [("mirostat_tau", self.mirostat_tau), ("mirostat_eta", self.mirostat_eta)] {
            check(option, value, value >= 0.0 && value.is_finite(), "at least 0")?;
        }
        check("repetition_penalty", repetition, repetition > 0.0 && repetition.is_finite(), "above 0")?;
        check("presence_penalty", self.presence_penalty, self.presence_penalty.is_finite(), "finite")?;
        check("frequency_penalty", self.frequency_penalty, self.frequency_penalty.is_finite(), "finite")?;
        let last_n = self.penalty_last_n;
        check("penalty_last_n", last_n as f32, last_n >= -1, "at least -1")?;
        for &(id, bias) in &self.logit_bias {
            check("logit_bias", bias, bias.is_finite(), "finite")?;
            if id >= vocab {
                return Err(EngineError::TokenId { id, vocab });
            }
        }
        Ok(())
    }

    /// Returns whether tokens are sampled on the host: Mirostat's next cut depends on the probability of the token before.
    pub(crate) fn on_host(&self) -> bool {
        self.mirostat > 0 && self.cuts()[0][0] > 0.0
    }

    /// Returns whether there are penalties or biases.
    pub(crate) fn penalises(&self) -> bool {
        self.has_penalties() || !self.logit_bias.is_empty()
    }

    fn has_penalties(&self) -> bool {
        let neutral = Self::default();
        let all = [
            (self.repetition_penalty, neutral.repetition_penalty),
            (self.presence_penalty, neutral.presence_penalty),
            (self.frequency_penalty, neutral.frequency_penalty),
        ];
        self.penalty_last_n != 0 && all.into_iter().any(|(penalty, neutral)| penalty != neutral)
    }

    /// Returns how many of the last tokens the penalties see; `None`: all, or there are no penalties.
    fn penalty_window(&self) -> Option<usize> {
        usize::try_from(self.penalty_last_n).ok().filter(|_| self.has_penalties())
    }

    /// Returns the parameters of the kernels: repetition, presence and frequency penalty, and the
    /// [`flags`](penalties::flags) of these and of a mask.
    pub(crate) fn penalties(&self, masked: bool) -> [f32; 4] {
        let flags = penalties::flags(self.penalises(), masked);
        match self.has_penalties() {
            true => [self.repetition_penalty, self.presence_penalty, self.frequency_penalty, flags],
            false => [1.0, 0.0, 0.0, flags],
        }
    }

    /// Returns the parameters of the kernels.
    pub(crate) fn cuts(&self) -> Cuts {
        // Smaller temperatures are greedy anyway, and so the kernels' divisions stay finite.
        let temperature = if self.temperature < 1e-30 { 0.0 } else { self.temperature };
        let xtc = [self.xtc_probability, self.xtc_threshold, 0.0, 0.0];
        [[temperature, self.top_k as f32, self.top_p, self.min_p], xtc]
    }
}

/// Samples tokens on the host, by the algorithm of the kernels.
#[derive(Clone, Debug)]
pub struct Sampler {
    options: SamplingOptions,
    /// Tokens sampled so far: the counter of the random numbers (Philox).
    sampled: u64,
    /// The state of Mirostat.
    mirostat: Mirostat,
    /// Occurrences of each token in the reply, and whether it is in the prompt, as [`penalties`] counts them.
    counts: HashMap<u32, u32>,
    /// The tokens in the window of the penalties, if they have one, oldest first; and which are of the reply.
    window: VecDeque<(u32, bool)>,
    /// The token that left the window last.
    left: Option<u32>,
    /// Tokens of the reply that were in the window.
    replied: u32,
}

impl Sampler {
    /// Returns a sampler before its first token.
    ///
    /// # Errors
    /// [`EngineError::Option`] for a value out of its range.
    pub fn new(options: SamplingOptions) -> Result<Self, EngineError> {
        options.check(u32::MAX)?;
        let (counts, window) = (HashMap::new(), VecDeque::new());
        let mirostat = Mirostat::new(options.mirostat_tau, options.mirostat_eta);
        Ok(Self { options, sampled: 0, mirostat, counts, window, left: None, replied: 0 })
    }

    /// Returns the options.
    pub fn options(&self) -> &SamplingOptions {
        &self.options
    }

    /// Adds tokens of the prompt, for the repetition penalty.
    pub fn seen(&mut self, prompt: &[u32]) {
        if self.options.penalises() {
            let most = self.options.penalty_window().unwrap_or(prompt.len());
            prompt[prompt.len().saturating_sub(most)..].iter().for_each(|id| self.add(*id, false));
        }
    }

    /// Counts a token of the prompt or the reply, and takes the oldest one out of a full window.
    fn add(&mut self, id: u32, of_reply: bool) {
        let count = self.counts.entry(id).or_default();
        *count = if of_reply { *count + 1 } else { *count | penalties::IN_PROMPT };
        let Some(most) = self.options.penalty_window() else { return };
        self.window.push_back((id, of_reply));
        self.replied += u32::from(of_reply);
        self.left = None;
        if self.window.len() > most
            && let Some((left, of_reply)) = self.window.pop_front()
        {
            let count = self.counts.entry(left).or_default();
            if of_reply {
                *count -= 1;
            } else if !self.window.contains(&(left, false)) {
                *count &= !penalties::IN_PROMPT;
            }
            self.left = Some(left);
        }
    }

    /// Returns whether the penalties see the last tokens only. Their counts are known when the last token is.
    pub(crate) fn has_window(&self) -> bool {
        self.options.penalty_window().is_some()
    }

    /// Takes in the token number `number` of the reply, from 1 on, that the device has sampled. It counts tokens itself, but not
    /// those that leave a window.
    pub(crate) fn learn(&mut self, token: u32, number: u32) {
        if self.has_window() && self.replied < number {
            self.add(token, true);
        }
    }

    /// Returns the token that left the window with the last one, and its count.
    pub(crate) fn left(&self) -> Option<(u32, u32)> {
        let id = self.left?;
        Some((id, self.counts.get(&id).copied().unwrap_or(0)))
    }

    /// Samples the next token from `logits`, one for each id.
    ///
    /// # Errors
    /// [`EngineError::NotANumber`] for a NaN; [`EngineError::NoTokens`] for no logits.
    pub fn sample(&mut self, logits: &[f32]) -> Result<u32, EngineError> {
        let mut penalised = Vec::new();
        if self.options.penalises() {
            penalised.extend_from_slice(logits);
            self.penalise(&mut penalised);
            return self.draw(&penalised);
        }
        self.draw(logits)
    }

    /// Samples the next token from logits with bias and penalties.
    ///
    /// # Errors
    /// As [`Sampler::sample`].
    pub(crate) fn draw(&mut self, logits: &[f32]) -> Result<u32, EngineError> {
        if logits.iter().any(|l| l.is_nan()) {
            return Err(EngineError::NotANumber);
        }
        let likeliest = argmax(logits).ok_or(EngineError::NoTokens)?;
        let [[temperature, ..], [probability, threshold, ..]] = self.options.cuts();
        let id = if temperature == 0.0 {
            likeliest
        } else {
            let [number, second] = philox::uniform(self.options.seed, self.sampled);
            self.sampled += 1;
            if self.options.on_host() {
                let weights = self.weights(logits, likeliest);
                self.mirostat.sample(self.options.mirostat, weights, number).unwrap_or(likeliest)
            } else {
                let mut candidates = self.candidates(logits, likeliest);
                draw::exclude_top(&mut candidates, [probability, threshold], second);
                draw::pick(&candidates, number).unwrap_or(likeliest)
            }
        };
        if self.options.penalises() {
            self.add(id, true);
        }
        Ok(id)
    }

    /// Returns the sampler after so many more draws.
    pub(crate) fn after(&self, drawn: u64) -> Self {
        Self { sampled: self.sampled.wrapping_add(drawn), ..self.clone() }
    }

    /// Returns the random state for the kernels: seed and counter, low words first.
    pub(crate) fn seed_and_counter(&self) -> [u32; 4] {
        let [seed, sampled] = [self.options.seed, self.sampled].map(|n| [n as u32, (n >> 32) as u32]);
        [seed[0], seed[1], sampled[0], sampled[1]]
    }

    /// Returns the counts of `vocab` tokens for the kernels.
    pub(crate) fn counts(&self, vocab: u32) -> Vec<u32> {
        let mut counts = vec![0; vocab as usize];
        for (id, count) in &self.counts {
            counts.get_mut(*id as usize).into_iter().for_each(|of_id| *of_id = *count);
        }
        counts
    }

    /// Returns the biases of `vocab` tokens.
    pub(crate) fn biases(&self, vocab: u32) -> Vec<f32> {
        let mut biases = vec![0.0; vocab as usize];
        for (id, by) in &self.options.logit_bias {
            biases.get_mut(*id as usize).into_iter().for_each(|bias| *bias += by);
        }
        biases
    }

    /// Adds bias and penalties to logits.
    pub(crate) fn penalise(&self, logits: &mut [f32]) {
        let options = &self.options;
        let strengths = options.penalties(false);
        let mut bias: HashMap<u32, f32> = HashMap::new();
        options.logit_bias.iter().for_each(|(id, by)| *bias.entry(*id).or_default() += by);
        let concerned: HashSet<u32> = self.counts.keys().chain(bias.keys()).copied().collect();
        for id in concerned {
            if let Some(logit) = logits.get_mut(id as usize) {
                let (by, count) = (bias.get(&id).copied(), self.counts.get(&id).copied());
                *logit = penalties::penalised(*logit, by.unwrap_or(0.0), count.unwrap_or(0), strengths);
            }
        }
    }

    /// Returns all tokens with their unnormalised probabilities at the temperature.
    fn weights(&self, logits: &[f32], likeliest: u32) -> Vec<(u32, f64)> {
        let (largest, temperature) = (f64::from(logits[likeliest as usize]), f64::from(self.options.temperature));
        (0u32..).zip(logits.iter().map(|l| ((f64::from(*l) - largest) / temperature).exp())).collect()
    }

    /// Returns the tokens that are kept, with their unnormalised probabilities, most likely first.
    fn candidates(&self, logits: &[f32], likeliest: u32) -> Vec<(u32, f64)> {
        let SamplingOptions { top_k, top_p, min_p, .. } = self.options;
        let mut kept = self.weights(logits, likeliest);
        let k = top_k as usize;
        if k > 0 && k < kept.len() {
            kept.select_nth_unstable_by(k - 1, mirostat::by_likelihood);
            kept.truncate(k);
        }
        kept.sort_unstable_by(mirostat::by_likelihood);
        draw::cut(&mut kept, top_p, min_p);
        kept
    }
}

/// Returns the id of the largest logit, of equal ones the lowest.
pub fn argmax(logits: &[f32]) -> Option<u32> {
    let mut best: Option<(u32, f32)> = None;
    for (id, logit) in (0u32..).zip(logits) {
        if best.is_none_or(|(_, largest)| *logit > largest) {
            best = Some((id, *logit));
        }
    }
    best.map(|(id, _)| id)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sampler(options: SamplingOptions) -> Sampler {
        Sampler::new(options).expect("valid options")
    }

    #[test]
    fn greedy_takes_the_lowest_of_equal_ids() {
        let mut greedy = sampler(SamplingOptions::greedy());
        assert_eq!(greedy.sample(&[0.0, 3.0, 3.0, 1.0]).ok(), Some(1));
    }

    #[test]
    fn cuts_keep_what_they_say() {
        let logits: Vec<f32> = [0.5f32, 0.25, 0.125, 0.0625, 0.0625].map(f32::ln).to_vec();
        let all = || SamplingOptions { temperature: 1.0, top_k: 0, top_p: 1.0, seed: 1, ..Default::default() };
        let ids =
            |options| -> Vec<u32> { sampler(options).candidates(&logits, 0).into_iter().map(|(id, _)| id).collect() };
        assert_eq!(ids(all()), [0, 1, 2, 3, 4]);
        assert_eq!(ids(SamplingOptions { top_k: 2, ..all() }), [0, 1]);
        assert_eq!(ids(SamplingOptions { top_p: 0.7, ..all() }), [0, 1]);
        assert_eq!(ids(SamplingOptions { min_p: 0.2, ..all() }), [0, 1, 2]);
    }

    #[test]
    fn draws_follow_the_probabilities_and_the_seed() {
        let logits = [0.7f32.ln(), 0.3f32.ln()];
        let options = SamplingOptions { temperature: 1.0, top_k: 0, top_p: 1.0, seed: 42, ..Default::default() };
        let draw = |mut s: Sampler| -> Vec<u32> { (0..4000).filter_map(|_| s.sample(&logits).ok()).collect() };
        let sampled = draw(sampler(options.clone()));
        let ones = sampled.iter().filter(|id| **id == 1).count();
        assert!((1100..1300).contains(&ones), "{ones} of 4000 at a probability of 0.3");
        assert_eq!(sampled, draw(sampler(options.clone())));
        assert_ne!(sampled, draw(sampler(SamplingOptions { seed: 43, ..options })));
    }

    #[test]
    fn xtc_drops_likely_tokens_with_its_probability() {
        let logits: Vec<f32> = [0.4f32, 0.3, 0.2, 0.1].map(f32::ln).to_vec();
        let shares = |probability: f32, threshold: f32| -> [f64; 4] {
            let options = SamplingOptions { temperature: 1.0, top_k: 0, top_p: 1.0, seed: 3, ..Default::default() };
            let mut s = sampler(options.xtc_probability(probability).xtc_threshold(threshold));
            let mut counts = [0.0; 4];
            (0..8000).filter_map(|_| s.sample(&logits).ok()).for_each(|id| counts[id as usize] += 1.0 / 8000.0);
            counts
        };
        // Of the three tokens of at least 0.15 the last stays, with 2/3 of what is left.
        let (all, dropped) = ([0.4, 0.3, 0.2, 0.1], [0.0, 0.0, 2.0 / 3.0, 1.0 / 3.0]);
        for (probability, threshold) in [(0.0, 0.15), (0.25, 0.15), (1.0, 0.15), (1.0, 0.51), (1.0, 0.35)] {
            // One likely token stays, and none above a threshold of 0.5 is.
            let share = if threshold == 0.15 { f64::from(probability) } else { 0.0 };
            for ((got, all), dropped) in shares(probability, threshold).into_iter().zip(all).zip(dropped) {
                let wanted = (1.0 - share) * all + share * dropped;
                // Five standard deviations at most.
                assert!((got - wanted).abs() < 0.028, "{probability} {threshold}: {got}, expected {wanted}");
                assert!(wanted > 0.0 || got == 0.0);
            }
        }
    }

    #[test]
    fn penalties_and_biases_change_the_choice() {
        let logits = [1.0, 1.2, -0.5];
        let choices = |options: SamplingOptions| -> Vec<u32> {
            let mut s = sampler(options);
            s.seen(&[1]);
            (0..4).filter_map(|_| s.sample(&logits).ok()).collect()
        };
        let greedy = SamplingOptions::greedy;
        assert_eq!(choices(greedy()), [1, 1, 1, 1]);
        // 1.2 / 1.5 is less than 1, and then both have been seen.
        assert_eq!(choices(SamplingOptions { repetition_penalty: 1.5, ..greedy() }), [0, 1, 1, 1]);
        assert_eq!(choices(SamplingOptions { presence_penalty: 0.3, ..greedy() }), [1, 0, 1, 1]);
        assert_eq!(choices(SamplingOptions { frequency_penalty: 0.3, ..greedy() }), [1, 0, 1, 0]);
        assert_eq!(choices(SamplingOptions { logit_bias: vec![(2, 9.0)], ..greedy() }), [2, 2, 2, 2]);
    }

    #[test]
    fn penalties_see_the_last_tokens() {
        let logits = [1.0, 1.2, 0.9];
        let choices = |last_n: i32| -> Vec<u32> {
            let mut s = sampler(SamplingOptions {
                frequency_penalty: 0.5,
                penalty_last_n: last_n,
                ..SamplingOptions::greedy()
            });
            s.seen(&[1, 1]);
            (0..6).filter_map(|_| s.sample(&logits).ok()).collect()
        };
        assert_eq!(choices(0), [1; 6]);
        assert_eq!(choices(1), [1, 0, 1, 0, 1, 0]);
        assert_eq!(choices(2), [1, 0, 2, 1, 0, 2]);
        assert_eq!(choices(-1), choices(100));
        // A token of the prompt counts as long as one of its occurrences is seen.
        let mut s =
            sampler(SamplingOptions { repetition_penalty: 2.0, penalty_last_n: 3, ..SamplingOptions::greedy() });
        s.seen(&[1, 2, 0, 2]);
        assert_eq!(s.counts(3), [penalties::IN_PROMPT, 0, penalties::IN_PROMPT]);
        s.learn(1, 1);
        assert_eq!(
            (s.counts(3), s.left()),
            (vec![penalties::IN_PROMPT, 1, penalties::IN_PROMPT], Some((2, penalties::IN_PROMPT)))
        );
        s.learn(1, 1);
        s.learn(1, 2);
        assert_eq!((s.counts(3), s.left()), (vec![0, 2, penalties::IN_PROMPT], Some((0, 0))));
    }

    #[test]
    fn not_a_number_is_an_error() {
        assert!(matches!(sampler(SamplingOptions::default()).sample(&[f32::NAN]), Err(EngineError::NotANumber)));
    }
}
