//! The parts of GEMVs that only drivers on the CPU are given ([`Split::Rows`](super::Split::Rows)). Their WGSL is in
//! `wgsl/software/`.

use super::matmul;
use crate::{
    gpu::{Fragment, Source, wgsl},
    quant::WeightType,
};

/// Returns the source of a product whose lanes split the weight rows.
pub(super) fn source(body: Fragment, ty: WeightType) -> Source {
    matmul::source(body, 8, ty)
        .replace(super::BIASED_F32, wgsl!("software/biased_bytes.wgsl"))
        .subgroups(true)
        .constant("SUPER_BLOCK", (ty.block_len() as u32 / 32).max(1))
        .constant("ROWS_PER_LANE", tile(ty) / 8)
        .with(wgsl!("software/input_shuffled.wgsl"))
        .with(wgsl!("software/row_split.wgsl"))
}

/// Returns how many weight rows of `ty` a workgroup multiplies by a row of activations. Float rows are decoded by as many
/// loads as their activations take, so that more of them at a time do not pay.
pub(super) fn tile(ty: WeightType) -> u32 {
    if ty.block_len() > 1 { 64 } else { 32 }
}

/// Adds the norm of the activations.
pub(super) fn norm(source: Source) -> Source {
    source.with(wgsl!("input/normed.wgsl")).with(wgsl!("software/norm_shuffled.wgsl"))
}
