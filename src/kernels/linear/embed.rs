//! Embedding lookup: rows of a table by token id.

use super::{TestWeights, quant};
use crate::{
    gpu::{Caps, Case, Expect, Grid, Kernel, Source, SparseReads, SparseUnit, kernel, wgsl},
    quant::{Planes, WeightType},
};

kernel! {
    /// `y[t] = table[id of t]`, for the ids whose row is in `w`: a table that is larger than a binding is looked up part by
    /// part. A row's id is given, `ids[t]`, or was drawn for its sequence, `ids[positions[t, 1]]`.
    ///
    /// Shapes: `w` is rows `first_row .. first_row + held` of the table `[n, k]` of any format in [`Planes`], `ids`
    /// `[rows]` or `[sequences]` (clamped to the table), `positions` `[rows, 2]` of position and sequence (clamped to
    /// those there are), `y` `[rows, k]` f32. Bound: 2⁻²² of the value, and the smallest normal f32, since WGSL lets a
    /// device take subnormals for zero. Measured on lavapipe: exact.
    pub struct Embed("linear/embed") for Variant;
    params {
        /// Tokens.
        rows: u32,
        /// Rows of the whole table.
        n: u32,
        /// The table's row that is the first of `w`.
        first_row: u32,
        /// Rows in `w`.
        held: u32,
        /// Weights of a row.
        k: u32,
        /// Units of weights of a row.
        row_units: u32,
        /// Units of weights in all.
        units: u32,
        /// Drawn: sequences in `ids`.
        sequences: u32,
    }
    binds {
        /// The table's planes.
        w: read [[u32; 4]],
        /// Token ids, of rows or of sequences.
        ids: read [u32],
        /// Each row's position and sequence.
        positions: read [u32] if |v| v.ids == Ids::Drawn,
        /// The rows.
        y: write [f32],
    }
}

const WG: u32 = 64;

/// Where a row's token id is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ids {
    /// The host has given it to the row.
    Given,
    /// It is the last that was drawn for the row's sequence.
    Drawn,
}

impl Ids {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Given, Self::Drawn];

    /// The table's row that becomes row `t`, if the binding holds it: counted from the binding's first.
    fn held(self, p: &Params, ids: &[u32], positions: &[u32], t: usize) -> Option<u32> {
        let id = match self {
            Self::Given => ids[t],
            Self::Drawn => ids[positions[2 * t + 1].min(p.sequences - 1) as usize],
        };
        id.min(p.n - 1).checked_sub(p.first_row).filter(|row| *row < p.held)
    }
}

/// The table's format, and where ids are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Variant {
    /// The table's format.
    pub ty: WeightType,
    /// Where a row's id is.
    pub ids: Ids,
}

impl Kernel for Embed {
    fn supported(_: &Caps) -> Vec<Variant> {
        WeightType::ALL.into_iter().flat_map(|ty| Ids::ALL.map(|ids| Variant { ty, ids })).collect()
    }

    fn source(v: Variant) -> Source {
        Source::new(wgsl!("linear/embed.wgsl"), WG).with_all(quant(v.ty)).with(match v.ids {
            Ids::Given => wgsl!("linear/ids_given.wgsl"),
            Ids::Drawn => wgsl!("linear/ids_drawn.wgsl"),
        })
    }

    fn grid(_: Variant, p: &Params) -> Grid {
        Grid { x: p.row_units.div_ceil(WG), y: p.rows }
    }

    fn sparse_reads(_: Variant, p: &Params) -> Option<SparseReads> {
        Some(SparseReads { binding: "w", choice: SparseUnit::Rows, most: p.rows.min(p.n), of: p.n })
    }

    fn cpu(v: Variant, p: &Params, host: Host<'_>) {
        let Some(planes) = Planes::new(v.ty, u64::from(p.held), u64::from(p.k)) else { return };
        for (t, y) in host.y.chunks_exact_mut(p.k as usize).enumerate().take(p.rows as usize) {
            if let Some(row) = v.ids.held(p, host.ids, host.positions, t) {
                planes.decode_row(host.w, u64::from(row), y);
            }
        }
    }

    fn reference(v: Variant, p: &Params, before: Host<'_>) -> Option<Expected> {
        let planes = Planes::new(v.ty, u64::from(p.held), u64::from(p.k))?;
        let mut y = Expect::unchanged(before.y);
        let mut weights = vec![0.0; p.k as usize];
        for (t, y) in y.chunks_exact_mut(p.k as usize).enumerate().take(p.rows as usize) {
            if let Some(row) = v.ids.held(p, before.ids, before.positions, t) {
                planes.decode_row(before.w, u64::from(row), &mut weights);
                y.iter_mut().zip(&weights).for_each(|(y, w)| *y = near(*w));
            }
        }
        Some(Expected { y: Some(Expect::Near(y)), ..Default::default() })
    }

    fn cases(v: Variant) -> Vec<Case<Self>> {
        let ty = v.ty;
        let block = ty.block_len() as u64;
        let mut cases: Vec<_> = [2 * block.max(32), 2048, block.max(36)]
            .into_iter()
            .filter_map(|k| case(v.ids, format!("9x{k}"), TestWeights::random(ty, 9, k, k)?, 0, 9))
            .collect();
        let part = TestWeights::random(ty, 9, 2 * block.max(32), 1);
        cases.extend(part.and_then(|w| case(v.ids, "a part of 20".to_owned(), w, 3, 20)));
        for (name, blocks) in crate::quant::hard_blocks(ty, 3) {
            let weights = TestWeights::from_blocks(ty, 9, 2 * block.max(32), &blocks);
            cases.extend(weights.and_then(|w| case(v.ids, name.to_owned(), w, 0, 9)));
        }
        cases
    }
}

/// A decoded weight and the bound on a kernel's.
fn near(weight: f32) -> (f64, f64) {
    let weight = f64::from(weight);
    (weight, weight.abs() / f64::from(1 << 22) + f64::from(f32::MIN_POSITIVE))
}

fn case(from: Ids, name: String, weights: TestWeights, first_row: u32, n: u32) -> Option<Case<Embed>> {
    let (held, k) = (weights.planes.rows() as u32, weights.planes.k() as u32);
    // The last id is out of range and becomes the last row.
    let ids = vec![n - 1, 0, 4, 1000, first_row, first_row + held - 1];
    let expected = ids
        .iter()
        .flat_map(|id| {
            let row = (*id).min(n - 1).checked_sub(first_row).filter(|row| *row < held);
            let value = |i| row.map_or(f32::NAN, |row| weights.values[(row * k + i) as usize]);
            (0..k).map(value).collect::<Vec<_>>()
        })
        .map(near)
        .collect();
    let (rows, sequences) = (ids.len() as u32, ids.len() as u32 + 2);
    let (ids, positions) = match from {
        Ids::Given => (ids, Vec::new()),
        Ids::Drawn => {
            // Sequences in another order than rows, and two that are not there; the last row's becomes the last sequence.
            let mut drawn: Vec<u32> = ids.iter().rev().copied().collect();
            drawn.rotate_left(1);
            let id = drawn.pop().unwrap_or_default();
            drawn.extend([5000, 5000, id]);
            let sequence = |t| if t + 1 == rows { u32::MAX } else { rows - 2 - t };
            (drawn, (0..rows).flat_map(|t| [7000, sequence(t)]).collect())
        }
    };
    let params = Params {
        rows,
        n,
        first_row,
        held,
        k,
        row_units: weights.planes.row_units(),
        units: weights.planes.units(),
        sequences,
    };
    let y = vec![f32::NAN; (rows * k) as usize];
    Some(Case {
        name,
        params,
        data: Data { w: weights.words, ids, positions, y },
        expected: Expected { y: Some(Expect::Near(expected)), ..Default::default() },
    })
}
