//! The command `logits`, for comparison with `tools/reference.py`.

use std::path::PathBuf;

use clap::Args;
use ferrum_wgpu::Config;
use ferrum_wgpu::KvType;
use ferrum_wgpu::{Engine, EngineError, EngineOptions, low_level::engine::argmax};

use super::args::{DeviceArg, PrecisionArg, kv_type};
use super::device::DeviceChoice;
use super::exit::{Code, Failure};
use super::memory::{MemoryArgs, expert_cache};
use super::{load, output};

/// Print the largest logits after each token of a sequence, as one line of JSON.
#[derive(Debug, Args)]
pub struct LogitsArgs {
    /// The GGUF file.
    model: PathBuf,
    /// Token ids.
    #[arg(long, value_name = "ID,ID,..", required = true, value_delimiter = ',', value_parser = token_id)]
    tokens: Vec<u32>,
    /// Continue with N tokens, sampled greedily.
    #[arg(long, value_name = "N", default_value_t = 0)]
    greedy: u32,
    /// Number of logits per token.
    #[arg(long, value_name = "K", default_value_t = 5)]
    top: usize,
    /// Data type of the KV cache.
    #[arg(long, value_name = "TYPE", default_value = KvType::F32.name(), value_parser = kv_type())]
    kv_type: KvType,
    /// Context size in tokens [default: the number of tokens computed].
    #[arg(short, long, visible_alias = "ctx-size", value_name = "TOKENS")]
    ctx: Option<u32>,
    /// Read the whole file into memory instead of memory-mapping it; safe if the file may be truncated while in use.
    #[arg(long)]
    no_mmap: bool,
    #[command(flatten)]
    memory: MemoryArgs,
    #[command(flatten)]
    precision: PrecisionArg,
    #[command(flatten)]
    device: DeviceArg,
}

/// The size of the device's logits buffer in elements: 32 MiB.
const MAX_LOGITS: u32 = 8 << 20;

/// Parses a token id, ignoring surrounding space.
fn token_id(text: &str) -> Result<u32, std::num::ParseIntError> {
    text.trim().parse()
}

/// Runs the command.
pub async fn logits(args: &LogitsArgs) -> Result<Code, Failure> {
    let gguf = load::open(&args.model, !args.no_mmap)?;
    let config = Config::from_gguf(&gguf)?;
    if let Some(&id) = args.tokens.iter().find(|id| **id >= config.vocab) {
        return Err(EngineError::TokenId { id, vocab: config.vocab }.into());
    }
    let needed = args.tokens.len() as u64 + u64::from(args.greedy);
    let capacity = args.ctx.unwrap_or(config.context_length);
    if needed > u64::from(capacity) {
        return Err(EngineError::ContextFull { needed, capacity }.into());
    }
    // No overflow: `needed` is at most `capacity`.
    let context = args.ctx.unwrap_or(needed as u32);
    let defaults = EngineOptions::default();
    let logit_rows = (MAX_LOGITS / config.vocab).clamp(1, defaults.prefill_rows);
    let options =
        defaults.context(context).kv_type(args.kv_type).max_logit_rows(logit_rows).plan(args.precision.plan());
    Engine::memory(&gguf, &options, args.kv_type)?;

    let device_choice = DeviceChoice::choose(args.device.device.as_deref()).await?;
    let fit = args.memory.plan(&device_choice, &gguf, options.clone())?;
    let device = device_choice.open().await?;
    args.memory.report(&fit, args.kv_type);
    let model = load::load(&device, &gguf, fit.memory.slots()).await?;
    let mut session = Engine::new(&model, &options).await?.session();

    let mut rows = Vec::new();
    let mut last = Vec::new();
    session
        .forward_each(&args.tokens, |row| {
            rows.push(top(row, args.top));
            last.clear();
            last.extend_from_slice(row);
        })
        .await?;
    let mut greedy = Vec::new();
    for _ in 0..args.greedy {
        let id = argmax(&last).ok_or(EngineError::NoTokens)?;
        greedy.push(id);
        last = session.decode(id).await?;
        rows.push(top(&last, args.top));
    }
    let rows = rows.into_iter().collect::<Option<Vec<_>>>().ok_or(EngineError::NotANumber)?;
    // Formatted by hand, so the keys are in the reference's order.
    let json = |value: serde_json::Result<String>| value.map_err(|e| Failure::Error(Code::Runtime, e.to_string()));
    let tokens = json(serde_json::to_string(&args.tokens))?;
    let (greedy, rows) = (json(serde_json::to_string(&greedy))?, json(serde_json::to_string(&rows))?);
    if let Some(paging) = model.expert_cache() {
        output::note(format_args!("{}", expert_cache(&paging)));
    }
    output::print(&format!("{{\"tokens\":{tokens},\"greedy\":{greedy},\"top\":{rows}}}\n"))?;
    Ok(Code::Success)
}

/// Returns the `k` largest logits with their ids, ties by ascending id; `None` if a logit is not finite.
fn top(row: &[f32], k: usize) -> Option<Vec<(u32, f64)>> {
    if !row.iter().all(|logit| logit.is_finite()) {
        return None;
    }
    let mut all: Vec<(u32, f32)> = (0..).zip(row.iter().copied()).collect();
    // Not `total_cmp`: 0.0 and -0.0 are equal.
    let order =
        |a: &(u32, f32), b: &(u32, f32)| b.1.partial_cmp(&a.1).unwrap_or(std::cmp::Ordering::Equal).then(a.0.cmp(&b.0));
    if k > 0 && k < all.len() {
        all.select_nth_unstable_by(k - 1, order);
    }
    all.truncate(k);
    all.sort_unstable_by(order);
    Some(all.into_iter().map(|(id, logit)| (id, rounded(logit))).collect())
}

/// Rounds to six decimals.
fn rounded(logit: f32) -> f64 {
    let exact = f64::from(logit);
    format!("{exact:.6}").parse().unwrap_or(exact)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_come_first_and_of_equal_ones_the_lowest_id() {
        let row = [0.0, 2.5, -0.0, 2.5, 1.234_567_8, -1.0];
        let ids = |k| top(&row, k).map(|top| top.into_iter().map(|(id, _)| id).collect::<Vec<_>>());
        assert_eq!(ids(4), Some(vec![1, 3, 4, 0]));
        assert_eq!(ids(9), Some(vec![1, 3, 4, 0, 2, 5]));
        assert_eq!(ids(0), Some(vec![]));
        assert_eq!(top(&row, 3).map(|top| top[2]), Some((4, 1.234568)));
        assert_eq!(top(&[0.0, f32::NAN], 1), None);
    }
}
