//! Gated delta nets: what a sequence gives, bit for bit, does not depend on how its rows are cut into runs, on the runs beside
//! it, or on the slots that its state was kept in.

use crate::common::device::{normal, run, shared_gpu, upload};
use ferrum_wgpu::{
    Device,
    low_level::{
        gpu::{Buffer, Recorder},
        kernels::delta_net::{
            DeltaHeads, NO_SLOT, RowRun,
            causal_conv::{self, CausalConv},
            conv_window::{self, ConvWindow},
            gated_delta_rule::{self, GatedDeltaRule},
            gated_rms_norm::{self, GatedRmsNorm},
        },
        quant::Rng,
    },
};

const HEADS: DeltaHeads = DeltaHeads { key_heads: 2, value_heads: 4, repeat: 1, head_dim: 20 };
const SLOTS: u32 = 6;

/// A layer's weights and states.
struct Net<'a> {
    device: &'a Device,
    w: Buffer<[f32; 4]>,
    gates: Buffer<f32>,
    norm: Buffer<[f32; 4]>,
    windows: Buffer<f32>,
    states: Buffer<f32>,
}

/// A run of a pass: its rows of projections, the slot that it begins from, and rows after which the state goes to a slot.
struct Run<'a> {
    x: &'a [f32],
    from: u32,
    to: &'a [(usize, u32)],
}

fn stride() -> u32 {
    (HEADS.channels() + HEADS.values() + 2 * HEADS.value_heads).next_multiple_of(4)
}

impl<'a> Net<'a> {
    async fn new(device: &'a Device) -> Net<'a> {
        let mut rng = Rng::new(5);
        let mut gates = normal(&mut rng, 2 * HEADS.value_heads as usize);
        gates[..HEADS.value_heads as usize].iter_mut().for_each(|a| *a = -a.abs());
        let w = normal(&mut rng, 4 * HEADS.channels() as usize);
        let norm = normal(&mut rng, HEADS.head_dim as usize);
        let zeros = |count: u32| vec![0.0f32; (SLOTS * count) as usize];
        Self {
            device,
            w: upload(device, &w).await.cast(),
            gates: upload(device, &gates).await,
            norm: upload(device, &norm).await.cast(),
            windows: upload(device, &zeros(HEADS.window())).await,
            states: upload(device, &zeros(HEADS.state())).await,
        }
    }

    /// Computes a pass, and returns the bits of its output.
    async fn pass(&self, all: &[Run<'_>]) -> Vec<u32> {
        let (mut x, mut rows, mut runs) = (Vec::new(), Vec::new(), Vec::new());
        for Run { x: inputs, from, to } in all {
            let (first, count) = (rows.len() as u32, inputs.len() / stride() as usize);
            runs.push(first);
            x.extend_from_slice(inputs);
            rows.extend((0..count).map(|row| {
                let to = to.iter().find(|(after, _)| *after == row).map_or(NO_SLOT, |(_, slot)| *slot);
                RowRun { first, end: first + count as u32, from: *from, to }.words()
            }));
        }
        let (device, n_rows, n_runs, heads, slots) = (self.device, rows.len() as u32, runs.len() as u32, HEADS, SLOTS);
        let nans = |elements: u32| vec![f32::NAN; (n_rows * elements) as usize];
        let (x, rows, runs) = (upload(device, &x).await, upload(device, &rows).await, upload(device, &runs).await);
        let prepared = upload(device, &nans(heads.prepared())).await;
        let (mixed, y) = (upload(device, &nans(heads.values())).await, upload(device, &nans(heads.values())).await);
        let (x_stride, alpha_offset) = (stride(), heads.channels() + heads.values());
        let (eps, windows, beta_offset) = (1e-6, &self.windows, alpha_offset + heads.value_heads);
        let mut rec = Recorder::new();
        let one_row = n_rows == n_runs;
        rec.dispatch(
            CausalConv,
            if one_row { causal_conv::Runs::OneRow } else { causal_conv::Runs::Any },
            causal_conv::Params { n_rows, heads, slots, x_stride, x_offset: 0, alpha_offset, beta_offset, eps },
            causal_conv::Binds { x: &x, w: &self.w, gates: &self.gates, rows: &rows, windows, y: &prepared },
        )
        .expect("no aliases");
        if !one_row {
            rec.dispatch(
                ConvWindow,
                (),
                conv_window::Params { n_rows, n_runs, heads, slots, x_stride, x_offset: 0 },
                conv_window::Binds { x: &x, rows: &rows, runs: &runs, windows },
            )
            .expect("no aliases");
        }
        rec.dispatch(
            GatedDeltaRule,
            (),
            gated_delta_rule::Params { n_rows, n_runs, heads, slots },
            gated_delta_rule::Binds {
                x: &prepared,
                x_vec4: &prepared.cast(),
                rows: &rows,
                runs: &runs,
                states: &self.states.cast(),
                y: &mixed,
            },
        )
        .expect("no aliases");
        let (z_stride, z_offset, head_dim) = (x_stride, heads.channels(), heads.head_dim);
        rec.dispatch(
            GatedRmsNorm,
            (),
            gated_rms_norm::Params { rows: n_rows, heads: heads.value_heads, head_dim, z_stride, z_offset, eps },
            gated_rms_norm::Binds { x: &mixed.cast(), w: &self.norm, z: &x.cast(), y: &y.cast() },
        )
        .expect("no aliases");
        run(device, rec, &y).await
    }

    /// Returns the bits of a slot's state.
    async fn slot(&self, slot: u32) -> [Vec<u32>; 2] {
        let windows = run(self.device, Recorder::new(), &self.windows).await;
        let states = run(self.device, Recorder::new(), &self.states).await;
        [(windows, HEADS.window()), (states, HEADS.state())]
            .map(|(bits, size)| bits[(slot * size) as usize..][..size as usize].to_vec())
    }
}

#[test]
fn a_sequence_does_not_depend_on_its_cuts_its_neighbours_or_its_slots() {
    pollster::block_on(async {
        let device = shared_gpu();
        let net = Net::new(&device).await;
        let mut rng = Rng::new(9);
        let (row, length) = (stride() as usize, 70);
        let [x, other] = [(); 2].map(|()| normal(&mut rng, length * row));
        // The whole, with a snapshot after row 40 on the way.
        let whole = net.pass(&[Run { x: &x, from: NO_SLOT, to: &[(40, 1), (length - 1, 0)] }]).await;
        let (end, snapshot) = (net.slot(0).await, net.slot(1).await);
        assert!(end != snapshot && end.iter().flatten().all(|bits| f32::from_bits(*bits).is_finite()));

        // From the snapshot, which stays as it is, beside another sequence, whose state is in its own slot.
        net.pass(&[Run { x: &other, from: NO_SLOT, to: &[(length - 1, 3)] }]).await;
        let beside = net.slot(3).await;
        let out = HEADS.values() as usize;
        let rest = Run { x: &x[41 * row..], from: 1, to: &[(length - 42, 2)] };
        let found = net.pass(&[Run { x: &other[..2 * row], from: 3, to: &[(1, 4)] }, rest]).await;
        assert_eq!(found[2 * out..], whole[41 * out..], "from a snapshot");
        assert_eq!([net.slot(1).await, net.slot(2).await, net.slot(3).await], [snapshot, end.clone(), beside]);

        // Row by row in its middle, with other sequences of a row each, and in uneven runs.
        let mut found = net.pass(&[Run { x: &x[..3 * row], from: NO_SLOT, to: &[(2, 5)] }]).await;
        for at in 3..9 {
            let own = Run { x: &x[at * row..][..row], from: 5, to: &[(0, 5)] };
            let neighbour = Run { x: &other[at * row..][..row], from: 4, to: &[(0, 4)] };
            found.extend(&net.pass(&[own, neighbour]).await[..out]);
        }
        for cut in [9..10, 10..12, 12..64, 64..70] {
            let last = cut.len() - 1;
            found.extend(net.pass(&[Run { x: &x[cut.start * row..cut.end * row], from: 5, to: &[(last, 5)] }]).await);
        }
        assert_eq!(found, whole, "in uneven runs");
        assert_eq!(net.slot(5).await, end);
    });
}

#[test]
fn dispatches_and_their_workgroups_are_flat_in_the_number_of_sequences() {
    use ferrum_wgpu::low_level::gpu::Kernel;
    // A prompt of 512 tokens of one sequence, and of 32: dispatches have a workgroup more for each run, or none.
    let rows = |n_runs| {
        let heads = DeltaHeads { key_heads: 16, value_heads: 32, repeat: 1, head_dim: 128 };
        let rule = gated_delta_rule::Params { n_rows: 512, n_runs, heads, slots: 64 };
        let window = conv_window::Params { n_rows: 512, n_runs, heads, slots: 64, x_stride: 0, x_offset: 0 };
        let conv = causal_conv::Params { n_rows: 512, heads, slots: 64, ..Default::default() };
        [
            GatedDeltaRule::grid((), &rule),
            ConvWindow::grid((), &window),
            CausalConv::grid(causal_conv::Runs::Any, &conv),
        ]
        .map(|grid| grid.x * grid.y)
    };
    let [[rule, window, conv], many] = [rows(1), rows(32)];
    assert_eq!(many, [32 * rule, 32 * window, conv]);
}
