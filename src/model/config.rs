//! The shape of a model, read from the metadata of its file.

use super::ModelError;
use crate::{
    gguf::{Gguf, Metadata, Value},
    kernels::{
        attn::MAX_HEAD_DIM,
        moe::router_topk::{MAX_EXPERTS, MAX_K},
    },
};

/// A supported decoder architecture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Architecture {
    /// Qwen3 mixture of experts.
    Qwen3Moe,
    /// Dense Qwen3.
    Qwen3,
    /// Dense Llama, and models of the same structure.
    Llama,
}

impl Architecture {
    /// Returns the name in `general.architecture`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Qwen3Moe => "qwen3moe",
            Self::Qwen3 => "qwen3",
            Self::Llama => "llama",
        }
    }

    fn from_name(name: &str) -> Option<Self> {
        [Self::Qwen3Moe, Self::Qwen3, Self::Llama].into_iter().find(|a| a.name() == name)
    }
}

/// The feed-forward block of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FeedForward {
    /// A dense SwiGLU block.
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
    },
}

/// Rotary position embedding (RoPE).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rope {
    /// The base of the frequencies.
    pub theta: f64,
    /// The divisor of all frequencies: linear scaling, or 1 for none.
    pub factor: f64,
    /// Whether the rotated pairs are `(2i, 2i + 1)`, and not `(i, i + head_dim/2)`.
    pub interleaved: bool,
}

/// The shape of a decoder.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Config {
    /// The architecture.
    pub architecture: Architecture,
    /// Layers.
    pub layers: u32,
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
    /// Rows of the embedding: token ids are below it.
    pub vocab: u32,
    /// The longest supported sequence.
    pub context_length: u32,
    /// The ε of RMS norms.
    pub eps: f32,
    /// Position embedding.
    pub rope: Rope,
}

/// Keys of unsupported features, each with the values that turn it off.
const NEUTRAL: [(&str, &[f64]); 15] = [
    ("attention.scale", &[0.0]),
    ("attention.clamp_kqv", &[0.0]),
    ("attention.max_alibi_bias", &[0.0]),
    ("attention.causal", &[1.0]),
    ("attn_logit_softcapping", &[0.0]),
    ("final_logit_softcapping", &[0.0]),
    ("logit_scale", &[0.0, 1.0]),
    ("residual_scale", &[0.0, 1.0]),
    ("embedding_scale", &[0.0, 1.0]),
    ("expert_weights_scale", &[0.0, 1.0]),
    ("expert_shared_count", &[0.0]),
    ("expert_group_count", &[0.0, 1.0]),
    ("expert_gating_func", &[1.0]),
    ("leading_dense_block_count", &[0.0]),
    ("rope.scale_linear", &[0.0, 1.0]),
];

impl Config {
    /// Reads and checks the metadata of `gguf`. Tensor shapes are checked when a model is loaded.
    ///
    /// # Errors
    /// [`ModelError`] naming the key that is missing, wrong or not supported.
    pub fn from_gguf(gguf: &Gguf) -> Result<Self, ModelError> {
        let metadata = gguf.metadata();
        let name = metadata.str("general.architecture")?.ok_or(missing("general.architecture"))?;
        let architecture = Architecture::from_name(name).ok_or_else(|| ModelError::Architecture(name.to_owned()))?;
        let keys = Keys { metadata, architecture: name };
        if metadata.u32("split.count")?.unwrap_or(1) > 1 {
            return Err(keys.unsupported("split.count"));
        }
        for (key, neutral) in NEUTRAL {
            keys.neutral(key, neutral)?;
        }

        let hidden = keys.size("embedding_length")?;
        let heads = keys.size("attention.head_count")?;
        let kv_heads = match keys.optional("attention.head_count_kv")? {
            Some(_) => keys.size("attention.head_count_kv")?,
            None => heads,
        };
        if !heads.is_multiple_of(kv_heads) {
            return Err(keys.bad("attention.head_count_kv", format!("{heads} query heads are not a multiple of it")));
        }
        let head_dim = keys.head_dim(hidden, heads)?;
        let table = "token_embd.weight";
        let shape = &gguf.tensor(table).ok_or_else(|| ModelError::MissingTensor(table.to_owned()))?.shape;
        let vocab = shape.get(1).copied().and_then(|rows| u32::try_from(rows).ok());
        let vocab = vocab.ok_or_else(|| ModelError::Shape {
            name: table.to_owned(),
            found: shape.clone(),
            expected: vec![u64::from(hidden), 0],
        })?;
        if let Some(claimed) = keys.optional("vocab_size")?.filter(|claimed| *claimed != vocab) {
            let _ = claimed;
            return Err(keys.bad("vocab_size", format!("the embedding has {vocab} rows")));
        }
        let eps = metadata.f32(&keys.full("attention.layer_norm_rms_epsilon"))?;
        let eps = eps.ok_or_else(|| missing(&keys.full("attention.layer_norm_rms_epsilon")))?;
        if !(0.0..1.0).contains(&eps) {
            return Err(keys.bad("attention.layer_norm_rms_epsilon", "it must be between 0 and 1".to_owned()));
        }
        let mut context_length = keys.size("context_length")?;
        // Contexts within the window do not depend on it.
        if let Some(window) = keys.optional("attention.sliding_window")?.filter(|window| *window > 0) {
            context_length = context_length.min(window);
        }
        Ok(Self {
            architecture,
            layers: keys.size("block_count")?,
            hidden,
            heads,
            kv_heads,
            head_dim,
            feed_forward: keys.feed_forward(architecture)?,
            vocab,
            context_length,
            eps,
            rope: keys.rope(architecture, head_dim)?,
        })
    }

    /// Returns the elements of all query heads of a token.
    pub fn q_len(&self) -> u32 {
        self.heads * self.head_dim
    }

    /// Returns the elements of all key heads of a token.
    pub fn kv_len(&self) -> u32 {
        self.kv_heads * self.head_dim
    }
}

fn missing(key: &str) -> ModelError {
    ModelError::MissingKey(key.to_owned())
}

/// The metadata keys that begin with the architecture's name.
struct Keys<'a> {
    metadata: &'a Metadata,
    architecture: &'a str,
}

/// The largest size: above any model's, and small enough that products of two do not overflow.
const MAX_SIZE: u32 = 1 << 24;

impl Keys<'_> {
    fn full(&self, key: &str) -> String {
        format!("{}.{key}", self.architecture)
    }

    fn shown(&self, key: &str) -> String {
        let value = self.metadata.get(&self.full(key)).or_else(|| self.metadata.get(key));
        value.map_or_else(|| "missing".to_owned(), Value::to_string)
    }

    fn bad(&self, key: &str, reason: String) -> ModelError {
        ModelError::BadValue { key: self.full(key), value: self.shown(key), reason }
    }

    fn unsupported(&self, key: &str) -> ModelError {
        let full = self.full(key);
        let key_in_file = if self.metadata.get(&full).is_some() { full } else { key.to_owned() };
        ModelError::Unsupported { key: key_in_file, value: self.shown(key) }
    }

    fn optional(&self, key: &str) -> Result<Option<u32>, ModelError> {
        Ok(self.metadata.u32(&self.full(key))?)
    }

    /// Returns a required positive size of at most [`MAX_SIZE`].
    fn size(&self, key: &str) -> Result<u32, ModelError> {
        match self.optional(key)?.ok_or_else(|| missing(&self.full(key)))? {
            0 => Err(self.bad(key, "it must be positive".to_owned())),
            size if size > MAX_SIZE => Err(self.bad(key, format!("the maximum is {MAX_SIZE}"))),
            size => Ok(size),
        }
    }

    fn neutral(&self, key: &str, values: &[f64]) -> Result<(), ModelError> {
        let full = self.full(key);
        let value = match self.metadata.get(&full) {
            None => return Ok(()),
            Some(Value::Bool(flag)) => f64::from(u8::from(*flag)),
            Some(_) => f64::from(self.metadata.f32(&full)?.unwrap_or(f32::NAN)),
        };
        if values.contains(&value) { Ok(()) } else { Err(self.unsupported(key)) }
    }

    fn head_dim(&self, hidden: u32, heads: u32) -> Result<u32, ModelError> {
        let head_dim = match self.optional("attention.key_length")? {
            Some(_) => self.size("attention.key_length")?,
            None if hidden.is_multiple_of(heads) => hidden / heads,
            None => {
                return Err(
                    self.bad("attention.head_count", format!("embedding length {hidden} is not a multiple of it"))
                );
            }
        };
        if self.optional("attention.value_length")?.is_some_and(|length| length != head_dim) {
            return Err(self.unsupported("attention.value_length"));
        }
        if !head_dim.is_multiple_of(4) || head_dim > MAX_HEAD_DIM {
            return Err(self
                .bad("attention.key_length", format!("head sizes must be multiples of 4 and at most {MAX_HEAD_DIM}")));
        }
        let rows = u64::from(heads) * u64::from(head_dim);
        if rows > u64::from(MAX_SIZE) {
            return Err(self.bad("attention.head_count", format!("{heads} heads of size {head_dim} are not supported")));
        }
        Ok(head_dim)
    }

    fn feed_forward(&self, architecture: Architecture) -> Result<FeedForward, ModelError> {
        if architecture != Architecture::Qwen3Moe {
            if self.optional("expert_count")?.unwrap_or(0) > 0 {
                return Err(self.unsupported("expert_count"));
            }
            return Ok(FeedForward::Dense { inner: self.size("feed_forward_length")? });
        }
        let (count, used) = (self.size("expert_count")?, self.size("expert_used_count")?);
        if count > MAX_EXPERTS {
            return Err(self.bad("expert_count", format!("the maximum is {MAX_EXPERTS}")));
        }
        if used > MAX_K.min(count) {
            let most = MAX_K.min(count);
            return Err(self.bad("expert_used_count", format!("at most {most} of {count} experts can be used")));
        }
        let normalise = self.metadata.bool(&self.full("expert_weights_norm"))?.unwrap_or(true);
        Ok(FeedForward::Experts { count, used, inner: self.size("expert_feed_forward_length")?, normalise })
    }

    fn rope(&self, architecture: Architecture, head_dim: u32) -> Result<Rope, ModelError> {
        let float = |key: &str| self.metadata.f32(&self.full(key));
        if self.optional("rope.dimension_count")?.is_some_and(|count| count != head_dim) {
            return Err(self.unsupported("rope.dimension_count"));
        }
        let theta = f64::from(float("rope.freq_base")?.unwrap_or(10_000.0));
        if !(theta > 0.0 && theta.is_finite()) {
            return Err(self.bad("rope.freq_base", "it must be positive".to_owned()));
        }
        let given = f64::from(float("rope.scaling.factor")?.unwrap_or(1.0));
        let factor = match self.metadata.str(&self.full("rope.scaling.type"))? {
            Some("linear") => given,
            Some("none") => 1.0,
            None if given == 1.0 || given == 0.0 => 1.0,
            None => return Err(self.bad("rope.scaling.factor", "rope.scaling.type does not say of what".to_owned())),
            Some(_) => return Err(self.unsupported("rope.scaling.type")),
        };
        if !(factor > 0.0 && factor.is_finite()) {
            return Err(self.bad("rope.scaling.factor", "it must be positive".to_owned()));
        }
        Ok(Rope { theta, factor, interleaved: architecture == Architecture::Llama })
    }
}
