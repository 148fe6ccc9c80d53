//! Options shared by several commands.

use std::str::FromStr;

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use ferrum_wgpu::{KvType, Pooling, UnknownName};
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

/// Returns the parser of the KV cache's data type.
pub fn kv_type() -> impl TypedValueParser<Value = KvType> {
    named(KvType::ALL.map(KvType::name))
}
