//! The input of the delta rule: convolution, SiLU and L2 norm of queries, keys and values, and the gates.

use super::{
    CONV_TAPS, DeltaHeads, WINDOW,
    conv_window::{Inputs, test_windows},
    runs::{RowRun, TEST_HEADS, test_batch},
};
use crate::{
    gpu::{Caps, Case, Expect, Grid, Kernel, Source, kernel, wgsl},
    quant::Rng,
};

kernel! {
    /// Prepares rows for the delta rule. Each channel is convolved over its run: `c[t] = silu(Σ_j w[j] · x[t − 3 + j])`, where
    /// the inputs before the run are those of the window that it begins from. Query and key heads are then divided by
    /// `√(Σc² + eps)`, queries by `√head_dim` besides. The gates of a value head are `decay = exp(a · softplus(α + dt))` and
    /// `β = sigmoid(b)`. With runs of one row, the window after a row is stored as well.
    ///
    /// Shapes: `x` rows of `x_stride` f32, from `x_offset` on the channels (queries, keys, values), from `alpha_offset` and
    /// `beta_offset` on `α` and `b` of the value heads; `x_stride` and `x_offset` multiples of four; `w` `[channels, 4]`, a row's own
    /// input last; `gates` `[2, value_heads]`: `a` (negative), `dt`; `windows` `[slots, 3, channels]`, oldest input first; `rows` as
    /// in [`RowRun`](super::RowRun); `y` rows of [`DeltaHeads::prepared`](super::DeltaHeads::prepared): the channels, then
    /// (decay, β) of each value head. Bound: of a channel `e = 2e-6·(|c| + Σ|w·x|)`; of a normed one `(e + |y|·√Σe²) / √(Σc² + eps)
    /// + 4e-6·|y|`; of β 2e-6, of decay `4e-6·(1 + |a·softplus|)·decay + 1e-30`. Windows are exact.
    pub struct CausalConv("delta_net/causal_conv") for Runs;
    params {
        /// Tokens.
        n_rows: u32,
        /// The heads.
        heads: DeltaHeads,
        /// Slots of states.
        slots: u32,
        /// Distance between rows of `x`.
        x_stride: u32,
        /// The first channel in a row of `x`.
        x_offset: u32,
        /// The first `α` in a row of `x`.
        alpha_offset: u32,
        /// The first `b` in a row of `x`.
        beta_offset: u32,
        /// Added to the sum of squares of a head.
        eps: f32,
    }
    binds {
        /// The projections.
        x: read [f32],
        /// The convolution's weights.
        w: read [[f32; 4]],
        /// The gates' constants.
        gates: read [f32],
        /// The rows' runs.
        rows: read [[u32; 4]],
        /// The convolution's state: read only, unless runs have one row.
        windows: write [f32],
        /// The prepared rows.
        y: write [f32],
    }
}

/// How long runs are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Runs {
    /// One row each: decode. The windows are stored here.
    OneRow,
    /// Of any length. [`ConvWindow`](super::conv_window::ConvWindow) stores the windows afterwards: other workgroups may still
    /// read them here.
    Any,
}

const WG: u32 = 128;

/// Invocations of a head, four channels each.
const HEAD_LANES: u32 = 32;

impl Kernel for CausalConv {
    fn supported(_: &Caps) -> Vec<Runs> {
        vec![Runs::OneRow, Runs::Any]
    }

    fn source(runs: Runs) -> Source {
        Source::new(wgsl!("delta_net/causal_conv.wgsl"), WG)
            .with(wgsl!("delta_net/gates.wgsl"))
            .with(wgsl!("delta_net/window.wgsl"))
            .with(wgsl!("lib/silu.wgsl"))
            .constant("HEAD_LANES", HEAD_LANES)
            .constant("ONE_ROW", runs == Runs::OneRow)
    }

    fn grid(_: Runs, p: &Params) -> Grid {
        // The last has the gates.
        Grid { x: (2 * p.heads.key_heads + p.heads.value_heads).div_ceil(WG / HEAD_LANES) + 1, y: p.n_rows }
    }

    fn cpu(runs: Runs, p: &Params, host: Host<'_>) {
        let stride = p.heads.prepared() as usize;
        for t in 0..p.n_rows {
            let prepared = prepared(p, &host, t);
            let window = (runs == Runs::OneRow).then(|| window_after(p, &host, t)).flatten();
            for (y, (exact, _)) in host.y[t as usize * stride..].iter_mut().zip(prepared) {
                *y = exact as f32;
            }
            if let Some((at, window)) = window {
                host.windows[at..at + window.len()].copy_from_slice(&window);
            }
        }
    }

    fn reference(runs: Runs, p: &Params, before: Host<'_>) -> Option<Expected> {
        let stride = p.heads.prepared() as usize;
        let (mut y, mut windows) = (Expect::unchanged(before.y), Expect::unchanged(before.windows));
        for t in 0..p.n_rows {
            let prepared = prepared(p, &before, t);
            y[t as usize * stride..][..prepared.len()].copy_from_slice(&prepared);
            if let Some((at, window)) = (runs == Runs::OneRow).then(|| window_after(p, &before, t)).flatten() {
                windows[at..at + window.len()].copy_from_slice(&Expect::unchanged(&window));
            }
        }
        Some(Expected { windows: Some(Expect::Near(windows)), y: Some(Expect::Near(y)), ..Default::default() })
    }

    fn cases(runs: Runs) -> Vec<Case<Self>> {
        let lengths: &[u32] = match runs {
            Runs::OneRow => &[1, 1, 1],
            Runs::Any => &[5, 2, 1, 3],
        };
        TEST_HEADS.into_iter().map(|heads| case(runs, heads, lengths)).collect()
    }
}

/// Returns the inputs of a row: where they are, as windows need it.
fn inputs<'a>(p: &Params, host: &'a Host<'_>) -> Inputs<'a> {
    Inputs {
        x: host.x,
        x_stride: p.x_stride,
        x_offset: p.x_offset,
        windows: host.windows,
        channels: p.heads.channels(),
        slots: p.slots,
    }
}

/// Returns where the window after row `t` goes, and the window.
fn window_after(p: &Params, host: &Host<'_>, t: u32) -> Option<(usize, Vec<f32>)> {
    inputs(p, host).window_after(RowRun::at(host.rows, t, p.n_rows), t)
}

/// Returns row `t` of `y` without padding, each element with its bound.
fn prepared(p: &Params, host: &Host<'_>, t: u32) -> Vec<(f64, f64)> {
    let (inputs, run, heads) = (inputs(p, host), RowRun::at(host.rows, t, p.n_rows), p.heads);
    let channel = |c: u32| {
        let term = |tap: u32| {
            let weight = f64::from(host.w[c as usize][tap as usize]);
            weight * f64::from(inputs.input(run, t, i64::from(tap) - i64::from(WINDOW), c))
        };
        let (sum, size) = (0..CONV_TAPS).map(term).fold((0.0, 0.0), |(sum, size), x| (sum + x, size + f64::abs(x)));
        let silu = sum / (1.0 + (-sum).exp());
        (silu, 2e-6 * (silu.abs() + size))
    };
    let mut y: Vec<_> = (0..heads.channels()).map(channel).collect();
    for (number, head) in y.chunks_exact_mut(heads.head_dim as usize).take(2 * heads.key_heads as usize).enumerate() {
        let (squares, errors) = head.iter().fold((0.0, 0.0), |(s, e), (x, bound)| (s + x * x, e + bound * bound));
        let length = (squares + f64::from(p.eps)).sqrt();
        let scale = if number < heads.key_heads as usize { f64::from(heads.head_dim).sqrt().recip() } else { 1.0 };
        for (x, bound) in head {
            *x *= scale / length;
            *bound = (*bound * scale + x.abs() * f64::sqrt(errors)) / length + 4e-6 * x.abs();
        }
    }
    let row = &host.x[(t * p.x_stride) as usize..];
    for h in 0..heads.value_heads {
        let [alpha, b] = [p.alpha_offset, p.beta_offset].map(|offset| f64::from(row[(offset + h) as usize]));
        let [a, dt] = [0, heads.value_heads].map(|offset| f64::from(host.gates[(offset + h) as usize]));
        let sum = alpha + dt;
        let g = a * (sum.max(0.0) + (-sum.abs()).exp().ln_1p());
        y.push((g.exp(), 4e-6 * (1.0 + g.abs()) * g.exp() + 1e-30));
        y.push((1.0 / (1.0 + (-b).exp()), 2e-6));
    }
    y
}

fn case(runs: Runs, heads: DeltaHeads, lengths: &[u32]) -> Case<CausalConv> {
    let (rows, _, slots) = test_batch(lengths);
    let (n_rows, channels, values) = (rows.len() as u32, heads.channels(), heads.value_heads);
    // Something before the channels, and between them and the gates.
    let x_offset = 8;
    let alpha_offset = x_offset + channels + 3;
    let beta_offset = alpha_offset + values;
    let x_stride = (beta_offset + values).next_multiple_of(4);
    let mut rng = Rng::new(u64::from(channels));
    let mut random = |count: u32, size: f32| -> Vec<f32> { (0..count).map(|_| size * rng.normal()).collect() };
    let x = random(n_rows * x_stride, 2.0);
    let w = random(4 * channels, 0.5).chunks_exact(4).map(|w| [w[0], w[1], w[2], w[3]]).collect();
    let a = random(values, 2.0).into_iter().map(|a| -a.abs());
    let gates = a.chain(random(values, 3.0)).collect();
    let windows = test_windows(&rows, heads, slots, || random(1, 1.0)[0]);
    let y = vec![f32::NAN; (n_rows * heads.prepared()) as usize];
    let params = Params { n_rows, heads, slots, x_stride, x_offset, alpha_offset, beta_offset, eps: 1e-6 };
    let name = format!("runs of {lengths:?}, {} heads of {}", heads.value_heads, heads.head_dim);
    Case::of_reference(name, runs, params, Data { x, w, gates, rows, windows, y })
}
