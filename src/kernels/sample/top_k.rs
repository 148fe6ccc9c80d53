//! The likeliest tokens, in order.

use super::{LAST, MAX_TOP_K, Stage, hard_logits, order};
use crate::gpu::{Buffer, Caps, Case, Expect, GpuError, Grid, Kernel, Recorder, Source, kernel, wgsl};

kernel! {
    /// The first [`MAX_TOP_K`] of each 4,096 candidates of a row, in order; run on its own results until one list of each
    /// row is left.
    ///
    /// Shapes: rows `first ..` of `logits` `[_, n]`, or `candidates` `[rows, n]`; `kept` `[rows, ⌈n / 4096⌉, 64]`: keys with
    /// ids, and where there are fewer candidates `[0, u32::MAX]`. A NaN comes after all other logits. Bound: exact.
    pub struct TopK("sample/top_k") for Stage;
    params {
        /// Rows.
        rows: u32,
        /// Logits or candidates of a row.
        n: u32,
        /// Of logits: the row that is the dispatch's first.
        first: u32,
    }
    binds {
        /// The logits.
        logits: read [f32] if |stage| *stage == Stage::Logits,
        /// The candidates of the stage before.
        candidates: read [[u32; 2]] if |stage| *stage == Stage::Merge,
        /// The first candidates.
        kept: write [[u32; 2]],
    }
}

const WG: u32 = 256;

/// The candidates of a workgroup.
const TILE: u32 = 4096;

/// Candidates that a stage leaves of a row of `n`.
pub(super) fn kept(n: u32) -> u32 {
    n.div_ceil(TILE) * MAX_TOP_K
}

/// Records all stages over `rows` of `n` logits from row `first` on, and gives the buffer that has the rows' lists after
/// them. The buffers have room for [`kept`]`(n)` and [`kept`]`(kept(n))` candidates a row.
pub(super) fn record<'a>(
    rec: &mut Recorder,
    (first, rows, n): (u32, u32, u32),
    logits: &Buffer<f32>,
    [mut full, mut free]: [&'a Buffer<[u32; 2]>; 2],
) -> Result<&'a Buffer<[u32; 2]>, GpuError> {
    let binds = Binds { logits: Some(logits), candidates: None, kept: full };
    rec.dispatch(TopK, Stage::Logits, Params { rows, n, first }, binds)?;
    let mut n = kept(n);
    while n > MAX_TOP_K {
        let binds = Binds { logits: None, candidates: Some(full), kept: free };
        rec.dispatch(TopK, Stage::Merge, Params { rows, n, first }, binds)?;
        n = kept(n);
        (full, free) = (free, full);
    }
    Ok(full)
}

impl Kernel for TopK {
    fn supported(_: &Caps) -> Vec<Stage> {
        Stage::ALL.to_vec()
    }

    fn source(stage: Stage) -> Source {
        stage.fill(Source::new(wgsl!("sample/top_k.wgsl"), WG))
    }

    fn grid(_: Stage, p: &Params) -> Grid {
        Grid { x: p.n.div_ceil(TILE), y: p.rows }
    }

    fn cpu(stage: Stage, p: &Params, host: Host<'_>) {
        let found = (0..p.rows).flat_map(|row| first(&stage.row(host.logits, host.candidates, (p.first, row), p.n)));
        for (kept, found) in host.kept.iter_mut().zip(found) {
            *kept = found;
        }
    }

    fn reference(stage: Stage, p: &Params, before: Host<'_>) -> Option<Expected> {
        // Keys are integers: the CPU kernel is exact.
        let mut kept = before.kept.to_vec();
        Self::cpu(stage, p, Host { kept: &mut kept, ..before });
        Some(Expected { kept: Some(Expect::Exact(kept.concat())), ..Default::default() })
    }

    fn cases(stage: Stage) -> Vec<Case<Self>> {
        hard_logits()
            .into_iter()
            .map(|(name, rows, n, logits)| {
                let first_row = 2;
                let (logits, candidates) = stage.split(logits, n, first_row);
                let mut expected: Vec<[u32; 2]> =
                    (0..rows).flat_map(|row| first(&stage.row(&logits, &candidates, (first_row, row), n))).collect();
                // What lies behind the last must stay.
                let poison = [f32::NAN.to_bits(); 2];
                expected.push(poison);
                Case {
                    name: name.to_owned(),
                    params: Params { rows, n, first: first_row },
                    data: Data { logits, candidates, kept: vec![poison; expected.len()] },
                    expected: Expected { kept: Some(Expect::Exact(expected.concat())), ..Default::default() },
                }
            })
            .collect()
    }
}

/// The lists that a row of candidates becomes.
fn first(row: &[[u32; 2]]) -> Vec<[u32; 2]> {
    let list = |group: &[[u32; 2]]| {
        let mut list = group.to_vec();
        list.sort_unstable_by_key(order);
        list.resize(MAX_TOP_K as usize, LAST);
        list
    };
    row.chunks(TILE as usize).flat_map(list).collect()
}
