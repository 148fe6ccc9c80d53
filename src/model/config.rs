//! The description of a decoder, read from the metadata of its file.

pub use crate::kernels::elementwise::gated_activation::Activation;

use super::{Architecture, ModelError, keys::Keys};
use crate::{gguf::Gguf, kernels::delta_net::DeltaHeads};

/// The feed-forward block of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FeedForward {
    /// A dense gated block.
    Dense {
        /// Its inner size.
        inner: u32,
    },
    /// A mixture of experts.
    Experts {
        /// Experts of a layer.
        count: u32,
        /// Experts that a token uses.
        used: u32,
        /// The inner size of each.
        inner: u32,
        /// Whether the weights of the chosen experts are normalised to a sum of one.
        normalise: bool,
        /// The expert that every token uses besides.
        shared: Option<SharedExpert>,
    },
}

/// An expert that every token uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SharedExpert {
    /// Its inner size.
    pub inner: u32,
    /// Whether its output is multiplied with the sigmoid of a product with the input.
    pub gated: bool,
}

/// The norm of queries and keys before RoPE.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum QkNorm {
    /// None.
    #[default]
    None,
    /// Of each head.
    Head,
    /// Of all query heads together, and of all key heads.
    Projection,
}

/// Rotary position embedding (RoPE).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rope {
    /// Elements of a head that are rotated, its first ones.
    pub dims: u32,
    /// The base of the frequencies.
    pub theta: f64,
    /// The divisor of all frequencies (linear scaling), or of those that YaRN interpolates; 1 for none.
    pub factor: f64,
    /// Whether the rotated pairs are `(2i, 2i + 1)`, and not `(i, i + dims/2)`.
    pub interleaved: bool,
    /// The factor of cosine and sine: YaRN's attention factor.
    pub magnitude: f64,
    /// YaRN, if frequencies are scaled by it.
    pub yarn: Option<Yarn>,
}

/// YaRN (Peng et al. 2023): high frequencies stay, low ones are divided by the factor, those between are blended.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Yarn {
    /// The context that the model was trained for before.
    pub original_context: u32,
    /// The share of extrapolation in the blend.
    pub extrapolation: f64,
    /// Frequencies with more turns than this in the original context stay.
    pub beta_fast: f64,
    /// Frequencies with fewer turns are divided.
    pub beta_slow: f64,
}

impl Rope {
    /// Returns the frequencies of a head's rotated pairs, in radians a position. Each of `divisors` divides one.
    pub fn frequencies(&self, divisors: Option<&[f32]>) -> Vec<f64> {
        let dims = f64::from(self.dims);
        let blend = self.yarn.map(|yarn| {
            // The pair whose frequency makes so many turns in the original context.
            let pair = |turns: f64| {
                let context = f64::from(yarn.original_context);
                dims * (context / (turns * std::f64::consts::TAU)).ln() / (2.0 * self.theta.ln())
            };
            let (low, high) = (pair(yarn.beta_fast).floor().max(0.0), pair(yarn.beta_slow).ceil().min(dims - 1.0));
            move |i: f64| yarn.extrapolation * (1.0 - ((i - low) / (high - low).max(0.001)).clamp(0.0, 1.0))
        });
        let frequency = |i: u32| {
            let divisor = divisors.and_then(|divisors| divisors.get(i as usize)).map_or(1.0, |d| f64::from(*d));
            let plain = self.theta.powf(-2.0 * f64::from(i) / dims) / divisor;
            let extrapolated = blend.map_or(0.0, |blend| blend(f64::from(i)));
            plain / self.factor * (1.0 - extrapolated) + plain * extrapolated
        };
        (0..self.dims / 2).map(frequency).collect()
    }
}

/// A set of layers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum LayerPattern {
    /// None.
    #[default]
    None,
    /// All.
    All,
    /// The last of each `period` layers.
    Last {
        /// The period.
        period: u32,
    },
    /// All but the last of each `period` layers.
    AllButLast {
        /// The period.
        period: u32,
    },
    /// As listed; layers beyond the list are not in the set.
    Listed(Vec<bool>),
}

impl LayerPattern {
    /// Returns whether a layer is in the set.
    pub fn contains(&self, layer: u32) -> bool {
        let is_last = |period: u32| layer % period.max(1) == period.max(1) - 1;
        match self {
            Self::None => false,
            Self::All => true,
            Self::Last { period } => is_last(*period),
            Self::AllButLast { period } => !is_last(*period),
            Self::Listed(layers) => layers.get(layer as usize).copied().unwrap_or(false),
        }
    }
}

/// A sliding window of attention.
#[derive(Clone, Debug, PartialEq)]
pub struct SlidingWindow {
    /// Positions that a token sees, its own included.
    pub size: u32,
    /// The layers that have it.
    pub layers: LayerPattern,
    /// Their position embedding.
    pub rope: Rope,
}

/// A factor of queries that grows with their position: `1 + slope · ln(1 + ⌊position / length⌋)`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct QueryTemperature {
    /// The slope.
    pub slope: f64,
    /// The length.
    pub length: u32,
}

/// The gated delta nets (Yang et al. 2024) that some layers have instead of attention.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeltaNet {
    /// The layers that have them.
    pub layers: LayerPattern,
    /// Heads of queries and keys.
    pub key_heads: u32,
    /// Heads of values; a multiple of `key_heads`.
    pub value_heads: u32,
    /// Whether neighbouring value heads share a key head; else value head `h` has key head `h mod key_heads`.
    pub neighbours: bool,
    /// Elements of a head of any kind.
    pub head_dim: u32,
}

impl DeltaNet {
    /// Returns its heads as kernels have them.
    pub(crate) fn heads(&self) -> DeltaHeads {
        DeltaHeads {
            key_heads: self.key_heads,
            value_heads: self.value_heads,
            repeat: if self.neighbours { self.value_heads / self.key_heads } else { 1 },
            head_dim: self.head_dim,
        }
    }

    /// Returns the elements of a row of projections: channels, output gates, α and β of each value head, padded to a multiple
    /// of four.
    pub(crate) fn projections(&self) -> u32 {
        let heads = self.heads();
        (heads.channels() + heads.values() + 2 * self.value_heads).next_multiple_of(4)
    }

    /// Returns the bytes of a layer's state of one sequence: the convolution's window and the delta rule's matrices, in f32.
    pub fn state_bytes(&self) -> u64 {
        let heads = self.heads();
        4 * (u64::from(heads.window()) + u64::from(heads.state()))
    }
}

/// Factors of a model's parts, 1 unless the architecture has others.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scales {
    /// Of embeddings.
    pub embedding: f64,
    /// Of what a block adds to the residual.
    pub residual: f64,
    /// Of scores: `1/√head_dim` in most models.
    pub attention: f64,
    /// Of logits.
    pub logits: f64,
}

/// What a layer's attention has of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerAttention {
    /// Positions that a token sees, its own included; 0: all.
    pub window: u32,
    /// The layer's table of [`Config::rope_tables`].
    pub rope_table: usize,
}

/// The description of a decoder: its sizes and its parts, as plain data.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Config {
    /// The architecture.
    pub architecture: Architecture,
    /// Layers.
    pub layers: u32,
    /// Layers behind them in the file, which predict further tokens (MTP) and are not used.
    pub prediction_layers: u32,
    /// Size of the residual stream.
    pub hidden: u32,
    /// Query heads.
    pub heads: u32,
    /// Key and value heads; `heads` is a multiple of it.
    pub kv_heads: u32,
    /// Elements of a head.
    pub head_dim: u32,
    /// The feed-forward block.
    pub feed_forward: FeedForward,
    /// Its activation.
    pub activation: Activation,
    /// Rows of the embedding: token ids are below it.
    pub vocab: u32,
    /// The longest supported sequence.
    pub context_length: u32,
    /// The ε of RMS norms.
    pub eps: f32,
    /// The norm of queries and keys.
    pub qk_norm: QkNorm,
    /// Whether the outputs of both blocks are normed before they are added to the residual.
    pub post_norms: bool,
    /// The tensor of the norm before the feed-forward block, without layer and suffix.
    pub ffn_norm: &'static str,
    /// Position embedding.
    pub rope: Rope,
    /// The layers without position embedding.
    pub no_rope: LayerPattern,
    /// The sliding window.
    pub sliding: Option<SlidingWindow>,
    /// Whether attention's output is multiplied with the sigmoid of a projection of its input.
    pub attention_gate: bool,
    /// The gated delta nets.
    pub delta_net: Option<DeltaNet>,
    /// Whether each query head has a logit that takes part in the softmax and adds no value (attention sinks).
    pub sinks: bool,
    /// The factor of queries by position.
    pub query_temperature: Option<QueryTemperature>,
    /// Factors.
    pub scales: Scales,
}

impl Config {
    /// Reads and checks the metadata of `gguf`. Tensor shapes are checked when a model is loaded.
    ///
    /// # Errors
    /// [`ModelError`] naming the first key that is missing, wrong or not supported.
    pub fn from_gguf(gguf: &Gguf) -> Result<Self, ModelError> {
        Self::checked(gguf).map_err(|errors| errors.into_iter().next().unwrap_or(missing("general.architecture")))
    }

    /// Reads and checks the metadata of `gguf`.
    ///
    /// # Errors
    /// Every key that is missing, wrong or not supported.
    pub(super) fn checked(gguf: &Gguf) -> Result<Self, Vec<ModelError>> {
        let metadata = gguf.metadata();
        let name = match metadata.str("general.architecture") {
            Ok(Some(name)) => name,
            Ok(None) => return Err(vec![missing("general.architecture")]),
            Err(error) => return Err(vec![error.into()]),
        };
        let architecture = Architecture::from_name(name);
        let architecture = architecture.ok_or_else(|| vec![ModelError::Architecture(name.to_owned())])?;
        let keys = Keys::new(metadata, name);
        let key = "split.count";
        match metadata.u32(key) {
            Ok(None | Some(0 | 1)) => {}
            Ok(Some(parts)) if parts == gguf.parts() => {}
            Ok(Some(parts)) => {
                let (key, value) = (key.to_owned(), parts.to_string());
                keys.error(ModelError::Unsupported { key, value, needs: "the other parts of the file" });
            }
            Err(error) => keys.error(error.into()),
        }
        let config = Self::read(gguf, &keys, architecture);
        match keys.into_errors() {
            errors if errors.is_empty() => Ok(config),
            errors => Err(errors),
        }
    }

    fn read(gguf: &Gguf, keys: &Keys<'_>, architecture: Architecture) -> Self {
        keys.refuse_common();
        let hidden = keys.size("embedding_length");
        let heads = keys.size("attention.head_count");
        let kv_heads = match keys.u32("attention.head_count_kv") {
            Some(_) => keys.size("attention.head_count_kv"),
            None => heads,
        };
        if !heads.is_multiple_of(kv_heads) {
            keys.bad("attention.head_count_kv", format!("{heads} query heads are not a multiple of it"));
        }
        let head_dim = keys.head_dim(hidden, heads);
        let vocab = vocabulary(gguf, hidden).unwrap_or_else(|error| {
            keys.error(error);
            1
        });
        if keys.optional_size("vocab_size").is_some_and(|claimed| claimed != vocab) {
            keys.bad("vocab_size", format!("the embedding has {vocab} rows"));
        }
        let eps = "attention.layer_norm_rms_epsilon";
        let eps = match keys.f64(eps) {
            Some(value) if (0.0..1.0).contains(&value) => value as f32,
            Some(_) => {
                keys.bad(eps, "it must be between 0 and 1");
                0.0
            }
            None => {
                keys.error(missing(&keys.full(eps)));
                0.0
            }
        };
        let context_length = keys.size("context_length");
        let blocks = keys.size("block_count");
        let prediction_layers = keys.u32("nextn_predict_layers").unwrap_or(0);
        if !architecture.may_predict() {
            keys.refuse("nextn_predict_layers", &[0.0], "layers that predict further tokens");
        }
        if prediction_layers >= blocks {
            keys.bad("nextn_predict_layers", format!("the file has {blocks} layers"));
        }
        let mut config = Self {
            architecture,
            layers: blocks.saturating_sub(prediction_layers).max(1),
            prediction_layers,
            hidden,
            heads,
            kv_heads,
            head_dim,
            feed_forward: FeedForward::Dense { inner: 0 },
            activation: Activation::default(),
            vocab,
            context_length,
            eps,
            qk_norm: QkNorm::None,
            post_norms: false,
            ffn_norm: "ffn_norm",
            rope: keys.rope(head_dim, context_length),
            no_rope: LayerPattern::None,
            sliding: None,
            attention_gate: false,
            delta_net: None,
            sinks: false,
            query_temperature: None,
            scales: Scales { embedding: 1.0, residual: 1.0, attention: 1.0 / f64::from(head_dim).sqrt(), logits: 1.0 },
        };
        architecture.describe()(keys, &mut config);
        // Contexts within a window do not depend on it.
        if let (None, Some(window)) = (&config.sliding, keys.optional_size("attention.sliding_window")) {
            config.context_length = config.context_length.min(window);
        }
        config
    }

    /// Returns the elements of all query heads of a token.
    pub fn q_len(&self) -> u32 {
        self.heads * self.head_dim
    }

    /// Returns the elements of all key heads of a token.
    pub fn kv_len(&self) -> u32 {
        self.kv_heads * self.head_dim
    }

    /// Returns the position embeddings that layers have: `None` is no rotation.
    pub fn rope_tables(&self) -> Vec<Option<Rope>> {
        let mut tables = Vec::new();
        for layer in 0..self.layers {
            let rope = self.layer_rope(layer);
            if !tables.contains(&rope) {
                tables.push(rope);
            }
            if tables.len() == 3 {
                break;
            }
        }
        tables
    }

    /// Returns what a layer's attention has of its own.
    pub fn layer_attention(&self, layer: u32) -> LayerAttention {
        let rope = self.layer_rope(layer);
        LayerAttention {
            window: self.window(layer).map_or(0, |window| window.size),
            rope_table: self.rope_tables().iter().position(|table| *table == rope).unwrap_or(0),
        }
    }

    /// Returns the gated delta net of a layer; `None` where it has attention.
    pub fn layer_delta_net(&self, layer: u32) -> Option<&DeltaNet> {
        self.delta_net.as_ref().filter(|net| net.layers.contains(layer))
    }

    /// Returns the number of layers with a gated delta net.
    pub fn delta_net_layers(&self) -> u32 {
        (0..self.layers).filter(|layer| self.layer_delta_net(*layer).is_some()).count() as u32
    }

    /// Returns the number of layers with attention.
    pub fn attention_layers(&self) -> u32 {
        self.layers - self.delta_net_layers()
    }

    /// Returns the bytes of a sequence's state in all layers with a gated delta net.
    pub fn state_bytes(&self) -> u64 {
        self.delta_net.as_ref().map_or(0, |net| net.state_bytes() * u64::from(self.delta_net_layers()))
    }

    /// Returns whether blocks add their output to the residual as it is.
    pub(super) fn adds_directly(&self) -> bool {
        !self.post_norms && self.scales.residual == 1.0
    }

    fn window(&self, layer: u32) -> Option<&SlidingWindow> {
        self.sliding.as_ref().filter(|window| window.layers.contains(layer))
    }

    fn layer_rope(&self, layer: u32) -> Option<Rope> {
        let rope = self.window(layer).map_or(self.rope, |window| window.rope);
        (!self.no_rope.contains(layer)).then_some(rope)
    }
}

fn missing(key: &str) -> ModelError {
    ModelError::MissingKey(key.to_owned())
}

/// Returns the rows of the embedding.
fn vocabulary(gguf: &Gguf, hidden: u32) -> Result<u32, ModelError> {
    let table = "token_embd.weight";
    let shape = &gguf.tensor(table).ok_or_else(|| ModelError::MissingTensor(table.to_owned()))?.shape;
    let vocab = shape.get(1).copied().and_then(|rows| u32::try_from(rows).ok());
    vocab.ok_or_else(|| ModelError::Shape {
        name: table.to_owned(),
        found: shape.clone(),
        expected: vec![u64::from(hidden), 0],
    })
}
