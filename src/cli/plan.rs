//! The command `kernels plan`: the dispatches of a pass, as a GPU that need not be there would be given them.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;
use ferrum_wgpu::low_level::gpu::Step;
use ferrum_wgpu::low_level::model::time::{Gpu, Time, llama_cpp_token};
use ferrum_wgpu::low_level::model::{
    DeviceProfile, FileType, PRESETS, Phase, PlannedDispatch, PlannedPasses, Preset, planned_pass,
};
use ferrum_wgpu::{Gguf, KvType};

use super::args::{PrecisionArg, kv_type};
use super::exit::{Code, Failure};
use super::kernels::short;
use super::load::open;
use super::output::{print, size, table};

/// The arguments of `kernels plan`.
#[derive(Debug, Args)]
pub struct PlanArgs {
    /// A GGUF file, or the name of a well-known model, in Q4_K_M.
    #[arg(value_name = "MODEL|PRESET")]
    model: PathBuf,
    /// The GPU: the name of a well-known device or a part of it.
    #[arg(long = "as", value_name = "GPU")]
    gpu: String,
    /// Sequences of a decode step.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024))]
    rows: u32,
    /// Plan a prompt of N tokens instead of a decode step.
    #[arg(long, value_name = "N", conflicts_with = "rows", value_parser = clap::value_parser!(u32).range(1..=65_536))]
    prefill: Option<u32>,
    /// Tokens of each sequence's context [default: 512, or the prompt].
    #[arg(long, value_name = "C", value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    context: Option<u32>,
    /// Data type of the KV cache.
    #[arg(long, value_name = "TYPE", default_value = KvType::F16.name(), value_parser = kv_type())]
    kv_type: KvType,
    #[command(flatten)]
    precision: PrecisionArg,
    /// Compare the modelled time of a token with another program's kernels.
    #[arg(long, value_name = "PROGRAM", value_parser = ["llama.cpp"], conflicts_with_all = ["rows", "prefill"])]
    compare: Option<String>,
    /// Write the shaders to this directory, one file for each kernel and variant.
    #[arg(short, value_name = "DIR")]
    output: Option<PathBuf>,
}

/// Runs the command. Uses no device.
pub async fn plan(args: &PlanArgs) -> Result<Code, Failure> {
    let (name, device) = known(&args.gpu)?;
    let gguf = model(&args.model)?;
    let (phase, context) = match args.prefill {
        Some(tokens) => (Phase::Prefill, args.context.unwrap_or(tokens).max(tokens)),
        None => (Phase::Decode, args.context.unwrap_or(512)),
    };
    let passes = PlannedPasses {
        plan: args.precision.plan(),
        kv_type: args.kv_type,
        context,
        prefill_rows: args.prefill.unwrap_or(1),
        sequences: if args.prefill.is_some() { 1 } else { args.rows },
    };
    let dispatches = planned_pass(&gguf, &device, &passes, phase).await?;
    if let Some(directory) = &args.output {
        write_shaders(directory, &dispatches)?;
    }
    let gpu = Gpu::named(name);
    let mut text = listing(name, gpu, &dispatches);
    match gpu {
        None => text.push_str("No parameters for the model of time.\n"),
        Some(gpu) => {
            text.push_str(&times(gpu, &dispatches, args.prefill.unwrap_or(args.rows)));
            if args.compare.is_some() {
                let token = llama_cpp_token(gpu, &dispatches);
                let of_tokens = tokens_per_second(1, token.total);
                let (weights, total) = (token.weights / 1e3, token.total / 1e3);
                let groups = token.dispatches;
                let _ = writeln!(
                    text,
                    "llama.cpp: weights {weights:.2} ms; all {groups} groups of dispatches {total:.2} ms: {of_tokens}"
                );
            }
        }
    }
    print(&text)?;
    Ok(Code::Success)
}

/// Returns the well-known device of this name, or the only one whose name contains it.
fn known(wanted: &str) -> Result<(&'static str, DeviceProfile), Failure> {
    let all = DeviceProfile::known();
    let names = all.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
    let lower = |name: &str| name.to_lowercase();
    let exact = all.iter().position(|(name, _)| lower(name) == lower(wanted));
    let mut containing = (0..all.len()).filter(|i| lower(all[*i].0).contains(&lower(wanted)));
    let found = exact.or_else(|| containing.next().filter(|_| containing.next().is_none()));
    let device = found.and_then(|i| all.into_iter().nth(i));
    device.ok_or_else(|| Failure::usage(format!("{wanted:?} is not the name of one device; the devices are {names}")))
}

fn model(path: &Path) -> Result<Gguf, Failure> {
    match path.to_str().and_then(Preset::named) {
        Some(preset) if !path.exists() => Ok(preset.gguf(FileType::Q4KM)?),
        None if !path.exists() && path.extension().is_none() => {
            let names = PRESETS.map(|preset| preset.name).join(", ");
            Err(Failure::usage(format!("{path:?} is no file and no preset; the presets are {names}")))
        }
        _ => open(path, true),
    }
}

/// Equal dispatches of a pass.
struct Row<'a> {
    dispatch: &'a PlannedDispatch,
    count: u64,
}

impl Row<'_> {
    fn step(&self) -> &Step {
        &self.dispatch.step
    }

    fn workgroups(&self) -> u64 {
        let grid = self.step().op().grid();
        u64::from(grid.x) * u64::from(grid.y)
    }
}

/// Returns the dispatches in the order of their first occurrence; those that differ in layer and buffers only are one row.
fn rows(dispatches: &[PlannedDispatch]) -> Vec<Row<'_>> {
    let mut rows: Vec<Row<'_>> = Vec::new();
    let mut known = HashMap::new();
    for dispatch in dispatches {
        let (step, op) = (&dispatch.step, dispatch.step.op());
        let key = (step.scope().stage, op.kernel(), op.variant(), op.shape(), dispatch.bytes.to_bits());
        let at = *known.entry(key).or_insert(rows.len());
        match rows.get_mut(at) {
            Some(row) => row.count += 1,
            None => rows.push(Row { dispatch, count: 1 }),
        }
    }
    rows
}

/// Returns the modelled times of all dispatches, in one line.
fn times(gpu: &Gpu, dispatches: &[PlannedDispatch], tokens: u32) -> String {
    let [mut bandwidth, mut weights, mut total] = [0.0; 3];
    for dispatch in dispatches {
        let work = gpu.work(dispatch);
        let time = gpu.time(&work);
        if work.weights {
            bandwidth += time.bandwidth;
            weights += time.work();
        }
        total += time.total();
    }
    format!(
        "Modelled (docs/GPUS.md): weights {:.2} ms, {:.2} by bandwidth alone; all dispatches {:.2} ms: {}\n",
        weights / 1e3,
        bandwidth / 1e3,
        total / 1e3,
        tokens_per_second(tokens, total)
    )
}

fn tokens_per_second(tokens: u32, microseconds: f64) -> String {
    format!("{:.0} tokens/s", f64::from(tokens) * 1e6 / microseconds)
}

fn listing(name: &str, gpu: Option<&Gpu>, dispatches: &[PlannedDispatch]) -> String {
    let rows = rows(dispatches);
    let head = [
        "STAGE",
        "KERNEL",
        "VARIANT",
        "COUNT",
        "WORKGROUPS",
        "INVOCATIONS",
        "READ",
        "MULTIPLY-ADDS",
        "TIME",
        "BOUND BY",
    ];
    let mut cells = vec![head.map(str::to_owned)];
    let (mut bytes, mut multiply_adds) = (0.0, 0);
    for row in &rows {
        let op = row.step().op();
        let time = gpu.map(|gpu| gpu.time(&gpu.work(row.dispatch)));
        let most = if row.step().is_indirect() { "≤ " } else { "" };
        cells.push([
            row.step().scope().stage.to_string(),
            op.kernel().to_owned(),
            short(&op.variant()).to_owned(),
            row.count.to_string(),
            format!("{most}{}", row.workgroups()),
            format!("{most}{}", row.workgroups() * u64::from(op.workgroup())),
            size(row.dispatch.bytes as u64),
            format!("{most}{}", op.cost()),
            time.map_or("-".to_owned(), |time| format!("{:.1} µs", time.total())),
            time.map_or("-", Time::bound).to_owned(),
        ]);
        bytes += row.dispatch.bytes * row.count as f64;
        multiply_adds += op.cost() * row.count;
    }
    let mut text = table(&cells, &[3, 4, 5, 6, 7, 8]);
    let _ = writeln!(
        text,
        "\n{name}: {} dispatches read {} and have {multiply_adds} multiply-adds. Each row is of one dispatch.",
        dispatches.len(),
        size(bytes as u64),
    );
    text
}

fn write_shaders(directory: &Path, dispatches: &[PlannedDispatch]) -> Result<(), Failure> {
    let error = |path: &Path, error| Failure::Error(Code::Runtime, format!("cannot write {}: {error}", path.display()));
    fs::create_dir_all(directory).map_err(|e| error(directory, e))?;
    for PlannedDispatch { step, .. } in dispatches {
        let (op, variant) = (step.op(), step.op().variant());
        let variant = if variant == "()" { "" } else { short(&variant) };
        let words = format!("{} {variant}", op.kernel());
        let words = words.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
        let path = directory.join(format!("{}.wgsl", words.collect::<Vec<_>>().join("_")));
        if !path.exists() {
            let text = format!("// {} {}\n{}", op.kernel(), op.variant(), op.shader().text);
            fs::write(&path, text).map_err(|e| error(&path, e))?;
        }
    }
    Ok(())
}
