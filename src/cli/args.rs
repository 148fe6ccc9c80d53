//! Options that several commands have.

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use ferrum_wgpu::kernels::KvType;
use ferrum_wgpu::model::{PlanOptions, Precision};

/// Where to compute.
#[derive(Debug, Args)]
pub struct DeviceArg {
    /// Device by its index or a part of its name, as `devices` lists them; `cpu` computes without a driver.
    #[arg(long, value_name = "INDEX|NAME|cpu")]
    pub device: Option<String>,
}

/// How exactly to compute.
#[derive(Debug, Args)]
pub struct PrecisionArg {
    /// How exactly to compute: fast lets products be of fewer bits where the device gains by it.
    #[arg(long, value_name = "PRECISION", default_value = Precision::Exact.name(), value_parser = precision())]
    precision: Precision,
}

impl PrecisionArg {
    /// The plan's options with this precision.
    pub fn plan(&self) -> PlanOptions {
        PlanOptions { precision: self.precision, ..Default::default() }
    }
}

fn precision() -> impl TypedValueParser<Value = Precision> {
    let named = |name: String| Precision::ALL.into_iter().find(|p| p.name() == name).ok_or("exact or fast");
    PossibleValuesParser::new(Precision::ALL.map(Precision::name)).try_map(named)
}

/// Whether to measure.
#[derive(Clone, Copy, Debug, Args)]
pub struct TuneArg {
    /// Neither measure which kernels are quickest here, which takes up to 2 seconds the first time, nor use what was measured.
    #[arg(long)]
    pub no_tune: bool,
}

/// Takes the name of a way to store the KV cache.
pub fn kv_type() -> impl TypedValueParser<Value = KvType> {
    let named = |name: String| KvType::ALL.into_iter().find(|ty| ty.name() == name).ok_or("f16, f32 or q8_0");
    PossibleValuesParser::new(KvType::ALL.map(KvType::name)).try_map(named)
}
