//! Options shared by several commands.

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use ferrum_wgpu::kernels::KvType;
use ferrum_wgpu::model::{PlanOptions, Precision};

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
    let named = |name: String| Precision::ALL.into_iter().find(|p| p.name() == name).ok_or("exact or fast");
    PossibleValuesParser::new(Precision::ALL.map(Precision::name)).try_map(named)
}

/// The tuning option.
#[derive(Clone, Copy, Debug, Args)]
pub struct TuneArg {
    /// Do not autotune kernels (up to 2 seconds on first use of a model), and do not use cached tuning results.
    #[arg(long)]
    pub no_tune: bool,
}

/// Returns the parser of the KV cache's data type.
pub fn kv_type() -> impl TypedValueParser<Value = KvType> {
    let named = |name: String| KvType::ALL.into_iter().find(|ty| ty.name() == name).ok_or("f16, f32 or q8_0");
    PossibleValuesParser::new(KvType::ALL.map(KvType::name)).try_map(named)
}
