//! The tensors of a file, found by name and checked against the model's shape before anything is uploaded.

use std::{cell::RefCell, collections::HashSet, ops::Range, slice::from_ref};

use super::{
    Config, DeltaNet, FeedForward, ModelError, QkNorm,
    config::SharedExpert,
    tensor_rows::{
        GateUp, Join, Linear, MatrixInfo, RowRange, TensorRows, VectorInfo, gate_up, joined, ranged, rows_of, segments,
        stacked_gate_up, stacked_linear,
    },
    tree::{self, AttentionTree, DeltaNetTree, Mixer, ModelTree, QkNormTree},
};
use crate::{
    gguf::{Gguf, TensorInfo},
    kernels::delta_net::CONV_TAPS,
    quant::{Planes, WeightType},
};

type Layer<'a> = tree::Layer<MatrixInfo<'a>, VectorInfo<'a>>;
type FeedForwardTree<'a> = tree::FeedForwardTree<MatrixInfo<'a>, VectorInfo<'a>>;
type SharedTensors<'a> = tree::SharedExpert<MatrixInfo<'a>, VectorInfo<'a>>;

/// The tensors of a file.
#[derive(Debug)]
pub(crate) struct Tensors<'a> {
    pub(crate) tree: ModelTree<MatrixInfo<'a>, VectorInfo<'a>>,
    /// The divisors of RoPE's frequencies.
    pub(crate) rope_freqs: Option<VectorInfo<'a>>,
    /// Those that are known, but not used.
    pub(crate) unused: Vec<&'a TensorInfo>,
}

/// Errors beyond this number are not listed.
const MOST_ERRORS: usize = 16;

impl<'a> Tensors<'a> {
    /// Finds all tensors.
    ///
    /// # Errors
    /// The first [`ModelError`] for one that is missing, has another shape, or should not be there.
    pub(crate) fn find(gguf: &'a Gguf, config: &Config) -> Result<Self, ModelError> {
        let first = |errors: Vec<ModelError>| errors.into_iter().next();
        Self::checked(gguf, config).map_err(|errors| first(errors).unwrap_or(ModelError::MissingTensor(String::new())))
    }

    /// Finds all tensors.
    ///
    /// # Errors
    /// Every [`ModelError`], up to a number.
    pub(crate) fn checked(gguf: &'a Gguf, config: &Config) -> Result<Self, Vec<ModelError>> {
        let find =
            Find { gguf, config, errors: RefCell::default(), taken: RefCell::default(), unused: RefCell::default() };
        find.unused_layers();
        let tensors = find.all();
        let unused = find.unused.into_inner();
        let mut errors = find.errors.into_inner();
        let taken = find.taken.into_inner();
        if errors.len() < MOST_ERRORS && taken.len() < gguf.tensors().len() {
            let unknown = gguf.tensors().iter().filter(|t| !taken.contains(t.name.as_str()));
            errors.extend(unknown.map(|t| ModelError::UnknownTensor(t.name.clone())).take(MOST_ERRORS - errors.len()));
        }
        match tensors {
            Some(tensors) if errors.is_empty() => Ok(Tensors { unused, ..tensors }),
            _ => Err(errors),
        }
    }

    /// Returns the number of a layer's experts and of those that a token uses, with a shared expert in the same stacks; zeros for
    /// dense models.
    pub(crate) fn experts(&self, config: &Config) -> (u32, u32) {
        let shared = self.tree.layers.first().map(|layer| &layer.feed_forward.shared);
        let stacked = u32::from(matches!(shared, Some(SharedTensors::Stacked)));
        match config.feed_forward {
            FeedForward::Dense { .. } => (0, 0),
            FeedForward::Experts { count, used, .. } => (count + stacked, used + stacked),
        }
    }

    /// Returns every matrix.
    pub(crate) fn matrices(&self) -> Vec<&MatrixInfo<'a>> {
        self.tree.matrices()
    }

    /// Returns every vector.
    pub(crate) fn vectors(&self) -> impl Iterator<Item = &VectorInfo<'a>> {
        self.tree.vectors().into_iter().chain(&self.rope_freqs)
    }
}

/// Finds tensors by name, and notes every error.
struct Find<'a, 'c> {
    gguf: &'a Gguf,
    config: &'c Config,
    errors: RefCell<Vec<ModelError>>,
    /// The names of those found so far.
    taken: RefCell<HashSet<&'a str>>,
    unused: RefCell<Vec<&'a TensorInfo>>,
}

impl<'a> Find<'a, '_> {
    /// Returns all tensors; `None` if an error was noted.
    fn all(&self) -> Option<Tensors<'a>> {
        let c = self.config;
        let embedding = self.matrix("token_embd.weight", c.vocab, c.hidden);
        let mut layers = Some(Vec::new());
        for i in 0..c.layers {
            let layer = self.layer(i, &format!("blk.{i}."));
            layers = layers.zip(layer).map(|(mut layers, layer)| {
                layers.push(layer);
                layers
            });
            if self.errors.borrow().len() >= MOST_ERRORS {
                break;
            }
        }
        if let Some(layers) = &mut layers {
            Self::stack_shared(layers);
        }
        let output_norm =
            self.vector("output_norm.weight", c.hidden).map(|norm| VectorInfo { scale: c.scales.logits, ..norm });
        let output = self.has("output.weight").then(|| self.linear("output", c.vocab, c.hidden));
        let rope_freqs = self.optional_vector("rope_freqs.weight", c.rope.dims / 2);
        Some(Tensors {
            tree: ModelTree {
                embedding: embedding?,
                layers: layers?,
                output_norm: output_norm?,
                output: match output {
                    Some(found) => Some(found?),
                    None => None,
                },
            },
            rope_freqs: rope_freqs?,
            unused: Vec::new(),
        })
    }

    fn layer(&self, number: u32, p: &str) -> Option<Layer<'a>> {
        let c = self.config;
        let hidden = c.hidden;
        let name = |rest: &str| format!("{p}{rest}");
        let norm = |rest: &str| self.vector(&name(&format!("{rest}.weight")), hidden);
        let post_norm = |rest: &str| if c.post_norms { norm(rest).map(Some) } else { Some(None) };
        // All are looked up before the first error ends it.
        let attn_norm = norm("attn_norm");
        let mixer = match c.layer_delta_net(number) {
            Some(net) => self.delta_net(p, net).map(Mixer::DeltaNet),
            None => self.attention(p).map(Mixer::Attention),
        };
        let attn_post_norm = post_norm("post_attention_norm");
        let ffn_norm = norm(c.ffn_norm);
        let ffn_post_norm = post_norm("post_ffw_norm");
        let feed_forward = match c.feed_forward {
            FeedForward::Dense { inner } => self.dense(p, "", inner).map(|(gate_up, down)| FeedForwardTree {
                router: Vec::new(),
                shared: SharedTensors::None,
                gate_up,
                down,
            }),
            FeedForward::Experts { count, inner, shared, .. } => self.experts(p, count, inner, shared),
        };
        Some(Layer {
            attn_norm: attn_norm?,
            mixer: mixer?,
            attn_post_norm: attn_post_norm?,
            ffn_norm: ffn_norm?,
            ffn_post_norm: ffn_post_norm?,
            feed_forward: feed_forward?,
        })
    }

    fn qk_norm(&self, p: &str) -> Option<QkNormTree<VectorInfo<'a>>> {
        let c = self.config;
        let both = |q_len: u32, k_len: u32| {
            let q = self.vector(&format!("{p}attn_q_norm.weight"), q_len);
            q.zip(self.vector(&format!("{p}attn_k_norm.weight"), k_len))
        };
        match c.qk_norm {
            QkNorm::None => Some(QkNormTree::None),
            QkNorm::Head => both(c.head_dim, c.head_dim).map(|(q, k)| {
                let order = self.head_order(0, 1, c.head_dim);
                let (q, k) = (q.permuted(&order), k.permuted(&order));
                QkNormTree::Head(tree::QkNorm { both: q.then(&k), key: k })
            }),
            QkNorm::Projection => both(c.q_len(), c.kv_len()).map(|(q, k)| QkNormTree::Projection { q, k }),
        }
    }

    fn attention(&self, p: &str) -> Option<AttentionTree<MatrixInfo<'a>, VectorInfo<'a>>> {
        let c = self.config;
        // All are looked up before the first error ends it.
        let (qk_norm, qkv) = (self.qk_norm(p), self.qkv(p));
        let o = self.linear(&format!("{p}attn_output"), c.hidden, c.q_len());
        let sinks = if c.sinks { self.vector(&format!("{p}attn_sinks.weight"), c.heads).map(Some) } else { Some(None) };
        let (qkv, gate) = qkv?;
        Some(AttentionTree { qkv, gate, o: o?, qk_norm: qk_norm?, sinks: sinks? })
    }

    /// Returns the order of the rows of `heads` heads from row `first` on, each `stride` rows after the last: pairs that RoPE
    /// rotates are `(i, i + head_dim/2)`, also where it rotates only a part of a head. Scores do not depend on the order.
    fn head_order(&self, first: u32, heads: u32, stride: u32) -> Vec<Range<u32>> {
        let Config { head_dim, rope, .. } = *self.config;
        let (half, rest) = (rope.dims / 2, (head_dim - rope.dims) / 2);
        let order = |head: u32| {
            let at = first + head * stride;
            let of = |first: u32, count: u32| at + first..at + first + count;
            match rope.interleaved || rest == 0 {
                true => vec![of(0, head_dim)],
                false => vec![of(0, half), of(2 * half, rest), of(half, half), of(2 * half + rest, rest)],
            }
        };
        (0..heads).flat_map(order).collect()
    }

    /// Returns the query, key and value projections, and the gate's: of three tensors, or of one that has their rows one after
    /// the other. Each head's gate follows its query.
    fn qkv(&self, p: &str) -> Option<(Vec<Linear<'a>>, Option<Linear<'a>>)> {
        let c = self.config;
        let q_stride = if c.attention_gate { 2 * c.head_dim } else { c.head_dim };
        let sizes = [("attn_q", c.heads * q_stride), ("attn_k", c.kv_len()), ("attn_v", c.kv_len())];
        let fused = format!("{p}attn_qkv");
        // Each with its first row.
        let mut parts: Vec<(Linear<'a>, u32)> = Vec::new();
        if self.has(&format!("{fused}.weight")) {
            let n: u32 = sizes.iter().map(|(_, n)| n).sum();
            let whole = self.linear(&fused, n, c.hidden)?;
            let mut first = 0;
            for (name, n) in sizes {
                let own = self.optional_vector(&format!("{p}{name}.bias"), n)?;
                if own.is_some() && whole.bias.is_some() {
                    self.error(ModelError::UnknownTensor(format!("{p}{name}.bias")));
                }
                match own {
                    // The bias has only its own rows.
                    Some(bias) => {
                        let matrix = segments(&whole.matrix, from_ref(&(first..first + n)))?;
                        parts.push((Linear { matrix, bias: Some(bias) }, 0));
                    }
                    None => parts.push((whole.clone(), first)),
                }
                first += n;
            }
        } else {
            let all = sizes.map(|(name, n)| self.linear(&format!("{p}{name}"), n, c.hidden));
            parts = all.into_iter().map(|linear| linear.map(|linear| (linear, 0))).collect::<Option<_>>()?;
        }
        let [(q, q_first), (k, k_first), (v, v_first)] = &parts[..] else { return None };
        let linears = vec![
            rows_of(q, &self.head_order(*q_first, c.heads, q_stride))?,
            rows_of(k, &self.head_order(*k_first, c.kv_heads, c.head_dim))?,
            rows_of(v, from_ref(&(*v_first..v_first + c.kv_len())))?,
        ];
        let gate = match c.attention_gate {
            true => {
                let gate = |head: u32| {
                    let first = q_first + head * q_stride + c.head_dim;
                    first..first + c.head_dim
                };
                Some(rows_of(q, &(0..c.heads).map(gate).collect::<Vec<_>>())?)
            }
            false => None,
        };
        // Norms of whole projections come between the product and the heads.
        Some((if c.qk_norm == QkNorm::Projection { linears } else { joined(linears) }, gate))
    }

    /// Returns a gated delta net. Old files of Qwen3-Next have one tensor that is grouped by key heads, `ssm_in`.
    fn delta_net(&self, p: &str, net: &DeltaNet) -> Option<DeltaNetTree<MatrixInfo<'a>, VectorInfo<'a>>> {
        let (hidden, heads) = (self.config.hidden, net.heads());
        let (dim, values, channels) = (net.head_dim, net.value_heads, heads.channels());
        let name = |rest: &str| format!("{p}{rest}");
        let per_key = values / net.key_heads;
        // `count` rows from row `first` on of each key head's.
        let of_keys = |whole: Linear<'a>, first: u32, count: u32, stride: u32| {
            let group = |key: u32| key * stride + first..key * stride + first + count;
            rows_of(&whole, &(0..net.key_heads).map(group).collect::<Vec<_>>())
        };
        let (old, qkv) = (name("ssm_in"), name("attn_qkv"));
        let mut projections = if !self.has(&format!("{qkv}.weight")) && self.has(&format!("{old}.weight")) {
            let stride = 2 * dim + 2 * per_key * dim;
            let whole = self.linear(&old, channels + heads.values(), hidden)?;
            let parts = [(0, dim), (dim, dim), (2 * dim, per_key * dim), (2 * dim + per_key * dim, per_key * dim)];
            parts
                .map(|(first, count)| of_keys(whole.clone(), first, count, stride))
                .into_iter()
                .collect::<Option<_>>()?
        } else {
            self.unused(&format!("{old}.weight"));
            let both = [self.linear(&qkv, channels, hidden), self.linear(&name("attn_gate"), heads.values(), hidden)];
            both.into_iter().collect::<Option<Vec<_>>>().unwrap_or_default()
        };
        let gates = match self.has(&name("ssm_ba.weight")) {
            true => {
                let whole = self.linear(&name("ssm_ba"), 2 * values, hidden)?;
                let of = |first| of_keys(whole.clone(), first, per_key, 2 * per_key);
                [of(per_key), of(0)]
            }
            false => ["ssm_alpha", "ssm_beta"].map(|part| self.linear(&name(part), values, hidden)),
        };
        let gates = gates.into_iter().collect::<Option<Vec<_>>>();
        let conv = self.tensor(&name("ssm_conv1d.weight"), &[CONV_TAPS, channels].map(u64::from));
        let (a, dt) = (self.vector(&name("ssm_a"), values), self.vector(&name("ssm_dt.bias"), values));
        let norm = self.vector(&name("ssm_norm.weight"), dim);
        let out = self.linear(&name("ssm_out"), hidden, heads.values());
        projections.extend(gates?);
        if projections.len() < 4 {
            return None;
        }
        Some(DeltaNetTree {
            projections: joined(projections),
            conv: VectorInfo::whole(conv?),
            gates: a?.then(&dt?),
            norm: norm?,
            out: out?,
        })
    }

    /// Notes that a tensor is known, but not used.
    fn unused(&self, name: &str) {
        if let Some(tensor) = self.gguf.tensor(name) {
            self.taken.borrow_mut().insert(&tensor.name);
            self.unused.borrow_mut().push(tensor);
        }
    }

    /// Notes the tensors of the layers that predict further tokens.
    fn unused_layers(&self) {
        let c = self.config;
        for layer in c.layers..c.layers.saturating_add(c.prediction_layers) {
            let prefix = format!("blk.{layer}.");
            for tensor in self.gguf.tensors().iter().filter(|tensor| tensor.name.starts_with(&prefix)) {
                self.unused(&tensor.name);
            }
        }
    }

    fn dense(&self, p: &str, suffix: &str, inner: u32) -> Option<(GateUp<'a>, Linear<'a>)> {
        let hidden = self.config.hidden;
        let name = |part: &str| format!("{p}ffn_{part}{suffix}");
        let gate_up = self.gate_and_up(&name("gate_up"), 1, inner, || {
            let gate = self.linear(&name("gate"), inner, hidden);
            gate.zip(self.linear(&name("up"), inner, hidden))
        });
        gate_up.zip(self.linear(&name("down"), hidden, inner))
    }

    fn experts(&self, p: &str, count: u32, inner: u32, shared: Option<SharedExpert>) -> Option<FeedForwardTree<'a>> {
        let hidden = self.config.hidden;
        let name = |rest: &str| format!("{p}{rest}");
        let mut router = vec![self.linear(&name("ffn_gate_inp"), count, hidden)];
        if shared.is_some_and(|shared| shared.gated) {
            router.push(self.linear(&name("ffn_gate_inp_shexp"), 1, hidden));
        }
        let router = router.into_iter().collect::<Option<_>>().map(joined);
        let gate_up = self.gate_and_up(&name("ffn_gate_up_exps"), count, inner, || {
            let gate = self.stack(&name("ffn_gate_exps"), count, inner, hidden);
            gate.zip(self.stack(&name("ffn_up_exps"), count, inner, hidden))
        });
        let down = self.stack(&name("ffn_down_exps"), count, hidden, inner);
        let shared = match shared {
            None => Some(SharedTensors::None),
            Some(SharedExpert { inner, .. }) => {
                self.dense(p, "_shexp", inner).map(|(gate_up, down)| SharedTensors::Separate { gate_up, down })
            }
        };
        let (gate_up, down, shared) = (gate_up?, down?, shared?);
        // The shared expert is one of a token's assignments, which all get a bias.
        if let (SharedTensors::Separate { .. }, Some(bias)) = (&shared, &down.bias) {
            self.error(ModelError::UnknownTensor(bias.name().to_owned()));
        }
        Some(FeedForwardTree { router: router?, shared, gate_up, down })
    }

    /// Makes the shared experts the last ones of their stacks, if all layers allow it.
    fn stack_shared(layers: &mut [Layer<'a>]) {
        let stacks = layers.iter().map(|layer| {
            let block = &layer.feed_forward;
            let SharedTensors::Separate { gate_up, down } = &block.shared else { return None };
            let gate_up = stacked_gate_up(&block.gate_up, gate_up)?;
            Some((gate_up, stacked_linear(&block.down, down)?))
        });
        let Some(stacks) = stacks.collect::<Option<Vec<_>>>() else { return };
        for (layer, (gate_up, down)) in layers.iter_mut().zip(stacks) {
            let FeedForwardTree { router, .. } = &mut layer.feed_forward;
            let router = std::mem::take(router);
            layer.feed_forward = FeedForwardTree { router, shared: SharedTensors::Stacked, gate_up, down };
        }
    }

    /// Returns gate and up: of one tensor `fused`, the gate's rows before up's, or the two that `separate` finds.
    fn gate_and_up(
        &self,
        fused: &str,
        experts: u32,
        inner: u32,
        separate: impl FnOnce() -> Option<(Linear<'a>, Linear<'a>)>,
    ) -> Option<GateUp<'a>> {
        if !self.has(&format!("{fused}.weight")) {
            return separate().map(|(gate, up)| gate_up(gate, up));
        }
        let tensor = self.stack(fused, experts, 2 * inner, self.config.hidden)?;
        if let Some(bias) = &tensor.bias {
            self.error(ModelError::UnknownTensor(bias.name().to_owned()));
        }
        let half = |first: u32| {
            let range = RowRange { first: first.into(), count: inner.into(), stride: 2 * u64::from(inner) };
            Some(Linear { matrix: ranged(&tensor.matrix, range)?, bias: None })
        };
        Some(gate_up(half(0)?, half(inner)?))
    }

    fn error(&self, error: ModelError) {
        self.errors.borrow_mut().push(error);
    }

    fn has(&self, name: &str) -> bool {
        self.gguf.tensor(name).is_some()
    }

    fn tensor(&self, name: &str, shape: &[u64]) -> Option<&'a TensorInfo> {
        let Some(tensor) = self.gguf.tensor(name) else {
            self.error(ModelError::MissingTensor(name.to_owned()));
            return None;
        };
        self.taken.borrow_mut().insert(&tensor.name);
        // [n] and [n, 1] are the same.
        let trimmed = |s: &[u64]| s.iter().rposition(|n| *n != 1).map_or(0, |last| last + 1);
        if tensor.shape[..trimmed(&tensor.shape)] != shape[..trimmed(shape)] {
            let (found, expected) = (tensor.shape.clone(), shape[..trimmed(shape).max(1)].to_vec());
            self.error(ModelError::Shape { name: name.to_owned(), found, expected });
            return None;
        }
        Some(tensor)
    }

    fn vector(&self, name: &str, len: u32) -> Option<VectorInfo<'a>> {
        Some(VectorInfo::whole(self.tensor(name, &[u64::from(len)])?))
    }

    /// Returns a vector, which may be absent; `None` if an error was noted.
    fn optional_vector(&self, name: &str, len: u32) -> Option<Option<VectorInfo<'a>>> {
        if self.has(name) { self.vector(name, len).map(Some) } else { Some(None) }
    }

    fn linear(&self, name: &str, n: u32, k: u32) -> Option<Linear<'a>> {
        self.stack(name, 1, n, k)
    }

    fn matrix(&self, name: &str, n: u32, k: u32) -> Option<MatrixInfo<'a>> {
        self.matrices(name, 1, n, k)
    }

    /// Returns a matrix for each expert, with perhaps a bias each.
    fn stack(&self, name: &str, experts: u32, n: u32, k: u32) -> Option<Linear<'a>> {
        let matrix = self.matrices(&format!("{name}.weight"), experts, n, k);
        let bias = self.optional_vector_of(&format!("{name}.bias"), &[n, experts]);
        Some(Linear { matrix: matrix?, bias: bias? })
    }

    fn optional_vector_of(&self, name: &str, shape: &[u32]) -> Option<Option<VectorInfo<'a>>> {
        if !self.has(name) {
            return Some(None);
        }
        let shape: Vec<u64> = shape.iter().map(|n| u64::from(*n)).collect();
        Some(Some(VectorInfo::whole(self.tensor(name, &shape)?)))
    }

    /// Returns the factors of an NVFP4 tensor, of which some files have one for each expert; `None` if an error was noted. The
    /// scales of activations beside them are for kernels that multiply in four bits.
    fn scales(&self, tensor: &TensorInfo, experts: u32) -> Option<Option<&'a TensorInfo>> {
        let Some(base) = tensor.name.strip_suffix(".weight").filter(|_| tensor.ty == WeightType::NVFP4) else {
            return Some(None);
        };
        let find = |name: &str| {
            let name = format!("{base}.{name}");
            if self.has(&name) { self.tensor(&name, &[u64::from(experts)]).map(Some) } else { Some(None) }
        };
        find("input_scale")?;
        let scales = find("scale")?;
        if let Some(scales) = scales.filter(|scales| scales.ty != WeightType::F32) {
            self.error(ModelError::UnknownTensor(scales.name.clone()));
            return None;
        }
        Some(scales)
    }

    fn matrices(&self, name: &str, experts: u32, n: u32, k: u32) -> Option<MatrixInfo<'a>> {
        let tensor = self.tensor(name, &[k, n, experts].map(u64::from))?;
        let (k, rows) = (u64::from(k), u64::from(experts) * u64::from(n));
        let Some(planes) = Planes::new(tensor.ty, rows, k) else {
            self.error(ModelError::RowLength { name: tensor.name.clone(), k });
            return None;
        };
        let rows = vec![TensorRows { tensor, range: RowRange::all(rows), scales: self.scales(tensor, experts)? }];
        Some(MatrixInfo { rows, join: Join::Concat, planes, n, experts })
    }
}
