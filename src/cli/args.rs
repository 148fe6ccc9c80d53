//! Options shared by several commands.

use std::str::FromStr;

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use ferrum_wgpu::{EngineOptions, KvType, Pooling, UnknownName};
use ferrum_wgpu::{Precision, low_level::model::PlanOptions};

/// The device option.
#[derive(Debug, Args)]
pub struct DeviceArg {
    /// Device to use: an index or part of a name as listed by `devices`, or `cpu` [default: the first GPU].
    #[arg(long, value_name = "INDEX|NAME|cpu")]
    pub device: Option<String>,
}

/// The precision option.
#[derive(Debug, Args)]
pub struct PrecisionArg {
    /// Numeric precision: `fast` allows lower-precision matrix multiplication where the device benefits.
    #[arg(long, value_name = "PRECISION", default_value = Precision::Exact.name(), value_parser = precision())]
    precision: Precision,
}

impl PrecisionArg {
    /// Returns plan options with this precision.
    pub fn plan(&self) -> PlanOptions {
        PlanOptions { precision: self.precision, ..Default::default() }
    }
}

fn precision() -> impl TypedValueParser<Value = Precision> {
    named(Precision::ALL.map(Precision::name))
}

/// Returns a parser of these names.
fn named<T, const N: usize>(names: [&'static str; N]) -> impl TypedValueParser<Value = T>
where
    T: FromStr<Err = UnknownName> + Clone + Send + Sync + 'static,
{
    PossibleValuesParser::new(names).try_map(|name| name.parse())
}

/// The tuning option.
#[derive(Clone, Copy, Debug, Args)]
pub struct TuneArg {
    /// Do not autotune kernels (up to 2 seconds on first use of a model), and do not use cached tuning results.
    #[arg(long)]
    pub no_tune: bool,
}

/// Returns the parser of the pooling of hidden states.
pub fn pooling() -> impl TypedValueParser<Value = Pooling> {
    named(Pooling::ALL.map(Pooling::name))
}

/// The option of prompt lookup decoding.
#[derive(Clone, Copy, Debug, Args)]
pub struct LookupArg {
    /// Compute up to N draft tokens per step, found by looking up the last tokens in the text before (prompt lookup
    /// decoding): faster where replies repeat parts of the prompt. The tokens stay the same. 0 is off.
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u32).range(..=64))]
    pub lookup: u32,
}

/// The options of snapshots.
#[derive(Clone, Copy, Debug, Args)]
pub struct SnapshotArgs {
    /// Snapshots kept of recurrent states, from which prompts with a known beginning go on (models with gated delta nets).
    #[arg(long, visible_alias = "ctx-checkpoints", value_name = "N", default_value_t = EngineOptions::default().state_snapshots)]
    state_snapshots: u32,
    /// Tokens between snapshots.
    #[arg(
        long, visible_alias = "checkpoint-min-step", value_name = "TOKENS",
        default_value_t = EngineOptions::default().snapshot_spacing, value_parser = clap::value_parser!(u32).range(1..)
    )]
    snapshot_spacing: u32,
}

impl SnapshotArgs {
    /// Returns engine options with these.
    pub fn set(&self, options: EngineOptions) -> EngineOptions {
        options.state_snapshots(self.state_snapshots).snapshot_spacing(self.snapshot_spacing)
    }
}

/// Returns the parser of the KV cache's data type.
pub fn kv_type() -> impl TypedValueParser<Value = KvType> {
    named(KvType::ALL.map(KvType::name))
}
