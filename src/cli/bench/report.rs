//! The report as a table, JSON or CSV.

use std::path::Path;
use std::time::Duration;

use clap::ValueEnum;
use ferrum_wgpu::Engine;
use ferrum_wgpu::Gguf;
use ferrum_wgpu::low_level::model::ExpertCacheStats;
use serde_json::{Value, json};

use super::{Test, TestKind};
use crate::cli::device::DeviceChoice;
use crate::cli::exit::Failure;
use crate::cli::output::{print, printable, size};
use crate::cli::start::Times;

/// The output format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// A Markdown table.
    Md,
    /// An array of objects.
    Json,
    /// Comma-separated values with a header.
    Csv,
}

/// The properties common to all rows.
#[derive(Clone, Debug, Default)]
pub struct BenchInfo {
    file: String,
    model: String,
    /// Total bytes and elements of the tensors.
    bytes: u64,
    parameters: u64,
    device: String,
    driver: String,
    backend: String,
    kv_type: &'static str,
    context: u32,
    prefill_rows: u32,
    precision: &'static str,
    pub repetitions: u32,
    /// Bytes per second of copying.
    pub copy: f64,
    pub start: Start,
}

/// The parts of the time to the first token.
#[derive(Clone, Copy, Debug, Default)]
pub struct Start {
    /// Opening the device.
    pub opened: Duration,
    pub times: Times,
    /// Prompt tokens, and the time to process them.
    pub prompt: u32,
    pub first_token: Duration,
}

/// The result of a test.
#[derive(Clone, Debug)]
pub struct Row {
    pub test: Test,
    pub samples: Vec<Duration>,
    /// The hash of the first sequence's tokens.
    pub hash: u64,
    pub decode: Option<Decode>,
    /// Expert cache statistics of all runs, with expert offloading.
    pub paging: Option<ExpertCacheStats>,
}

/// Statistics of a decode step.
#[derive(Clone, Copy, Debug)]
pub struct Decode {
    pub dispatches: usize,
    pub layer_dispatches: f64,
    /// Bytes of weights and KV cache read, and the minimum.
    pub bytes: f64,
    pub ideal_bytes: f64,
    pub waits: f64,
}

impl BenchInfo {
    /// Collects the properties of the file.
    pub fn of(gguf: &Gguf, path: &Path) -> Self {
        let parameters = gguf.tensors().iter().map(|tensor| tensor.elements()).sum();
        // Named after the format with the most bytes.
        let mut formats: Vec<(String, u64)> = Vec::new();
        for tensor in gguf.tensors() {
            let name = tensor.ty.to_string();
            match formats.iter_mut().find(|(known, _)| *known == name) {
                Some((_, bytes)) => *bytes += tensor.bytes,
                None => formats.push((name, tensor.bytes)),
            }
        }
        let format = formats.into_iter().max_by_key(|(_, bytes)| *bytes).map(|(name, _)| name).unwrap_or_default();
        let architecture = gguf.metadata().str("general.architecture").ok().flatten().unwrap_or_default();
        Self {
            file: path.display().to_string(),
            model: format!("{} {} {format}", printable(architecture), count(parameters)),
            bytes: gguf.tensors().iter().map(|tensor| tensor.bytes).sum(),
            parameters,
            ..Self::default()
        }
    }

    /// Sets the properties of the device.
    pub fn device(&mut self, device: &DeviceChoice) {
        match device {
            DeviceChoice::Cpu => (self.device, self.backend) = ("cpu".to_owned(), "cpu".to_owned()),
            DeviceChoice::Adapter(adapter) => {
                self.device = printable(adapter.name());
                self.driver = printable(&adapter.driver());
                self.backend = adapter.backend();
            }
        }
    }

    /// Sets the properties of the engine.
    pub async fn engine(&mut self, engine: &Engine) {
        self.kv_type = engine.kv_type().await.name();
        self.context = engine.context();
        self.prefill_rows = engine.options().prefill_rows;
        self.precision = engine.options().plan.precision.name();
    }
}

/// Formats a number in thousands, millions or billions.
fn count(number: u64) -> String {
    match number {
        1_000_000_000.. => format!("{:.2}B", number as f64 / 1e9),
        1_000_000.. => format!("{:.2}M", number as f64 / 1e6),
        _ => format!("{:.2}K", number as f64 / 1e3),
    }
}

/// Returns the test's name in llama-bench's format.
pub fn name(test: &Test) -> String {
    let mut name = match test.kind {
        TestKind::Prompt(n) => format!("pp{n}"),
        TestKind::Generate(n) => format!("tg{n}"),
    };
    if test.batch > 1 {
        name.push_str(&format!(" x {}", test.batch));
    }
    if test.depth > 0 {
        name.push_str(&format!(" @ d{}", test.depth));
    }
    name
}

/// Returns mean and standard deviation of a sample.
fn mean_and_deviation(values: &[f64]) -> (f64, f64) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n.max(1.0);
    let squares = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>();
    (mean, if n > 1.0 { (squares / (n - 1.0)).sqrt() } else { 0.0 })
}

impl Row {
    /// Returns the test's name.
    pub fn name(&self) -> String {
        name(&self.test)
    }

    /// Returns the tokens per sequence.
    fn tokens(&self) -> u32 {
        match self.test.kind {
            TestKind::Prompt(n) | TestKind::Generate(n) => n,
        }
    }

    /// Tokens of all sequences in a second, for each run.
    fn rates(&self) -> Vec<f64> {
        let tokens = f64::from(self.tokens()) * f64::from(self.test.batch);
        self.samples.iter().map(|time| tokens / time.as_secs_f64().max(1e-9)).collect()
    }

    /// Bytes that steps read in a second.
    fn bandwidth(&self, decode: &Decode) -> f64 {
        let rate = mean_and_deviation(&self.rates()).0;
        decode.bytes * rate / f64::from(self.test.batch)
    }

    /// All of it by name; llama-bench's names where it has one.
    fn fields(&self, info: &BenchInfo) -> Vec<(&'static str, Value)> {
        let (prompt, generated) = match self.test.kind {
            TestKind::Prompt(n) => (n, 0),
            TestKind::Generate(n) => (0, n),
        };
        let nanoseconds: Vec<f64> = self.samples.iter().map(|time| time.as_nanos() as f64).collect();
        let rates = self.rates();
        let ((ns, ns_deviation), (rate, rate_deviation)) =
            (mean_and_deviation(&nanoseconds), mean_and_deviation(&rates));
        let per_token = |of_step: fn(&Decode) -> f64| {
            let of_token = |decode| of_step(decode) / f64::from(self.test.batch);
            json!(self.decode.as_ref().map(of_token))
        };
        let bandwidth = self.decode.as_ref().map(|decode| self.bandwidth(decode));
        let whole = |values: &[f64]| values.iter().map(|value| *value as u64).collect::<Vec<_>>();
        let Start { opened, times: Times { load, compile, tune, engine, all, cached }, first_token, .. } = info.start;
        vec![
            ("version", json!(env!("CARGO_PKG_VERSION"))),
            ("gpu_info", json!(info.device)),
            ("driver", json!(info.driver)),
            ("backends", json!(info.backend)),
            ("model_filename", json!(info.file)),
            ("model_type", json!(info.model)),
            ("model_size", json!(info.bytes)),
            ("model_n_params", json!(info.parameters)),
            ("n_ubatch", json!(info.prefill_rows)),
            ("precision", json!(info.precision)),
            ("type_k", json!(info.kv_type)),
            ("type_v", json!(info.kv_type)),
            ("n_prompt", json!(prompt)),
            ("n_gen", json!(generated)),
            ("n_depth", json!(self.test.depth)),
            ("batch", json!(self.test.batch)),
            ("test", json!(self.name())),
            ("avg_ns", json!(ns as u64)),
            ("stddev_ns", json!(ns_deviation as u64)),
            ("avg_ts", json!(rate)),
            ("stddev_ts", json!(rate_deviation)),
            ("samples_ns", json!(whole(&nanoseconds))),
            ("samples_ts", json!(rates)),
            ("gb_per_s", json!(bandwidth.map(|bytes| bytes / 1e9))),
            ("copy_gb_per_s", json!(info.copy / 1e9)),
            ("copy_share", json!(bandwidth.map(|bytes| bytes / info.copy))),
            ("dispatches_per_token", per_token(|decode| decode.dispatches as f64)),
            ("dispatches_per_layer", json!(self.decode.map(|decode| decode.layer_dispatches))),
            ("bytes_per_token", per_token(|decode| decode.bytes)),
            ("ideal_bytes_per_token", per_token(|decode| decode.ideal_bytes)),
            ("waits_per_token", per_token(|decode| decode.waits)),
            ("expert_slots", json!(self.paging.map(|paging| paging.slots))),
            ("expert_hit_rate", json!(self.paging.map(|paging| paging.hit_rate()))),
            ("tokens_hash", json!(format!("{:016x}", self.hash))),
            ("load_s", json!(load.as_secs_f64())),
            ("pipelines_s", json!(compile.as_secs_f64())),
            ("pipelines_cached", json!(cached)),
            ("tune_s", json!(tune.as_secs_f64())),
            ("buffers_s", json!(engine.as_secs_f64())),
            ("device_s", json!(opened.as_secs_f64())),
            ("start_s", json!((opened + all + first_token).as_secs_f64())),
            ("first_token_s", json!(first_token.as_secs_f64())),
        ]
    }

    /// Returns the cells of the table.
    fn cells(&self, info: &BenchInfo) -> [String; COLUMNS.len()] {
        let (rate, deviation) = mean_and_deviation(&self.rates());
        let of_step = |show: &dyn Fn(&Decode) -> String| self.decode.as_ref().map_or_else(String::new, show);
        let batch = f64::from(self.test.batch);
        [
            info.model.clone(),
            size(info.bytes),
            count(info.parameters),
            info.backend.clone(),
            self.name(),
            format!("{rate:.2} ± {deviation:.2}"),
            of_step(&|decode| format!("{:.2}", self.bandwidth(decode) / 1e9)),
            of_step(&|decode| format!("{:.0} %", 100.0 * self.bandwidth(decode) / info.copy)),
            of_step(&|decode| format!("{:.1}", decode.dispatches as f64 / batch)),
            of_step(&|decode| format!("{:.1}", decode.layer_dispatches)),
            of_step(&|decode| format!("{:.2}", decode.bytes / batch / 1e6)),
            of_step(&|decode| format!("{:.3}", decode.bytes / decode.ideal_bytes)),
            of_step(&|decode| format!("{:.2}", decode.waits / batch)),
            format!("{:016x}", self.hash),
        ]
    }
}

/// The table's columns, and whether they are right-aligned. Columns from `GB/s` on are per token.
const COLUMNS: [(&str, bool); 14] = [
    ("model", false),
    ("size", true),
    ("params", true),
    ("backend", false),
    ("test", true),
    ("t/s", true),
    ("GB/s", true),
    ("of copy", true),
    ("dispatches", true),
    ("per layer", true),
    ("MB", true),
    ("of minimum", true),
    ("waits", true),
    ("tokens", false),
];

/// The report, printed row by row except for JSON.
#[derive(Debug)]
pub struct Report {
    format: Format,
    info: BenchInfo,
    rows: Vec<Row>,
}

impl Report {
    /// Starts the report: prints the header.
    pub fn begin(format: Format, info: &BenchInfo) -> Result<Self, Failure> {
        if format == Format::Md {
            let rule = COLUMNS.map(|(_, right)| if right { "---:" } else { "---" }.to_owned());
            print(&format!("{}{}", line(&COLUMNS.map(|(name, _)| name.to_owned())), line(&rule)))?;
        }
        Ok(Self { format, info: info.clone(), rows: Vec::new() })
    }

    /// Adds a row.
    pub fn row(&mut self, row: Row) -> Result<(), Failure> {
        match self.format {
            Format::Md => print(&line(&row.cells(&self.info)))?,
            Format::Csv => {
                let fields = row.fields(&self.info);
                // CSV has no lists.
                let cells = || fields.iter().filter(|(_, value)| !value.is_array());
                if self.rows.is_empty() {
                    print(&csv(cells().map(|(name, _)| json!(name))))?;
                }
                print(&csv(cells().map(|(_, value)| value.clone())))?;
            }
            Format::Json => {}
        }
        self.rows.push(row);
        Ok(())
    }

    /// Ends the report: prints the footer.
    pub fn end(self) -> Result<(), Failure> {
        match self.format {
            Format::Md => print(&self.footer()),
            Format::Csv => Ok(()),
            Format::Json => {
                let object = |row: &Row| {
                    let fields = row.fields(&self.info);
                    Value::Object(fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
                };
                print(&format!("{:#}\n", Value::Array(self.rows.iter().map(object).collect())))
            }
        }
    }

    fn footer(&self) -> String {
        let f = &self.info;
        let Start { opened, times: Times { load, compile, tune, engine, all, cached }, prompt, first_token } = f.start;
        let cached = if cached { ", cached" } else { "" };
        let driver = if f.driver.is_empty() { String::new() } else { format!(", {}", f.driver) };
        let paged = self.rows.iter().filter_map(|row| {
            let paging = row.paging?;
            Some(format!(
                "- {}: {} experts per layer on the device, {:.1} % expert cache hits, {} loaded from the file\n",
                row.name(),
                paging.slots,
                100.0 * paging.hit_rate(),
                size(paging.bytes)
            ))
        });
        let paged: String = paged.collect();
        let runs = if f.repetitions == 1 { "1 run".to_owned() } else { format!("{} runs", f.repetitions) };
        format!(
            "\n- {} ({}{driver}): copy bandwidth {:.2} GB/s (read + write)\n\
             - ferrum-wgpu {}; {runs} after a warm-up; {} KV cache, context of {} tokens, prefill chunks of {} tokens\n\
             - time to first token {:.3} s: {:.3} s opening the device, {:.3} s loading weights ({:.3} s) and compiling pipelines \
             ({:.3} s{cached}) concurrently, {:.3} s autotuning, {:.3} s allocating buffers, {:.3} s for a prompt of {prompt} tokens\n{paged}",
            f.device,
            f.backend,
            f.copy / 1e9,
            env!("CARGO_PKG_VERSION"),
            f.kv_type,
            f.context,
            f.prefill_rows,
            (opened + all + first_token).as_secs_f64(),
            opened.as_secs_f64(),
            all.saturating_sub(engine + tune).as_secs_f64(),
            load.as_secs_f64(),
            compile.as_secs_f64(),
            tune.as_secs_f64(),
            engine.as_secs_f64(),
            first_token.as_secs_f64(),
        )
    }
}

/// Formats a line of the table.
fn line(cells: &[String]) -> String {
    let cells: Vec<_> = cells.iter().map(|cell| cell.replace('|', "\\|")).collect();
    format!("| {} |\n", cells.join(" | "))
}

/// Formats a line of quoted cells.
fn csv(cells: impl Iterator<Item = Value>) -> String {
    let quoted = |cell: Value| {
        let text = match cell {
            Value::Null => String::new(),
            Value::String(text) => text,
            other => other.to_string(),
        };
        format!("\"{}\"", text.replace('"', "\"\""))
    };
    format!("{}\n", cells.map(quoted).collect::<Vec<_>>().join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_are_named_as_llama_bench_does() {
        let named = |kind, depth, batch| name(&Test { kind, depth, batch });
        assert_eq!(named(TestKind::Prompt(512), 0, 1), "pp512");
        assert_eq!(named(TestKind::Generate(128), 4096, 1), "tg128 @ d4096");
        assert_eq!(named(TestKind::Generate(128), 0, 16), "tg128 x 16");
    }

    #[test]
    fn deviations_are_of_a_sample() {
        assert_eq!(mean_and_deviation(&[2.0, 4.0, 6.0]), (4.0, 2.0));
        assert_eq!(mean_and_deviation(&[3.0]), (3.0, 0.0));
    }

    #[test]
    fn cells_are_quoted() {
        assert_eq!(csv([json!("a \"b\""), json!(null), json!(1.5)].into_iter()), "\"a \"\"b\"\"\",\"\",\"1.5\"\n");
    }
}
