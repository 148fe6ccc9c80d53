//! The self-test of cooperative matrices at start-up. They are an experimental feature of wgpu, and drivers and translations
//! have differed in barriers and layouts, so that a model uses only those that compute correctly on its device.

use super::{
    linear::{Epilogue, Mma, Rows, TileType, gemm},
    trial::Trial,
};
use crate::{
    gpu::{Device, GpuError, Matrices},
    quant::WeightType,
};

/// Tests each kind of cooperative matrices that `device` has, and stores those that pass: [`Device::trusted_matrices`]. Logs a
/// warning for each that fails. Loading a model runs it once per device.
///
/// # Errors
/// [`GpuError::OutOfMemory`], or the loss of the device. A kernel that does not compile is a failed test, not an error.
pub async fn check_matrices(device: &Device) -> Result<(), GpuError> {
    let has = device.caps().matrices;
    // A dry run has the result of its device.
    if device.matrices_cell().get().is_some() || device.is_dry_run() || !has.any() {
        return Ok(());
    }
    let right = async |has: bool, tile, mma| match has {
        true => passes(device, tile, mma).await,
        false => Ok(false),
    };
    let trusted = Matrices {
        f32_8: right(has.f32_8, TileType::F32, Mma::Matrices8).await?,
        f16_8: right(has.f16_8, TileType::F16, Mma::Matrices8).await?,
        f16_16: right(has.f16_16, TileType::F16, Mma::Matrices16).await?,
    };
    // A concurrent test has stored the same.
    let _ = device.matrices_cell().set(trusted);
    Ok(())
}

/// Returns whether GEMM with tiles of this type passes its cases.
async fn passes(device: &Device, tile: TileType, mma: Mma) -> Result<bool, GpuError> {
    // The format does not matter: tiles are dequantised before they are multiplied.
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
    for trial in Trial::all::<gemm::Gemm>(variant) {
        let outcome = trial.outcome(device).await?;
        if !outcome.passed() {
            tracing::warn!(
                "{}: cooperative matrices fail their self-test and are not used: {variant:?}, {outcome:?}",
                device.name()
            );
            return Ok(false);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::Adapter;

    /// Tests the self-test with `Mma::Fma`, which every device has.
    #[test]
    fn wrong_products_fail_the_self_test() {
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
                assert_eq!(passes(&device, tile, Mma::Fma).await.expect("a verdict"), !wrong);
                assert!(!device.trusted_matrices().any());
                check_matrices(&device).await.expect("a verdict");
                assert_eq!(device.trusted_matrices(), device.caps().matrices);
            }
        });
    }
}
