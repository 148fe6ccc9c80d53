//! The command `conformance`: tests whether a device computes correctly.

use std::io::{self, IsTerminal};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use ferrum_wgpu::Config;
use ferrum_wgpu::KvType;
use ferrum_wgpu::low_level::conformance::{Replayed, Report, Suite, replay};
use ferrum_wgpu::{Device, low_level::gpu::Caps};
use ferrum_wgpu::{Engine, EngineError, EngineOptions, Session};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use super::args::{DeviceArg, PrecisionArg, kv_type};
use super::device::DeviceChoice;
use super::exit::{Code, Failure};
use super::kernels::short;
use super::load;
use super::output::{print, printable, table};

/// Test whether a device computes correctly, kernel by kernel.
///
/// Runs the test cases of every covered kernel variant that the device supports, and compares the results with the f64
/// reference, within the documented bound. With --model, compares every dispatch of a forward pass, on its real inputs.
/// Results go to standard output.
#[derive(Debug, Args)]
pub struct ConformanceArgs {
    #[command(flatten)]
    device: DeviceArg,
    /// Restrict the device: portable means WebGPU's default limits without optional features.
    #[arg(long, value_name = "CAPS")]
    mask: Option<Mask>,
    /// Compile without wgpu's bounds checks and loop limits, which kernels must not need.
    #[arg(long)]
    unchecked: bool,
    /// Run only kernels or variants whose name contains this.
    #[arg(short = 'k', long = "kernel", value_name = "PATTERN", default_value = "")]
    kernel: String,
    /// List the variants instead of running them.
    #[arg(long)]
    list: bool,
    /// Print one JSON document.
    #[arg(long)]
    json: bool,
    /// Replay a forward pass of this GGUF file: a prompt, then one more token.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["list", "kernel"])]
    model: Option<PathBuf>,
    /// Read the file into memory instead of mapping it, in case it is truncated meanwhile.
    #[arg(long, requires = "model")]
    no_mmap: bool,
    /// Token ids of the prompt [default: eleven from all of the vocabulary]
    #[arg(long, value_name = "ID,ID,..", value_delimiter = ',', requires = "model")]
    tokens: Vec<u32>,
    /// Format of the KV cache [default: f16 if the device supports it, else f32]
    #[arg(long, value_name = "TYPE", value_parser = kv_type(), requires = "model")]
    kv_type: Option<KvType>,
    #[command(flatten)]
    precision: PrecisionArg,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Mask {
    Portable,
}

impl Mask {
    fn caps(self) -> Caps {
        match self {
            Self::Portable => Caps::portable(),
        }
    }
}

/// Turns wgpu's shader checks off.
fn leave_out_checks(device: &Device) {
    // SAFETY: only the library's kernels run, with parameters of test cases and plans, which match the buffers.
    #[allow(unsafe_code)]
    unsafe {
        device.leave_out_shader_checks();
    }
}

/// Runs the command.
pub async fn conformance(args: &ConformanceArgs) -> Result<Code, Failure> {
    if let Some(model) = &args.model {
        return replay_model(args, model).await;
    }
    let place = DeviceChoice::choose(args.device.device.as_deref()).await?;
    let mask = args.mask.map(Mask::caps);
    let suite = Suite::new(&place.caps(mask.as_ref()), &args.kernel);
    if suite.is_empty() {
        return Err(Failure::usage(format!("no kernel or variant contains {:?}", args.kernel)));
    }
    if args.list {
        print(&list(&suite, args.json))?;
        return Ok(Code::Success);
    }
    let device = place.open_masked(mask.as_ref()).await?;
    if args.unchecked {
        leave_out_checks(&device);
    }
    let about = match &place {
        DeviceChoice::Cpu => About { device: "cpu".to_owned(), ..About::default() },
        DeviceChoice::Adapter(adapter) => {
            About { device: adapter.name().to_owned(), driver: adapter.driver(), backend: adapter.backend() }
        }
    };
    let bar = progress(suite.len());
    let reports = suite
        .run(&device, |report| {
            bar.set_message(report.kernel);
            bar.inc(1);
        })
        .await;
    bar.finish_and_clear();
    let reports = reports?;
    print(&if args.json { suite_json(&reports, &about, args.mask) } else { suite_text(&reports) })?;
    let failed = reports.iter().filter(|report| !report.passed()).count();
    if failed > 0 {
        let (name, all) = (printable(&about.device), reports.len());
        return Err(Failure::Error(Code::SelfTest, format!("{failed} of {all} kernel variants fail on {name}")));
    }
    Ok(Code::Success)
}

/// The adapter that the suite runs on.
#[derive(Default)]
struct About {
    device: String,
    driver: String,
    backend: String,
}

fn progress(len: usize) -> ProgressBar {
    let bar = if io::stderr().is_terminal() { ProgressBar::new(len as u64) } else { ProgressBar::hidden() };
    let style = ProgressStyle::with_template("testing {wide_bar} {pos}/{len} {msg}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar
}

fn list(suite: &Suite, as_json: bool) -> String {
    if as_json {
        let entry = |(kernel, variant, cases)| json!({ "kernel": kernel, "variant": variant, "cases": cases });
        return format!("{}\n", json!({ "kernels": suite.list().map(entry).collect::<Vec<_>>() }));
    }
    let mut rows = vec![["KERNEL", "VARIANT", "CASES"].map(str::to_owned)];
    rows.extend(
        suite.list().map(|(kernel, variant, cases)| [kernel.to_owned(), short(&variant).to_owned(), cases.to_string()]),
    );
    table(&rows, &[2])
}

/// Formats an error ratio as a percentage of the bound.
fn percent(error_ratio: f64) -> String {
    if error_ratio.is_infinite() { "wrong".to_owned() } else { format!("{:.1} %", 100.0 * error_ratio) }
}

fn suite_text(reports: &[Report]) -> String {
    let mut rows = vec![["KERNEL", "VARIANT", "CASES", "WORST", "VERDICT"].map(str::to_owned)];
    let mut failures = String::new();
    for report in reports {
        let Report { kernel, variant, outcomes, .. } = report;
        let verdict = if report.passed() { "pass" } else { "FAIL" }.to_owned();
        let (variant, cases) = (short(variant).to_owned(), outcomes.len().to_string());
        for failure in report.failures() {
            failures += &format!("{kernel} {variant}, case {}: {}\n", failure.case, printable(&failure.at));
        }
        rows.push([(*kernel).to_owned(), variant, cases, percent(report.worst()), verdict]);
    }
    let (cases, failed) = totals(reports);
    let worst = reports.iter().map(Report::worst).fold(0.0, f64::max);
    let separator = if failures.is_empty() { "" } else { "\n" };
    format!(
        "{}\n{failures}{separator}{cases} cases of {} kernel variants, {failed} failed; worst error {} of its bound\n",
        table(&rows, &[2, 3]),
        reports.len(),
        percent(worst),
    )
}

/// Returns the number of cases, and of those that failed.
fn totals(reports: &[Report]) -> (usize, usize) {
    (reports.iter().map(|r| r.outcomes.len()).sum(), reports.iter().map(|r| r.failures().count()).sum())
}

fn suite_json(reports: &[Report], about: &About, mask: Option<Mask>) -> String {
    let entry = |report: &Report| {
        // An error without a size is null: JSON has no infinity.
        let case = |o: &ferrum_wgpu::low_level::conformance::Outcome| json!({ "name": o.case, "passed": o.passed(), "worst": o.worst, "at": o.at });
        json!({
            "kernel": report.kernel,
            "variant": report.variant,
            "cases": report.outcomes.iter().map(case).collect::<Vec<_>>(),
            "worst": report.worst(),
            "verdict": if report.passed() { "pass" } else { "fail" },
        })
    };
    let (cases, failed) = totals(reports);
    let document = json!({
        "device": about.device,
        "driver": about.driver,
        "backend": about.backend,
        "mask": mask.map(|Mask::Portable| "portable"),
        "kernels": reports.iter().map(entry).collect::<Vec<_>>(),
        "totals": { "variants": reports.len(), "cases": cases, "failed": failed },
    });
    format!("{document}\n")
}

/// The length of the default prompt: enough rows for the GEMM kernels.
const PROMPT: u32 = 11;

async fn replay_model(args: &ConformanceArgs, path: &Path) -> Result<Code, Failure> {
    let gguf = load::open(path, !args.no_mmap)?;
    let config = Config::from_gguf(&gguf)?;
    let vocab = config.vocab;
    let mut tokens = args.tokens.clone();
    if tokens.is_empty() {
        let count = PROMPT.min(config.context_length.saturating_sub(1)).max(1);
        tokens = (0..count).map(|i| (u64::from(i) * u64::from(vocab) / u64::from(count)) as u32).collect();
    }
    if let Some(&id) = tokens.iter().find(|id| **id >= vocab) {
        return Err(EngineError::TokenId { id, vocab }.into());
    }
    let needed = tokens.len() as u64 + 1;
    let capacity = config.context_length;
    if needed > u64::from(capacity) {
        return Err(EngineError::ContextFull { needed, capacity }.into());
    }
    let options = EngineOptions::default().context(needed as u32).kv_type(args.kv_type).plan(args.precision.plan());
    let mask = args.mask.map(Mask::caps);
    let device = DeviceChoice::choose(args.device.device.as_deref()).await?.open_masked(mask.as_ref()).await?;
    if args.unchecked {
        leave_out_checks(&device);
    }
    let model = load::load(&device, &gguf, None).await?;
    let mut session = Engine::new(&model, &options).await?.session();

    let mut steps: Vec<(&'static str, Replayed)> = Vec::new();
    let next = tokens.iter().copied().last().map_or(0, |last| (last + 1) % vocab);
    for (pass, tokens) in [("prompt", &tokens[..]), ("token", &[next])] {
        run_pass(&mut session, pass, tokens, &mut steps).await?;
        if steps.iter().any(|(_, step)| !step.passed()) {
            break;
        }
    }
    let failed = steps.iter().find(|(_, step)| !step.passed());
    print(&if args.json { replay_json(&steps, &device) } else { replay_text(&steps) })?;
    match failed {
        None => Ok(Code::Success),
        Some((pass, step)) => Err(Failure::Error(Code::SelfTest, describe(pass, step))),
    }
}

/// Replays one forward pass, up to the first step that exceeds its bound.
async fn run_pass(
    session: &mut Session,
    pass: &'static str,
    tokens: &[u32],
    steps: &mut Vec<(&'static str, Replayed)>,
) -> Result<(), Failure> {
    session
        .forward_by(tokens, async |device, program| {
            if steps.last().is_some_and(|(_, step)| !step.passed()) {
                return Ok(());
            }
            let bar = progress(program.plan().steps().len());
            let result = replay(device, program, |step| {
                bar.set_message(step.kernel);
                bar.inc(1);
                let passed = step.passed();
                steps.push((pass, step));
                if passed { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            })
            .await;
            bar.finish_and_clear();
            result.map_err(Failure::from)
        })
        .await
}

/// Describes a step that exceeds its bound.
fn describe(pass: &str, step: &Replayed) -> String {
    let Replayed { kernel, variant, scope, shape, .. } = step;
    let (number, all) = step.step;
    let at = step.worst.map_or_else(String::new, |(binding, deviation)| format!("{binding}{deviation}"));
    format!(
        "{kernel} ({}) exceeds its bound in {scope}, step {} of {all} of the {pass}: {at}, {} of the bound; {shape}",
        short(variant),
        number + 1,
        percent(step.error_ratio()),
    )
}

/// Returns a table with a line per kernel variant.
fn replay_text(steps: &[(&'static str, Replayed)]) -> String {
    let mut rows: Vec<(&Replayed, usize, f64)> = Vec::new();
    for (_, step) in steps {
        match rows.iter_mut().find(|(first, ..)| (first.kernel, &first.variant) == (step.kernel, &step.variant)) {
            Some((_, count, worst)) => (*count, *worst) = (*count + 1, worst.max(step.error_ratio())),
            None => rows.push((step, 1, step.error_ratio())),
        }
    }
    let mut shown = vec![["KERNEL", "VARIANT", "STEPS", "WORST", "BOUND"].map(str::to_owned)];
    shown.extend(rows.iter().map(|(step, count, worst)| {
        let bound = if step.own_bound { "its own" } else { "near its CPU kernel" };
        [step.kernel, short(&step.variant), &count.to_string(), &percent(*worst), bound].map(str::to_owned)
    }));
    let worst = steps.iter().map(|(_, step)| step.error_ratio()).fold(0.0, f64::max);
    format!("{}\n{} steps; worst error {} of its bound\n", table(&shown, &[2, 3]), steps.len(), percent(worst))
}

fn replay_json(steps: &[(&'static str, Replayed)], device: &Device) -> String {
    let entry = |(pass, step): &(&'static str, Replayed)| -> Value {
        json!({
            "pass": pass,
            "part": step.scope.to_string(),
            "kernel": step.kernel,
            "variant": step.variant,
            "shape": step.shape,
            "own_bound": step.own_bound,
            "passed": step.passed(),
            "error_ratio": step.error_ratio(),
            "worst": step.worst.map(|(binding, worst)| json!({
                "binding": binding,
                "index": worst.index,
                "found": worst.found,
                "exact": worst.exact,
                "bound": worst.bound,
            })),
        })
    };
    let failed = steps.iter().filter(|(_, step)| !step.passed()).count();
    let steps: Vec<Value> = steps.iter().map(entry).collect();
    format!("{}\n", json!({ "device": device.name(), "steps": steps, "failed": failed }))
}
