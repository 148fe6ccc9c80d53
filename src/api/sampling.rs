//! Fields of sampling and length, which all endpoints share.

use serde_json::{Value, json};

use super::{
    ApiError,
    fields::{Fields, strings},
};
use crate::engine::SamplingOptions;

/// The most choices of a request.
const MAX_CHOICES: i64 = 16;
/// The most stop strings of a request.
const MAX_STOPS: usize = 16;
/// The most biased tokens of a request.
const MAX_BIASES: usize = 1024;
/// The least repetition penalty: logits are divided by it.
const LEAST_REPETITION: f32 = 1e-6;
/// The most log-probabilities at a place.
pub(super) const MAX_LOGPROBS: i64 = 20;

/// What a request says about sampling and length.
#[derive(Clone, Debug)]
pub(super) struct Sampling {
    pub(super) options: SamplingOptions,
    pub(super) max_tokens: Option<u32>,
    pub(super) stop: Vec<String>,
    /// The number of choices.
    pub(super) n: u32,
    pub(super) ignore_eos: bool,
    pub(super) stream: bool,
    pub(super) include_usage: bool,
}

impl Sampling {
    /// Removes the fields from a request. Values that are not given are those of `default`, with the seed `seed`.
    pub(super) fn take(fields: &mut Fields, default: &SamplingOptions, seed: u64) -> Result<Self, ApiError> {
        let mut options = default.clone().seed(seed);
        let number = |fields: &mut Fields, name: &str, most: f64, to: &mut f32| -> Result<(), ApiError> {
            *to = fields.number(name, if most == 2.0 { -2.0 } else { 0.0 }, most)?.unwrap_or(*to);
            Ok(())
        };
        number(fields, "temperature", 100.0, &mut options.temperature)?;
        number(fields, "top_p", 1.0, &mut options.top_p)?;
        if options.top_p == 0.0 {
            // OpenAI allows 0: the most likely token.
            (options.top_p, options.top_k) = (1.0, 1);
        }
        number(fields, "min_p", 1.0, &mut options.min_p)?;
        number(fields, "xtc_probability", 1.0, &mut options.xtc_probability)?;
        number(fields, "xtc_threshold", 1.0, &mut options.xtc_threshold)?;
        if let Some(version) = fields.integer("mirostat", 0, 2)? {
            options.mirostat = version as u32;
        }
        number(fields, "mirostat_tau", 100.0, &mut options.mirostat_tau)?;
        number(fields, "mirostat_eta", 100.0, &mut options.mirostat_eta)?;
        number(fields, "presence_penalty", 2.0, &mut options.presence_penalty)?;
        number(fields, "frequency_penalty", 2.0, &mut options.frequency_penalty)?;
        for name in ["repetition_penalty", "repeat_penalty"] {
            number(fields, name, 10.0, &mut options.repetition_penalty)?;
            if options.repetition_penalty < LEAST_REPETITION {
                return Err(fields.error(name, format_args!("must be at least {LEAST_REPETITION}")));
            }
        }
        for name in ["penalty_last_n", "repeat_last_n"] {
            if let Some(tokens) = fields.integer(name, -1, i64::from(i32::MAX))? {
                options.penalty_last_n = tokens as i32;
            }
        }
        if let Some(top_k) = fields.integer("top_k", -1, i64::from(u32::MAX))? {
            options.top_k = top_k.max(0) as u32;
        }
        if let Some(seed) = fields.integer("seed", -1, i64::MAX)?.filter(|seed| *seed >= 0) {
            options.seed = seed as u64;
        }
        options.logit_bias = logit_bias(fields)?;
        let most = i64::from(u32::MAX);
        let mut max_tokens = None;
        for name in ["max_tokens", "max_completion_tokens", "n_predict"] {
            if let Some(tokens) = fields.integer(name, -1, most)?.filter(|tokens| *tokens >= 0) {
                max_tokens = Some(tokens as u32);
            }
        }
        let stop = fields.take("stop").map(|stop| strings(stop, &fields.path("stop"), MAX_STOPS)).transpose()?;
        let n = fields.integer("n", 1, MAX_CHOICES)?.unwrap_or(1) as u32;
        let ignore_eos = fields.bool("ignore_eos")?.unwrap_or(false);
        let stream = fields.bool("stream")?.unwrap_or(false);
        let mut include_usage = false;
        if let Some(value) = fields.take("stream_options") {
            if !stream {
                return Err(fields.error("stream_options", "needs stream = true"));
            }
            let mut inner = Fields::new(value, fields.path("stream_options"))?;
            include_usage = inner.bool("include_usage")?.unwrap_or(false);
            inner.only("include_obfuscation", &[json!(false)])?;
            inner.finish()?;
        }
        // They describe the request, and change no output.
        fields.ignore(&["user", "metadata", "safety_identifier", "prompt_cache_key", "prompt_cache_retention"]);
        fields.only("cache_prompt", &[json!(true)])?;
        fields.only("store", &[json!(false)])?;
        fields.only("service_tier", &[json!("auto"), json!("default")])?;
        Ok(Self { options, max_tokens, stop: stop.unwrap_or_default(), n, ignore_eos, stream, include_usage })
    }
}

/// Reads `logit_bias`: an object from token ids to numbers.
fn logit_bias(fields: &mut Fields) -> Result<Vec<(u32, f32)>, ApiError> {
    let path = fields.path("logit_bias");
    let problem = || {
        ApiError::field(
            &path,
            format_args!("must be an object of at most {MAX_BIASES} token ids and numbers from -100 to 100"),
        )
    };
    match fields.take("logit_bias") {
        None => Ok(Vec::new()),
        Some(Value::Object(map)) if map.len() <= MAX_BIASES => map
            .iter()
            .map(|(id, bias)| {
                let bias = bias.as_f64().filter(|bias| bias.abs() <= 100.0).ok_or_else(problem)?;
                Ok((id.parse().map_err(|_| problem())?, bias as f32))
            })
            .collect(),
        Some(_) => Err(problem()),
    }
}
