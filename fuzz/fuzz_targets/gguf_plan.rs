//! Plans models with mutated metadata and tensors, or arbitrary files: parses them, reads their configuration, plans
//! their memory and records their plans.
#![no_main]

#[path = "../../tests/it/common/tiny_model.rs"]
#[allow(dead_code)]
mod tiny_model;

use std::sync::OnceLock;

use ferrum_wgpu::{Config, Device, Engine, EngineOptions, Gguf, gguf::{Array, GgufWriter, Value}, KvType, low_level::{engine::KvLayout, quant::WeightType}};
use ferrum_wgpu_fuzz::{Input, check_line};
use libfuzzer_sys::fuzz_target;
use tiny_model::{Arch, TinyModel};

fuzz_target!(|bytes: &[u8]| {
    if bytes.starts_with(b"GGUF") {
        let Ok(file) = Gguf::from_bytes(bytes.to_vec()) else { return };
        return check(&file, &mut Input::new(&[]));
    }
    let mut input = Input::new(bytes);
    if let Ok(file) = changed(&mut input).to_bytes().and_then(Gguf::from_bytes) {
        check(&file, &mut input);
    }
});

fn check(file: &Gguf, input: &mut Input) {
    let longest = match Config::from_gguf(file) {
        Ok(config) => config.context_length,
        Err(error) => return check_line(error),
    };
    let largest = EngineOptions::default().context(longest).kv_tokens(u32::MAX).sequences(u32::MAX).prefill_rows(u32::MAX).max_logit_rows(u32::MAX);
    let any = |input: &mut Input| {
        let number = |input: &mut Input| u32::try_from(input.number()).unwrap_or(u32::MAX);
        EngineOptions::default().context(number(input)).kv_tokens(number(input)).kv_layout(match input.byte() % 2 {
                0 => KvLayout::Contiguous,
                _ => KvLayout::Paged { block: number(input) },
            }).sequences(number(input)).prefill_rows(number(input)).max_logit_rows(number(input))
    };
    let contiguous = largest.clone().kv_layout(KvLayout::Contiguous);
    for options in [EngineOptions::default(), any(input), largest, contiguous] {
        for kv_type in [KvType::F16, KvType::F32, KvType::Q8_0] {
            match Engine::memory(file, &options, kv_type) {
                Ok(plan) => _ = plan.total(),
                Err(error) => check_line(error),
            }
        }
    }
    // Records plans without allocating memory.
    let small =
        EngineOptions::default().context(longest.min(64)).prefill_rows(4).sequences(2);
    if let Err(error) = ferrum_wgpu::block_on(Engine::precompile(&Device::cpu(), file, &small)) {
        check_line(error);
    }
}

type Parts = (Vec<(String, Value)>, Vec<(String, WeightType, Vec<u64>)>);

/// Returns a minimal model of each architecture.
fn models() -> &'static [Parts; 3] {
    static MODELS: OnceLock<[Parts; 3]> = OnceLock::new();
    MODELS.get_or_init(|| {
        [Arch::Qwen3Moe, Arch::Qwen3, Arch::Llama].map(|arch| {
            let model = TinyModel {
                arch,
                layers: 1,
                hidden: 8,
                heads: 2,
                kv_heads: 1,
                head_dim: 4,
                experts: 4,
                top_k: 2,
                expert_ffn: 4,
                ffn: 4,
                vocab: 260,
                main: WeightType::F32,
                big: WeightType::F32,
                rope_freqs: arch == Arch::Llama,
                biases: arch == Arch::Qwen3,
                ..TinyModel::default()
            };
            let file = model.to_bytes().and_then(Gguf::from_bytes).expect("a valid model");
            let metadata = file.metadata().iter().filter(|(key, _)| !key.starts_with("tokenizer"));
            let metadata = metadata.map(|(key, value)| (key.to_owned(), value.clone())).collect();
            let tensors = file.tensors().iter().map(|t| (t.name.clone(), t.ty, t.shape.clone())).collect();
            (metadata, tensors)
        })
    })
}

/// Keys that the models lack.
const MORE_KEYS: [&str; 24] = [
    "general.alignment",
    "split.count",
    "vocab_size",
    "attention.sliding_window",
    "attention.scale",
    "attention.clamp_kqv",
    "attention.causal",
    "attn_logit_softcapping",
    "logit_scale",
    "expert_count",
    "expert_used_count",
    "expert_weights_norm",
    "expert_weights_scale",
    "expert_shared_count",
    "expert_feed_forward_length",
    "feed_forward_length",
    "leading_dense_block_count",
    "rope.dimension_count",
    "rope.scaling.type",
    "rope.scaling.factor",
    "rope.scale_linear",
    "rope.freq_base",
    "attention.head_count_kv",
    "attention.value_length",
];

fn value(input: &mut Input) -> Value {
    let n = input.number();
    match input.byte() % 14 {
        0..=4 => Value::U32(n as u32),
        5 => Value::U64(n),
        6 => Value::I32(n as i32),
        7 => Value::F32(f32::from_bits(n as u32)),
        8 => Value::F32(n as f32),
        9 => Value::F64(f64::from_bits(n)),
        10 => Value::Bool(n & 1 == 1),
        11 => Value::String(["linear", "none", "yarn", "qwen3", "llama", "qwen3moe"][n as usize % 6].to_owned()),
        12 => Value::Array(Array::U32((0..n % 5).map(|i| i as u32).collect())),
        _ => Value::String(input.text()),
    }
}

/// Returns a model with some mutations.
fn changed(input: &mut Input) -> GgufWriter {
    let (mut metadata, mut tensors) = models()[input.pick(3)].clone();
    for _ in 0..input.pick(8) {
        match input.byte() % 9 {
            0..=2 => {
                let at = input.pick(metadata.len());
                if let Some(entry) = metadata.get_mut(at) {
                    entry.1 = value(input);
                }
            }
            3 | 4 => {
                let key = MORE_KEYS[input.pick(MORE_KEYS.len())];
                let architecture = metadata.iter().find_map(|(key, value)| match value {
                    Value::String(name) if key == "general.architecture" => Some(name.clone()),
                    _ => None,
                });
                let architecture = architecture.unwrap_or_default();
                let full = if key.starts_with("general") { key.to_owned() } else { format!("{architecture}.{key}") };
                metadata.retain(|(key, _)| *key != full);
                metadata.push((full, value(input)));
            }
            5 => {
                let at = input.pick(metadata.len());
                metadata.truncate(at.max(1));
            }
            change => {
                let at = input.pick(tensors.len());
                let Some((name, ty, shape)) = tensors.get_mut(at) else { continue };
                match change {
                    6 => {
                        let axis = input.pick(shape.len() + 1);
                        let n = input.number();
                        match shape.get_mut(axis) {
                            Some(place) => *place = n,
                            None => shape.push(n),
                        }
                    }
                    7 => *ty = WeightType::ALL[input.pick(WeightType::ALL.len())],
                    _ if input.byte() % 2 == 0 => *name = input.text(),
                    _ => _ = tensors.swap_remove(at),
                }
            }
        }
    }
    let mut file = GgufWriter::new();
    for (key, value) in metadata {
        file.metadata(key, value);
    }
    for (name, ty, shape) in tensors {
        let elements = shape.iter().try_fold(1_u64, |all, &n| all.checked_mul(n)).unwrap_or(u64::MAX);
        // The parser must reject tensors that exceed a small file.
        let bytes = if elements < 1 << 18 { elements as usize / ty.block_len() * ty.block_bytes() } else { 0 };
        file.tensor(name, ty, &shape, vec![0; bytes]);
    }
    file
}
