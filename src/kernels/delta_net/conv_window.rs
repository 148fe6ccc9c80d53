//! The state of the convolution after a run.

use super::{
    DeltaHeads, WINDOW,
    runs::{RowRun, TEST_HEADS, slot_state, test_batch},
};
use crate::{
    gpu::{Caps, Case, Expect, Grid, Kernel, Source, kernel, wgsl},
    quant::Rng,
};

kernel! {
    /// Stores the convolution's windows, the last three inputs of each channel, after the rows that say so. Inputs before a
    /// run are those of the window that it begins from. It follows
    /// [`CausalConv`](super::causal_conv::CausalConv), which reads these windows.
    ///
    /// Shapes: `x` rows of `x_stride` f32, from `x_offset` on the channels; both multiples of four; `rows` and `runs` as in
    /// [`RowRun`](super::RowRun); `windows` `[slots, 3, channels]`, oldest input first. Exact.
    pub struct ConvWindow("delta_net/conv_window") for ();
    params {
        /// Tokens.
        n_rows: u32,
        /// Runs.
        n_runs: u32,
        /// The heads.
        heads: DeltaHeads,
        /// Slots of states.
        slots: u32,
        /// Distance between rows of `x`.
        x_stride: u32,
        /// The first channel in a row of `x`.
        x_offset: u32,
    }
    binds {
        /// The projections.
        x: read [f32],
        /// The rows' runs.
        rows: read [[u32; 4]],
        /// The first row of each run.
        runs: read [u32],
        /// The convolution's state.
        windows: write [f32],
    }
}

const WG: u32 = 64;

impl Kernel for ConvWindow {
    fn supported(_: &Caps) -> Vec<()> {
        vec![()]
    }

    fn source((): ()) -> Source {
        Source::new(wgsl!("delta_net/conv_window.wgsl"), WG).with(wgsl!("delta_net/window.wgsl"))
    }

    fn grid((): (), p: &Params) -> Grid {
        Grid { x: p.heads.channels().div_ceil(WG), y: p.n_runs }
    }

    fn cpu((): (), p: &Params, host: Host<'_>) {
        for (at, window) in windows_after(p, &host) {
            host.windows[at..at + window.len()].copy_from_slice(&window);
        }
    }

    fn reference((): (), p: &Params, before: Host<'_>) -> Option<Expected> {
        let mut windows = Expect::unchanged(before.windows);
        for (at, window) in windows_after(p, &before) {
            windows[at..at + window.len()].copy_from_slice(&Expect::unchanged(&window));
        }
        Some(Expected { windows: Some(Expect::Near(windows)), ..Default::default() })
    }

    fn cases((): ()) -> Vec<Case<Self>> {
        let mut cases: Vec<_> = TEST_HEADS.into_iter().map(|heads| case(heads, &[5, 2, 1, 3])).collect();
        cases.push(case(TEST_HEADS[0], &[1]));
        cases
    }
}

/// Returns where windows go, and the windows.
fn windows_after(p: &Params, host: &Host<'_>) -> Vec<(usize, Vec<f32>)> {
    let inputs = Inputs {
        x: host.x,
        x_stride: p.x_stride,
        x_offset: p.x_offset,
        windows: host.windows,
        channels: p.heads.channels(),
        slots: p.slots,
    };
    let rows = host.runs.iter().take(p.n_runs as usize).flat_map(|first| {
        let first = (*first).min(p.n_rows - 1);
        (first..RowRun::at(host.rows, first, p.n_rows).end).map(move |t| (first, t))
    });
    rows.filter_map(|(first, t)| {
        let from = host.rows[first as usize][2];
        inputs.window_after(RowRun { first, from, ..RowRun::at(host.rows, t, p.n_rows) }, t)
    })
    .collect()
}

/// The inputs of a convolution.
#[derive(Clone, Copy, Debug)]
pub(super) struct Inputs<'a> {
    pub(super) x: &'a [f32],
    pub(super) x_stride: u32,
    pub(super) x_offset: u32,
    pub(super) windows: &'a [f32],
    pub(super) channels: u32,
    pub(super) slots: u32,
}

impl Inputs<'_> {
    /// Returns the input of a channel `offset` rows from row `t` of a run, 0 or before.
    pub(super) fn input(&self, run: RowRun, t: u32, offset: i64, channel: u32) -> f32 {
        let at = i64::from(t) + offset;
        if at >= i64::from(run.first) {
            return self.x[at as usize * self.x_stride as usize + (self.x_offset + channel) as usize];
        }
        let row = i64::from(WINDOW) + at - i64::from(run.first);
        let size = (WINDOW * self.channels) as usize;
        let window = slot_state(self.windows, run.from, self.slots, size);
        window.map_or(0.0, |window| window[row as usize * self.channels as usize + channel as usize])
    }

    /// Returns where the window after row `t` goes, and the window; `None` if it is not stored.
    pub(super) fn window_after(&self, run: RowRun, t: u32) -> Option<(usize, Vec<f32>)> {
        let input = |offset| (0..self.channels).map(move |channel| self.input(run, t, offset, channel));
        let offsets = (1 - i64::from(WINDOW))..=0;
        let size = (WINDOW * self.channels) as usize;
        (run.to < self.slots).then(|| (run.to as usize * size, offsets.flat_map(input).collect()))
    }
}

/// Returns windows for a test: random where runs begin, a number elsewhere.
pub(super) fn test_windows(
    rows: &[[u32; 4]],
    heads: DeltaHeads,
    slots: u32,
    mut random: impl FnMut() -> f32,
) -> Vec<f32> {
    let size = heads.window() as usize;
    let mut windows = vec![1.5; slots as usize * size];
    for from in rows.iter().map(|row| row[2]).filter(|from| *from < slots) {
        windows[from as usize * size..][..size].fill_with(&mut random);
    }
    windows
}

fn case(heads: DeltaHeads, lengths: &[u32]) -> Case<ConvWindow> {
    let (rows, runs, slots) = test_batch(lengths);
    let (n_rows, n_runs, x_offset) = (rows.len() as u32, runs.len() as u32, 8);
    let x_stride = x_offset + heads.channels() + 4;
    let mut rng = Rng::new(u64::from(n_rows));
    let x = (0..n_rows * x_stride).map(|_| rng.normal()).collect();
    let windows = test_windows(&rows, heads, slots, || rng.normal());
    let params = Params { n_rows, n_runs, heads, slots, x_stride, x_offset };
    let name = format!("runs of {lengths:?}, {} channels", heads.channels());
    Case::of_reference(name, (), params, Data { x, rows, runs, windows })
}
