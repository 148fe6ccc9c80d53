//! Embedding lookup: rows of a table by token id.

use super::{F16Conversion, TestWeights, quant};
use crate::{
    gpu::{Caps, Case, Expect, Grid, Kernel, Source, SparseReads, SparseUnit, kernel, wgsl},
    quant::{Planes, WeightType},
};

kernel! {
    /// `y[t] = scale · table[id of t]`, for ids whose row is in `w`: a table larger than a binding is looked up part by part. A row's
    /// id is `ids[t]` from the host, or the token that was sampled for its sequence, `ids[positions[t, 1]]`.
    ///
    /// Shapes: `w` is rows `first_row .. first_row + local_rows` of the table `[n, k]` of any format in [`Planes`]; `ids`
    /// `[rows]` or `[sequences]`, clamped to the table; `positions` `[rows, 2]` of position and sequence, the latter clamped;
    /// `y` `[rows, k]` f32. Bound: `2⁻²²·|y| + 2⁻¹²⁶`, since WGSL lets a device flush subnormals to zero. Measured on
    /// lavapipe: exact with a scale of 1.
    pub struct Embed("linear/embed") for Variant;
    params {
        /// Tokens.
        rows: u32,
        /// Rows of the whole table.
        n: u32,
        /// The table's row that is the first in `w`.
        first_row: u32,
        /// Rows in `w`.
        local_rows: u32,
        /// Weights of a row.
        k: u32,
        /// Blocks of 32 weights of a row.
        k_blocks: u32,
        /// Blocks of 32 weights in `w`.
        n_blocks: u32,
        /// Sequences in `ids`, or 0 if `ids` has one for each row.
        sequences: u32,
        /// The factor of rows.
        scale: f32,
    }
    binds {
        /// The table's planes.
        w: read [[u32; 4]],
        /// Token ids, of rows or of sequences.
        ids: read [u32],
        /// Each row's position and sequence.
        positions: read [u32],
        /// The rows.
        y: write [f32],
    }
}

const WG: u32 = 64;

/// The table's format, and how f16 are converted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Variant {
    /// The table's format.
    pub ty: WeightType,
    /// How f16 are converted. [`F16Conversion::Unpack`] is for the device's self-test only.
    pub f16: F16Conversion,
}

impl Variant {
    /// Returns the variant of a format.
    pub const fn new(ty: WeightType) -> Self {
        Self { ty, f16: F16Conversion::Integers }
    }

    /// The variant of the device's self-test.
    pub(crate) const UNPACK: Self = Self { ty: WeightType::F16, f16: F16Conversion::Unpack };
}

/// Returns the row of `w` that becomes row `t`, if `w` has the table's row.
fn local_row(p: &Params, ids: &[u32], positions: &[u32], t: usize) -> Option<u32> {
    let id = match p.sequences {
        0 => ids[t],
        sequences => ids[positions[2 * t + 1].min(sequences - 1) as usize],
    };
    id.min(p.n - 1).checked_sub(p.first_row).filter(|row| *row < p.local_rows)
}

impl Kernel for Embed {
    fn supported(caps: &Caps) -> Vec<Variant> {
        let unpack = caps.pack_f16.then_some(Variant::UNPACK);
        WeightType::ALL.map(Variant::new).into_iter().chain(unpack).collect()
    }

    /// All but that of the self-test, which a device may fail.
    fn covered(_: &Caps) -> Vec<Variant> {
        WeightType::ALL.map(Variant::new).to_vec()
    }

    fn source(v: Variant) -> Source {
        let source = Source::new(wgsl!("linear/embed.wgsl"), WG).with_all(quant(v.ty));
        source.replace(F16Conversion::Integers.fragment(), v.f16.fragment())
    }

    fn grid(_: Variant, p: &Params) -> Grid {
        Grid { x: p.k_blocks.div_ceil(WG), y: p.rows }
    }

    fn sparse_reads(_: Variant, p: &Params) -> Option<SparseReads> {
        Some(SparseReads { binding: "w", choice: SparseUnit::Rows, most: p.rows.min(p.n), of: p.n })
    }

    fn cpu(v: Variant, p: &Params, host: Host<'_>) {
        let Some(planes) = Planes::new(v.ty, u64::from(p.local_rows), u64::from(p.k)) else { return };
        for (t, y) in host.y.chunks_exact_mut(p.k as usize).enumerate().take(p.rows as usize) {
            if let Some(row) = local_row(p, host.ids, host.positions, t) {
                planes.decode_row(host.w, u64::from(row), y);
                y.iter_mut().for_each(|y| *y *= p.scale);
            }
        }
    }

    fn reference(v: Variant, p: &Params, before: Host<'_>) -> Option<Expected> {
        let planes = Planes::new(v.ty, u64::from(p.local_rows), u64::from(p.k))?;
        let mut y = Expect::unchanged(before.y);
        let mut weights = vec![0.0; p.k as usize];
        for (t, y) in y.chunks_exact_mut(p.k as usize).enumerate().take(p.rows as usize) {
            if let Some(row) = local_row(p, before.ids, before.positions, t) {
                planes.decode_row(before.w, u64::from(row), &mut weights);
                y.iter_mut().zip(&weights).for_each(|(y, w)| *y = near(*w, p.scale));
            }
        }
        Some(Expected { y: Some(Expect::Near(y)), ..Default::default() })
    }

    fn cases(Variant { ty, .. }: Variant) -> Vec<Case<Self>> {
        let block = ty.block_len() as u64;
        let mut cases = Vec::new();
        for sampled in [false, true] {
            let source = if sampled { "sampled" } else { "given" };
            for k in [2 * block.max(32), 2048, block.max(36)] {
                let weights = TestWeights::random(ty, 9, k, k);
                cases.extend(weights.and_then(|w| case(sampled, format!("9x{k}, {source}"), w, 0, 9)));
            }
            let part = TestWeights::random(ty, 9, 2 * block.max(32), 1);
            cases.extend(part.and_then(|w| case(sampled, format!("a part of 20, {source}"), w, 3, 20)));
        }
        for (name, blocks) in crate::quant::hard_blocks(ty, 3) {
            let weights = TestWeights::from_blocks(ty, 9, 2 * block.max(32), &blocks);
            cases.extend(weights.and_then(|w| case(false, name.to_owned(), w, 0, 9)));
        }
        cases
    }
}

/// Returns a decoded and scaled weight and the bound on a kernel's.
fn near(weight: f32, scale: f32) -> (f64, f64) {
    let weight = f64::from(weight) * f64::from(scale);
    (weight, weight.abs() / f64::from(1 << 22) + f64::from(f32::MIN_POSITIVE))
}

fn case(sampled: bool, name: String, weights: TestWeights, first_row: u32, n: u32) -> Option<Case<Embed>> {
    let (local_rows, k) = (weights.planes.rows() as u32, weights.planes.k() as u32);
    // The last id is out of range and becomes the last row.
    let given = vec![n - 1, 0, 4, 1000, first_row, first_row + local_rows - 1];
    // Gemma's scale, where the table is split.
    let scale = if first_row > 0 { 50.596_443 } else { 1.0 };
    let expected = given
        .iter()
        .flat_map(|id| {
            let row = (*id).min(n - 1).checked_sub(first_row).filter(|row| *row < local_rows);
            let value = |i| row.map_or(f32::NAN, |row| weights.values[(row * k + i) as usize]);
            (0..k).map(value).collect::<Vec<_>>()
        })
        .map(|weight| near(weight, scale))
        .collect();
    let rows = given.len() as u32;
    let (ids, sequences) = if sampled {
        // Sequences in another order than rows, and two without a row. The last row's is out of range and becomes the last.
        let mut ids: Vec<u32> = given.iter().rev().copied().collect();
        ids.rotate_left(1);
        let last = ids.pop().unwrap_or_default();
        ids.extend([5000, 5000, last]);
        (ids, rows + 2)
    } else {
        (given, 0)
    };
    let sequence = |t| if t + 1 == rows { u32::MAX } else { rows - 2 - t };
    let positions = (0..rows).flat_map(|t| [7000, sequence(t)]).collect();
    let params = Params {
        rows,
        n,
        first_row,
        local_rows,
        k,
        k_blocks: weights.planes.k_blocks(),
        n_blocks: weights.planes.blocks(),
        sequences,
        scale,
    };
    let y = vec![f32::NAN; (rows * k) as usize];
    Some(Case {
        name,
        params,
        data: Data { w: weights.words, ids, positions, y },
        expected: Expected { y: Some(Expect::Near(expected)), ..Default::default() },
    })
}
