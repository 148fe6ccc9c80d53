//! Models whose metadata contradict their tensors. Planning and loading refuse each with one error, before any
//! dispatch, since kernels derive their bounds from these numbers.
//!
//! Tests are named after the out-of-bounds bugs of other readers, if these have names.

use crate::common::tiny_model::{Arch, TinyModel};
use ferrum_wgpu::{
    Architecture, Config, Device, Engine, EngineError, EngineOptions, Gguf, KvType, Model,
    gguf::{GgufWriter, Value},
    low_level::quant::WeightType,
};

/// Returns a small model with edited metadata (`None` removes an entry) and without some tensors.
fn changed(arch: Arch, edits: &[(&str, Option<Value>)], without: &[&str]) -> Gguf {
    let freqs = arch == Arch::Llama;
    let model = TinyModel {
        arch,
        layers: 2,
        main: WeightType::Q8_0,
        big: WeightType::Q8_0,
        rope_freqs: freqs,
        ..TinyModel::default()
    };
    let gguf = model.to_bytes().and_then(Gguf::from_bytes).expect("a valid model");
    let mut file = GgufWriter::new();
    for (key, value) in gguf.metadata().iter().filter(|(key, _)| edits.iter().all(|(edited, _)| edited != key)) {
        file.metadata(key, value.clone());
    }
    for (key, value) in edits {
        if let Some(value) = value {
            file.metadata(*key, value.clone());
        }
    }
    for tensor in gguf.tensors().iter().filter(|tensor| !without.contains(&tensor.name.as_str())) {
        file.tensor(&tensor.name, tensor.ty, &tensor.shape, gguf.data(tensor).to_vec());
    }
    file.to_bytes().and_then(Gguf::from_bytes).expect("a valid file")
}

/// Checks that planning and loading refuse the file with `message`, and that nothing is uploaded.
fn refused(gguf: &Gguf, message: &str) {
    let options = EngineOptions::default();
    let planned = Engine::memory(gguf, &options, KvType::F16).expect_err(message);
    assert!(matches!(planned, EngineError::Model(_)), "{planned:?}");
    assert_eq!(planned.to_string(), message);
    let mut uploaded = 0;
    let loaded =
        pollster::block_on(Model::load(&Device::cpu(), gguf, |bytes, _| uploaded += bytes)).expect_err(message);
    assert_eq!((loaded.to_string().as_str(), uploaded), (message, 0));
    assert!(pollster::block_on(Engine::precompile(&Device::cpu(), gguf, &options)).is_err(), "{message}");
}

/// Defines tests that a model with edited metadata is refused.
macro_rules! refused {
    ($($name:ident: $arch:ident, $($key:literal = $value:expr),* => $message:expr;)*) => {
        $(#[test]
        fn $name() {
            let edits = [$(($key, Some(Value::from($value)))),*];
            refused(&changed(Arch::$arch, &edits, &[]), $message);
        })*
    };
}

// Metadata of mixtures of experts.
refused! {
    expert_count_above_the_tensors: Qwen3Moe, "qwen3moe.expert_count" = 5_u32
        => "tensor blk.0.ffn_gate_inp.weight has the shape [256, 4], but the metadata requires [256, 5]";
    expert_count_below_the_tensors: Qwen3Moe, "qwen3moe.expert_count" = 3_u32
        => "tensor blk.0.ffn_gate_inp.weight has the shape [256, 4], but the metadata requires [256, 3]";
    expert_count_0: Qwen3Moe, "qwen3moe.expert_count" = 0_u32
        => "metadata key qwen3moe.expert_count has the invalid value 0: it must be positive";
    expert_count_beyond_the_kernels: Qwen3Moe, "qwen3moe.expert_count" = 513_u32
        => "metadata key qwen3moe.expert_count has the invalid value 513: the maximum is 512";
    expert_used_count_above_the_experts: Qwen3Moe, "qwen3moe.expert_used_count" = 5_u32
        => "metadata key qwen3moe.expert_used_count has the invalid value 5: at most 4 of 4 experts can be used";
    expert_used_count_0: Qwen3Moe, "qwen3moe.expert_used_count" = 0_u32
        => "metadata key qwen3moe.expert_used_count has the invalid value 0: it must be positive";
    expert_used_count_negative: Qwen3Moe, "qwen3moe.expert_used_count" = -1_i32
        => "metadata key qwen3moe.expert_used_count should be an unsigned 32-bit integer, but is i32 -1";
    expert_size_above_the_tensors: Qwen3Moe, "qwen3moe.expert_feed_forward_length" = 512_u32
        => "tensor blk.0.ffn_gate_exps.weight has the shape [256, 256, 4], but the metadata requires [256, 512, 4]";
    experts_of_a_dense_model: Qwen3, "qwen3.expert_count" = 4_u32
        => "metadata qwen3.expert_count = 4 is not supported: it needs experts, which this architecture does not have";
}

// Metadata of all architectures.
refused! {
    block_count_above_the_tensors: Qwen3, "qwen3.block_count" = 3_u32
        => "tensor blk.2.attn_norm.weight is missing";
    block_count_without_end: Qwen3, "qwen3.block_count" = 1_u32 << 24
        => "tensor blk.2.attn_norm.weight is missing";
    block_count_below_the_tensors: Qwen3, "qwen3.block_count" = 1_u32
        => "tensor blk.1.attn_norm.weight is not part of this architecture";
    block_count_0: Qwen3, "qwen3.block_count" = 0_u32 => "metadata key qwen3.block_count has the invalid value 0: it must be positive";
    block_count_of_64_bits: Qwen3, "qwen3.block_count" = 1_u64 << 40
        => "metadata key qwen3.block_count should be an unsigned 32-bit integer, but is u64 1099511627776";
    embedding_length: Qwen3, "qwen3.embedding_length" = 512_u32
        => "tensor token_embd.weight has the shape [256, 512], but the metadata requires [512, 512]";
    embedding_length_0: Qwen3, "qwen3.embedding_length" = 0_u32 => "metadata key qwen3.embedding_length has the invalid value 0: it must be positive";
    embedding_length_huge: Qwen3, "qwen3.embedding_length" = u32::MAX
        => "metadata key qwen3.embedding_length has the invalid value 4294967295: the maximum is 16777216";
    head_count: Qwen3, "qwen3.attention.head_count" = 8_u32
        => "tensor blk.0.attn_q.weight has the shape [256, 256], but the metadata requires [256, 512]";
    head_count_huge: Qwen3, "qwen3.attention.head_count" = 1_u32 << 24
        => "metadata key qwen3.attention.head_count has the invalid value 16777216: 16777216 heads of size 64 are not supported";
    head_count_kv: Qwen3, "qwen3.attention.head_count_kv" = 4_u32
        => "tensor blk.0.attn_k.weight has the shape [256, 128], but the metadata requires [256, 256]";
    head_count_kv_0: Qwen3, "qwen3.attention.head_count_kv" = 0_u32
        => "metadata key qwen3.attention.head_count_kv has the invalid value 0: it must be positive";
    head_count_kv_that_does_not_divide: Qwen3, "qwen3.attention.head_count_kv" = 3_u32
        => "metadata key qwen3.attention.head_count_kv has the invalid value 3: 4 query heads are not a multiple of it";
    key_length: Qwen3, "qwen3.attention.key_length" = 32_u32, "qwen3.attention.value_length" = 32_u32
        => "tensor blk.0.attn_q_norm.weight has the shape [64], but the metadata requires [32]";
    key_length_beyond_the_kernels: Qwen3, "qwen3.attention.key_length" = 1028_u32, "qwen3.attention.value_length" = 1028_u32
        => "metadata key qwen3.attention.key_length has the invalid value 1028: head sizes must be multiples of 4 and at most 512";
    value_length_of_its_own: Qwen3, "qwen3.attention.value_length" = 128_u32
        => "metadata qwen3.attention.value_length = 128 is not supported: it needs keys and values of different sizes";
    rope_dimensions_above_the_head: Llama, "llama.rope.dimension_count" = 128_u32
        => "metadata key llama.rope.dimension_count has the invalid value 128: it must be even and at most the head size, 64";
    odd_rope_dimensions: Llama, "llama.rope.dimension_count" = 33_u32
        => "metadata key llama.rope.dimension_count has the invalid value 33: it must be even and at most the head size, 64";
    feed_forward_length: Qwen3, "qwen3.feed_forward_length" = 1024_u32
        => "tensor blk.0.ffn_gate.weight has the shape [256, 512], but the metadata requires [256, 1024]";
    vocab_size: Llama, "llama.vocab_size" = 513_u32 => "metadata key llama.vocab_size has the invalid value 513: the embedding has 512 rows";
    context_length_0: Qwen3, "qwen3.context_length" = 0_u32 => "metadata key qwen3.context_length has the invalid value 0: it must be positive";
    context_length_huge: Qwen3, "qwen3.context_length" = u32::MAX
        => "metadata key qwen3.context_length has the invalid value 4294967295: the maximum is 16777216";
    epsilon_not_a_number: Qwen3, "qwen3.attention.layer_norm_rms_epsilon" = f32::NAN
        => "metadata key qwen3.attention.layer_norm_rms_epsilon has the invalid value NaN: it must be between 0 and 1";
    rope_base_0: Qwen3, "qwen3.rope.freq_base" = 0_f32 => "metadata key qwen3.rope.freq_base has the invalid value 0: it must be positive";
    rope_factor_negative: Qwen3, "qwen3.rope.scaling.type" = "linear", "qwen3.rope.scaling.factor" = -2_f32
        => "metadata key qwen3.rope.scaling.factor has the invalid value -2: it must be positive";
    rope_scaling_unknown: Qwen3, "qwen3.rope.scaling.type" = "longrope"
        => "metadata qwen3.rope.scaling.type = \"longrope\" is not supported: it needs another scaling of RoPE than none, linear and yarn";
    layers_of_different_shapes: Qwen3, "qwen3.attention.head_count_kv" = vec![2_i32, 4]
        => "metadata qwen3.attention.head_count_kv = [2 i32s: 2, 4] is not supported: it needs layers of different shapes";
    attention_to_later_tokens: Qwen3, "qwen3.attention.causal" = false
        => "metadata qwen3.attention.causal = false is not supported: it needs attention to later tokens";
    split_file: Qwen3, "split.count" = 2_u32 => "metadata split.count = 2 is not supported: it needs the other parts of the file";
}

#[test]
fn missing_keys_are_named() {
    for key in ["embedding_length", "block_count", "context_length", "attention.head_count", "feed_forward_length"] {
        let full = format!("qwen3.{key}");
        refused(&changed(Arch::Qwen3, &[(&full, None)], &[]), &format!("metadata key {full} is missing"));
    }
    for key in ["expert_count", "expert_used_count", "expert_feed_forward_length"] {
        let full = format!("qwen3moe.{key}");
        refused(&changed(Arch::Qwen3Moe, &[(&full, None)], &[]), &format!("metadata key {full} is missing"));
    }
}

#[test]
fn missing_tensors_are_named() {
    let names: Vec<String> = changed(Arch::Qwen3Moe, &[], &[]).tensors().iter().map(|t| t.name.clone()).collect();
    // Without an output head the embeddings are tied.
    for name in names.iter().filter(|name| *name != "output.weight") {
        refused(&changed(Arch::Qwen3Moe, &[], &[name]), &format!("tensor {name} is missing"));
    }
}

/// CVE-2025-52566: the number of a prompt's tokens was cast to a signed 32-bit integer.
#[test]
fn cve_2025_52566_prompts_longer_than_any_context() {
    let gguf = changed(Arch::Qwen3, &[], &[]);
    pollster::block_on(async {
        let model = Model::load(&Device::cpu(), &gguf, |_, _| ()).await.expect("a model");
        let engine = Engine::new(&model, &EngineOptions::default().context(64)).await.expect("one");
        let mut session = engine.session();
        for len in [65, 4097, 3_000_000] {
            let error = session.forward(&vec![0; len]).await.expect_err("too long");
            assert!(
                matches!(error, EngineError::ContextFull { needed, capacity: 64 } if needed == len as u64),
                "{error}"
            );
        }
        for id in [512, 513, 1 << 31, u32::MAX] {
            let error = session.forward(&[0, id]).await.expect_err("no such token");
            assert!(matches!(error, EngineError::TokenId { id: found, vocab: 512 } if found == id), "{error}");
        }
    });
}

/// Found by fuzzing: messages contained unescaped names from the file.
#[test]
fn names_in_messages_are_short_and_printable() {
    let name = format!("\u{1b}[2J\n{}", "x".repeat(1000));
    let gguf = changed(Arch::Qwen3, &[("general.architecture", Some(name.as_str().into()))], &[]);
    let names = Architecture::ALL.iter().map(|a| a.name()).collect::<Vec<_>>().join(", ");
    let shown = format!("\\u{{1b}}[2J\\n{}…", "x".repeat(75));
    refused(&gguf, &format!("architecture \"{shown}\" is not supported (supported: {names})"));
    let whole = changed(Arch::Qwen3, &[], &[]);
    let mut file = GgufWriter::new();
    whole.metadata().iter().for_each(|(key, value)| _ = file.metadata(key, value.clone()));
    whole.tensors().iter().for_each(|t| _ = file.tensor(&t.name, t.ty, &t.shape, whole.data(t).to_vec()));
    file.tensor("\u{1b}[2J\n", WeightType::F32, &[1], vec![0; 4]);
    let gguf = file.to_bytes().and_then(Gguf::from_bytes).expect("a valid file");
    refused(&gguf, "tensor \\u{1b}[2J\\n is not part of this architecture");
}

/// Keys that no reader of the architecture uses, and neutral values of keys that one does.
#[test]
fn stray_and_neutral_keys_change_nothing() {
    let plain = Config::from_gguf(&changed(Arch::Qwen3, &[], &[])).expect("a model");
    let strays = [
        ("qwen3.attn_logit_softcapping", Value::from(50.0_f32)),
        ("qwen3.final_logit_softcapping", 30.0_f32.into()),
        ("qwen3.expert_gating_func", 0_u32.into()),
        ("qwen3.expert_count", 0_u32.into()),
        ("qwen3.logit_scale", 0.5_f32.into()),
        ("qwen3.attention.causal", true.into()),
        ("qwen3.attention.sliding_window", 0_u32.into()),
        ("qwen3.attention.head_count", vec![4_i32, 4].into()),
        ("qwen3.feed_forward_length", vec![512_u32, 512].into()),
        ("qwen3.rope.scaling.type", "linear".into()),
        ("qwen3.rope.scaling.factor", 0.0_f32.into()),
        ("qwen3.rope.scaling.yarn_ext_factor", (-1.0_f32).into()),
        ("qwen3.rope.dimension_sections", vec![0_i32; 4].into()),
        ("qwen3.ssm.state_size", 0_u32.into()),
    ];
    for (key, value) in &strays {
        let config = Config::from_gguf(&changed(Arch::Qwen3, &[(key, Some(value.clone()))], &[]));
        assert_eq!(config.as_ref().ok(), Some(&plain), "{key} = {value}: {config:?}");
    }
    let all: Vec<_> = strays.iter().map(|(key, value)| (*key, Some(value.clone()))).collect();
    assert_eq!(Config::from_gguf(&changed(Arch::Qwen3, &all, &[])).expect("a model"), plain);
}

/// The attention factor of YaRN: 0.1·ln 4 + 1, or with a published `attn_factor` its product with that, 1 (DeepSeek-R1's
/// distillation to Qwen3-8B).
#[test]
fn yarn_has_its_attention_factor() {
    let yarn = [
        ("qwen3.rope.scaling.type", Some(Value::from("yarn"))),
        ("qwen3.rope.scaling.factor", Some(4.0_f32.into())),
        ("qwen3.rope.scaling.original_context_length", Some(32_u32.into())),
    ];
    let magnitude = |edits: &[(&str, Option<Value>)]| {
        Config::from_gguf(&changed(Arch::Qwen3, edits, &[])).expect("a model").rope.magnitude
    };
    assert!((magnitude(&yarn) - (0.1 * 4.0_f64.ln() + 1.0)).abs() < 1e-12);
    let with_factor = [&yarn[..], &[("qwen3.rope.scaling.attn_factor", Some(0.878_248_9_f32.into()))]].concat();
    assert!((magnitude(&with_factor) - 1.0).abs() < 1e-6);
}

#[test]
fn every_reason_is_listed() {
    let edits = [
        ("qwen3.block_count", None),
        ("qwen3.context_length", Some(0_u32.into())),
        ("qwen3.vocab_size", Some(9_u32.into())),
    ];
    let reasons: Vec<String> =
        Model::unsupported(&changed(Arch::Qwen3, &edits, &[])).iter().map(ToString::to_string).collect();
    assert_eq!(reasons.len(), 3, "{reasons:?}");
    let tensors = ["blk.0.attn_q.weight", "blk.1.ffn_norm.weight", "output_norm.weight"];
    let missing: Vec<String> =
        Model::unsupported(&changed(Arch::Qwen3, &[], &tensors)).iter().map(ToString::to_string).collect();
    assert_eq!(missing, tensors.map(|name| format!("tensor {name} is missing")));
    assert!(Model::unsupported(&changed(Arch::Qwen3, &[], &[])).is_empty());
}
