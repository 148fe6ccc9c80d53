//! A forward pass through the decoder, recorded as a plan.

use super::{
    Config, KernelSelection, NormPlacement, PassKernels, PassShape, PlanOptions,
    activations::Activations,
    cache::{KvCache, LayerCache},
    matmul::Input,
    sampling::Sampling,
    tree::Mixer,
    weights::Weights,
};
use crate::{
    gpu::{Buffer, GpuError, Plan, Recorder, Scope, Stage},
    kernels::{elementwise::rms_norm, linear::embed, sample},
};

/// The phase of inference that a pass belongs to. It decides the order of sums, whatever the number of rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Phase {
    /// Prefill: tokens of prompts, which the host knows.
    Prefill,
    /// Decode: one new token a sequence, which only the device may know.
    Decode,
}

/// What a pass's plan depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pass {
    pub(crate) phase: Phase,
    /// Tokens.
    pub(crate) rows: u32,
    /// Runs of tokens of one sequence, for models with gated delta nets; else 0.
    pub(crate) runs: u32,
    /// Chunks of the longest context.
    pub(crate) chunks: u32,
    /// Rows whose logits are computed.
    pub(crate) logit_rows: u32,
    /// Rows behind them whose hidden states are wanted, without logits.
    pub(crate) hidden_rows: u32,
    /// Which of these a token is sampled from, and how.
    pub(crate) draws: sample::Rows,
    /// Decode: sequences may have several rows, of draft tokens.
    pub(crate) drafts: bool,
}

/// Records forward passes of one model.
#[derive(Debug)]
pub(crate) struct Decoder<'a> {
    pub(crate) config: &'a Config,
    pub(crate) weights: &'a Weights,
    pub(crate) activations: &'a Activations,
    pub(crate) kv: &'a KvCache,
    pub(crate) sampling: &'a Sampling,
    /// The kernels.
    pub(crate) kernels: KernelSelection,
    pub(crate) options: PlanOptions,
    pub(crate) pass: Pass,
}

impl Decoder<'_> {
    /// Returns the kernels of the pass.
    pub(super) fn pass_kernels(&self) -> PassKernels {
        let Pass { phase, rows, chunks, logit_rows, drafts, .. } = self.pass;
        self.kernels.pass(self.config, PassShape { phase, rows, chunks, logit_rows, drafts })
    }

    /// Records the pass.
    pub(crate) fn record(&self) -> Result<Plan, GpuError> {
        let mut rec = Recorder::new();
        self.embed(&mut rec)?;
        let layers = &self.weights.tree.layers;
        // Whether the MoE combine of the layer before has normed its sum.
        let mut normed = false;
        for (i, (layer, cache)) in layers.iter().zip(&self.kv.layers).enumerate() {
            rec.scope(Scope::layer(i as u32, Stage::Attention));
            let input = match normed {
                true => Input::plain(&self.activations.normed),
                false => self.normed(&mut rec, &layer.attn_norm, self.pass_kernels().attn_norm)?,
            };
            match (&layer.mixer, cache) {
                (Mixer::Attention(attention), LayerCache::Kv(kv)) => {
                    self.attention(&mut rec, i as u32, layer, attention, kv, input)?;
                }
                (Mixer::DeltaNet(net), LayerCache::State { windows, states }) => {
                    self.delta_net(&mut rec, layer, net, [windows, states], input)?;
                }
                // The cache is made for the same layers.
                _ => {}
            }
            let next_norm = layers.get(i + 1).map(|next| &next.attn_norm).filter(|_| self.options.fused);
            normed = self.feed_forward(&mut rec, i, layer, next_norm)?;
        }
        if self.pass.logit_rows + self.pass.hidden_rows > 0 {
            rec.scope(Stage::Head);
            self.picked_norm(&mut rec)?;
        }
        if self.pass.logit_rows > 0 {
            self.head(&mut rec, self.pass.logit_rows)?;
            rec.scope(Stage::Sampling);
            self.sampling.record(&mut rec, &self.pass.draws, self.activations)?;
        }
        Ok(rec.finish())
    }

    /// Records the token embedding.
    fn embed(&self, rec: &mut Recorder) -> Result<(), GpuError> {
        let (a, table) = (self.activations, &self.weights.tree.embedding);
        rec.scope(Stage::Embed);
        let (ids, sequences) = match self.pass.phase {
            Phase::Prefill => (&a.ids, 0),
            Phase::Decode => (&self.sampling.tokens, self.sampling.places),
        };
        let positions = if self.pass.drafts { &a.places } else { &a.positions };
        for part in &table.parts {
            let planes = &part.planes;
            rec.dispatch(
                embed::Embed,
                embed::Variant::new(planes.ty()),
                embed::Params {
                    rows: self.pass.rows,
                    n: table.n,
                    first_row: part.first_row,
                    local_rows: planes.rows() as u32,
                    k: table.k,
                    k_blocks: planes.k_blocks(),
                    n_blocks: planes.blocks(),
                    sequences,
                    scale: self.config.scales.embedding as f32,
                },
                embed::Binds { w: &part.words, ids, positions, y: &a.residual },
            )?;
        }
        Ok(())
    }

    /// Returns the normed residual: to be normed by the GEMVs that read it, or normed here.
    pub(super) fn normed<'b>(
        &'b self,
        rec: &mut Recorder,
        w: &'b Buffer<f32>,
        placement: NormPlacement,
    ) -> Result<Input<'b>, GpuError> {
        if placement == NormPlacement::InGemv && self.options.fused {
            return Ok(Input { x: &self.activations.residual, norm: Some(w) });
        }
        self.norm(rec, w)?;
        Ok(Input::plain(&self.activations.normed))
    }

    /// Records the norm of the residual of all rows.
    fn norm(&self, rec: &mut Recorder, w: &Buffer<f32>) -> Result<(), GpuError> {
        let (a, rows) = (self.activations, self.pass.rows);
        rec.dispatch(
            rms_norm::RmsNorm,
            rms_norm::Rows::All,
            self.norm_params(rows),
            rms_norm::Binds { x: &a.residual, w, picks: None, y: &a.normed },
        )
    }

    /// Returns the parameters of a norm of `rows` rows of the residual.
    pub(super) fn norm_params(&self, rows: u32) -> rms_norm::Params {
        let (n, eps) = (self.config.hidden, self.config.eps);
        rms_norm::Params { rows, n, x_rows: self.pass.rows, y_stride: n, y_offset: 0, eps }
    }

    /// Records the norm of the residual of the rows whose logits or hidden states are wanted.
    fn picked_norm(&self, rec: &mut Recorder) -> Result<(), GpuError> {
        let (a, pass) = (self.activations, self.pass);
        rec.dispatch(
            rms_norm::RmsNorm,
            rms_norm::Rows::Picked,
            self.norm_params(pass.logit_rows + pass.hidden_rows),
            rms_norm::Binds { x: &a.residual, w: &self.weights.tree.output_norm, picks: Some(&a.picks), y: &a.normed },
        )
    }
}
