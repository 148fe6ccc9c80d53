//! Typed reading of a model's metadata, which notes every error rather than only the first.

use std::cell::RefCell;

use super::{
    FeedForward, ModelError,
    config::{DeltaNet, LayerPattern, Rope, Yarn},
};
use crate::{
    gguf::{Array, GgufError, Metadata, Value},
    kernels::{
        attn::MAX_HEAD_DIM,
        delta_net::{self, CONV_TAPS},
        moe::router_topk::{MAX_EXPERTS, MAX_K},
    },
};

/// The metadata keys that begin with the architecture's name. A wrong value is noted and replaced by a harmless one.
pub(super) struct Keys<'a> {
    pub(super) metadata: &'a Metadata,
    pub(super) architecture: &'a str,
    errors: RefCell<Vec<ModelError>>,
}

/// The largest size: above any model's, and small enough that products of two do not overflow.
pub(super) const MAX_SIZE: u32 = 1 << 24;

impl<'a> Keys<'a> {
    pub(super) fn new(metadata: &'a Metadata, architecture: &'a str) -> Self {
        Self { metadata, architecture, errors: RefCell::default() }
    }

    /// Notes an error.
    pub(super) fn error(&self, error: ModelError) {
        self.errors.borrow_mut().push(error);
    }

    /// Returns the errors so far.
    pub(super) fn into_errors(self) -> Vec<ModelError> {
        self.errors.into_inner()
    }

    /// Returns a key's whole name.
    pub(super) fn full(&self, key: &str) -> String {
        format!("{}.{key}", self.architecture)
    }

    fn shown(&self, key: &str) -> String {
        self.metadata.get(&self.full(key)).map_or_else(|| "missing".to_owned(), Value::to_string)
    }

    /// Notes that a key's value is invalid.
    pub(super) fn bad(&self, key: &str, reason: impl Into<String>) {
        self.error(ModelError::BadValue { key: self.full(key), value: self.shown(key), reason: reason.into() });
    }

    /// Notes that a key's value needs a feature that is not supported.
    pub(super) fn unsupported(&self, key: &str, needs: &'static str) {
        self.error(ModelError::Unsupported { key: self.full(key), value: self.shown(key), needs });
    }

    fn noted<T>(&self, read: Result<Option<T>, GgufError>) -> Option<T> {
        read.unwrap_or_else(|error| {
            self.error(error.into());
            None
        })
    }

    /// Returns an unsigned integer, also one that is given as an array with an equal element for each layer.
    pub(super) fn u32(&self, key: &str) -> Option<u32> {
        let full = self.full(key);
        if !matches!(self.metadata.get(&full), Some(Value::Array(_))) {
            return self.noted(self.metadata.u32(&full));
        }
        let numbers = self.noted(self.metadata.i32s(&full))?;
        let first = *numbers.first()?;
        if numbers.iter().any(|number| *number != first) {
            self.unsupported(key, "layers of different shapes");
            return None;
        }
        u32::try_from(first).ok().or_else(|| {
            self.bad(key, "it must not be negative");
            None
        })
    }

    /// Returns a boolean.
    pub(super) fn bool(&self, key: &str) -> Option<bool> {
        self.noted(self.metadata.bool(&self.full(key)))
    }

    /// Returns a number.
    pub(super) fn f64(&self, key: &str) -> Option<f64> {
        self.noted(self.metadata.f32(&self.full(key))).map(f64::from)
    }

    /// Returns a positive finite number; `None` if it is absent.
    pub(super) fn positive(&self, key: &str) -> Option<f64> {
        let value = self.f64(key)?;
        if value > 0.0 && value.is_finite() {
            return Some(value);
        }
        self.bad(key, "it must be positive");
        None
    }

    /// Returns a factor; `None` if it is absent or 0, which mean that there is none.
    pub(super) fn scale(&self, key: &str) -> Option<f64> {
        let value = self.f64(key).filter(|value| *value != 0.0)?;
        if value.is_finite() {
            return Some(value);
        }
        self.bad(key, "it must be finite");
        None
    }

    /// Returns a required positive size of at most [`MAX_SIZE`]; 1 if it is wrong.
    pub(super) fn size(&self, key: &str) -> u32 {
        if self.metadata.get(&self.full(key)).is_none() {
            self.error(ModelError::MissingKey(self.full(key)));
        }
        match self.u32(key) {
            None => return 1,
            Some(0) => self.bad(key, "it must be positive"),
            Some(size) if size > MAX_SIZE => self.bad(key, format!("the maximum is {MAX_SIZE}")),
            Some(size) => return size,
        }
        1
    }

    /// Returns a size that may be absent or 0, which mean that there is none.
    pub(super) fn optional_size(&self, key: &str) -> Option<u32> {
        self.u32(key).filter(|size| *size > 0).map(|_| self.size(key))
    }

    /// Notes an error if a key has a value other than those that turn its feature off.
    pub(super) fn refuse(&self, key: &str, neutral: &[f64], needs: &'static str) {
        let value = match self.metadata.get(&self.full(key)) {
            None => return,
            Some(Value::Bool(flag)) => Some(f64::from(u8::from(*flag))),
            Some(_) => self.f64(key),
        };
        if value.is_some_and(|value| !neutral.contains(&value)) {
            self.unsupported(key, needs);
        }
    }

    /// Returns the layers that have a sliding window: as the file lists them or by a period, else `default`.
    pub(super) fn window_pattern(&self, default: LayerPattern) -> LayerPattern {
        let key = "attention.sliding_window_pattern";
        match self.metadata.get(&self.full(key)) {
            None => default,
            Some(Value::Array(Array::Bool(layers))) => LayerPattern::Listed(layers.clone()),
            Some(Value::Array(_)) => {
                let layers = self.noted(self.metadata.i32s(&self.full(key))).unwrap_or_default();
                LayerPattern::Listed(layers.into_iter().map(|windowed| windowed != 0).collect())
            }
            Some(_) => match self.u32(key) {
                Some(0) => LayerPattern::All,
                Some(period) => LayerPattern::AllButLast { period },
                None => default,
            },
        }
    }

    /// Returns the gated delta nets: three layers of four, or as the file lists them.
    pub(super) fn delta_net(&self, layers: u32, neighbours: bool) -> DeltaNet {
        let size = |key: &str| self.size(&format!("ssm.{key}"));
        let (key_heads, value_heads, head_dim) = (size("group_count"), size("time_step_rank"), size("state_size"));
        if size("conv_kernel") != CONV_TAPS {
            self.unsupported("ssm.conv_kernel", "a convolution of another size than 4");
        }
        if !head_dim.is_multiple_of(4) || head_dim > delta_net::MAX_HEAD_DIM {
            self.bad("ssm.state_size", format!("it must be a multiple of 4 and at most {}", delta_net::MAX_HEAD_DIM));
        }
        if !value_heads.is_multiple_of(key_heads) {
            self.bad("ssm.group_count", format!("{value_heads} value heads are not a multiple of it"));
        }
        if u64::from(value_heads) * u64::from(head_dim) != u64::from(size("inner_size")) {
            self.bad("ssm.inner_size", format!("{value_heads} value heads have {head_dim} elements each"));
        }
        if u64::from(value_heads) * u64::from(head_dim) > u64::from(MAX_SIZE / 64) {
            self.bad("ssm.time_step_rank", format!("{value_heads} heads of size {head_dim} are not supported"));
        }
        let key = "attention.recurrent_layers";
        let listed = match self.metadata.get(&self.full(key)) {
            None => None,
            Some(Value::Array(Array::Bool(listed))) => Some(listed.clone()),
            Some(_) => self.noted(self.metadata.i32s(&self.full(key))).map(|l| l.into_iter().map(|l| l != 0).collect()),
        };
        let layers = match listed {
            Some(mut listed) => {
                listed.truncate(layers as usize);
                LayerPattern::Listed(listed)
            }
            None => match self.u32("full_attention_interval").unwrap_or(4) {
                0 => LayerPattern::All,
                period => LayerPattern::AllButLast { period },
            },
        };
        DeltaNet { layers, key_heads, value_heads, neighbours, head_dim }
    }

    pub(super) fn head_dim(&self, hidden: u32, heads: u32) -> u32 {
        let key = "attention.key_length";
        let head_dim = match self.optional_size(key) {
            Some(length) => length,
            None if hidden.is_multiple_of(heads) => hidden / heads,
            None => {
                self.bad("attention.head_count", format!("embedding length {hidden} is not a multiple of it"));
                return 4;
            }
        };
        for other in ["attention.value_length", "attention.key_length_swa", "attention.value_length_swa"] {
            if self.optional_size(other).is_some_and(|length| length != head_dim) {
                self.unsupported(other, "keys and values of different sizes");
            }
        }
        if !head_dim.is_multiple_of(4) || head_dim > MAX_HEAD_DIM {
            self.bad(key, format!("head sizes must be multiples of 4 and at most {MAX_HEAD_DIM}"));
            return 4;
        }
        if u64::from(heads) * u64::from(head_dim) > u64::from(MAX_SIZE) {
            self.bad("attention.head_count", format!("{heads} heads of size {head_dim} are not supported"));
        }
        head_dim
    }

    /// Returns a dense feed-forward block.
    pub(super) fn dense(&self) -> FeedForward {
        self.refuse("expert_count", &[0.0], "experts, which this architecture does not have");
        FeedForward::Dense { inner: self.size("feed_forward_length") }
    }

    /// Returns a feed-forward block of experts if the file has experts, else a dense one.
    pub(super) fn dense_or_experts(&self, normalise: bool) -> FeedForward {
        match self.u32("expert_count").unwrap_or(0) {
            0 => self.dense(),
            _ => self.experts("feed_forward_length", normalise),
        }
    }

    /// Returns a feed-forward block of experts, whose inner size is the value of `inner`.
    pub(super) fn experts(&self, inner: &str, normalise: bool) -> FeedForward {
        let (count, used) = (self.size("expert_count"), self.size("expert_used_count"));
        if count > MAX_EXPERTS {
            self.bad("expert_count", format!("the maximum is {MAX_EXPERTS}"));
        }
        if used > MAX_K.min(count) {
            let most = MAX_K.min(count);
            self.bad("expert_used_count", format!("at most {most} of {count} experts can be used"));
        }
        self.refuse("expert_group_count", &[0.0, 1.0], "groups of experts");
        FeedForward::Experts { count, used, inner: self.size(inner), normalise, shared: None }
    }

    /// Returns RoPE of the pairs `(i, i + head_dim/2)`, with the file's frequencies.
    pub(super) fn rope(&self, head_dim: u32, context_length: u32) -> Rope {
        let dims = self.optional_size("rope.dimension_count").unwrap_or(head_dim);
        if dims > head_dim || !dims.is_multiple_of(2) {
            self.bad("rope.dimension_count", format!("it must be even and at most the head size, {head_dim}"));
        }
        if self.optional_size("rope.dimension_count_swa").is_some_and(|count| count != dims) {
            self.unsupported("rope.dimension_count_swa", "windows with RoPE of other dimensions");
        }
        let dims = dims.min(head_dim) / 2 * 2;
        let theta = self.positive("rope.freq_base").unwrap_or(10_000.0);
        // The second key is that of old files.
        let factor = ["rope.scaling.factor", "rope.scale_linear"]
            .into_iter()
            .find_map(|key| self.f64(key).filter(|factor| *factor != 0.0).map(|_| self.positive(key).unwrap_or(1.0)));
        let factor = factor.unwrap_or(1.0);
        let mut rope = Rope { dims, theta, factor, interleaved: false, magnitude: 1.0, yarn: None };
        match self.noted(self.metadata.str(&self.full("rope.scaling.type"))) {
            None | Some("linear") => {}
            Some("none") => rope.factor = 1.0,
            Some("yarn") => {
                let number = |key: &str, default| self.f64(&format!("rope.scaling.yarn_{key}")).unwrap_or(default);
                let extrapolation = number("ext_factor", 1.0);
                rope.yarn = Some(Yarn {
                    original_context: self
                        .optional_size("rope.scaling.original_context_length")
                        .unwrap_or(context_length),
                    // Negative: not given.
                    extrapolation: if extrapolation < 0.0 { 1.0 } else { extrapolation },
                    beta_fast: number("beta_fast", 32.0),
                    beta_slow: number("beta_slow", 1.0),
                });
                let magnitude = |multiplier: f64| if factor > 1.0 { 0.1 * multiplier * factor.ln() + 1.0 } else { 1.0 };
                rope.magnitude = number("attn_factor", 1.0) * magnitude(1.0);
                let multiplier = number("log_multiplier", 0.0);
                if multiplier != 0.0 {
                    rope.magnitude /= magnitude(multiplier);
                }
            }
            Some(_) => self.unsupported("rope.scaling.type", "another scaling of RoPE than none, linear and yarn"),
        }
        rope.magnitude *= self.positive("rope.scaling.attn_factor").unwrap_or(1.0);
        if !(rope.magnitude > 0.0 && rope.magnitude.is_finite()) {
            self.bad("rope.scaling.yarn_attn_factor", "it must be positive");
        }
        rope
    }

    /// Notes what keys that every architecture reads ask for and is not supported.
    pub(super) fn refuse_common(&self) {
        self.refuse("attention.causal", &[1.0], "attention to later tokens");
    }
}
