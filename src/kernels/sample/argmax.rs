//! The likeliest token.

use super::{ITEMS, LAST, Stage, hard_logits, order};
use crate::gpu::{Buffer, Caps, Case, Expect, GpuError, Grid, Recorder, Source, kernel, wgsl};

kernel! {
    /// In two stages the id of each row's largest logit, of equal ones the lowest: first the first candidate of each 1,024
    /// logits, then the id of the first of these.
    ///
    /// Shapes: `logits` `[rows, n]` and `y` `[rows, ⌈n / 1024⌉, 2]`, key and id; then these as `candidates` `[rows, n]`,
    /// and `y` `[rows]`, ids. A NaN comes after all other logits. Bound: exact.
    pub struct Argmax("sample/argmax") for Stage;
    params {
        /// Rows.
        rows: u32,
        /// Logits or candidates of a row.
        n: u32,
    }
    binds {
        /// The logits.
        logits: read [f32] if |stage| *stage == Stage::Logits,
        /// The candidates of the stage before.
        candidates: read [[u32; 2]] if |stage| *stage == Stage::Merge,
        /// Candidates, or ids.
        y: write [u32],
    }
}

const WG: u32 = 256;

/// Candidates that the first stage leaves of a row of `n` logits.
pub fn groups(n: u32) -> u32 {
    n.div_ceil(ITEMS)
}

/// Records both stages over `rows` of `n` logits; `best` has room for [`groups`] candidates a row.
///
/// # Errors
/// [`GpuError::Aliased`] when buffers are bound twice.
pub fn record(
    rec: &mut Recorder,
    (rows, n): (u32, u32),
    logits: &Buffer<f32>,
    best: &Buffer<[u32; 2]>,
    ids: &Buffer<u32>,
) -> Result<(), GpuError> {
    let first = Binds { logits: Some(logits), candidates: None, y: &best.cast() };
    rec.dispatch(Argmax, Stage::Logits, Params { rows, n }, first)?;
    let second = Binds { logits: None, candidates: Some(best), y: ids };
    rec.dispatch(Argmax, Stage::Merge, Params { rows, n: groups(n) }, second)
}

impl Argmax {
    fn variants(_: &Caps) -> Vec<Stage> {
        Stage::ALL.to_vec()
    }

    fn source(stage: Stage) -> Source {
        stage.fill(Source::new(wgsl!("sample/argmax.wgsl"), WG)).constant("MERGE", stage == Stage::Merge)
    }

    fn grid(stage: Stage, p: &Params) -> Grid {
        match stage {
            Stage::Logits => Grid { x: groups(p.n), y: p.rows },
            Stage::Merge => Grid { x: 1, y: p.rows },
        }
    }

    fn cpu(stage: Stage, p: &Params, host: Host<'_>) {
        let words = (0..p.rows).flat_map(|row| first(stage, &stage.row(host.logits, host.candidates, row, p.n)));
        for (y, word) in host.y.iter_mut().zip(words) {
            *y = word;
        }
    }

    fn cases(stage: Stage) -> Vec<Case<Self>> {
        hard_logits()
            .into_iter()
            .map(|(name, rows, n, logits)| {
                let (logits, candidates) = stage.split(logits, n);
                let mut expected: Vec<u32> =
                    (0..rows).flat_map(|row| first(stage, &stage.row(&logits, &candidates, row, n))).collect();
                // What lies behind the last must stay.
                let poison = f32::NAN.to_bits();
                expected.push(poison);
                Case {
                    name: name.to_owned(),
                    params: Params { rows, n },
                    data: Data { logits, candidates, y: vec![poison; expected.len()] },
                    expected: Expected { y: Some(Expect::Exact(expected)), ..Default::default() },
                }
            })
            .collect()
    }
}

/// What a row of candidates becomes.
fn first(stage: Stage, row: &[[u32; 2]]) -> Vec<u32> {
    let first = |of: &[[u32; 2]]| of.iter().copied().min_by_key(order).unwrap_or(LAST);
    match stage {
        Stage::Logits => row.chunks(ITEMS as usize).flat_map(first).collect(),
        Stage::Merge => vec![first(row)[1]],
    }
}
