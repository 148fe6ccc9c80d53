//! The recurrence of gated delta nets.

use super::{
    DeltaHeads,
    runs::{RowRun, TEST_HEADS, slot_state, test_batch},
};
use crate::{
    gpu::{Caps, Case, Expect, Grid, Kernel, Source, kernel, times, wgsl},
    quant::Rng,
};

kernel! {
    /// The gated delta rule (Yang et al. 2024, arXiv:2412.06464), token by token, for each value head with its state `S` of
    /// `head_dim` keys by `head_dim` values: `S ← decay·S; d = β·(v − Sᵀk); S ← S + k·dᵀ; y = Sᵀq`. The state is in registers from the
    /// first row of a run to its last, and stored after the rows that say so. A row's bits depend neither on the other runs
    /// nor on how a sequence is cut into runs.
    ///
    /// Shapes: `x` rows of [`DeltaHeads::prepared`](super::DeltaHeads::prepared) f32 as
    /// [`CausalConv`](super::causal_conv::CausalConv) has written them: queries (scaled), keys (`|k| ≤ 1`), values, (decay, β) of
    /// each value head; `rows` and `runs` as in [`RowRun`](super::RowRun); `states` `[slots, value_heads, head_dim (values),
    /// head_dim (keys)]` f32; `y` `[rows, value_heads, head_dim]`. Bound: of column `j` of the state
    /// `E ← decay·E + 2e-6·(decay·|S_j| + |v_j|)`, 0 at the start of a run; of `y_j` `|q|·(E + 2e-6·(|S_j| + |d_j|))`.
    pub struct GatedDeltaRule("delta_net/gated_delta_rule") for ();
    params {
        /// Tokens.
        n_rows: u32,
        /// Runs.
        n_runs: u32,
        /// The heads.
        heads: DeltaHeads,
        /// Slots of states.
        slots: u32,
    }
    binds {
        /// The prepared rows.
        x: read [f32],
        /// The same.
        x_vec4: read [[f32; 4]],
        /// The rows' runs.
        rows: read [[u32; 4]],
        /// The first row of each run.
        runs: read [u32],
        /// The states.
        states: write [[f32; 4]],
        /// The output.
        y: write [f32],
    }
}

const WG: u32 = 128;

/// Columns of the state of a workgroup: two for eight invocations, each of which has up to four vec4s of either. What is loaded of
/// queries and keys serves both.
const COLUMNS: u32 = WG / 4;

impl Kernel for GatedDeltaRule {
    fn supported(_: &Caps) -> Vec<()> {
        vec![()]
    }

    fn source((): ()) -> Source {
        Source::new(wgsl!("delta_net/gated_delta_rule.wgsl"), WG)
    }

    fn grid((): (), p: &Params) -> Grid {
        Grid { x: p.heads.value_heads * p.heads.head_dim.div_ceil(COLUMNS), y: p.n_runs }
    }

    fn cost((): (), p: &Params) -> u64 {
        // Four multiply-adds of each element of a state.
        times([p.n_rows, p.heads.state(), 4, 1])
    }

    fn cpu((): (), p: &Params, host: Host<'_>) {
        let size = p.heads.state() as usize;
        for run in host.runs.iter().take(p.n_runs as usize) {
            let (y, states) = recur(p, (host.x, host.rows, host.states.as_flattened()), *run, StateNumbers::F32);
            for (at, y) in y {
                host.y[at..at + y.len()].iter_mut().zip(y).for_each(|(to, (exact, _))| *to = exact as f32);
            }
            let all = host.states.as_flattened_mut();
            for (slot, state) in states {
                all[slot * size..][..size].iter_mut().zip(state).for_each(|(to, (exact, _))| *to = exact as f32);
            }
        }
    }

    fn reference((): (), p: &Params, before: Host<'_>) -> Option<Expected> {
        let size = p.heads.state() as usize;
        let mut y = Expect::unchanged(before.y);
        let mut all = Expect::unchanged(before.states.as_flattened());
        for run in before.runs.iter().take(p.n_runs as usize) {
            let (rows, states) =
                recur(p, (before.x, before.rows, before.states.as_flattened()), *run, StateNumbers::F64);
            rows.into_iter().for_each(|(at, row)| y[at..at + row.len()].copy_from_slice(&row));
            states.into_iter().for_each(|(slot, state)| all[slot * size..][..size].copy_from_slice(&state));
        }
        Some(Expected { states: Some(Expect::Near(all)), y: Some(Expect::Near(y)), ..Default::default() })
    }

    fn cases((): ()) -> Vec<Case<Self>> {
        let mut cases: Vec<_> = TEST_HEADS[..2].iter().map(|heads| case(*heads, &[5, 2, 1, 3])).collect();
        cases.push(case(TEST_HEADS[2], &[1, 1, 2]));
        cases.push(case(TEST_HEADS[1], &[70, 64, 9]));
        cases
    }
}

/// Parts of a buffer, each with its place and the bounds of its values.
type Parts = Vec<(usize, Vec<(f64, f64)>)>;

/// The numbers that the state of a run is kept in from one row to the next.
#[derive(Clone, Copy, PartialEq, Eq)]
enum StateNumbers {
    /// As in a slot, so that results do not depend on how a sequence is cut into runs.
    F32,
    F64,
}

/// Computes a run: the parts of `y`, by their first elements, and the states to store, by slot.
fn recur(
    p: &Params,
    (x, rows, states): (&[f32], &[[u32; 4]], &[f32]),
    first: u32,
    numbers: StateNumbers,
) -> (Parts, Parts) {
    let (heads, dim, size) = (p.heads, p.heads.head_dim as usize, p.heads.state() as usize);
    let first = first.min(p.n_rows - 1);
    let run = RowRun::at(rows, first, p.n_rows);
    let start = slot_state(states, run.from, p.slots, size);
    let mut state: Vec<f64> = start.map_or(vec![0.0; size], |s| s.iter().map(|s| f64::from(*s)).collect());
    // The errors of columns.
    let mut errors = vec![0.0; heads.values() as usize];
    let (mut y, mut stored) = (Vec::new(), Vec::new());
    for t in first..run.end {
        let row = &x[(t * heads.prepared()) as usize..][..heads.prepared() as usize];
        let mut out = Vec::with_capacity(heads.values() as usize);
        for h in 0..heads.value_heads as usize {
            let key = |offset: usize| &row[(offset + heads.key_head(h)) * dim..][..dim];
            let (q, k) = (key(0), key(heads.key_heads as usize));
            let v = &row[(2 * heads.key_heads as usize + h) * dim..][..dim];
            let gates = &row[heads.channels() as usize + 2 * h..][..2];
            let (decay, beta) = (f64::from(gates[0]), f64::from(gates[1]));
            let q_length = q.iter().map(|q| f64::from(*q).powi(2)).sum::<f64>().sqrt();
            for j in 0..dim {
                let (column, error) = (&mut state[(h * dim + j) * dim..][..dim], &mut errors[h * dim + j]);
                column.iter_mut().for_each(|s| *s *= decay);
                let dot = |column: &[f64], x: &[f32]| column.iter().zip(x).map(|(s, x)| s * f64::from(*x)).sum::<f64>();
                let length = column.iter().map(|s| s * s).sum::<f64>().sqrt();
                let value = f64::from(v[j]);
                let d = beta * (value - dot(column, k));
                column.iter_mut().zip(k).for_each(|(s, k)| *s += f64::from(*k) * d);
                *error = decay * *error + 2e-6 * (length + value.abs());
                out.push((dot(column, q), q_length * (*error + 2e-6 * (length + d.abs()))));
            }
        }
        if numbers == StateNumbers::F32 {
            state.iter_mut().for_each(|s| *s = f64::from(*s as f32));
        }
        y.push(((t * heads.values()) as usize, out));
        let to = rows[t as usize][3];
        if to < p.slots {
            let near = state.iter().enumerate().map(|(i, s)| (*s, errors[i / dim])).collect();
            stored.push((to as usize, near));
        }
    }
    (y, stored)
}

fn case(heads: DeltaHeads, lengths: &[u32]) -> Case<GatedDeltaRule> {
    let (rows, runs, slots) = test_batch(lengths);
    let (n_rows, n_runs, dim) = (rows.len() as u32, runs.len() as u32, heads.head_dim as usize);
    let mut rng = Rng::new(u64::from(heads.channels()));
    let mut x: Vec<f32> = (0..n_rows * heads.prepared()).map(|_| rng.normal()).collect();
    for row in x.chunks_exact_mut(heads.prepared() as usize) {
        let (channels, gates) = row.split_at_mut(heads.channels() as usize);
        for (number, head) in channels.chunks_exact_mut(dim).take(2 * heads.key_heads as usize).enumerate() {
            let length = head.iter().map(|x| x * x).sum::<f32>().sqrt();
            let scale = if number < heads.key_heads as usize { (dim as f32).sqrt() } else { 1.0 };
            head.iter_mut().for_each(|x| *x /= length * scale);
        }
        for pair in gates.chunks_exact_mut(2) {
            // From a state that is kept to one that is forgotten.
            pair[0] = (-pair[0].abs().powi(4)).exp();
            pair[1] = 1.0 / (1.0 + (-pair[1]).exp());
        }
    }
    let size = heads.state() as usize / 4;
    let mut states = vec![[1.5; 4]; slots as usize * size];
    for from in rows.iter().map(|row| row[2]).filter(|from| *from < slots) {
        states[from as usize * size..][..size].fill_with(|| [(); 4].map(|()| rng.normal()));
    }
    let y = vec![f32::NAN; (n_rows * heads.values()) as usize];
    let x_vec4 = x.chunks_exact(4).map(|x| [x[0], x[1], x[2], x[3]]).collect();
    let params = Params { n_rows, n_runs, heads, slots };
    let name = format!("runs of {lengths:?}, {} heads of {}", heads.value_heads, heads.head_dim);
    Case::of_reference(name, (), params, Data { x, x_vec4, rows, runs, states, y })
}
