//! Autotuning: a refinement of a [`KernelSelection`] by measurements on the GPU at hand.

use std::fmt;

use super::{DeviceProfile, DownProj, KernelSelection, NormPlacement, Precision};
use crate::{
    gguf::Gguf,
    gpu::{Device, Matrices},
    kernels::linear::{Mma, TileType, gemm::TileRows},
    model::{Config, FeedForward, Model, ModelError, Phase},
};

/// The choices that were measured to be fastest on one device for one shape of model: plain data, to be kept between runs.
///
/// A tuned selection may sum in another order than the default one, so that logits differ within the kernels' bounds.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Tuning {
    /// [`Tuning::VERSION`] of the writer.
    pub version: u32,
    /// [`Device::fingerprint`](crate::gpu::Device::fingerprint) of the device.
    pub device: String,
    /// [`Model::shape`] of the model.
    pub model: String,
    /// The choices, one for each key that was measured.
    pub choices: Vec<TuningChoice>,
}

/// A tuned choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum TuningKey {
    /// Of [`KernelSelection::one_row_from`].
    OneRowFrom,
    /// Of [`KernelSelection::four_rows_from`].
    FourRowsFrom,
    /// Of [`KernelSelection::norm_in_gemv_below`].
    Norm,
    /// Of [`KernelSelection::down_proj`].
    DownProj,
    /// Of [`KernelSelection::tile`] and [`KernelSelection::mma`] with a precision.
    Gemm(Precision),
    /// Of [`KernelSelection::tile_rows`].
    TileRows,
    /// Of [`KernelSelection::batched_from`].
    BatchedFrom,
    /// Of [`KernelSelection::expert_batched_from`].
    ExpertBatchedFrom,
}

/// A key with its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
pub enum TuningChoice {
    /// [`KernelSelection::one_row_from`].
    OneRowFrom(u32),
    /// [`KernelSelection::four_rows_from`].
    FourRowsFrom(u32),
    /// Where decode computes norms.
    Norm(NormPlacement),
    /// [`KernelSelection::down_proj`].
    DownProj(DownProj),
    /// [`KernelSelection::tile`] and [`KernelSelection::mma`] with a precision.
    Gemm(Precision, TileType, Mma),
    /// [`KernelSelection::tile_rows`].
    TileRows(TileRows),
    /// [`KernelSelection::batched_from`].
    BatchedFrom(u32),
    /// [`KernelSelection::expert_batched_from`].
    ExpertBatchedFrom(u32),
}

/// The largest batch that is measured.
const MAX_BATCH: u32 = 64;

impl Default for Tuning {
    fn default() -> Self {
        Self { version: Self::VERSION, device: String::new(), model: String::new(), choices: Vec::new() }
    }
}

impl Tuning {
    /// The version of the format. Others are ignored.
    pub const VERSION: u32 = 3;

    /// Returns a tuning without choices for the model in `gguf` on `device`: the key of a cache.
    ///
    /// # Errors
    /// [`ModelError`] for a file that is no supported model.
    pub async fn for_gguf(device: &Device, gguf: &Gguf) -> Result<Self, ModelError> {
        Ok(Self::new(&Model::dry_run(device, gguf).await?))
    }

    /// Returns one without choices.
    pub(crate) fn new(model: &Model) -> Self {
        Self { device: model.device().fingerprint(), model: model.shape(), ..Self::default() }
    }

    /// Returns whether it was measured with this model's device, driver and shape by this version of the engine.
    pub fn matches(&self, model: &Model) -> bool {
        self.has_same_key(&Self::new(model))
    }

    /// Returns whether `other` is of the same device, model and version.
    pub fn has_same_key(&self, other: &Self) -> bool {
        (self.version, &self.device, &self.model) == (other.version, &other.device, &other.model)
    }

    /// Returns the choice for `key`.
    pub fn get(&self, key: TuningKey) -> Option<TuningChoice> {
        self.choices.iter().copied().find(|choice| choice.key() == key)
    }

    /// Adds a choice, or replaces the one of its key.
    pub fn set(&mut self, choice: TuningChoice) {
        self.choices.retain(|known| known.key() != choice.key());
        self.choices.push(choice);
    }
}

impl TuningKey {
    /// All keys, in the order of measurement.
    pub const ALL: [Self; 9] = [
        Self::OneRowFrom,
        Self::FourRowsFrom,
        Self::Gemm(Precision::Exact),
        Self::Gemm(Precision::Fast),
        Self::DownProj,
        Self::Norm,
        Self::TileRows,
        Self::BatchedFrom,
        Self::ExpertBatchedFrom,
    ];

    /// Returns its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::OneRowFrom => "one row per group from",
            Self::FourRowsFrom => "four rows per group from",
            Self::Norm => "norm",
            Self::DownProj => "down projection",
            Self::Gemm(Precision::Exact) => "GEMM, exact",
            Self::Gemm(Precision::Fast) => "GEMM, fast",
            Self::TileRows => "GEMM tile rows",
            Self::BatchedFrom => "batched GEMV from",
            Self::ExpertBatchedFrom => "batched expert GEMV from",
        }
    }

    /// Returns the passes that a choice is measured by, each with its rows: of at most `prefill_rows` and `sequences`.
    pub(crate) fn passes(self, prefill_rows: u32, sequences: u32) -> Vec<(Phase, u32)> {
        match self {
            Self::OneRowFrom | Self::FourRowsFrom | Self::Norm | Self::DownProj => vec![(Phase::Decode, 1)],
            Self::Gemm(_) | Self::TileRows => vec![(Phase::Prefill, prefill_rows)],
            Self::BatchedFrom | Self::ExpertBatchedFrom => {
                let powers = std::iter::successors(Some(2_u32), |rows| rows.checked_mul(2));
                powers.take_while(|rows| *rows <= sequences.min(MAX_BATCH)).map(|rows| (Phase::Decode, rows)).collect()
            }
        }
    }
}

impl TuningChoice {
    /// Returns its key.
    pub fn key(self) -> TuningKey {
        match self {
            Self::OneRowFrom(_) => TuningKey::OneRowFrom,
            Self::FourRowsFrom(_) => TuningKey::FourRowsFrom,
            Self::Norm(_) => TuningKey::Norm,
            Self::DownProj(_) => TuningKey::DownProj,
            Self::Gemm(precision, ..) => TuningKey::Gemm(precision),
            Self::TileRows(_) => TuningKey::TileRows,
            Self::BatchedFrom(_) => TuningKey::BatchedFrom,
            Self::ExpertBatchedFrom(_) => TuningKey::ExpertBatchedFrom,
        }
    }
}

impl fmt::Display for TuningChoice {
    /// The value, without the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OneRowFrom(u32::MAX)
            | Self::FourRowsFrom(u32::MAX)
            | Self::BatchedFrom(u32::MAX)
            | Self::ExpertBatchedFrom(u32::MAX) => f.write_str("never"),
            Self::OneRowFrom(from) | Self::FourRowsFrom(from) => write!(f, "{from} workgroups"),
            Self::BatchedFrom(from) => write!(f, "{from} rows"),
            Self::ExpertBatchedFrom(from) => write!(f, "{from} assignments an expert"),
            Self::Norm(NormPlacement::InGemv) => f.write_str("in the GEMV"),
            Self::Norm(NormPlacement::Separate) | Self::DownProj(DownProj::Separate) => f.write_str("separate"),
            Self::DownProj(DownProj::Combined) => f.write_str("with the weighted sum"),
            Self::Gemm(_, tile, mma) => write!(f, "{tile:?} {mma:?}"),
            Self::TileRows(rows) => write!(f, "{} rows", rows.count()),
        }
    }
}

impl KernelSelection {
    /// Returns the selection with a tuning's choices. Those that `precision` does not allow, or the device does not have, are
    /// left out.
    #[must_use]
    pub fn refined(self, tuning: &Tuning, device: &DeviceProfile, precision: Precision) -> Self {
        let allowed = |choice: &&TuningChoice| match **choice {
            TuningChoice::Gemm(of, tile, mma) => of == precision && gemms(device, of).any(|gemm| gemm == (tile, mma)),
            _ => true,
        };
        tuning.choices.iter().filter(allowed).fold(self, |selection, choice| selection.with(*choice))
    }

    /// Returns the selection with a choice.
    #[must_use]
    pub fn with(self, choice: TuningChoice) -> Self {
        match choice {
            TuningChoice::OneRowFrom(one_row_from) => Self { one_row_from, ..self },
            TuningChoice::FourRowsFrom(four_rows_from) => Self { four_rows_from, ..self },
            TuningChoice::Norm(NormPlacement::InGemv) => Self { norm_in_gemv_below: u32::MAX, ..self },
            TuningChoice::Norm(NormPlacement::Separate) => Self { norm_in_gemv_below: 0, ..self },
            TuningChoice::DownProj(down_proj) => Self { down_proj, ..self },
            TuningChoice::Gemm(_, tile, mma) => Self { tile, mma, ..self },
            TuningChoice::TileRows(tile_rows) => Self { tile_rows, ..self },
            TuningChoice::BatchedFrom(batched_from) => Self { batched_from, ..self },
            TuningChoice::ExpertBatchedFrom(expert_batched_from) => Self { expert_batched_from, ..self },
        }
    }

    /// Returns the candidates for `key`, the selection's own first; one alone where there is nothing to measure.
    pub(crate) fn candidates(
        &self,
        key: TuningKey,
        config: &Config,
        device: &DeviceProfile,
        precision: Precision,
    ) -> Vec<TuningChoice> {
        use TuningChoice as C;
        let experts = matches!(config.feed_forward, FeedForward::Experts { .. });
        let all = match key {
            TuningKey::OneRowFrom => [self.one_row_from, 0, 100, 1000].map(C::OneRowFrom).to_vec(),
            TuningKey::FourRowsFrom => [self.four_rows_from, 0, 256, u32::MAX].map(C::FourRowsFrom).to_vec(),
            TuningKey::Norm => {
                let in_gemv = config.hidden < self.norm_in_gemv_below;
                let own = if in_gemv { NormPlacement::InGemv } else { NormPlacement::Separate };
                [own, NormPlacement::InGemv, NormPlacement::Separate].map(C::Norm).to_vec()
            }
            TuningKey::DownProj if experts => {
                [self.down_proj, DownProj::Combined, DownProj::Separate].map(C::DownProj).to_vec()
            }
            TuningKey::DownProj => vec![C::DownProj(self.down_proj)],
            TuningKey::Gemm(of) => {
                let others = gemms(device, precision).filter(|_| of == precision);
                [(self.tile, self.mma)].into_iter().chain(others).map(|(tile, mma)| C::Gemm(of, tile, mma)).collect()
            }
            TuningKey::TileRows => {
                let available = TileRows::available(self.mma).iter().copied();
                [self.tile_rows].into_iter().chain(available).map(C::TileRows).collect()
            }
            TuningKey::BatchedFrom => [self.batched_from, 2, 4, 8, u32::MAX].map(C::BatchedFrom).to_vec(),
            TuningKey::ExpertBatchedFrom if experts => {
                [self.expert_batched_from, 1, 2, 4, u32::MAX].map(C::ExpertBatchedFrom).to_vec()
            }
            TuningKey::ExpertBatchedFrom => vec![C::ExpertBatchedFrom(self.expert_batched_from)],
        };
        let mut distinct: Vec<TuningChoice> = Vec::new();
        for choice in all {
            if !distinct.contains(&choice) {
                distinct.push(choice);
            }
        }
        distinct
    }
}

/// Returns the tiles and multipliers that a precision allows on a device: with and without cooperative matrices, and halves.
fn gemms(device: &DeviceProfile, precision: Precision) -> impl Iterator<Item = (TileType, Mma)> {
    let halves = precision == Precision::Fast && device.caps.f16;
    let selected =
        [Matrices::default(), device.caps.matrices].map(|matrices| KernelSelection::gemm(precision, matrices));
    selected.into_iter().chain(halves.then_some((TileType::F16, Mma::Fma)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{gpu::Caps, model::DeviceClass};

    #[test]
    fn a_choice_replaces_the_one_of_its_key_and_refines_a_selection() {
        let mut tuning = Tuning::default();
        for choice in [TuningChoice::FourRowsFrom(0), TuningChoice::BatchedFrom(4), TuningChoice::FourRowsFrom(256)] {
            tuning.set(choice);
        }
        assert_eq!(tuning.choices, [TuningChoice::BatchedFrom(4), TuningChoice::FourRowsFrom(256)]);
        let device = DeviceProfile { class: DeviceClass::Discrete, caps: Caps::portable(), browser: false };
        let refined = |tuning: &Tuning| KernelSelection::GPU.refined(tuning, &device, Precision::Exact);
        assert_eq!(refined(&tuning), KernelSelection { four_rows_from: 256, batched_from: 4, ..KernelSelection::GPU });
        // Of another precision, and matrices that the device does not have.
        tuning.set(TuningChoice::Gemm(Precision::Fast, TileType::F32, Mma::Fma));
        tuning.set(TuningChoice::Gemm(Precision::Exact, TileType::F32, Mma::Matrices8));
        assert_eq!(refined(&tuning).mma, Mma::Fma);
    }
}
