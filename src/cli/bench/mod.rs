//! `bench`: how fast a model is, how near that is to what the device's memory allows, and whether the tokens are the same.

mod copy;
mod report;
mod sequences;

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;
use ferrum_wgpu::engine::{Engine, EngineError, EngineOptions, Fit};
use ferrum_wgpu::kernels::KvType;
use ferrum_wgpu::model::{Config, MemoryTraffic};

use super::args::{DeviceArg, PrecisionArg, TuneArg, kv_type};
use super::device::Place;
use super::exit::{Code, Failure};
use super::interrupt::Interrupt;
use super::load;
use super::memory::MemoryArgs;
use super::start::{self, Started};
use report::{Decode, Facts, Format, Report, Row, Start};
use sequences::{Run, Sequences};

/// Measure how fast a model computes prompts and generates.
///
/// As llama-bench does: `pp` tests compute a prompt and give its first token, `tg` tests generate, each behind as many
/// tokens as -d says. Lists are separated by commas, and every combination is a row. Tokens per second are those of
/// all sequences together. A run before the counted ones is left out.
///
/// Beside them, for `tg`: the weights and the KV cache that steps read, in GB/s and as a share of what copying reaches on
/// the device; dispatches, and those of a layer; bytes against those of the weights and the KV cache that must be read
/// (of several sequences as if each chose its experts evenly by chance); how often the host waited for the device; and a
/// hash of the first sequence's tokens, which are the likeliest after a fixed prompt: the same in every run, whatever the
/// number of sequences, or the command ends with an error.
#[derive(Debug, Args)]
pub struct BenchArgs {
    /// The GGUF file.
    model: PathBuf,
    /// Tokens of the prompts; 0: no such test.
    #[arg(short = 'p', long, value_name = "N,N,..", value_delimiter = ',', default_value = "512")]
    n_prompt: Vec<u32>,
    /// Tokens to generate; 0: no such test.
    #[arg(short = 'n', long, value_name = "N,N,..", value_delimiter = ',', default_value = "128")]
    n_gen: Vec<u32>,
    /// Tokens that are in the KV cache before.
    #[arg(short = 'd', long, value_name = "N,N,..", value_delimiter = ',', default_value = "0")]
    n_depth: Vec<u32>,
    /// Sequences that are computed at once.
    #[arg(
        long,
        value_name = "N,N,..",
        value_delimiter = ',',
        default_value = "1",
        value_parser = clap::value_parser!(u32).range(1..=MOST_SEQUENCES)
    )]
    npl: Vec<u32>,
    /// Runs that are counted.
    #[arg(short, long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    repetitions: u32,
    /// What is printed: a table in Markdown, or JSON or CSV with llama-bench's names.
    #[arg(short, long, value_name = "FORMAT", value_enum, default_value_t = Format::Md)]
    output: Format,
    /// How the KV cache is stored; without it f16 where the device can, else f32.
    #[arg(long, value_name = "TYPE", value_parser = kv_type())]
    kv_type: Option<KvType>,
    /// Read the whole file into memory instead of mapping it: for one that may be shortened meanwhile.
    #[arg(long)]
    no_mmap: bool,
    #[command(flatten)]
    memory: MemoryArgs,
    #[command(flatten)]
    precision: PrecisionArg,
    #[command(flatten)]
    tune: TuneArg,
    #[command(flatten)]
    device: DeviceArg,
}

/// More have no use, and grids are bounded.
const MOST_SEQUENCES: i64 = 4096;

/// What is measured in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Test {
    what: What,
    /// Tokens that are in the KV cache before.
    depth: u32,
    /// Sequences.
    batch: u32,
}

/// The two kinds of tests, with their numbers of tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum What {
    Prompt(u32),
    Generate(u32),
}

impl BenchArgs {
    /// The tests, those of the same sequences next to each other.
    fn tests(&self) -> Result<Vec<Test>, Failure> {
        let mut tests = Vec::new();
        for &batch in &self.npl {
            for &depth in &self.n_depth {
                let prompts = self.n_prompt.iter().map(|n| (*n, What::Prompt(*n)));
                let generated = self.n_gen.iter().map(|n| (*n, What::Generate(*n)));
                let whats = prompts.chain(generated).filter(|(n, _)| *n > 0);
                tests.extend(whats.map(|(_, what)| Test { what, depth, batch }));
            }
        }
        if tests.is_empty() {
            return Err(Failure::usage("nothing is to be measured: -p and -n are 0"));
        }
        Ok(tests)
    }

    /// Tokens that the longest sequence has: depth, prompt, and what is generated.
    fn context(&self, config: &Config) -> Result<u32, Failure> {
        let most = |list: &[u32]| u64::from(list.iter().copied().max().unwrap_or(0));
        // Generating begins with a token that is given.
        let needed = most(&self.n_depth) + most(&self.n_prompt).max(1) + most(&self.n_gen);
        let capacity = config.context_length;
        let fits = u32::try_from(needed).ok().filter(|needed| *needed <= capacity);
        fits.ok_or_else(|| EngineError::ContextFull { needed, capacity }.into())
    }

    fn options(&self, context: u32, batch: u32) -> Result<EngineOptions, Failure> {
        let defaults = EngineOptions::default();
        // Every sequence has blocks of its own.
        let kv_tokens = context.checked_next_multiple_of(BLOCK).and_then(|tokens| tokens.checked_mul(batch));
        let too_many = || Failure::usage(format!("{batch} sequences of {context} tokens are too many"));
        Ok(EngineOptions {
            context: Some(context),
            kv_tokens: Some(kv_tokens.ok_or_else(too_many)?),
            kv_type: self.kv_type,
            kv_layout: ferrum_wgpu::engine::KvLayout::Paged { block: BLOCK },
            sequences: batch,
            // The first tokens of all sequences are computed in one step.
            prefill_rows: defaults.prefill_rows.max(batch),
            prefix_sharing: false,
            plan: self.precision.plan(),
            ..defaults
        })
    }
}

/// Tokens of a block of the KV cache.
const BLOCK: u32 = 32;

/// Measures and prints. What can be wrong with the options and the file is found before a device is touched.
pub async fn bench(args: &BenchArgs) -> Result<Code, Failure> {
    let tests = args.tests()?;
    let gguf = load::open(&args.model, !args.no_mmap)?;
    let config = Config::from_gguf(&gguf)?;
    let context = args.context(&config)?;
    for &batch in &args.npl {
        Engine::memory(&gguf, &args.options(context, batch)?, args.kv_type.unwrap_or_default())?;
    }
    let reads = MemoryTraffic::of(&gguf)?;
    let mut facts = Facts::of(&gguf, &args.model);

    let start = Instant::now();
    let place = Place::choose_for(args.device.device.as_deref(), gguf.file_len()).await?;
    let device = place.open().await?;
    let opened = start.elapsed();
    facts.place(&place);
    // As many experts as there is room for beside the most sequences.
    let most = tests.iter().map(|test| test.batch).max().unwrap_or(1);
    let slots = args.memory.plan(&place, &gguf, args.options(context, most)?)?.memory.slots();
    let options = args.options(context, tests[0].batch)?;
    let memory = Engine::memory(&gguf, &options, args.kv_type.unwrap_or(place.kv_type()))?;
    let fit = Fit { options, memory: slots.map_or(memory.clone(), |slots| memory.paged(slots)) };
    args.memory.tell(&fit, place.kv_type());
    let Started { model, engine, times } = start::start(&device, gguf, &fit, args.tune).await?;
    let tuning = engine.options().tuning.clone();
    let mut first_engine = Some(engine);
    let interrupt = Interrupt::install(Code::Interrupted)?;
    interrupt.begin();

    let mut report = None;
    // Of the first sequence, by kind, tokens and depth.
    let mut hashes: HashMap<(What, u32), u64> = HashMap::new();
    for of_batch in tests.chunk_by(|a, b| a.batch == b.batch) {
        let batch = of_batch[0].batch;
        let engine = match first_engine.take() {
            Some(engine) => engine,
            None => {
                let tuning = tuning.clone();
                let options = EngineOptions { tuning, ..args.options(context, batch)? };
                let engine = Engine::new(&model, &options).await?;
                engine.prepare().await?;
                engine
            }
        };
        let mut sequences = Sequences::new(&device, &engine, &interrupt);
        let report = match &mut report {
            Some(report) => report,
            None => {
                let prompt = args.n_prompt.first().copied().unwrap_or(0).max(1);
                let first_token = sequences.prompt(prompt).await?.time;
                facts.start = Start { opened, times, prompt, first_token };
                facts.engine(&engine).await;
                facts.repetitions = args.repetitions;
                facts.copy = copy::bandwidth(&device).await?;
                report.insert(Report::begin(args.output, &facts)?)
            }
        };
        for test in of_batch {
            let before = model.expert_cache();
            let mut row = measure(test, args.repetitions, &mut sequences, &engine, &reads).await?;
            row.paging = model.expert_cache().zip(before).map(|(after, before)| after.since(&before));
            let first = *hashes.entry((test.what, test.depth)).or_insert(row.hash);
            if first != row.hash {
                return Err(differ(&format!("{} gives other tokens than with other sequences beside", row.name())));
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
    Failure::Error(Code::SelfTest, format!("{message}: what was measured is not right"))
}

/// A row: the runs of a test, but for the first.
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
        let Run { time, tokens, waits: waited } = match test.what {
            What::Prompt(n) => sequences.prompt(n).await?,
            What::Generate(n) => sequences.generate(n).await?,
        };
        if *hash.get_or_insert(tokens) != tokens {
            return Err(differ(&format!("{} gives other tokens when it is run again", report::name(test))));
        }
        if i > 0 {
            samples.push(time);
            waits += waited;
        }
    }
    let hash = hash.unwrap_or_default();
    let decode = match test.what {
        What::Prompt(_) => None,
        What::Generate(n) => {
            let (batch, experts) = (test.batch, reads.experts(test.batch));
            let pass = engine.decode_pass(experts).await;
            // Rows that attend to half of what is generated, on the average, beside what was there.
            let positions = f64::from(test.depth) + 1.0 + 0.5 * f64::from(n + 1);
            let kv = reads.position(engine.kv_type().await) as f64 * positions * f64::from(batch);
            // What a step reads can only be told if the last one had all sequences.
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
