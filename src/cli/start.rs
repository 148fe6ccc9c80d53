//! Startup of an engine: loads weights and compiles pipelines concurrently.

use std::panic::resume_unwind;
use std::thread;
use std::time::{Duration, Instant};

use ferrum_wgpu::Device;
use ferrum_wgpu::Gguf;
use ferrum_wgpu::block_on;
use ferrum_wgpu::{Engine, Fit};
use ferrum_wgpu::{Model, Tuning};

use super::args::TuneArg;
use super::exit::Failure;
use super::{cache, load};

/// The time limit of autotuning at startup. The next run continues where this one stopped.
const TUNING_BUDGET: Duration = Duration::from_secs(2);

/// An engine that is ready, with its model.
#[derive(Debug)]
pub struct ReadyEngine {
    pub model: Model,
    pub engine: Engine,
    pub times: Times,
}

/// The duration of each part of the startup.
#[derive(Clone, Copy, Debug, Default)]
pub struct Times {
    /// Loading the weights.
    pub load: Duration,
    /// Compiling pipelines, concurrently with loading.
    pub compile: Duration,
    /// Autotuning kernels.
    pub tune: Duration,
    /// Allocating the engine's buffers.
    pub engine: Duration,
    /// The total.
    pub all: Duration,
    /// Whether cached pipelines were used.
    pub cached: bool,
}

/// Starts an engine, autotuning its kernels unless disabled. Tuning results and compiled pipelines are cached.
pub async fn start(device: &Device, gguf: Gguf, fit: &Fit, tune: TuneArg) -> Result<ReadyEngine, Failure> {
    let start = Instant::now();
    let (mut options, slots) = (fit.options.clone(), fit.memory.slots());
    // Software drivers are not tuned. With expert offloading, loading dominates the time.
    let tunes = !tune.no_tune && !device.is_software() && slots.is_none();
    if tunes {
        options.tuning = cache::read_tuning(&Tuning::for_gguf(device, &gguf).await?);
    }
    let fingerprint = device.fingerprint();
    let before = cache::read(cache::PIPELINES, &fingerprint, "").unwrap_or_default();
    let cached = device.restore_pipelines(&before);
    let (loaded, compiled) = thread::scope(|scope| {
        let compiling = scope.spawn(|| timed(|| block_on(Engine::precompile(device, &gguf, &options))));
        let loaded = timed(|| block_on(load::load(device, &gguf, slots)));
        (loaded, compiling.join().unwrap_or_else(|panic| resume_unwind(panic)))
    });
    let ((model, load), (compiled, compile)) = (loaded, compiled);
    let model = model?;
    compiled?;
    // Frees the memory of a file that was read as a whole.
    drop(gguf);
    let tuning = Instant::now();
    if tunes {
        let tuned = Engine::tune(&model, &options, TUNING_BUDGET, &mut || start.elapsed()).await?;
        if !tuned.timings.is_empty() {
            cache::write_tuning(&tuned.tuning);
        }
        options.tuning = tuned.tuning;
    }
    let tune = tuning.elapsed();
    let making = Instant::now();
    let engine = Engine::new(&model, &options).await?;
    let times = Times { load, compile, tune, engine: making.elapsed(), all: start.elapsed(), cached };
    if let Some(after) = device.compiled_pipelines().filter(|after| *after != before) {
        cache::write(cache::PIPELINES, &fingerprint, "", &after);
    }
    tracing::info!(?times, "started");
    Ok(ReadyEngine { model, engine, times })
}

fn timed<R>(work: impl FnOnce() -> R) -> (R, Duration) {
    let start = Instant::now();
    let result = work();
    (result, start.elapsed())
}
