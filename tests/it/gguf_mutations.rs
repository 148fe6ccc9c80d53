//! Mutated small models: each yields an error value or a model that runs.

use std::time::{Duration, Instant};

use crate::common::{
    raw_gguf::{ARRAY, Entry, RawGguf, STRING},
    tiny_model::{Arch, TinyModel},
};
use ferrum_wgpu::{
    ChatTemplate, Config, Device, Engine, EngineOptions, Gguf, KvType, Message, Model, RenderOptions, Tokenizer,
    low_level::quant::WeightType,
};
use proptest::{
    prelude::*,
    sample::Index,
    test_runner::{Config as Proptest, RngAlgorithm, TestRng, TestRunner},
};

/// A replacement for a number.
#[derive(Clone, Debug)]
enum Number {
    Is(u64),
    Plus(i64),
    Times(u64),
}

impl Number {
    fn of(&self, old: u64) -> u64 {
        match *self {
            Self::Is(n) => n,
            Self::Plus(n) => old.wrapping_add_signed(n),
            Self::Times(n) => old.wrapping_mul(n),
        }
    }
}

fn number() -> impl Strategy<Value = Number> {
    let edge = (0..64_u32, -1..=1_i64).prop_map(|(bits, near)| (1_u64 << bits).wrapping_add_signed(near));
    prop_oneof![
        4 => (-4..=4_i64).prop_map(Number::Plus),
        2 => (0..6_u64).prop_map(Number::Times),
        2 => (0..300_u64).prop_map(Number::Is),
        2 => edge.prop_map(Number::Is),
        1 => any::<u64>().prop_map(Number::Is),
    ]
}

/// A mutation. An `Index` selects an element, whatever their number.
#[derive(Clone, Debug)]
enum Change {
    Magic(u32),
    Version(u32),
    TensorCount(Number),
    EntryCount(Number),
    Alignment(u64),
    Truncate(Index),
    KeyLength(Index, Number),
    Rename(Index, Index),
    ValueType(Index, u32),
    /// Replaces a value by one of any scalar type.
    Value(Index, u32, u64),
    /// Changes a number but keeps its type.
    Nudge(Index, Number),
    /// The length of a string or array.
    Length(Index, Number),
    ElementType(Index, u32),
    /// A byte of a value.
    ValueByte(Index, Index, u8),
    DropEntry(Index),
    RepeatEntry(Index),
    SwapEntries(Index, Index),
    NameLength(Index, Number),
    TensorName(Index, Index),
    Dimensions(Index, u32),
    Dimension(Index, usize, Number),
    /// Appends a dimension. A dimension of 1 changes nothing.
    MoreDimensions(Index, u64),
    SwapDimensions(Index),
    TensorType(Index, u32),
    Offset(Index, Number),
    SameOffset(Index, Index),
    DropTensor(Index),
    RepeatTensor(Index),
    SwapTensors(Index, Index),
    DataBits(Vec<(Index, u8)>),
    /// Replaces a word of the data, for example by NaN or infinity.
    DataWord(Index, u32),
}

fn change() -> impl Strategy<Value = Change> {
    use Change as C;
    let at = any::<Index>;
    let header = prop_oneof![
        any::<u32>().prop_map(C::Magic),
        (0..6_u32).prop_map(C::Version),
        number().prop_map(C::TensorCount),
        number().prop_map(C::EntryCount),
        (0..33_u32).prop_map(|bits| C::Alignment(1 << bits)),
        any::<u64>().prop_map(C::Alignment),
        at().prop_map(C::Truncate),
    ];
    let metadata = prop_oneof![
        1 => (at(), number()).prop_map(|(i, n)| C::KeyLength(i, n)),
        1 => (at(), at()).prop_map(|(i, j)| C::Rename(i, j)),
        1 => (at(), 0..15_u32).prop_map(|(i, ty)| C::ValueType(i, ty)),
        3 => (at(), 0..13_u32, any::<u64>()).prop_map(|(i, ty, bits)| C::Value(i, ty, bits)),
        10 => (at(), number()).prop_map(|(i, n)| C::Nudge(i, n)),
        2 => (at(), number()).prop_map(|(i, n)| C::Length(i, n)),
        1 => (at(), 0..15_u32).prop_map(|(i, ty)| C::ElementType(i, ty)),
        4 => (at(), at(), any::<u8>()).prop_map(|(i, j, byte)| C::ValueByte(i, j, byte)),
        1 => at().prop_map(C::DropEntry),
        1 => at().prop_map(C::RepeatEntry),
        2 => (at(), at()).prop_map(|(i, j)| C::SwapEntries(i, j)),
    ];
    let tensors = prop_oneof![
        1 => (at(), number()).prop_map(|(i, n)| C::NameLength(i, n)),
        1 => (at(), at()).prop_map(|(i, j)| C::TensorName(i, j)),
        1 => (at(), 0..7_u32).prop_map(|(i, n)| C::Dimensions(i, n)),
        4 => (at(), 0..4_usize, number()).prop_map(|(i, axis, n)| C::Dimension(i, axis, n)),
        1 => (at(), 0..3_u64).prop_map(|(i, n)| C::MoreDimensions(i, n)),
        1 => at().prop_map(C::SwapDimensions),
        2 => (at(), 0..42_u32).prop_map(|(i, ty)| C::TensorType(i, ty)),
        2 => (at(), number()).prop_map(|(i, n)| C::Offset(i, n)),
        1 => (at(), at()).prop_map(|(i, j)| C::SameOffset(i, j)),
        1 => at().prop_map(C::DropTensor),
        1 => at().prop_map(C::RepeatTensor),
        2 => (at(), at()).prop_map(|(i, j)| C::SwapTensors(i, j)),
    ];
    let word = prop_oneof![
        Just(f32::NAN.to_bits()),
        Just(f32::MAX.to_bits()),
        Just(f32::NEG_INFINITY.to_bits()),
        any::<u32>()
    ];
    let data = prop_oneof![
        prop::collection::vec((at(), 0..8_u8), 1..20).prop_map(C::DataBits),
        (at(), word).prop_map(|(i, word)| C::DataWord(i, word)),
    ];
    prop_oneof![1 => header, 4 => metadata, 3 => tensors, 2 => data]
}

/// Returns the size of a scalar in bytes.
fn width(ty: u32) -> usize {
    match ty {
        0 | 1 | 7 => 1,
        2 | 3 => 2,
        4..=6 => 4,
        _ => 8,
    }
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    if let Some(place) = bytes.get_mut(at..at + value.len()) {
        place.copy_from_slice(value);
    }
}

fn read(bytes: &[u8]) -> u64 {
    bytes.iter().take(8).rev().fold(0, |n, &byte| n << 8 | u64::from(byte))
}

fn alignment(n: u64) -> Entry {
    Entry { key: b"general.alignment".to_vec(), key_len: None, ty: 4, value: (n as u32).to_le_bytes().to_vec() }
}

/// Applies a mutation. Returns where to truncate the file, if it does.
fn apply(file: &mut RawGguf, change: &Change) -> Option<Index> {
    use Change as C;
    let (entries, tensors) = (file.entries.len(), file.tensors.len());
    if entries == 0 || tensors == 0 {
        return None;
    }
    let old = |vec: &[u64], i: usize| vec.get(i).copied().unwrap_or_default();
    match change {
        C::Magic(n) => file.magic = *n,
        C::Version(n) => file.version = *n,
        C::TensorCount(n) => file.tensor_count = Some(n.of(tensors as u64)),
        C::EntryCount(n) => file.entry_count = Some(n.of(entries as u64)),
        C::Alignment(n) => file.entries.push(alignment(*n)),
        C::Truncate(at) => return Some(*at),
        C::KeyLength(i, n) => {
            let entry = &mut file.entries[i.index(entries)];
            entry.key_len = Some(n.of(entry.key.len() as u64));
        }
        C::Rename(i, j) => file.entries[i.index(entries)].key = file.entries[j.index(entries)].key.clone(),
        C::ValueType(i, ty) => file.entries[i.index(entries)].ty = *ty,
        C::Value(i, ty, bits) => {
            let entry = &mut file.entries[i.index(entries)];
            (entry.ty, entry.value) = match *ty {
                ty @ (STRING | ARRAY) => (ty, vec![0; if ty == STRING { 8 } else { 12 }]),
                ty => (ty, bits.to_le_bytes()[..width(ty)].to_vec()),
            };
        }
        C::Nudge(i, n) => {
            // Choose among the numbers only, since most entries are of other types.
            let numbers: Vec<usize> = (0..entries).filter(|&i| matches!(file.entries[i].ty, 0..=6 | 10..)).collect();
            if let Some(&i) = numbers.get(i.index(numbers.len().max(1))) {
                let value = &mut file.entries[i].value;
                let nudged = n.of(read(value)).to_le_bytes();
                let width = value.len().min(8);
                put(value, 0, &nudged[..width]);
            }
        }
        C::Length(i, n) => {
            let entry = &mut file.entries[i.index(entries)];
            let at = if entry.ty == ARRAY { 4 } else { 0 };
            let length = n.of(entry.value.get(at..).map_or(0, read)).to_le_bytes();
            put(&mut entry.value, at, &length);
        }
        C::ElementType(i, ty) => put(&mut file.entries[i.index(entries)].value, 0, &ty.to_le_bytes()),
        C::ValueByte(i, j, byte) => {
            let value = &mut file.entries[i.index(entries)].value;
            let at = j.index(value.len().max(1));
            put(value, at, &[*byte]);
        }
        C::DropEntry(i) => _ = file.entries.remove(i.index(entries)),
        C::RepeatEntry(i) => file.entries.push(file.entries[i.index(entries)].clone()),
        C::SwapEntries(i, j) => file.entries.swap(i.index(entries), j.index(entries)),
        C::NameLength(i, n) => {
            let tensor = &mut file.tensors[i.index(tensors)];
            tensor.name_len = Some(n.of(tensor.name.len() as u64));
        }
        C::TensorName(i, j) => file.tensors[i.index(tensors)].name = file.tensors[j.index(tensors)].name.clone(),
        C::Dimensions(i, n) => file.tensors[i.index(tensors)].dimensions = Some(*n),
        C::Dimension(i, axis, n) => {
            let shape = &mut file.tensors[i.index(tensors)].shape;
            let axis = axis % shape.len().max(1);
            let nudged = n.of(old(shape, axis));
            shape.iter_mut().skip(axis).take(1).for_each(|place| *place = nudged);
        }
        C::MoreDimensions(i, n) => file.tensors[i.index(tensors)].shape.push(*n),
        C::SwapDimensions(i) => file.tensors[i.index(tensors)].shape.reverse(),
        C::TensorType(i, ty) => file.tensors[i.index(tensors)].ty = *ty,
        C::Offset(i, n) => {
            let tensor = &mut file.tensors[i.index(tensors)];
            tensor.offset = n.of(tensor.offset);
        }
        C::SameOffset(i, j) => file.tensors[i.index(tensors)].offset = file.tensors[j.index(tensors)].offset,
        C::DropTensor(i) => _ = file.tensors.remove(i.index(tensors)),
        C::RepeatTensor(i) => file.tensors.push(file.tensors[i.index(tensors)].clone()),
        C::SwapTensors(i, j) => file.tensors.swap(i.index(tensors), j.index(tensors)),
        C::DataBits(bits) => {
            for (at, bit) in bits {
                let at = at.index(file.data.len());
                file.data[at] ^= 1 << bit;
            }
        }
        C::DataWord(at, word) => {
            let at = at.index(file.data.len() / 4);
            put(&mut file.data, 4 * at, &word.to_le_bytes());
        }
    }
    None
}

/// Returns a minimal model, in formats whose blocks do and do not divide rows.
fn model(which: usize) -> TinyModel {
    let (arch, main, hidden) =
        [(Arch::Qwen3Moe, WeightType::F32, 8), (Arch::Qwen3, WeightType::F16, 8), (Arch::Llama, WeightType::Q8_0, 32)]
            [which % 3];
    TinyModel {
        arch,
        layers: 1,
        hidden,
        heads: 2,
        kv_heads: 1,
        head_dim: hidden / 2,
        experts: 4,
        top_k: 2,
        expert_ffn: hidden,
        ffn: hidden,
        vocab: 264,
        main,
        big: main,
        rope_freqs: arch == Arch::Llama,
        rope_factor: (arch == Arch::Llama).then_some(2.0),
        biases: arch == Arch::Qwen3,
        context: 64,
        ..TinyModel::default()
    }
}

/// The furthest stage that a file reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    NotParsed,
    NoModel,
    /// It was loaded, and inference returned logits or an error.
    Ran,
}

fn check_line(error: impl std::fmt::Display) {
    let line = error.to_string();
    assert!(line.len() < 20_000 && !line.chars().any(char::is_control), "{line:?}");
}

fn survive(bytes: Vec<u8>) -> Outcome {
    let gguf = match Gguf::from_bytes(bytes) {
        Ok(gguf) => gguf,
        Err(error) => {
            check_line(error);
            return Outcome::NotParsed;
        }
    };
    match Tokenizer::from_gguf(&gguf) {
        Ok(tokenizer) => {
            if let Ok(ids) = tokenizer.encode_prompt("<|im_start|>tab\n🙂") {
                tokenizer.decode(&ids).expect("its own ids");
            }
        }
        Err(error) => check_line(error),
    }
    let conversation = [Message::user("Hi")];
    let template = ChatTemplate::from_metadata(gguf.metadata());
    if let Err(error) = template.and_then(|template| template.render(&conversation, &RenderOptions::default())) {
        check_line(error);
    }
    for kv_type in [KvType::F16, KvType::F32, KvType::Q8_0] {
        match Engine::memory(&gguf, &EngineOptions::default(), kv_type) {
            Ok(plan) => _ = plan.total(),
            Err(error) => check_line(error),
        }
    }
    pollster::block_on(async {
        let model = match Model::load(&Device::cpu(), &gguf, |_, _| ()).await {
            Ok(model) => model,
            Err(error) => {
                check_line(error);
                return Outcome::NoModel;
            }
        };
        let Config { vocab, context_length, .. } = *model.config();
        let context = Some(context_length.min(16));
        let options = EngineOptions::default().context(context).prefill_rows(4);
        let ids = [0, 97, vocab - 1].map(|id| id.min(vocab - 1));
        match Engine::new(&model, &options).await {
            Ok(engine) => match engine.session().forward(&ids).await {
                Ok(logits) => assert_eq!(logits.len(), vocab as usize),
                Err(error) => check_line(error),
            },
            Err(error) => check_line(error),
        }
        Outcome::Ran
    })
}

#[test]
fn unmutated_models_run() {
    for which in 0..3 {
        let bytes = model(which).to_bytes().expect("a valid model");
        let raw = RawGguf::of(&bytes, 32);
        assert!(raw.to_bytes() == bytes, "the round trip of `RawGguf`");
        assert_eq!(survive(bytes), Outcome::Ran);
    }
}

#[test]
fn mutated_models_are_refused_or_run() {
    mutate(600);
}

#[test]
#[ignore = "long: `make soak` runs it"]
fn more_mutated_models_are_refused_or_run() {
    mutate(3000);
}

/// Checks `cases` mutated models.
fn mutate(cases: u32) {
    let models: Vec<RawGguf> =
        (0..3).map(|which| RawGguf::of(&model(which).to_bytes().expect("a valid model"), 32)).collect();
    let config = Proptest { cases, failure_persistence: None, max_shrink_iters: 200, ..Proptest::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    let outcomes = std::cell::RefCell::new(Vec::new());
    let changes = (0..3_usize, prop::collection::vec(change(), 1..4));
    let result = runner.run(&changes, |(which, changes)| {
        let mut file = models[which].clone();
        let ends: Vec<Index> = changes.iter().filter_map(|change| apply(&mut file, change)).collect();
        let mut bytes = file.to_bytes();
        for end in ends {
            bytes.truncate(end.index(bytes.len().max(1)));
        }
        let start = Instant::now();
        outcomes.borrow_mut().push(survive(bytes));
        prop_assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
        Ok(())
    });
    if let Err(error) = result {
        panic!("{error}");
    }
    let outcomes = outcomes.into_inner();
    let [unparsed, no_model, ran] = [Outcome::NotParsed, Outcome::NoModel, Outcome::Ran]
        .map(|wanted| outcomes.iter().filter(|outcome| **outcome == wanted).count() as u32);
    println!("{unparsed} not parsed, {no_model} no models, {ran} run");
    assert!(unparsed > cases / 3 && no_model > cases / 10 && ran > cases / 6, "{unparsed}, {no_model}, {ran}");
}
