//! `tune`: which kernels are quickest on a device, for a model.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;
use ferrum_wgpu::engine::{Engine, EngineOptions};
use ferrum_wgpu::model::{Config, Tuning};

use super::args::DeviceArg;
use super::device::DeviceChoice;
use super::exit::{Code, Failure};
use super::output::{self, note};
use super::{cache, load};

/// Measure which kernels are quickest on a device, for a model, and keep it for later runs.
///
/// Where several kernels give the same bits, each is timed with the model's own weights: a table says how long it
/// takes, and which was chosen. The first of a site is what is taken without measuring; another has to save 3 %. Other
/// commands measure too, for 2 seconds at most; this one takes the time that it needs, and measures anew what was
/// measured before.
#[derive(Debug, Args)]
pub struct TuneArgs {
    /// The GGUF file.
    model: PathBuf,
    /// Sequences that are computed at once.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=4096))]
    npl: u32,
    /// Read the whole file into memory instead of mapping it: for one that may be shortened meanwhile.
    #[arg(long)]
    no_mmap: bool,
    #[command(flatten)]
    device: DeviceArg,
}

/// Measures, prints and keeps.
pub async fn tune(args: &TuneArgs) -> Result<Code, Failure> {
    let gguf = load::open(&args.model, !args.no_mmap)?;
    Config::from_gguf(&gguf)?;
    let defaults = EngineOptions::default();
    let options = EngineOptions {
        sequences: args.npl,
        prefill_rows: defaults.prefill_rows.max(args.npl),
        kv_tokens: Some(args.npl.saturating_mul(64).max(256)),
        ..defaults
    };
    let device = DeviceChoice::choose(args.device.device.as_deref()).await?.open().await?;
    let mut kept = cache::read_tuning(&Tuning::of(&device, &gguf).await?);
    let model = load::load(&device, &gguf, None).await?;
    let start = Instant::now();
    let tuned = Engine::tune(&model, &options, Duration::MAX, &mut || start.elapsed()).await?;
    kept.choices.extend(tuned.tuning.choices);
    cache::write_tuning(&kept);
    let mut rows = vec![["site", "candidate", "us", "chosen"].map(str::to_owned)];
    for timing in &tuned.timings {
        let us = format!("{:.1}", timing.time.as_secs_f64() * 1e6);
        let chosen = if timing.chosen { "*" } else { "" };
        rows.push([timing.site.clone(), timing.candidate.to_owned(), us, chosen.to_owned()]);
    }
    output::print(&output::table(&rows, &[2]))?;
    note(format_args!("measured in {:.1} s", start.elapsed().as_secs_f64()));
    Ok(Code::Success)
}
