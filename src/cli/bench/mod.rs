//! The command `bench`: throughput, memory bandwidth, and reproducibility of the output.

mod copy;
mod report;
mod sequences;

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;
use ferrum_wgpu::KvType;
use ferrum_wgpu::{Config, low_level::model::MemoryTraffic};
use ferrum_wgpu::{Engine, EngineError, EngineOptions, Fit};

use super::args::{DeviceArg, LookupArg, PrecisionArg, TuneArg, kv_type};
use super::device::DeviceChoice;
use super::exit::{Code, Failure};
use super::interrupt::Interrupt;
use super::load;
use super::memory::MemoryArgs;
use super::start::{self, ReadyEngine};
use report::{BenchInfo, Decode, Format, Report, Row, Start};
use sequences::{Run, Sequences};

/// Measure prompt processing and text generation speed.
///
/// As in llama-bench, `pp` tests process a prompt and sample one token, and `tg` tests generate text, both with -d
/// tokens already in the KV cache. Lists are comma-separated; each combination is a row. Tokens per second are summed
/// over all sequences. A warm-up run is not counted.
///
/// For `tg` tests the table also shows: the bandwidth of weights and KV cache reads in GB/s and relative to a plain
/// copy; dispatches per token and per layer; bytes read relative to the minimum (for several sequences, assuming
/// uniformly random experts); host waits per token; and a hash of the first sequence's tokens. Generation is greedy
/// after a fixed prompt, so the hash must be the same in all runs and for all numbers of sequences; otherwise the
/// command fails.
#[derive(Debug, Args)]
pub struct BenchArgs {
    /// The GGUF file.
    model: PathBuf,
    /// Prompt lengths in tokens; 0 skips the test.
    #[arg(short = 'p', long, value_name = "N,N,..", value_delimiter = ',', default_value = "512")]
    n_prompt: Vec<u32>,
    /// Numbers of tokens to generate; 0 skips the test.
    #[arg(short = 'n', long, value_name = "N,N,..", value_delimiter = ',', default_value = "128")]
    n_gen: Vec<u32>,
    /// Numbers of tokens already in the KV cache.
    #[arg(short = 'd', long, value_name = "N,N,..", value_delimiter = ',', default_value = "0")]
    n_depth: Vec<u32>,
    /// Numbers of parallel sequences.
    #[arg(
        long,
        value_name = "N,N,..",
        value_delimiter = ',',
        default_value = "1",
        value_parser = clap::value_parser!(u32).range(1..=MAX_SEQUENCES)
    )]
    npl: Vec<u32>,
    /// Number of runs per test.
    #[arg(short, long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    repetitions: u32,
    /// Output format: a Markdown table, or JSON or CSV with llama-bench's names.
    #[arg(short, long, value_name = "FORMAT", value_enum, default_value_t = Format::Md)]
    output: Format,
    /// Data type of the KV cache [default: f16 if the device supports it, else f32].
    #[arg(long, value_name = "TYPE", value_parser = kv_type())]
    kv_type: Option<KvType>,
    /// Read the whole file into memory instead of memory-mapping it; safe if the file may be truncated while in use.
    #[arg(long)]
    no_mmap: bool,
    #[command(flatten)]
    lookup: LookupArg,
    #[command(flatten)]
    memory: MemoryArgs,
    #[command(flatten)]
    precision: PrecisionArg,
    #[command(flatten)]
    tune: TuneArg,
    #[command(flatten)]
    device: DeviceArg,
}

/// The maximum number of parallel sequences.
const MAX_SEQUENCES: i64 = 4096;

/// A test: one row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Test {
    kind: TestKind,
    /// Tokens already in the KV cache.
    depth: u32,
    /// Parallel sequences.
    batch: u32,
}

/// The kind of a test, with its number of tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum TestKind {
    Prompt(u32),
    Generate(u32),
}

impl BenchArgs {
    /// Returns the tests, grouped by number of sequences.
    fn tests(&self) -> Result<Vec<Test>, Failure> {
        let mut tests = Vec::new();
        for &batch in &self.npl {
            for &depth in &self.n_depth {
                let prompts = self.n_prompt.iter().map(|n| (*n, TestKind::Prompt(*n)));
                let generated = self.n_gen.iter().map(|n| (*n, TestKind::Generate(*n)));
                let kinds = prompts.chain(generated).filter(|(n, _)| *n > 0);
                tests.extend(kinds.map(|(_, kind)| Test { kind, depth, batch }));
            }
        }
        if tests.is_empty() {
            return Err(Failure::usage("nothing to measure: -p and -n are 0"));
        }
        Ok(tests)
    }

    /// Returns the context size needed: depth + prompt + generated tokens.
    fn context(&self, config: &Config) -> Result<u32, Failure> {
        let most = |list: &[u32]| u64::from(list.iter().copied().max().unwrap_or(0));
        // Generation starts from one given token.
        let needed = most(&self.n_depth) + most(&self.n_prompt).max(1) + most(&self.n_gen);
        let capacity = config.context_length;
        let fits = u32::try_from(needed).ok().filter(|needed| *needed <= capacity);
        fits.ok_or_else(|| EngineError::ContextFull { needed, capacity }.into())
    }

    fn options(&self, context: u32, batch: u32) -> Result<EngineOptions, Failure> {
        // One step processes the first tokens of all sequences.
        let prefill_rows = EngineOptions::default().prefill_rows.max(batch);
        // Sequences do not share blocks.
        let kv_tokens = context.checked_next_multiple_of(BLOCK).and_then(|tokens| tokens.checked_mul(batch));
        let too_many =
            || Failure::usage(format!("{batch} sequences of {context} tokens are too large for the KV cache"));
        Ok(EngineOptions::default()
            .context(context)
            .kv_tokens(kv_tokens.ok_or_else(too_many)?)
            .kv_type(self.kv_type)
            .kv_layout(ferrum_wgpu::low_level::engine::KvLayout::Paged { block: BLOCK })
            .sequences(batch)
            .prefill_rows(prefill_rows)
            .prefix_sharing(false)
            .lookup(self.lookup.lookup)
            .plan(self.precision.plan()))
    }
}

/// Tokens per KV cache block.
const BLOCK: u32 = 32;

/// Runs the command. Options and file are validated before a device is opened.
pub async fn bench(args: &BenchArgs) -> Result<Code, Failure> {
    let tests = args.tests()?;
    let gguf = load::open(&args.model, !args.no_mmap)?;
    let config = Config::from_gguf(&gguf)?;
    let context = args.context(&config)?;
    for &batch in &args.npl {
        Engine::memory(&gguf, &args.options(context, batch)?, args.kv_type.unwrap_or_default())?;
    }
    let reads = MemoryTraffic::of(&gguf)?;
    let mut info = BenchInfo::of(&gguf, &args.model);

    let start = Instant::now();
    let device_choice = DeviceChoice::choose_for(args.device.device.as_deref(), gguf.file_len()).await?;
    let device = device_choice.open().await?;
    let opened = start.elapsed();
    info.device(&device_choice);
    // The expert cache is sized for the largest number of sequences.
    let most = tests.iter().map(|test| test.batch).max().unwrap_or(1);
    let slots = args.memory.plan(&device_choice, &gguf, args.options(context, most)?)?.memory.slots();
    let options = args.options(context, tests[0].batch)?;
    let memory = Engine::memory(&gguf, &options, args.kv_type.unwrap_or(device_choice.kv_type()))?;
    let fit = Fit::new(options, slots.map_or(memory.clone(), |slots| memory.offloaded(slots)));
    args.memory.report(&fit, device_choice.kv_type());
    let ReadyEngine { model, engine, times } = start::start(&device, gguf, &fit, args.tune).await?;
    let tuning = engine.options().tuning.clone();
    let mut first_engine = Some(engine);
    let interrupt = Interrupt::install(Code::Interrupted)?;
    interrupt.begin();

    let mut report = None;
    // Token hashes of the first sequence.
    let mut hashes: HashMap<(TestKind, u32), u64> = HashMap::new();
    for of_batch in tests.chunk_by(|a, b| a.batch == b.batch) {
        let batch = of_batch[0].batch;
        let engine = match first_engine.take() {
            Some(engine) => engine,
            None => {
                let tuning = tuning.clone();
                let options = args.options(context, batch)?.tuning(tuning);
                let engine = Engine::new(&model, &options).await?;
                engine.warm_up().await?;
                engine
            }
        };
        let mut sequences = Sequences::new(&device, &engine, &interrupt);
        let report = match &mut report {
            Some(report) => report,
            None => {
                let prompt = args.n_prompt.first().copied().unwrap_or(0).max(1);
                let first_token = sequences.prompt(prompt).await?.time;
                info.start = Start { opened, times, prompt, first_token };
                info.engine(&engine).await;
                info.repetitions = args.repetitions;
                info.copy = copy::bandwidth(&device).await?;
                report.insert(Report::begin(args.output, &info)?)
            }
        };
        for test in of_batch {
            let before = model.expert_cache();
            let mut row = measure(test, args.repetitions, &mut sequences, &engine, &reads).await?;
            row.paging = model.expert_cache().zip(before).map(|(after, before)| after.since(&before));
            let first = *hashes.entry((test.kind, test.depth)).or_insert(row.hash);
            if first != row.hash {
                return Err(differ(&format!(
                    "{} generates different tokens with a different number of sequences",
                    row.name()
                )));
            }
            report.row(row)?;
        }
    }
    if let Some(report) = report {
        report.end()?;
    }
    interrupt.end();
    Ok(Code::Success)
}

fn differ(message: &str) -> Failure {
    Failure::Error(Code::SelfTest, format!("{message}: the measurement is invalid"))
}

/// Runs a test.
async fn measure(
    test: &Test,
    repetitions: u32,
    sequences: &mut Sequences<'_>,
    engine: &Engine,
    reads: &MemoryTraffic,
) -> Result<Row, Failure> {
    sequences.fill(test.depth).await?;
    let mut samples: Vec<Duration> = Vec::new();
    let mut hash = None;
    let mut waits = 0;
    for i in 0..=repetitions {
        let Run { time, tokens, waits: waited } = match test.kind {
            TestKind::Prompt(n) => sequences.prompt(n).await?,
            TestKind::Generate(n) => sequences.generate(n).await?,
        };
        if *hash.get_or_insert(tokens) != tokens {
            return Err(differ(&format!("{} generates different tokens when repeated", report::name(test))));
        }
        if i > 0 {
            samples.push(time);
            waits += waited;
        }
    }
    let hash = hash.unwrap_or_default();
    let decode = match test.kind {
        TestKind::Prompt(_) => None,
        TestKind::Generate(n) => {
            let (batch, experts) = (test.batch, reads.experts(test.batch));
            let pass = engine.decode_pass(experts).await;
            // On average, a row attends to the depth and half of the generated tokens.
            let positions = f64::from(test.depth) + 1.0 + 0.5 * f64::from(n + 1);
            let kv = reads.position(engine.kv_type().await) as f64 * positions * f64::from(batch);
            // The traffic per step is known only if the last step processed all sequences.
            (pass.rows == batch).then(|| Decode {
                dispatches: pass.dispatches,
                layer_dispatches: pass.layer_dispatches as f64 / f64::from(engine.config().layers.max(1)),
                bytes: pass.weight_bytes + kv,
                ideal_bytes: reads.weights(batch, experts) + kv,
                waits: waits as f64 / f64::from(n) / f64::from(repetitions),
            })
        }
    };
    Ok(Row { test: *test, samples, hash, decode, paging: None })
}
