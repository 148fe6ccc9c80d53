//! The gated delta net of a layer.

use super::{
    decoder::Decoder,
    matmul::{Input, Output},
    weights::{DeltaNetWeights, LayerWeights},
};
use crate::{
    gpu::{Buffer, GpuError, Recorder},
    kernels::delta_net::{causal_conv, conv_window, gated_delta_rule, gated_rms_norm},
};

impl Decoder<'_> {
    /// Records a gated delta net, which adds to the residual. It has the layer's windows and states of all sequences.
    pub(super) fn delta_net(
        &self,
        rec: &mut Recorder,
        layer: &LayerWeights,
        net: &DeltaNetWeights,
        [windows, states]: [&Buffer<f32>; 2],
        input: Input<'_>,
    ) -> Result<(), GpuError> {
        let (c, pass, slots) = (self.config, self.pass, self.kv.shape.states);
        // Activations are made for the same shape as the weights.
        let (Some(a), Some(shape)) = (&self.activations.delta_net, &c.delta_net) else { return Ok(()) };
        let (heads, n_rows, stride) = (shape.heads(), pass.rows, shape.projections());
        let mut offset = 0;
        for linear in &net.projections {
            self.biased(rec, linear, input, Output { offset, ..Output::new(&a.projected, stride) })?;
            offset += linear.matrix.n;
        }
        let values = heads.channels() + heads.values();
        let one_row = pass.runs == n_rows;
        rec.dispatch(
            causal_conv::CausalConv,
            if one_row { causal_conv::Runs::OneRow } else { causal_conv::Runs::Any },
            causal_conv::Params {
                n_rows,
                heads,
                slots,
                x_stride: stride,
                x_offset: 0,
                alpha_offset: values,
                beta_offset: values + heads.value_heads,
                eps: c.eps,
            },
            causal_conv::Binds {
                x: &a.projected,
                w: &net.conv.cast(),
                gates: &net.gates,
                rows: &a.rows,
                windows,
                y: &a.prepared,
            },
        )?;
        if !one_row {
            rec.dispatch(
                conv_window::ConvWindow,
                (),
                conv_window::Params { n_rows, n_runs: pass.runs, heads, slots, x_stride: stride, x_offset: 0 },
                conv_window::Binds { x: &a.projected, rows: &a.rows, runs: &a.runs, windows },
            )?;
        }
        rec.dispatch(
            gated_delta_rule::GatedDeltaRule,
            (),
            gated_delta_rule::Params { n_rows, n_runs: pass.runs, heads, slots },
            gated_delta_rule::Binds {
                x: &a.prepared,
                x_vec4: &a.prepared.cast(),
                rows: &a.rows,
                runs: &a.runs,
                states: &states.cast(),
                y: &a.mixed,
            },
        )?;
        rec.dispatch(
            gated_rms_norm::GatedRmsNorm,
            (),
            gated_rms_norm::Params {
                rows: n_rows,
                heads: heads.value_heads,
                head_dim: heads.head_dim,
                z_stride: stride,
                z_offset: heads.channels(),
                eps: c.eps,
            },
            gated_rms_norm::Binds {
                x: &a.mixed.cast(),
                w: &net.norm.cast(),
                z: &a.projected.cast(),
                // The prepared rows are no longer read.
                y: &a.prepared.cast(),
            },
        )?;
        self.add_block(rec, &net.out, Input::plain(&a.prepared), layer.attn_post_norm.as_ref())
    }
}
