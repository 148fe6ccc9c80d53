//! From a file and a device to an engine: the weights are loaded while pipelines are compiled.

use std::panic::resume_unwind;
use std::thread;
use std::time::{Duration, Instant};

use ferrum_wgpu::block_on;
use ferrum_wgpu::engine::{Engine, Fit};
use ferrum_wgpu::gguf::Gguf;
use ferrum_wgpu::gpu::Device;
use ferrum_wgpu::model::{Model, Tuning};

use super::args::TuneArg;
use super::exit::Failure;
use super::{cache, load};

/// How long measuring may hold up an answer; what is unknown then is measured the next time.
const BUDGET: Duration = Duration::from_secs(2);

/// An engine with its model.
#[derive(Debug)]
pub struct Started {
    pub model: Model,
    pub engine: Engine,
    pub times: Times,
}

/// How long it took.
#[derive(Clone, Copy, Debug, Default)]
pub struct Times {
    /// Loading the weights.
    pub load: Duration,
    /// Compiling pipelines, at the same time.
    pub compile: Duration,
    /// Measuring which kernels are quickest.
    pub tune: Duration,
    /// Making the engine's buffers.
    pub engine: Duration,
    /// All of it.
    pub all: Duration,
    /// Whether the driver had pipelines of an earlier run.
    pub kept: bool,
}

/// Makes an engine with what was measured on the device, measuring what is still unknown if `tune` says so, and has that and
/// the driver's pipelines kept for the next time.
pub async fn start(device: &Device, gguf: Gguf, fit: &Fit, tune: TuneArg) -> Result<Started, Failure> {
    let start = Instant::now();
    let (mut options, slots) = (fit.options.clone(), fit.memory.slots());
    // Where experts are paged, the host takes most of the time, and others have other experts.
    let tunes = !tune.no_tune && !device.is_cpu() && slots.is_none();
    if tunes {
        options.tuning = cache::read_tuning(&Tuning::of(device, &gguf).await?);
    }
    let fingerprint = device.fingerprint();
    let before = cache::read(cache::PIPELINES, &fingerprint, "").unwrap_or_default();
    let kept = device.restore_pipelines(&before);
    let (loaded, compiled) = thread::scope(|scope| {
        let compiling = scope.spawn(|| timed(|| block_on(Engine::compile(device, &gguf, &options))));
        let loaded = timed(|| block_on(load::load(device, &gguf, slots)));
        (loaded, compiling.join().unwrap_or_else(|panic| resume_unwind(panic)))
    });
    let ((model, load), (compiled, compile)) = (loaded, compiled);
    let model = model?;
    compiled?;
    // A file that was read as a whole takes memory.
    drop(gguf);
    let tuning = Instant::now();
    if tunes {
        let tuned = Engine::tune(&model, &options, BUDGET, &mut || start.elapsed()).await?;
        if !tuned.timings.is_empty() {
            cache::write_tuning(&tuned.tuning);
        }
        options.tuning = tuned.tuning;
    }
    let tune = tuning.elapsed();
    let making = Instant::now();
    let engine = Engine::new(&model, &options).await?;
    let times = Times { load, compile, tune, engine: making.elapsed(), all: start.elapsed(), kept };
    if let Some(after) = device.compiled_pipelines().filter(|after| *after != before) {
        cache::write(cache::PIPELINES, &fingerprint, "", &after);
    }
    tracing::info!(?times, "started");
    Ok(Started { model, engine, times })
}

fn timed<R>(work: impl FnOnce() -> R) -> (R, Duration) {
    let start = Instant::now();
    let result = work();
    (result, start.elapsed())
}
