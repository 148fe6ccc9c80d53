//! Do cooperative matrices compute right here? They are an experiment of wgpu's, in whose barriers and layouts drivers and
//! translations have differed, so that none is used on its word.

use super::{Suite, Target};
use crate::{
    gpu::{Device, GpuError, Matrices},
    kernels::linear::{Epilogue, Mma, Rows, TileType, gemm},
    quant::WeightType,
};

/// Multiplies by each kind of cooperative matrices that `device` has, and remembers those that give what their definition asks:
/// [`Device::trusted_matrices`]. Models choose no others. What is wrong is logged as a warning. A model that is loaded has this
/// done, once for each device.
///
/// # Errors
/// Memory that runs out, a device that is lost. What only these kernels suffer, as that they do not compile, is no error.
pub async fn check_matrices(device: &Device) -> Result<(), GpuError> {
    let has = device.caps().matrices;
    // A dry run has the result of its device.
    if device.matrices_cell().get().is_some() || device.is_dry_run() || !has.any() {
        return Ok(());
    }
    let right = async |has: bool, tile, mma| match has {
        true => is_right(device, tile, mma).await,
        false => Ok(false),
    };
    let trusted = Matrices {
        f32_8: right(has.f32_8, TileType::F32, Mma::Matrices8).await?,
        f16_8: right(has.f16_8, TileType::F16, Mma::Matrices8).await?,
        f16_16: right(has.f16_16, TileType::F16, Mma::Matrices16).await?,
    };
    // Whoever was first has found the same.
    let _ = device.matrices_cell().set(trusted);
    Ok(())
}

/// Whether what multiplies tiles of this type is within the bounds of its cases.
async fn is_right(device: &Device, tile: TileType, mma: Mma) -> Result<bool, GpuError> {
    // The format is no matter: tiles are decoded before they are multiplied.
    let variant = gemm::Variant {
        ty: WeightType::Q4K,
        rows: Rows::Dense,
        epilogue: Epilogue::Store,
        tile,
        mma,
        tile_rows: gemm::TileRows::ThirtyTwo,
    };
    if !Mma::available(device.caps(), tile).contains(&mma) {
        return Ok(false);
    }
    // Failures that are known are failures here.
    let reports = Suite::single(gemm::Gemm, variant).run(device, &Target::cpu(), |_| ()).await?;
    let wrong = reports.iter().flat_map(|report| report.failures()).next();
    if let Some(outcome) = wrong {
        tracing::warn!(
            "{} is wrong by cooperative matrices, which are not used: {variant:?}, {outcome:?}",
            device.name()
        );
    }
    Ok(wrong.is_none())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::Adapter;

    /// What is done for matrices, with the one way to multiply that every device has.
    #[test]
    fn what_multiplies_wrongly_is_found_out() {
        pollster::block_on(async {
            let adapter = Adapter::find(None).await.expect("an adapter");
            for (tile, wrong) in [(TileType::F32, false), (TileType::F16, false), (TileType::F32, true)] {
                let device = Device::new(&adapter).await.expect("a device");
                if tile == TileType::F16 && !device.caps().f16 {
                    continue;
                }
                if wrong {
                    device.edit_shaders(
                        "linear/gemm",
                        "mma_1 += w4 * f32(inputs[b + 1u])",
                        "mma_1 += w4 * f32(inputs[b])",
                    );
                }
                assert_eq!(is_right(&device, tile, Mma::Fma).await.expect("a verdict"), !wrong);
                assert!(!device.trusted_matrices().any());
                check_matrices(&device).await.expect("a verdict");
                assert_eq!(device.trusted_matrices(), device.caps().matrices);
            }
        });
    }
}
