//! Embedding lookup: rows of a table by token id.

use super::{TestWeights, quant};
use crate::{
    gpu::{Caps, Case, Expect, Grid, Source, kernel, wgsl},
    quant::{Planes, WeightType},
};

kernel! {
    /// `y[t] = table[ids[t]]`, for the ids whose row is in `w`: a table that is larger than a binding is looked up part by
    /// part.
    ///
    /// Shapes: `w` is rows `first_row .. first_row + held` of the table `[n, k]` of any format in [`Planes`], `ids`
    /// `[rows]` (clamped to the table), `y` `[rows, k]` f32. Bound: 2⁻²² of the value, and the smallest normal
    /// f32, since WGSL lets a device take subnormals for zero. Measured on lavapipe: exact.
    pub struct Embed("linear/embed") for WeightType;
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
    }
    binds {
        /// The table's planes.
        w: read [[u32; 4]],
        /// Token ids.
        ids: read [u32],
        /// The rows.
        y: write [f32],
    }
}

const WG: u32 = 64;

impl Embed {
    fn variants(_: &Caps) -> Vec<WeightType> {
        WeightType::ALL.to_vec()
    }

    fn source(ty: WeightType) -> Source {
        Source::new(wgsl!("linear/embed.wgsl"), WG).with_all(quant(ty))
    }

    fn grid(_: WeightType, p: &Params) -> Grid {
        Grid { x: p.row_units.div_ceil(WG), y: p.rows }
    }

    fn cpu(ty: WeightType, p: &Params, host: Host<'_>) {
        let Some(planes) = Planes::new(ty, u64::from(p.held), u64::from(p.k)) else { return };
        for (id, y) in host.ids.iter().zip(host.y.chunks_exact_mut(p.k as usize)).take(p.rows as usize) {
            if let Some(row) = (*id).min(p.n - 1).checked_sub(p.first_row).filter(|row| *row < p.held) {
                planes.decode_row(host.w, u64::from(row), y);
            }
        }
    }

    fn definition(ty: WeightType, p: &Params, before: Host<'_>) -> Option<Expected> {
        let planes = Planes::new(ty, u64::from(p.held), u64::from(p.k))?;
        let mut y = Expect::unchanged(before.y);
        let mut weights = vec![0.0; p.k as usize];
        for (id, y) in before.ids.iter().zip(y.chunks_exact_mut(p.k as usize)).take(p.rows as usize) {
            if let Some(row) = (*id).min(p.n - 1).checked_sub(p.first_row).filter(|row| *row < p.held) {
                planes.decode_row(before.w, u64::from(row), &mut weights);
                y.iter_mut().zip(&weights).for_each(|(y, w)| *y = near(*w));
            }
        }
        Some(Expected { y: Some(Expect::Near(y)), ..Default::default() })
    }

    fn cases(ty: WeightType) -> Vec<Case<Self>> {
        let block = ty.block_len() as u64;
        let mut cases: Vec<_> = [2 * block.max(32), 2048, block.max(36)]
            .into_iter()
            .filter_map(|k| case(format!("9x{k}"), TestWeights::random(ty, 9, k, k)?, 0, 9))
            .collect();
        let part = TestWeights::random(ty, 9, 2 * block.max(32), 1);
        cases.extend(part.and_then(|w| case("a part of 20".to_owned(), w, 3, 20)));
        for (name, blocks) in crate::quant::hard_blocks(ty, 3) {
            let weights = TestWeights::from_blocks(ty, 9, 2 * block.max(32), &blocks);
            cases.extend(weights.and_then(|w| case(name.to_owned(), w, 0, 9)));
        }
        cases
    }
}

/// A decoded weight and the bound on a kernel's.
fn near(weight: f32) -> (f64, f64) {
    let weight = f64::from(weight);
    (weight, weight.abs() / f64::from(1 << 22) + f64::from(f32::MIN_POSITIVE))
}

fn case(name: String, weights: TestWeights, first_row: u32, n: u32) -> Option<Case<Embed>> {
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
    let params = Params {
        rows: ids.len() as u32,
        n,
        first_row,
        held,
        k,
        row_units: weights.planes.row_units(),
        units: weights.planes.units(),
    };
    let y = vec![f32::NAN; ids.len() * k as usize];
    Some(Case {
        name,
        params,
        data: Data { w: weights.words, ids, y },
        expected: Expected { y: Some(Expect::Near(expected)), ..Default::default() },
    })
}
