//! The sampling options: from the command line, else from the file, else the library's defaults.

use std::time::{SystemTime, UNIX_EPOCH};

use clap::Args;
use ferrum_wgpu::SamplingOptions;
use ferrum_wgpu::gguf::Metadata;

use super::exit::Failure;
use super::output::printable;

/// The keys of `general.sampling` that [`SamplingOptions::from_metadata`] reads.
const APPLIED: [&str; 11] = [
    "temp",
    "top_k",
    "top_p",
    "min_p",
    "xtc_probability",
    "xtc_threshold",
    "mirostat",
    "mirostat_tau",
    "mirostat_eta",
    "penalty_repeat",
    "penalty_last_n",
];

/// The order in which options are applied, by llama.cpp's names.
const SEQUENCE: [&str; 6] = ["penalties", "temperature", "top_k", "top_p", "min_p", "xtc"];

/// Returns whether a key of `general.sampling` changes nothing in this file, by llama.cpp's definitions.
fn is_neutral(key: &str, metadata: &Metadata) -> bool {
    match key {
        // Names, separated by semicolons.
        "sequence" => metadata.str("general.sampling.sequence").ok().flatten().is_some_and(|names| {
            let names: Vec<&str> = names.split(';').collect();
            let ours: Vec<&str> = SEQUENCE.into_iter().filter(|name| names.contains(name)).collect();
            names == ours
        }),
        _ => false,
    }
}

/// The sampling options.
#[derive(Debug, Args)]
#[command(next_help_heading = "Sampling (defaults: the file's recommendation, else Qwen3's)")]
pub struct SamplingArgs {
    /// Temperature; 0 is greedy sampling.
    #[arg(long, value_name = "T", allow_negative_numbers = true)]
    temp: Option<f32>,
    /// Top-k sampling: keep the K most likely tokens; 0 or -1 disables it.
    #[arg(long, value_name = "K", allow_negative_numbers = true, value_parser = top_k)]
    top_k: Option<u32>,
    /// Top-p sampling: keep the most likely tokens with a total probability of P; 1 disables it.
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    top_p: Option<f32>,
    /// Min-p sampling: drop tokens less likely than P times the most likely one; 0 disables it.
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    min_p: Option<f32>,
    /// XTC sampling: with probability P, drop the tokens above --xtc-threshold but the least likely of them; 0 disables it.
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    xtc_probability: Option<f32>,
    /// The probability from which XTC drops tokens; above 0.5 none are [default: 0.1].
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    xtc_threshold: Option<f32>,
    /// Mirostat sampling, version 1 or 2, in place of top-k, top-p, min-p and XTC; 0 disables it.
    #[arg(long, value_name = "N")]
    mirostat: Option<u32>,
    /// The surprise of tokens in bits that Mirostat aims at (tau) [default: 5].
    #[arg(long, alias = "mirostat-tau", value_name = "TAU", allow_negative_numbers = true)]
    mirostat_ent: Option<f32>,
    /// The learning rate of Mirostat (eta) [default: 0.1].
    #[arg(long, alias = "mirostat-eta", value_name = "ETA", allow_negative_numbers = true)]
    mirostat_lr: Option<f32>,
    /// Repetition penalty: divide positive logits (multiply negative ones) of tokens in the conversation by F; 1 disables
    /// it. See --repeat-last-n.
    #[arg(long, value_name = "F", allow_negative_numbers = true)]
    repeat_penalty: Option<f32>,
    /// Presence penalty: subtract P from the logits of tokens in the reply; 0 disables it.
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    presence_penalty: Option<f32>,
    /// Frequency penalty: subtract P from a token's logit for each occurrence in the reply; 0 disables it.
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    frequency_penalty: Option<f32>,
    /// Penalties see the last N tokens of the conversation only; -1 is all of them, 0 disables the penalties [default: -1].
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    repeat_last_n: Option<i32>,
    /// Add BIAS to the logit of token ID. May be repeated.
    #[arg(long, value_name = "ID=BIAS", value_parser = logit_bias)]
    logit_bias: Vec<(u32, f32)>,
    /// Random seed; -1 is one from the clock [default: -1].
    #[arg(short, long, value_name = "N", allow_negative_numbers = true, value_parser = seed)]
    seed: Option<Seed>,
}

/// A seed of random numbers; `None` is one from the clock.
#[derive(Clone, Copy, Debug)]
struct Seed(Option<u64>);

/// Parses a seed.
fn seed(text: &str) -> Result<Seed, std::num::ParseIntError> {
    if text == "-1" { Ok(Seed(None)) } else { text.parse().map(|seed| Seed(Some(seed))) }
}

/// Parses the number of tokens to keep.
fn top_k(text: &str) -> Result<u32, std::num::ParseIntError> {
    if text == "-1" { Ok(0) } else { text.parse() }
}

/// Parses `ID=BIAS`.
fn logit_bias(text: &str) -> Result<(u32, f32), String> {
    let (id, bias) = text.split_once('=').ok_or("expected ID=BIAS")?;
    let id = id.trim().parse().map_err(|error| format!("token id: {error}"))?;
    Ok((id, bias.trim().parse().map_err(|error| format!("bias: {error}"))?))
}

impl SamplingArgs {
    /// Validates the options given.
    pub fn check(&self) -> Result<(), Failure> {
        Ok(self.over(SamplingOptions::default()).check(u32::MAX)?)
    }

    /// Returns the options for a file, and a line that describes them and their origin. Call [`SamplingArgs::check`]
    /// first.
    pub fn options(&self, metadata: &Metadata, vocab: u32) -> Result<(SamplingOptions, String), Failure> {
        let clock = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos() as u64);
        let from_file = SamplingOptions::from_metadata(metadata)?;
        from_file.check(vocab).map_err(|error| Failure::model(format!("general.sampling: {error}")))?;
        let options = self.over(from_file).seed(self.given_seed().unwrap_or_else(clock));
        options.check(vocab)?;
        let description = self.describe(&options, metadata);
        Ok((options, description))
    }

    /// Returns the options given, with the others from `base`.
    fn over(&self, base: SamplingOptions) -> SamplingOptions {
        SamplingOptions::default()
            .temperature(self.temp.unwrap_or(base.temperature))
            .top_k(self.top_k.unwrap_or(base.top_k))
            .top_p(self.top_p.unwrap_or(base.top_p))
            .min_p(self.min_p.unwrap_or(base.min_p))
            .xtc_probability(self.xtc_probability.unwrap_or(base.xtc_probability))
            .xtc_threshold(self.xtc_threshold.unwrap_or(base.xtc_threshold))
            .mirostat(self.mirostat.unwrap_or(base.mirostat))
            .mirostat_tau(self.mirostat_ent.unwrap_or(base.mirostat_tau))
            .mirostat_eta(self.mirostat_lr.unwrap_or(base.mirostat_eta))
            .repetition_penalty(self.repeat_penalty.unwrap_or(base.repetition_penalty))
            .presence_penalty(self.presence_penalty.unwrap_or(base.presence_penalty))
            .frequency_penalty(self.frequency_penalty.unwrap_or(base.frequency_penalty))
            .penalty_last_n(self.repeat_last_n.unwrap_or(base.penalty_last_n))
            .logit_bias(self.logit_bias.clone())
            .seed(self.given_seed().unwrap_or(base.seed))
    }

    fn given_seed(&self) -> Option<u64> {
        self.seed.and_then(|Seed(seed)| seed)
    }

    fn describe(&self, options: &SamplingOptions, metadata: &Metadata) -> String {
        let origin = |given: bool, key: &str| {
            if given {
                "given"
            } else if metadata.get(&format!("general.sampling.{key}")).is_some() {
                "from the file"
            } else {
                "Qwen3's default"
            }
        };
        let temp = origin(self.temp.is_some(), "temp");
        let mut parts = vec![(format!("temp {}", options.temperature), temp)];
        let greedy = options.temperature == 0.0;
        if greedy {
            parts = vec![("greedy (temp 0".to_owned(), temp)];
        }
        let cuts = [
            (format!("top-k {}", options.top_k), origin(self.top_k.is_some(), "top_k")),
            (format!("top-p {}", options.top_p), origin(self.top_p.is_some(), "top_p")),
            (format!("min-p {}", options.min_p), origin(self.min_p.is_some(), "min_p")),
        ];
        let penalties = [
            ("repeat-penalty", options.repetition_penalty, 1.0, self.repeat_penalty.is_some(), "penalty_repeat"),
            ("presence-penalty", options.presence_penalty, 0.0, self.presence_penalty.is_some(), "penalty_present"),
            ("frequency-penalty", options.frequency_penalty, 0.0, self.frequency_penalty.is_some(), "penalty_freq"),
        ];
        let own_default = |given: bool, key: &str| match origin(given, key) {
            "Qwen3's default" => "default",
            origin => origin,
        };
        if options.mirostat > 0 && !greedy {
            parts.extend([
                (format!("mirostat {}", options.mirostat), origin(self.mirostat.is_some(), "mirostat")),
                (
                    format!("mirostat-ent {}", options.mirostat_tau),
                    own_default(self.mirostat_ent.is_some(), "mirostat_tau"),
                ),
                (
                    format!("mirostat-lr {}", options.mirostat_eta),
                    own_default(self.mirostat_lr.is_some(), "mirostat_eta"),
                ),
            ]);
        } else if !greedy {
            parts.extend(cuts);
            if options.xtc_probability > 0.0 {
                let probability = origin(self.xtc_probability.is_some(), "xtc_probability");
                parts.push((format!("xtc-probability {}", options.xtc_probability), probability));
                let threshold = own_default(self.xtc_threshold.is_some(), "xtc_threshold");
                parts.push((format!("xtc-threshold {}", options.xtc_threshold), threshold));
            }
        }
        for (name, value, neutral, given, key) in penalties {
            if value != neutral && options.penalty_last_n != 0 {
                parts.push((format!("{name} {value}"), origin(given, key)));
            }
        }
        let penalised = penalties.iter().any(|(_, value, neutral, ..)| value != neutral);
        if penalised && options.penalty_last_n > 0 {
            let origin = origin(self.repeat_last_n.is_some(), "penalty_last_n");
            parts.push((format!("repeat-last-n {}", options.penalty_last_n), origin));
        }
        if !greedy {
            let seed = if self.given_seed().is_some() { "given" } else { "from the clock" };
            parts.push((format!("seed {}", options.seed), seed));
        }
        // Recommendations without an option here.
        for (key, value) in metadata.iter() {
            let key = key.strip_prefix("general.sampling.").filter(|key| !APPLIED.contains(key));
            if let Some(key) = key.filter(|key| !is_neutral(key, metadata)) {
                parts.push((
                    format!("{} {}", printable(key), printable(&value.to_string())),
                    "from the file, not applied",
                ));
            }
        }
        // Consecutive options of the same origin are grouped.
        let groups = parts.chunk_by(|a, b| a.1 == b.1).map(|group| {
            let values = group.iter().map(|(value, _)| value.as_str()).collect::<Vec<_>>().join(", ");
            format!("{values} ({})", group[0].1)
        });
        let line = format!("sampling: {}", groups.collect::<Vec<_>>().join("; "));
        line.replace("greedy (temp 0 (", "greedy (temp 0, ")
    }
}
