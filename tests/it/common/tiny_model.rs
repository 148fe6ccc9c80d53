//! Models of random weights, small enough for every test to build its own.
//!
//! The bytes of a file depend on its [`TinyModel`] only, on every platform: the goldens in `tests/golden/tiny.json` are
//! for exactly these bytes. `tools/make_model.py` writes the same metadata and tensors, without biases.

use ferrum_wgpu::low_level::quant::{Rng, WeightType, random_blocks};
use ferrum_wgpu::{
    GgufError,
    gguf::{GgufWriter, Value},
};

/// The tokens of every vocabulary: 256 bytes, one merge and three special tokens.
const FIXED_TOKENS: u32 = 256 + 1 + SPECIAL_TOKENS.len() as u32;
const SPECIAL_TOKENS: [&str; 3] = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"];
const CHAT_TEMPLATE: &str = "{%- for m in messages %}{{- '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}\
    {%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}";
/// `LLAMA_FTYPE_MOSTLY_Q4_K_M`, for all weight types: the field is informative.
const FILE_TYPE: u32 = 15;
/// ggml's token types.
const NORMAL: i32 = 1;
const CONTROL: i32 = 3;
const UNUSED: i32 = 5;

/// A decoder architecture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arch {
    Qwen3Moe,
    Qwen3,
    Llama,
    /// Llama with experts, as Mixtral.
    LlamaMoe,
    Qwen2,
    Qwen2Moe,
    Qwen3VlMoe,
    Mistral3,
    SmolLm3,
    OlMoe,
    Granite,
    GraniteMoe,
    Gemma3,
    GptOss,
    Qwen3Next,
    Qwen35Moe,
    Qwen35,
}

impl Arch {
    fn name(self) -> &'static str {
        match self {
            Self::Qwen3Moe => "qwen3moe",
            Self::Qwen3 => "qwen3",
            Self::Llama | Self::LlamaMoe => "llama",
            Self::Qwen2 => "qwen2",
            Self::Qwen2Moe => "qwen2moe",
            Self::Qwen3VlMoe => "qwen3vlmoe",
            Self::Mistral3 => "mistral3",
            Self::SmolLm3 => "smollm3",
            Self::OlMoe => "olmoe",
            Self::Granite => "granite",
            Self::GraniteMoe => "granitemoe",
            Self::Gemma3 => "gemma3",
            Self::GptOss => "gpt-oss",
            Self::Qwen3Next => "qwen3next",
            Self::Qwen35Moe => "qwen35moe",
            Self::Qwen35 => "qwen35",
        }
    }

    fn is_moe(self) -> bool {
        use Arch::{GptOss, GraniteMoe, LlamaMoe, OlMoe, Qwen2Moe, Qwen3Moe, Qwen3Next, Qwen3VlMoe, Qwen35Moe};
        matches!(
            self,
            Qwen3Next | Qwen35Moe | Qwen3Moe | Qwen3VlMoe | Qwen2Moe | LlamaMoe | OlMoe | GraniteMoe | GptOss
        )
    }

    /// Returns whether queries and keys have norms of each head.
    fn has_head_norms(self) -> bool {
        matches!(self, Self::Qwen3Moe | Self::Qwen3VlMoe | Self::Qwen3 | Self::Gemma3) || self.is_hybrid()
    }

    /// Returns whether three layers of four have gated delta nets, and attention has an output gate.
    fn is_hybrid(self) -> bool {
        matches!(self, Self::Qwen3Next | Self::Qwen35Moe | Self::Qwen35)
    }
}

/// The shape, weight types and seed of a model.
#[derive(Debug, Clone)]
pub struct TinyModel {
    pub arch: Arch,
    pub layers: u32,
    pub hidden: u32,
    pub heads: u32,
    pub kv_heads: u32,
    pub head_dim: u32,
    /// The number of experts, of experts per token, and their intermediate size. Used by [`Arch::Qwen3Moe`] only.
    pub experts: u32,
    pub top_k: u32,
    pub expert_ffn: u32,
    /// The intermediate size of dense models.
    pub ffn: u32,
    pub vocab: u32,
    /// The type of most weights.
    pub main: WeightType,
    /// The type of the output head, and in some layers of `attn_v` and `ffn_down`.
    pub big: WeightType,
    /// Whether the embedding is also the output head (tied embeddings).
    pub tied: bool,
    /// Whether a `rope_freqs` tensor divides the RoPE frequencies.
    pub rope_freqs: bool,
    /// The factor of linear RoPE scaling.
    pub rope_factor: Option<f32>,
    /// Whether the attention projections have biases.
    pub biases: bool,
    /// The intermediate size of the expert that every token uses; 0 for none.
    pub shared_ffn: u32,
    /// Whether projections with one input are one tensor.
    pub fused: bool,
    /// Formats that the linear layers have in turn instead of `main` and `big`, experts' matrices and others each.
    pub mix: &'static [WeightType],
    /// Key heads, value heads and head size of gated delta nets.
    pub delta: [u32; 3],
    /// Further metadata, without the architecture's name.
    pub metadata: Vec<(&'static str, Value)>,
    pub context: u32,
    pub seed: u64,
}

impl Default for TinyModel {
    /// A mixture of experts in the types of a Q4_K_M file.
    fn default() -> Self {
        Self {
            arch: Arch::Qwen3Moe,
            layers: 2,
            hidden: 256,
            heads: 4,
            kv_heads: 2,
            head_dim: 64,
            experts: 4,
            top_k: 2,
            expert_ffn: 256,
            ffn: 512,
            vocab: 512,
            main: WeightType::Q4K,
            big: WeightType::Q6K,
            tied: false,
            rope_freqs: false,
            rope_factor: None,
            biases: false,
            shared_ffn: 0,
            fused: false,
            mix: &[],
            delta: [2, 4, 32],
            metadata: Vec::new(),
            context: 4096,
            seed: 0,
        }
    }
}

impl TinyModel {
    /// Serialises the model as a GGUF file.
    ///
    /// # Errors
    /// Returns the error of [`GgufWriter::to_bytes`], for example for rows that are not a whole number of blocks.
    pub fn to_bytes(&self) -> Result<Vec<u8>, GgufError> {
        let mut file = GgufWriter::new();
        self.write_metadata(&mut file);
        self.write_tokenizer(&mut file);
        Tensors { file: &mut file, rng: Rng::new(self.seed), mix: self.mix, mixed: [0; 2] }.write(self);
        file.to_bytes()
    }

    fn is_moe(&self) -> bool {
        self.arch.is_moe()
    }

    fn write_metadata(&self, file: &mut GgufWriter) {
        let key = |key: &str| format!("{}.{key}", self.arch.name());
        let ffn = match self.arch {
            Arch::LlamaMoe | Arch::OlMoe | Arch::GraniteMoe => self.expert_ffn,
            _ if self.is_moe() => self.expert_ffn * self.top_k,
            _ => self.ffn,
        };
        file.metadata("general.architecture", self.arch.name())
            .metadata("general.name", "random tiny")
            .metadata(key("context_length"), self.context)
            .metadata(key("embedding_length"), self.hidden)
            .metadata(key("block_count"), self.layers)
            .metadata(key("feed_forward_length"), ffn)
            .metadata(key("attention.head_count"), self.heads)
            .metadata(key("attention.head_count_kv"), self.kv_heads)
            .metadata(key("attention.key_length"), self.head_dim)
            .metadata(key("attention.value_length"), self.head_dim)
            .metadata(key("rope.freq_base"), 1e6_f32);
        if self.arch == Arch::Llama {
            file.metadata(key("rope.dimension_count"), self.head_dim).metadata(key("vocab_size"), self.vocab);
        }
        if let Some(factor) = self.rope_factor {
            file.metadata(key("rope.scaling.type"), "linear").metadata(key("rope.scaling.factor"), factor);
        }
        file.metadata(key("attention.layer_norm_rms_epsilon"), 1e-6_f32);
        if self.is_moe() {
            file.metadata(key("expert_feed_forward_length"), self.expert_ffn)
                .metadata(key("expert_count"), self.experts)
                .metadata(key("expert_used_count"), self.top_k);
        }
        if self.shared_ffn > 0 {
            file.metadata(key("expert_shared_feed_forward_length"), self.shared_ffn);
        }
        if self.arch.is_hybrid() {
            let [keys, values, dim] = self.delta;
            file.metadata(key("ssm.group_count"), keys)
                .metadata(key("ssm.time_step_rank"), values)
                .metadata(key("ssm.state_size"), dim)
                .metadata(key("ssm.inner_size"), values * dim)
                .metadata(key("ssm.conv_kernel"), 4_u32);
        }
        for (name, value) in &self.metadata {
            file.metadata(key(name), value.clone());
        }
        file.metadata("general.file_type", FILE_TYPE);
    }

    /// Writes a byte-level vocabulary: the bytes, one merge, fillers and ChatML's special tokens.
    fn write_tokenizer(&self, file: &mut GgufWriter) {
        let fillers = self.vocab.saturating_sub(FIXED_TOKENS);
        let mut tokens = byte_tokens();
        tokens.push("ab".to_owned());
        tokens.extend((0..fillers).map(|i| format!("<filler{i}>")));
        tokens.extend(SPECIAL_TOKENS.map(str::to_owned));
        let mut kinds = vec![NORMAL; 257];
        kinds.extend((0..fillers).map(|_| UNUSED));
        kinds.extend([CONTROL; SPECIAL_TOKENS.len()]);
        file.metadata("tokenizer.ggml.model", "gpt2")
            .metadata("tokenizer.ggml.pre", "qwen2")
            .metadata("tokenizer.ggml.tokens", tokens)
            .metadata("tokenizer.ggml.token_type", kinds)
            .metadata("tokenizer.ggml.merges", vec!["a b"])
            .metadata("tokenizer.ggml.eos_token_id", self.vocab - 1)
            .metadata("tokenizer.ggml.add_bos_token", false)
            .metadata("tokenizer.chat_template", CHAT_TEMPLATE);
    }

    /// Returns whether llama.cpp gives this layer the wider type in a Q4_K_M file.
    fn is_big(&self, layer: u32) -> bool {
        layer < self.layers / 8 || layer >= 7 * self.layers / 8 || (layer - self.layers / 8) % 3 == 2
    }
}

/// Returns GPT-2's characters for the 256 bytes: printable bytes map to themselves, the others to characters from
/// U+0100.
fn byte_tokens() -> Vec<String> {
    let mut others = 0x100..;
    (0..=255_u8)
        .map(|byte| match byte {
            b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF => char::from(byte).to_string(),
            _ => others.next().and_then(char::from_u32).map(String::from).unwrap_or_default(),
        })
        .collect()
}

/// Writes the tensors of a model. The order of the file is the order of the random numbers.
struct Tensors<'a> {
    file: &'a mut GgufWriter,
    rng: Rng,
    mix: &'static [WeightType],
    /// Matrices and experts' matrices so far.
    mixed: [usize; 2],
}

impl Tensors<'_> {
    fn write(&mut self, model: &TinyModel) {
        let TinyModel { hidden, head_dim, main, .. } = *model;
        let (q, kv) = (model.heads * head_dim, model.kv_heads * head_dim);
        // As a tied head, a larger embedding would give the last token itself by far the largest logit.
        let embedding_std = if model.tied { 0.25 } else { 1.0 };
        self.weights("token_embd.weight", main, &[hidden, model.vocab], embedding_std);
        for layer in 0..model.layers {
            let name = |name: &str| format!("blk.{layer}.{name}");
            let big = if model.is_big(layer) { model.big } else { main };
            self.norm(name("attn_norm.weight"), hidden);
            let post = model.arch == Arch::GptOss || model.arch.is_hybrid();
            let ffn_norm = if post { "post_attention_norm" } else { "ffn_norm" };
            self.norm(name(&format!("{ffn_norm}.weight")), hidden);
            let delta = model.arch.is_hybrid() && layer % 4 != 3;
            if delta {
                self.delta_net(model, &name);
            } else if model.arch.has_head_norms() {
                self.norm(name("attn_q_norm.weight"), head_dim);
                self.norm(name("attn_k_norm.weight"), head_dim);
            }
            if model.arch == Arch::OlMoe {
                self.norm(name("attn_q_norm.weight"), q);
                self.norm(name("attn_k_norm.weight"), kv);
            }
            if model.arch == Arch::Gemma3 {
                self.norm(name("post_attention_norm.weight"), hidden);
                self.norm(name("post_ffw_norm.weight"), hidden);
            }
            if model.arch == Arch::GptOss {
                self.weights(name("attn_sinks.weight"), WeightType::F32, &[model.heads], 1.0);
            }
            if model.fused && !delta && !model.arch.is_hybrid() {
                self.linear(name("attn_qkv.weight"), main, &[hidden, q + 2 * kv]);
            }
            for (part, ty, columns, rows) in
                [("q", main, hidden, q), ("k", main, hidden, kv), ("v", big, hidden, kv), ("output", main, q, hidden)]
            {
                let one_tensor = model.fused && !model.arch.is_hybrid() && part != "output";
                if delta || one_tensor {
                    continue;
                }
                // Each query head is followed by its gate.
                let rows = if part == "q" && model.arch.is_hybrid() { 2 * rows } else { rows };
                self.linear(name(&format!("attn_{part}.weight")), ty, &[columns, rows]);
                if model.biases {
                    self.weights(name(&format!("attn_{part}.bias")), WeightType::F32, &[rows], 0.25);
                }
            }
            if model.is_moe() {
                let (experts, ffn) = (model.experts, model.expert_ffn);
                let router_std = 2.0 * unit_std(hidden);
                self.weights(name("ffn_gate_inp.weight"), WeightType::F32, &[hidden, experts], router_std);
                if model.fused {
                    self.linear(name("ffn_gate_up_exps.weight"), main, &[hidden, 2 * ffn, experts]);
                } else {
                    self.linear(name("ffn_gate_exps.weight"), main, &[hidden, ffn, experts]);
                    self.linear(name("ffn_up_exps.weight"), main, &[hidden, ffn, experts]);
                }
                self.linear(name("ffn_down_exps.weight"), big, &[ffn, hidden, experts]);
                if model.arch == Arch::GptOss {
                    self.weights(name("ffn_gate_inp.bias"), WeightType::F32, &[experts], 0.25);
                    self.weights(name("ffn_gate_exps.bias"), WeightType::F32, &[ffn, experts], 0.25);
                    self.weights(name("ffn_up_exps.bias"), WeightType::F32, &[ffn, experts], 0.25);
                    self.weights(name("ffn_down_exps.bias"), WeightType::F32, &[hidden, experts], 0.25);
                }
                if model.shared_ffn > 0 {
                    if model.arch == Arch::Qwen2Moe || model.arch.is_hybrid() {
                        let gate = name("ffn_gate_inp_shexp.weight");
                        self.weights(gate, WeightType::F32, &[hidden], unit_std(hidden));
                    }
                    self.linear(name("ffn_gate_shexp.weight"), main, &[hidden, model.shared_ffn]);
                    self.linear(name("ffn_up_shexp.weight"), main, &[hidden, model.shared_ffn]);
                    self.linear(name("ffn_down_shexp.weight"), big, &[model.shared_ffn, hidden]);
                }
            } else {
                self.linear(name("ffn_gate.weight"), main, &[hidden, model.ffn]);
                self.linear(name("ffn_up.weight"), main, &[hidden, model.ffn]);
                self.linear(name("ffn_down.weight"), big, &[model.ffn, hidden]);
            }
        }
        self.norm("output_norm.weight", hidden);
        if model.rope_freqs {
            self.norm("rope_freqs.weight", head_dim / 2);
        }
        if !model.tied {
            self.linear("output.weight", model.big, &[hidden, model.vocab]);
        }
    }

    /// Writes a gated delta net. Qwen3-Next's has projections grouped by key heads.
    fn delta_net(&mut self, model: &TinyModel, name: &impl Fn(&str) -> String) {
        let TinyModel { hidden, main, .. } = *model;
        let [keys, values, dim] = model.delta;
        let (inner, channels) = (values * dim, (2 * keys + values) * dim);
        if model.arch == Arch::Qwen3Next {
            self.linear(name("ssm_in.weight"), main, &[hidden, channels + inner]);
            self.linear(name("ssm_ba.weight"), main, &[hidden, 2 * values]);
        } else {
            self.linear(name("attn_qkv.weight"), main, &[hidden, channels]);
            self.linear(name("attn_gate.weight"), main, &[hidden, inner]);
            self.linear(name("ssm_alpha.weight"), WeightType::F32, &[hidden, values]);
            self.linear(name("ssm_beta.weight"), WeightType::F32, &[hidden, values]);
        }
        self.weights(name("ssm_conv1d.weight"), WeightType::F32, &[4, channels], 0.5);
        self.weights(name("ssm_dt.bias"), WeightType::F32, &[values], 1.0);
        // Negative: from a state that is kept to one that is forgotten.
        let a = (0..values).flat_map(|_| (-0.05 - 2.0 * self.rng.next_f32()).to_le_bytes()).collect();
        self.file.tensor(name("ssm_a"), WeightType::F32, &[values.into()], a);
        self.norm(name("ssm_norm.weight"), dim);
        self.linear(name("ssm_out.weight"), main, &[inner, hidden]);
    }

    /// Writes a matrix, or one per expert, scaled to keep the variance of its inputs.
    fn linear(&mut self, name: impl Into<String>, mut ty: WeightType, shape: &[u32]) {
        if !self.mix.is_empty() {
            let count = &mut self.mixed[usize::from(shape.len() == 3)];
            ty = self.mix[*count % self.mix.len()];
            *count += 1;
        }
        self.weights(name, ty, shape, unit_std(shape[0]));
    }

    fn weights(&mut self, name: impl Into<String>, ty: WeightType, shape: &[u32], std: f32) {
        let shape: Vec<u64> = shape.iter().map(|&n| n.into()).collect();
        let blocks = shape.iter().product::<u64>() as usize / ty.block_len();
        let name: String = name.into();
        self.file.tensor(name.clone(), ty, &shape, random_blocks(ty, blocks, std, self.rng.next_u64()));
        if let Some(base) = name.strip_suffix(".weight").filter(|_| ty == WeightType::NVFP4) {
            let experts = shape.get(2).copied().unwrap_or(1);
            self.norm(format!("{base}.scale"), experts as u32);
            self.norm(format!("{base}.input_scale"), experts as u32);
        }
    }

    /// Writes norm weights, uniform in 0.8..1.2.
    fn norm(&mut self, name: impl Into<String>, len: u32) {
        let data = (0..len).flat_map(|_| (0.8 + 0.4 * self.rng.next_f32()).to_le_bytes()).collect();
        self.file.tensor(name, WeightType::F32, &[len.into()], data);
    }
}

/// Returns the standard deviation of weights for which a dot product of `fan_in` terms keeps the variance of its
/// inputs.
fn unit_std(fan_in: u32) -> f32 {
    1.0 / (fan_in as f32).sqrt()
}

/// Returns named small models that together cover all architectures, weight types and edge cases. The comments say
/// which.
pub fn tiny_models() -> Vec<(&'static str, TinyModel)> {
    use Arch::{Llama, Qwen3, Qwen3Moe};
    use WeightType as W;
    let moe = || TinyModel { arch: Qwen3Moe, ..TinyModel::default() };
    let qwen3 = || TinyModel { arch: Qwen3, ..TinyModel::default() };
    let llama = || TinyModel { arch: Llama, ..TinyModel::default() };
    vec![
        // The weight types of a Q4_K_M file.
        ("moe-q4_k-q6_k", moe()),
        // All experts are used: routing is trivial.
        (
            "moe-q5_k-q8_0",
            TinyModel { main: W::Q5K, big: W::Q8_0, layers: 1, experts: 3, top_k: 3, vocab: 517, ..moe() },
        ),
        // Top-1 routing; rows of 288 and 64 weights.
        (
            "moe-q8_0-top1",
            TinyModel {
                main: W::Q8_0,
                big: W::Q8_0,
                hidden: 288,
                heads: 9,
                kv_heads: 3,
                head_dim: 64,
                experts: 5,
                top_k: 1,
                expert_ffn: 64,
                ..moe()
            },
        ),
        // 128 experts, top 8, as in Qwen3-30B-A3B; one KV head for six query heads.
        (
            "moe-q4_0-q5_0-128-experts",
            TinyModel {
                main: W::Q4_0,
                big: W::Q5_0,
                layers: 1,
                hidden: 96,
                heads: 6,
                kv_heads: 1,
                head_dim: 64,
                experts: 128,
                top_k: 8,
                expert_ffn: 32,
                vocab: 301,
                ..moe()
            },
        ),
        // Three layers, one of them with the wider type.
        (
            "moe-q5_1-q4_1",
            TinyModel {
                main: W::Q5_1,
                big: W::Q4_1,
                layers: 3,
                hidden: 160,
                heads: 4,
                kv_heads: 1,
                head_dim: 64,
                experts: 5,
                top_k: 2,
                expert_ffn: 96,
                vocab: 389,
                ..moe()
            },
        ),
        // Rows that are not multiples of 32 weights: 100 and 36.
        (
            "moe-f32",
            TinyModel {
                main: W::F32,
                big: W::F32,
                layers: 3,
                hidden: 100,
                heads: 3,
                kv_heads: 1,
                head_dim: 64,
                experts: 5,
                top_k: 2,
                expert_ffn: 36,
                vocab: 277,
                ..moe()
            },
        ),
        // The same with f16 and bf16; tied embeddings.
        (
            "moe-bf16-f16-tied",
            TinyModel {
                main: W::BF16,
                big: W::F16,
                hidden: 108,
                heads: 2,
                kv_heads: 2,
                head_dim: 64,
                experts: 9,
                top_k: 3,
                expert_ffn: 44,
                vocab: 517,
                tied: true,
                ..moe()
            },
        ),
        // Experts of Q6_K; one layer; heads of 128.
        (
            "moe-q6_k-bf16",
            TinyModel {
                main: W::Q6K,
                big: W::BF16,
                layers: 1,
                heads: 2,
                kv_heads: 1,
                head_dim: 128,
                experts: 3,
                vocab: 263,
                ..moe()
            },
        ),
        // One KV head for four query heads.
        ("qwen3-q6_k-q5_k", TinyModel { main: W::Q6K, big: W::Q5K, kv_heads: 1, vocab: 517, ..qwen3() }),
        // Biases; rows of 352 and 416; heads of 128.
        (
            "qwen3-q5_0-q4_1-biases",
            TinyModel {
                main: W::Q5_0,
                big: W::Q4_1,
                hidden: 352,
                heads: 4,
                kv_heads: 1,
                head_dim: 128,
                ffn: 416,
                biases: true,
                ..qwen3()
            },
        ),
        // Three layers, tied embeddings, linear RoPE scaling.
        (
            "qwen3-q4_1-q5_0-tied-linear",
            TinyModel {
                main: W::Q4_1,
                big: W::Q5_0,
                layers: 3,
                hidden: 96,
                heads: 2,
                kv_heads: 1,
                head_dim: 64,
                ffn: 224,
                tied: true,
                rope_factor: Some(4.0),
                ..qwen3()
            },
        ),
        // Interleaved RoPE with a tensor of frequency factors; heads of 128.
        (
            "llama-q4_0-q5_1-freqs",
            TinyModel {
                main: W::Q4_0,
                big: W::Q5_1,
                hidden: 160,
                heads: 2,
                kv_heads: 1,
                head_dim: 128,
                ffn: 416,
                vocab: 389,
                rope_freqs: true,
                ..llama()
            },
        ),
        // Rows that are not multiples of 32 weights; biases and linear RoPE scaling.
        (
            "llama-f16-f32-biases-linear",
            TinyModel {
                main: W::F16,
                big: W::F32,
                hidden: 76,
                heads: 4,
                kv_heads: 2,
                head_dim: 64,
                ffn: 132,
                vocab: 277,
                rope_factor: Some(2.5),
                biases: true,
                ..llama()
            },
        ),
        // All RoPE options at once; tied embeddings.
        (
            "llama-q4_k-q8_0-tied-freqs-linear",
            TinyModel {
                big: W::Q8_0,
                heads: 4,
                kv_heads: 1,
                ffn: 256,
                vocab: 517,
                tied: true,
                rope_freqs: true,
                rope_factor: Some(8.0),
                ..llama()
            },
        ),
    ]
}

/// The formats that no model of [`tiny_models`] has.
const MIX: [WeightType; 15] = {
    use WeightType as W;
    [
        W::Q2K,
        W::Q3K,
        W::IQ4NL,
        W::IQ4XS,
        W::TQ2_0,
        W::MXFP4,
        W::IQ2XXS,
        W::IQ2XS,
        W::IQ2S,
        W::IQ3XXS,
        W::IQ3S,
        W::IQ1S,
        W::IQ1M,
        W::TQ1_0,
        W::NVFP4,
    ]
};

/// Returns a named small model of the formats that are in no model of [`tiny_models`]: each for experts and elsewhere.
pub fn format_models() -> Vec<(&'static str, TinyModel)> {
    let model = TinyModel {
        main: WeightType::Q8_0,
        layers: 5,
        heads: 2,
        kv_heads: 1,
        head_dim: 128,
        experts: 3,
        vocab: 389,
        mix: &MIX,
        ..TinyModel::default()
    };
    vec![("moe-mixed-formats", model)]
}

/// Returns a named small model of each architecture beyond those of [`tiny_models`], with every part that it has.
pub fn architecture_models() -> Vec<(&'static str, TinyModel)> {
    let small = || TinyModel {
        hidden: 128,
        main: WeightType::Q8_0,
        big: WeightType::Q8_0,
        expert_ffn: 96,
        ffn: 160,
        vocab: 300,
        ..TinyModel::default()
    };
    let of = |arch, metadata| TinyModel { arch, metadata, ..small() };
    let mut models = vec![
        ("qwen2", TinyModel { biases: true, ..of(Arch::Qwen2, vec![]) }),
        ("qwen2moe", TinyModel { biases: true, shared_ffn: 224, ..of(Arch::Qwen2Moe, vec![]) }),
        // Fused tensors.
        ("qwen3vlmoe", TinyModel { fused: true, ..of(Arch::Qwen3VlMoe, vec![]) }),
        ("llama-moe", of(Arch::LlamaMoe, vec![])),
        // YaRN, and queries that grow with their position.
        (
            "mistral3",
            of(
                Arch::Mistral3,
                vec![
                    ("rope.scaling.type", "yarn".into()),
                    ("rope.scaling.factor", 4.0_f32.into()),
                    ("rope.scaling.original_context_length", 8_u32.into()),
                    ("rope.scaling.yarn_beta_fast", 2.0_f32.into()),
                    ("rope.scaling.yarn_beta_slow", 0.25_f32.into()),
                    ("rope.scaling.yarn_log_multiplier", 0.5_f32.into()),
                    ("rope.scaling.attn_factor", 0.9_f32.into()),
                    ("attention.temperature_scale", 0.1_f32.into()),
                ],
            ),
        ),
        // A fourth layer, which has no position embedding.
        ("smollm3", TinyModel { layers: 4, ..of(Arch::SmolLm3, vec![]) }),
        ("olmoe", of(Arch::OlMoe, vec![])),
        (
            "granite",
            of(
                Arch::Granite,
                vec![
                    ("embedding_scale", 12.0_f32.into()),
                    ("residual_scale", 0.22_f32.into()),
                    ("attention.scale", 0.015_625_f32.into()),
                    ("logit_scale", 8.0_f32.into()),
                ],
            ),
        ),
        (
            "granitemoe",
            TinyModel {
                shared_ffn: 64,
                ..of(Arch::GraniteMoe, vec![("residual_scale", 0.22_f32.into()), ("logit_scale", 0.5_f32.into())])
            },
        ),
        // Sinks, a window on the first of two layers, biases of experts, YaRN.
        (
            "gpt-oss",
            TinyModel {
                biases: true,
                ..of(
                    Arch::GptOss,
                    vec![
                        ("attention.sliding_window", 8_u32.into()),
                        ("rope.scaling.type", "yarn".into()),
                        ("rope.scaling.factor", 32.0_f32.into()),
                        ("rope.scaling.original_context_length", 64_u32.into()),
                    ],
                )
            },
        ),
        // A window shorter than the prompt on one layer of two, with frequencies of its own.
        (
            "gemma3",
            of(
                Arch::Gemma3,
                vec![
                    ("attention.sliding_window", 8_u32.into()),
                    ("attention.sliding_window_pattern", vec![true, false].into()),
                    ("rope.scaling.type", "linear".into()),
                    ("rope.scaling.factor", 8.0_f32.into()),
                ],
            ),
        ),
    ];
    models.extend(hybrid_models());
    models
}

/// Returns a named small model of each architecture with gated delta nets.
pub fn hybrid_models() -> Vec<(&'static str, TinyModel)> {
    let of = |arch, metadata| TinyModel {
        arch,
        metadata,
        hidden: 128,
        main: WeightType::Q8_0,
        big: WeightType::Q8_0,
        expert_ffn: 96,
        ffn: 160,
        vocab: 300,
        ..TinyModel::default()
    };
    vec![
        // Four layers, one of them with attention; RoPE of a quarter of a head.
        ("qwen35", TinyModel { layers: 4, ..of(Arch::Qwen35, vec![("rope.dimension_count", 16_u32.into())]) }),
        // Layers as the file lists them, and one behind them that is not used.
        (
            "qwen35moe",
            TinyModel {
                layers: 5,
                shared_ffn: 96,
                fused: true,
                ..of(
                    Arch::Qwen35Moe,
                    vec![
                        ("rope.dimension_count", 32_u32.into()),
                        ("nextn_predict_layers", 1_u32.into()),
                        ("full_attention_interval", 4_u32.into()),
                    ],
                )
            },
        ),
        // Projections grouped by key heads; value heads that share a key head are neighbours.
        ("qwen3next", TinyModel { layers: 4, shared_ffn: 64, delta: [2, 6, 32], ..of(Arch::Qwen3Next, vec![]) }),
    ]
}

/// Returns models of the shapes and types of the hybrid presets of `tools/make_model.py`, by the presets' names.
pub fn preset_models() -> Vec<(&'static str, TinyModel)> {
    let of = |arch| TinyModel {
        arch,
        layers: 4,
        experts: 8,
        ffn: 768,
        delta: [2, 4, 64],
        metadata: vec![
            ("rope.dimension_count", 16_u32.into()),
            ("rope.dimension_sections", vec![2_u32, 2, 4, 0].into()),
            ("full_attention_interval", 4_u32.into()),
        ],
        ..TinyModel::default()
    };
    vec![("qwen35-test", of(Arch::Qwen35)), ("qwen35moe-test", TinyModel { shared_ffn: 256, ..of(Arch::Qwen35Moe) })]
}
