//! Choosing the next token from logits, on the host.

use super::EngineError;
use crate::{
    gguf::{GgufError, Metadata},
    kernels::sample::{draw, philox},
};

/// How tokens are drawn. Logits are divided by the temperature, then cut by `top_k`, `top_p` and `min_p` in this order,
/// as Hugging Face's generation does, for which model authors recommend their values.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SamplingOptions {
    /// 0 takes the likeliest token always; of equal ones the lowest id.
    pub temperature: f32,
    /// Keeps the `top_k` likeliest tokens; 0 keeps all.
    pub top_k: u32,
    /// Keeps the likeliest tokens until their mass reaches it; 1 keeps all.
    pub top_p: f32,
    /// Drops tokens less likely than `min_p` times the likeliest; 0 drops none.
    pub min_p: f32,
    /// The draws' seed: equal seeds draw equal tokens.
    pub seed: u64,
}

impl Default for SamplingOptions {
    /// What Qwen3's authors recommend.
    fn default() -> Self {
        Self { temperature: 0.6, top_k: 20, top_p: 0.95, min_p: 0.0, seed: 0 }
    }
}

impl SamplingOptions {
    /// The options that a file recommends (`general.sampling.*`), the default for those it does not name.
    ///
    /// # Errors
    /// [`GgufError::WrongType`].
    pub fn from_metadata(metadata: &Metadata) -> Result<Self, GgufError> {
        let default = Self::default();
        let float = |key: &str| metadata.f32(&format!("general.sampling.{key}"));
        Ok(Self {
            temperature: float("temp")?.unwrap_or(default.temperature),
            top_k: metadata.u32("general.sampling.top_k")?.unwrap_or(default.top_k),
            top_p: float("top_p")?.unwrap_or(default.top_p),
            min_p: float("min_p")?.unwrap_or(default.min_p),
            seed: default.seed,
        })
    }
}

/// Draws tokens.
#[derive(Clone, Debug)]
pub struct Sampler {
    options: SamplingOptions,
    /// Draws so far: with the seed it determines the next.
    drawn: u64,
}

impl Sampler {
    /// A sampler at its first draw.
    ///
    /// # Errors
    /// [`EngineError::Option`] for a value out of its range.
    pub fn new(options: SamplingOptions) -> Result<Self, EngineError> {
        let check = |option, value: f32, ok: bool, range| {
            if ok { Ok(()) } else { Err(EngineError::Option { option, value: value.to_string(), range }) }
        };
        let SamplingOptions { temperature, top_p, min_p, .. } = options;
        check("temperature", temperature, temperature >= 0.0 && temperature.is_finite(), "at least 0")?;
        check("top_p", top_p, top_p > 0.0 && top_p <= 1.0, "above 0 and at most 1")?;
        check("min_p", min_p, (0.0..=1.0).contains(&min_p), "between 0 and 1")?;
        Ok(Self { options, drawn: 0 })
    }

    /// The options.
    pub fn options(&self) -> &SamplingOptions {
        &self.options
    }

    /// The next token for `logits`, one for each id.
    ///
    /// # Errors
    /// [`EngineError::NotANumber`] when a logit is none; [`EngineError::NoTokens`] when there are none.
    pub fn sample(&mut self, logits: &[f32]) -> Result<u32, EngineError> {
        if logits.iter().any(|l| l.is_nan()) {
            return Err(EngineError::NotANumber);
        }
        let likeliest = argmax(logits).ok_or(EngineError::NoTokens)?;
        if self.options.temperature == 0.0 {
            return Ok(likeliest);
        }
        let number = philox::uniform(self.options.seed, self.drawn);
        self.drawn += 1;
        Ok(draw::pick(&self.candidates(logits, likeliest), number).unwrap_or(likeliest))
    }

    /// The tokens that are kept with their unnormalised probabilities, likeliest first.
    fn candidates(&self, logits: &[f32], likeliest: u32) -> Vec<(u32, f64)> {
        let SamplingOptions { temperature, top_k, top_p, min_p, .. } = self.options;
        let largest = f64::from(logits[likeliest as usize]);
        let weight = |l: f32| ((f64::from(l) - largest) / f64::from(temperature)).exp();
        let mut kept: Vec<(u32, f64)> = (0u32..).zip(logits.iter().map(|l| weight(*l))).collect();
        let by_likelihood = |a: &(u32, f64), b: &(u32, f64)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
        let k = top_k as usize;
        if k > 0 && k < kept.len() {
            kept.select_nth_unstable_by(k - 1, by_likelihood);
            kept.truncate(k);
        }
        kept.sort_unstable_by(by_likelihood);
        draw::cut(&mut kept, top_p, min_p);
        kept
    }
}

/// The id of the largest logit, of equal ones the lowest.
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
        let mut greedy = sampler(SamplingOptions { temperature: 0.0, ..Default::default() });
        assert_eq!(greedy.sample(&[0.0, 3.0, 3.0, 1.0]).ok(), Some(1));
    }

    #[test]
    fn cuts_keep_what_they_say() {
        let logits: Vec<f32> = [0.5f32, 0.25, 0.125, 0.0625, 0.0625].map(f32::ln).to_vec();
        let all = SamplingOptions { temperature: 1.0, top_k: 0, top_p: 1.0, min_p: 0.0, seed: 1 };
        let ids =
            |options| -> Vec<u32> { sampler(options).candidates(&logits, 0).into_iter().map(|(id, _)| id).collect() };
        assert_eq!(ids(all), [0, 1, 2, 3, 4]);
        assert_eq!(ids(SamplingOptions { top_k: 2, ..all }), [0, 1]);
        assert_eq!(ids(SamplingOptions { top_p: 0.7, ..all }), [0, 1]);
        assert_eq!(ids(SamplingOptions { min_p: 0.2, ..all }), [0, 1, 2]);
    }

    #[test]
    fn draws_follow_the_probabilities_and_the_seed() {
        let logits = [0.7f32.ln(), 0.3f32.ln()];
        let options = SamplingOptions { temperature: 1.0, top_k: 0, top_p: 1.0, min_p: 0.0, seed: 42 };
        let draw = |mut s: Sampler| -> Vec<u32> { (0..4000).filter_map(|_| s.sample(&logits).ok()).collect() };
        let drawn = draw(sampler(options));
        let ones = drawn.iter().filter(|id| **id == 1).count();
        assert!((1100..1300).contains(&ones), "{ones} of 4000 at a probability of 0.3");
        assert_eq!(drawn, draw(sampler(options)));
        assert_ne!(drawn, draw(sampler(SamplingOptions { seed: 43, ..options })));
    }

    #[test]
    fn not_a_number_is_an_error() {
        assert!(matches!(sampler(SamplingOptions::default()).sample(&[f32::NAN]), Err(EngineError::NotANumber)));
    }
}
