//! The self-tests of a device at start-up. Cooperative matrices are an experimental feature of wgpu, and drivers and translations
//! have differed in barriers and layouts, so that a model uses only those that compute correctly on its device. WGSL leaves open
//! whether `unpack2x16float` keeps subnormals.

use super::{
    linear::{F16Conversion, Indexing, Mma, TileType, embed, gemm},
    trial::Trial,
};
use crate::{
    gpu::{Device, GpuError, Matrices},
    quant::WeightType,
};

/// Tests what a model may use of `device`: its matrix units, and its conversion of f16. Loading a model runs it once per device.
///
/// # Errors
/// [`GpuError::OutOfMemory`], or the loss of the device.
pub async fn check_device(device: &Device) -> Result<(), GpuError> {
    check_matrices(device).await?;
    check_unpack(device).await
}

/// Tests whether `unpack2x16float` keeps subnormals. If so, the kernels that are compiled from now on convert f16 by it: one
/// instruction for some eight, and the same bits. Drivers on the CPU are not tested: their kernels were measured without it.
async fn check_unpack(device: &Device) -> Result<(), GpuError> {
    if device.unpack_cell().get().is_some() || device.is_dry_run() || device.is_cpu() || device.is_software() {
        return Ok(());
    }
    let is_exact = device.caps().pack_f16 && unpack_is_exact(device).await?;
    if is_exact {
        device.replace_fragment(F16Conversion::Integers.fragment(), F16Conversion::Unpack.fragment());
    }
    // A concurrent test has found the same.
    let _ = device.unpack_cell().set(is_exact);
    Ok(())
}

/// Returns whether `unpack2x16float` keeps subnormals.
async fn unpack_is_exact(device: &Device) -> Result<bool, GpuError> {
    let mut passed = 0;
    for trial in Trial::all::<embed::Embed>(embed::Variant::UNPACK).filter(|trial| trial.name() == "subnormal") {
        if !trial.outcome(device).await?.passed() {
            return Ok(false);
        }
        passed += 1;
    }
    Ok(passed > 0)
}

/// Tests each kind of cooperative matrices that `device` has, and stores those that pass: [`Device::trusted_matrices`]. Logs a
/// warning for each that fails. A kernel that does not compile is a failed test, not an error.
async fn check_matrices(device: &Device) -> Result<(), GpuError> {
    let has = device.caps().matrices;
    // A dry run has the result of its device.
    if device.matrices_cell().get().is_some() || device.is_dry_run() || !has.any() {
        return Ok(());
    }
    let mut passed = Vec::new();
    for (tile, mma) in kinds(has) {
        if passes(device, tile, mma).await? {
            passed.push((tile, mma));
        }
    }
    // A concurrent test has stored the same.
    let _ = device.matrices_cell().set(trusted(&passed));
    Ok(())
}

const F32_8: (TileType, Mma) = (TileType::F32, Mma::Matrices8);
const F16_8: (TileType, Mma) = (TileType::F16, Mma::Matrices8);
const F16_16: (TileType, Mma) = (TileType::F16, Mma::Matrices16);

/// Returns how GEMM uses each kind of matrices.
fn kinds(has: Matrices) -> impl Iterator<Item = (TileType, Mma)> {
    let kinds = [(has.f32_8, F32_8), (has.f16_8, F16_8), (has.f16_16, F16_16)];
    kinds.into_iter().filter_map(|(has, kind)| has.then_some(kind))
}

/// Returns the matrices of the kinds that have passed.
fn trusted(passed: &[(TileType, Mma)]) -> Matrices {
    let has = |kind| passed.contains(&kind);
    Matrices { f32_8: has(F32_8), f16_8: has(F16_8), f16_16: has(F16_16) }
}

/// Returns whether GEMM with tiles of this type passes its cases, with tiles of every number of rows.
async fn passes(device: &Device, tile: TileType, mma: Mma) -> Result<bool, GpuError> {
    if !Mma::available(device.caps(), tile).contains(&mma) {
        return Ok(false);
    }
    for tile_rows in gemm::TileRows::available(mma).iter().copied() {
        // The format does not matter: tiles are dequantised before they are multiplied.
        let variant = gemm::Variant { ty: WeightType::Q4K, indexing: Indexing::Dense, tile, mma, tile_rows };
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
                    device.edit_shaders("linear/gemm", "inputs[i][group][1]", "inputs[i][group][0]");
                }
                assert_eq!(passes(&device, tile, Mma::Fma).await.expect("a verdict"), !wrong);
            }
        });
    }

    /// A flushed subnormal fails the test, and after a passed one kernels that convert by `unpack2x16float` pass their cases.
    #[test]
    fn f16_are_unpacked_where_subnormals_are_kept() {
        pollster::block_on(async {
            let adapter = Adapter::find(None).await.expect("an adapter");
            let device = Device::new(&adapter).await.expect("a device");
            assert!(unpack_is_exact(&device).await.expect("a verdict"), "{} flushes subnormals", device.name());
            device.replace_fragment(F16Conversion::Integers.fragment(), F16Conversion::Unpack.fragment());
            let variants = WeightType::ALL.map(embed::Variant::new);
            for trial in variants.into_iter().flat_map(Trial::all::<embed::Embed>) {
                let outcome = trial.outcome(&device).await.expect("an outcome");
                assert!(outcome.passed(), "{outcome:?}");
            }
            let flushing = Device::new(&adapter).await.expect("a device");
            flushing.edit_shaders(
                "linear/embed",
                "unpack2x16float(bits).x",
                "select(0.0, unpack2x16float(bits).x, (bits & 0x7c00u) != 0u)",
            );
            assert!(!unpack_is_exact(&flushing).await.expect("a verdict"));
        });
    }

    #[test]
    fn only_matrices_that_pass_are_trusted() {
        for bits in 0..8 {
            let has = Matrices { f32_8: bits & 1 != 0, f16_8: bits & 2 != 0, f16_16: bits & 4 != 0 };
            let tested: Vec<_> = kinds(has).collect();
            assert_eq!(trusted(&tested), has);
            for failed in 0..tested.len() {
                let mut passed = tested.clone();
                passed.remove(failed);
                assert!(trusted(&passed) != has && trusted(&passed).and(has) == trusted(&passed), "{has:?}");
            }
        }
    }

    /// Where the driver has cooperative matrices, the self-test runs on them.
    #[test]
    fn the_result_is_stored_once_per_device() {
        pollster::block_on(async {
            let adapter = Adapter::find(None).await.expect("an adapter");
            let device = Device::new(&adapter).await.expect("a device");
            assert_eq!(device.trusted_matrices(), Matrices::default());
            check_matrices(&device).await.expect("a result");
            assert_eq!(device.matrices_cell().get().is_some(), device.caps().matrices.any());
            assert_eq!(device.dry_run().trusted_matrices(), device.trusted_matrices());
            let stored = device.trusted_matrices();
            assert_eq!(stored.and(device.caps().matrices), stored);
        });
    }
}
