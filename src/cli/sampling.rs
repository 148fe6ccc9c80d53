//! The sampling options: flags, else what the file recommends, else the library's defaults.

use std::time::{SystemTime, UNIX_EPOCH};

use clap::Args;
use ferrum_wgpu::engine::SamplingOptions;
use ferrum_wgpu::gguf::Metadata;

use super::exit::Failure;

/// How tokens are drawn.
#[derive(Debug, Args)]
#[command(next_help_heading = "Sampling (without these options as the file recommends, else as Qwen3's authors do)")]
pub struct SamplingArgs {
    /// Temperature; 0 always takes the likeliest token.
    #[arg(long, value_name = "T", allow_negative_numbers = true)]
    temp: Option<f32>,
    /// Keep the K likeliest tokens; 0 keeps all.
    #[arg(long, value_name = "K", allow_negative_numbers = true)]
    top_k: Option<u32>,
    /// Keep the likeliest tokens until their probabilities add up to P.
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    top_p: Option<f32>,
    /// Drop tokens less likely than P times the likeliest.
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    min_p: Option<f32>,
    /// Divide positive logits of tokens in the prompt or the reply by this, multiply negative ones; 1 changes none.
    #[arg(long, value_name = "F", allow_negative_numbers = true)]
    repeat_penalty: Option<f32>,
    /// Take this from the logits of tokens in the reply.
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    presence_penalty: Option<f32>,
    /// Take this from a token's logit for each time that it is in the reply.
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    frequency_penalty: Option<f32>,
    /// Add BIAS to the logit of the token ID; may be given several times.
    #[arg(long, value_name = "ID=BIAS", value_parser = logit_bias)]
    logit_bias: Vec<(u32, f32)>,
    /// Seed; equal seeds draw equal tokens. Without it the clock's.
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    seed: Option<u64>,
}

/// `ID=BIAS`.
fn logit_bias(text: &str) -> Result<(u32, f32), String> {
    let (id, bias) = text.split_once('=').ok_or("not of the form ID=BIAS")?;
    let id = id.trim().parse().map_err(|error| format!("token id: {error}"))?;
    Ok((id, bias.trim().parse().map_err(|error| format!("bias: {error}"))?))
}

impl SamplingArgs {
    /// Checks what was given.
    pub fn check(&self) -> Result<(), Failure> {
        Ok(self.over(SamplingOptions::default()).check(u32::MAX)?)
    }

    /// The options for a file whose vocabulary has `vocab` tokens, and a line that says what they are and who says so. To be
    /// called after [`SamplingArgs::check`].
    pub fn options(&self, metadata: &Metadata, vocab: u32) -> Result<(SamplingOptions, String), Failure> {
        let clock = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos() as u64);
        let from_file = SamplingOptions::from_metadata(metadata)?;
        from_file.check(vocab).map_err(|error| Failure::model(format!("general.sampling: {error}")))?;
        let options = SamplingOptions { seed: self.seed.unwrap_or_else(clock), ..self.over(from_file) };
        options.check(vocab)?;
        let description = self.describe(&options, metadata);
        Ok((options, description))
    }

    /// The options that were given, the others from `base`.
    fn over(&self, base: SamplingOptions) -> SamplingOptions {
        SamplingOptions {
            temperature: self.temp.unwrap_or(base.temperature),
            top_k: self.top_k.unwrap_or(base.top_k),
            top_p: self.top_p.unwrap_or(base.top_p),
            min_p: self.min_p.unwrap_or(base.min_p),
            repetition_penalty: self.repeat_penalty.unwrap_or(base.repetition_penalty),
            presence_penalty: self.presence_penalty.unwrap_or(base.presence_penalty),
            frequency_penalty: self.frequency_penalty.unwrap_or(base.frequency_penalty),
            logit_bias: self.logit_bias.clone(),
            seed: self.seed.unwrap_or(base.seed),
        }
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
        if options.temperature == 0.0 {
            return format!("sampling: greedy (temp 0, {temp})");
        }
        let parts = [
            (format!("temp {}", options.temperature), temp),
            (format!("top-k {}", options.top_k), origin(self.top_k.is_some(), "top_k")),
            (format!("top-p {}", options.top_p), origin(self.top_p.is_some(), "top_p")),
            (format!("min-p {}", options.min_p), origin(self.min_p.is_some(), "min_p")),
            (format!("seed {}", options.seed), if self.seed.is_some() { "given" } else { "from the clock" }),
        ];
        // Neighbours of one origin share its mention.
        let groups = parts.chunk_by(|a, b| a.1 == b.1).map(|group| {
            let values = group.iter().map(|(value, _)| value.as_str()).collect::<Vec<_>>().join(", ");
            format!("{values} ({})", group[0].1)
        });
        format!("sampling: {}", groups.collect::<Vec<_>>().join("; "))
    }
}
