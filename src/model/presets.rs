//! Well-known models by name: the headers of their GGUF files, without weights.

use crate::{
    gguf::{Gguf, GgufError},
    quant::WeightType,
};

/// The types of a file's tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileType {
    /// llama.cpp's mix of Q4_K and Q6_K.
    Q4KM,
    /// Q8_0.
    Q8_0,
    /// F16.
    F16,
}

/// A well-known model: the shapes of its tensors.
#[derive(Clone, Copy, Debug)]
pub struct Preset {
    /// Its name.
    pub name: &'static str,
    arch: &'static str,
    layers: u32,
    hidden: u32,
    heads: u32,
    kv_heads: u32,
    head_dim: u32,
    ffn: u32,
    /// Experts, and those of a token.
    experts: Option<(u32, u32)>,
    /// Gated delta nets in three layers of four, gated attention in the fourth; a shared expert beside experts.
    delta: Option<Delta>,
    vocab: u32,
    tied: bool,
    rope_freqs: bool,
}

/// The gated delta nets of a hybrid.
#[derive(Clone, Copy, Debug)]
struct Delta {
    key_heads: u32,
    value_heads: u32,
    head_dim: u32,
    /// The values of an attention head that RoPE rotates.
    rope: u32,
}

const DENSE: Preset = Preset {
    name: "",
    arch: "llama",
    layers: 0,
    hidden: 0,
    heads: 32,
    kv_heads: 8,
    head_dim: 128,
    ffn: 8192,
    experts: None,
    delta: None,
    vocab: 0,
    tied: true,
    rope_freqs: false,
};
const QWEN3: Preset = Preset { arch: "qwen3", vocab: 151_936, ..DENSE };
const LLAMA3: Preset = Preset { vocab: 128_256, rope_freqs: true, ..DENSE };
const QWEN35: Preset = Preset {
    arch: "qwen35",
    heads: 16,
    head_dim: 256,
    vocab: 248_320,
    tied: false,
    delta: Some(Delta { key_heads: 16, value_heads: 32, head_dim: 128, rope: 64 }),
    ..DENSE
};
const SMOLLM2: Preset = Preset { vocab: 49_152, head_dim: 64, ..DENSE };

/// Models of which every planned variant is covered by the conformance suite.
pub const PRESETS: [Preset; 11] = [
    Preset {
        name: "Qwen3-30B-A3B",
        arch: "qwen3moe",
        layers: 48,
        hidden: 2048,
        kv_heads: 4,
        ffn: 768,
        experts: Some((128, 8)),
        tied: false,
        ..QWEN3
    },
    Preset {
        name: "Qwen3.6-35B-A3B",
        arch: "qwen35moe",
        layers: 40,
        hidden: 2048,
        kv_heads: 2,
        ffn: 512,
        experts: Some((256, 8)),
        ..QWEN35
    },
    Preset { name: "Qwen3.5-9B", layers: 32, hidden: 4096, kv_heads: 4, ffn: 12_288, ..QWEN35 },
    Preset { name: "Qwen3-0.6B", layers: 28, hidden: 1024, heads: 16, ffn: 3072, ..QWEN3 },
    Preset { name: "Qwen3-8B", layers: 36, hidden: 4096, ffn: 12_288, tied: false, ..QWEN3 },
    Preset { name: "Qwen3-32B", layers: 64, hidden: 5120, heads: 64, ffn: 25_600, tied: false, ..QWEN3 },
    Preset { name: "Llama-3.2-1B", layers: 16, hidden: 2048, head_dim: 64, ..LLAMA3 },
    Preset { name: "Llama-3.2-3B", layers: 28, hidden: 3072, heads: 24, ..LLAMA3 },
    Preset { name: "Llama-3.1-8B", layers: 32, hidden: 4096, ffn: 14_336, tied: false, ..LLAMA3 },
    Preset { name: "SmolLM2-135M", layers: 30, hidden: 576, heads: 9, kv_heads: 3, ffn: 1536, ..SMOLLM2 },
    Preset { name: "SmolLM2-1.7B", layers: 24, hidden: 2048, kv_heads: 32, ..SMOLLM2 },
];

impl Preset {
    /// Returns the model called `name`, in any case.
    pub fn named(name: &str) -> Option<Self> {
        PRESETS.into_iter().find(|preset| preset.name.eq_ignore_ascii_case(name))
    }

    /// Returns a file with the model's metadata and tensors, without their data.
    ///
    /// # Errors
    /// None that can happen: the reader accepts the header.
    pub fn gguf(&self, types: FileType) -> Result<Gguf, GgufError> {
        self.with_layers(types, self.layers)
    }

    /// Returns the file of a model with at most `most` layers: eight have all types of layers.
    ///
    /// # Errors
    /// Those of [`Preset::gguf`].
    pub fn with_layers(&self, types: FileType, most: u32) -> Result<Gguf, GgufError> {
        let layers = self.layers.min(most);
        let mut tensors = Tensors { types, all: Vec::new() };
        let hidden = self.hidden;
        let (q, kv) = (self.heads * self.head_dim, self.kv_heads * self.head_dim);
        // A tied embedding is the head, which has more bits.
        tensors.matrix("token_embd.weight", self.tied, &[hidden, self.vocab]);
        for layer in 0..layers {
            let name = |name: &str| format!("blk.{layer}.{name}.weight");
            // llama.cpp gives these more bits in the first and last eighth of the layers, and in every third between.
            let more_bits = layer < layers / 8 || layer >= 7 * layers / 8 || (layer - layers / 8) % 3 == 2;
            tensors.vector(name("attn_norm"), hidden);
            tensors.vector(name(if self.delta.is_some() { "post_attention_norm" } else { "ffn_norm" }), hidden);
            if let Some(delta) = self.delta.filter(|_| layer % 4 != 3) {
                let values = delta.value_heads * delta.head_dim;
                let channels = 2 * delta.key_heads * delta.head_dim + values;
                tensors.matrix(name("attn_qkv"), false, &[hidden, channels]);
                tensors.matrix(name("attn_gate"), false, &[hidden, values]);
                tensors.matrix(name("ssm_alpha"), false, &[hidden, delta.value_heads]);
                tensors.matrix(name("ssm_beta"), false, &[hidden, delta.value_heads]);
                tensors.matrix(name("ssm_out"), false, &[values, hidden]);
                tensors.add(name("ssm_conv1d"), WeightType::F32, &[4, channels]);
                tensors.vector(format!("blk.{layer}.ssm_dt.bias"), delta.value_heads);
                tensors.vector(format!("blk.{layer}.ssm_a"), delta.value_heads);
                tensors.vector(name("ssm_norm"), delta.head_dim);
            } else {
                if self.arch != "llama" {
                    tensors.vector(name("attn_q_norm"), self.head_dim);
                    tensors.vector(name("attn_k_norm"), self.head_dim);
                }
                // A hybrid's queries have a gate each.
                tensors.matrix(name("attn_q"), false, &[hidden, if self.delta.is_some() { 2 * q } else { q }]);
                tensors.matrix(name("attn_k"), false, &[hidden, kv]);
                tensors.matrix(name("attn_v"), more_bits, &[hidden, kv]);
                tensors.matrix(name("attn_output"), false, &[q, hidden]);
            }
            match self.experts {
                None => {
                    tensors.matrix(name("ffn_gate"), false, &[hidden, self.ffn]);
                    tensors.matrix(name("ffn_up"), false, &[hidden, self.ffn]);
                    tensors.matrix(name("ffn_down"), more_bits, &[self.ffn, hidden]);
                }
                Some((experts, _)) => {
                    tensors.add(name("ffn_gate_inp"), WeightType::F32, &[hidden, experts]);
                    tensors.matrix(name("ffn_gate_exps"), false, &[hidden, self.ffn, experts]);
                    tensors.matrix(name("ffn_up_exps"), false, &[hidden, self.ffn, experts]);
                    tensors.matrix(name("ffn_down_exps"), more_bits, &[self.ffn, hidden, experts]);
                    if self.delta.is_some() {
                        tensors.vector(name("ffn_gate_inp_shexp"), hidden);
                        tensors.matrix(name("ffn_gate_shexp"), false, &[hidden, self.ffn]);
                        tensors.matrix(name("ffn_up_shexp"), false, &[hidden, self.ffn]);
                        tensors.matrix(name("ffn_down_shexp"), more_bits, &[self.ffn, hidden]);
                    }
                }
            }
        }
        tensors.vector("output_norm.weight".to_owned(), hidden);
        if self.rope_freqs {
            tensors.vector("rope_freqs.weight".to_owned(), self.head_dim / 2);
        }
        if !self.tied {
            tensors.matrix("output.weight", true, &[hidden, self.vocab]);
        }
        self.header(layers, &tensors.all)
    }

    fn header(&self, layers: u32, tensors: &[Tensor]) -> Result<Gguf, GgufError> {
        let mut out = Header(Vec::new());
        let mut metadata = vec![
            ("context_length", 4096),
            ("embedding_length", self.hidden),
            ("block_count", layers),
            ("feed_forward_length", self.ffn),
            ("attention.head_count", self.heads),
            ("attention.head_count_kv", self.kv_heads),
            ("attention.key_length", self.head_dim),
            ("attention.value_length", self.head_dim),
        ];
        if let Some((experts, used)) = self.experts {
            metadata.extend([
                ("expert_feed_forward_length", self.ffn),
                ("expert_count", experts),
                ("expert_used_count", used),
            ]);
        }
        if let Some(Delta { key_heads, value_heads, head_dim, rope }) = self.delta {
            metadata.extend([
                ("rope.dimension_count", rope),
                ("full_attention_interval", 4),
                ("ssm.group_count", key_heads),
                ("ssm.time_step_rank", value_heads),
                ("ssm.state_size", head_dim),
                ("ssm.inner_size", value_heads * head_dim),
                ("ssm.conv_kernel", 4),
            ]);
            if self.experts.is_some() {
                metadata.push(("expert_shared_feed_forward_length", self.ffn));
            }
        }
        out.0.extend(b"GGUF");
        out.u32(3);
        out.u64(tensors.len() as u64);
        out.u64(metadata.len() as u64 + 2);
        out.string("general.architecture");
        out.u32(8);
        out.string(self.arch);
        out.string(&format!("{}.attention.layer_norm_rms_epsilon", self.arch));
        out.u32(6);
        out.0.extend(1e-6_f32.to_le_bytes());
        for (key, value) in metadata {
            out.string(&format!("{}.{key}", self.arch));
            out.u32(4);
            out.u32(value);
        }
        let mut offset = 0_u64;
        for Tensor { name, ty, shape } in tensors {
            out.string(name);
            out.u32(shape.len() as u32);
            shape.iter().for_each(|n| out.u64(*n));
            out.u32(ty.ggml_id());
            out.u64(offset);
            let blocks = shape.iter().product::<u64>() / ty.block_len() as u64;
            offset = (offset + blocks * ty.block_bytes() as u64).next_multiple_of(32);
        }
        let header = (out.0.len() as u64).next_multiple_of(32);
        Gguf::from_header(out.0, header + offset)
    }
}

struct Tensor {
    name: String,
    ty: WeightType,
    shape: Vec<u64>,
}

struct Tensors {
    types: FileType,
    all: Vec<Tensor>,
}

impl Tensors {
    fn add(&mut self, name: String, ty: WeightType, shape: &[u32]) {
        self.all.push(Tensor { name, ty, shape: shape.iter().map(|n| u64::from(*n)).collect() });
    }

    fn vector(&mut self, name: String, len: u32) {
        self.add(name, WeightType::F32, &[len]);
    }

    /// Adds a matrix with the type that llama.cpp quantises it to.
    fn matrix(&mut self, name: impl Into<String>, more_bits: bool, shape: &[u32]) {
        let ty = match (self.types, shape[0].is_multiple_of(256), more_bits) {
            (FileType::F16, ..) => WeightType::F16,
            (FileType::Q8_0, ..) | (FileType::Q4KM, false, true) => WeightType::Q8_0,
            (FileType::Q4KM, true, false) => WeightType::Q4K,
            (FileType::Q4KM, true, true) => WeightType::Q6K,
            (FileType::Q4KM, false, false) => WeightType::Q5_0,
        };
        self.add(name.into(), ty, shape);
    }
}

/// The bytes of a header.
struct Header(Vec<u8>);

impl Header {
    fn u32(&mut self, value: u32) {
        self.0.extend(value.to_le_bytes());
    }

    fn u64(&mut self, value: u64) {
        self.0.extend(value.to_le_bytes());
    }

    fn string(&mut self, text: &str) {
        self.u64(text.len() as u64);
        self.0.extend(text.as_bytes());
    }
}
