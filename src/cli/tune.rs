//! `tune`: autotunes the kernels of a GPU.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;
use ferrum_wgpu::{Config, Tuning};
use ferrum_wgpu::{Engine, EngineOptions};

use super::args::DeviceArg;
use super::device::DeviceChoice;
use super::exit::{Code, Failure};
use super::output::{self, note};
use super::{cache, load};

/// Autotune the kernels of a GPU for a model, and cache the result for later runs.
///
/// Times the candidates of each choice with the model's own weights, and prints them. The first candidate of a choice is
/// the default; another must save 3 % of its time. Other commands tune too, for at most 2 seconds; this one has no time
/// limit, and measures again what is cached. Software drivers are not tuned. Tuned kernels may add in another order, so that
/// logits differ in their last digits.
#[derive(Debug, Args)]
pub struct TuneArgs {
    /// The GGUF file.
    model: PathBuf,
    /// The number of sequences in a batch.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=4096))]
    npl: u32,
    /// Read the whole file into memory instead of mapping it: for one that may be shortened meanwhile.
    #[arg(long)]
    no_mmap: bool,
    #[command(flatten)]
    device: DeviceArg,
}

/// Runs the command.
pub async fn tune(args: &TuneArgs) -> Result<Code, Failure> {
    let gguf = load::open(&args.model, !args.no_mmap)?;
    Config::from_gguf(&gguf)?;
    let prefill_rows = EngineOptions::default().prefill_rows.max(args.npl);
    let options = EngineOptions::default()
        .sequences(args.npl)
        .prefill_rows(prefill_rows)
        .kv_tokens(args.npl.saturating_mul(64).max(256));
    let device = DeviceChoice::choose(args.device.device.as_deref()).await?.open().await?;
    if device.is_software() {
        note(format_args!("{} is a software driver: its kernels are not tuned", device.name()));
        return Ok(Code::Success);
    }
    let mut cached = cache::read_tuning(&Tuning::for_gguf(&device, &gguf).await?);
    let model = load::load(&device, &gguf, None).await?;
    let start = Instant::now();
    let tuned = Engine::tune(&model, &options, Duration::MAX, &mut || start.elapsed()).await?;
    tuned.tuning.choices.iter().for_each(|choice| cached.set(*choice));
    cache::write_tuning(&cached);
    let mut rows = vec![["choice", "candidate", "us", "chosen"].map(str::to_owned)];
    for timing in &tuned.timings {
        let us = format!("{:.1}", timing.time.as_secs_f64() * 1e6);
        let chosen = if timing.chosen { "*" } else { "" };
        rows.push([timing.candidate.key().name().to_owned(), timing.candidate.to_string(), us, chosen.to_owned()]);
    }
    output::print(&output::table(&rows, &[2]))?;
    note(format_args!("measured in {:.1} s", start.elapsed().as_secs_f64()));
    Ok(Code::Success)
}
