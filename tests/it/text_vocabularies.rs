//! Vocabularies of files: defaults, ends of replies, and what is refused.

use crate::common::vocabulary::{bytes_only, file, tokenizer, vocabulary};
use ferrum_wgpu::gguf::GgufWriter;
use ferrum_wgpu::low_level::text::Vocabulary;
use ferrum_wgpu::{ChatTemplate, Gguf, RenderOptions, TextError, Tokenizer};

#[test]
fn metadata_and_their_defaults() {
    let vocabulary = vocabulary("default");
    let read = |change: fn(&mut GgufWriter)| Vocabulary::from_metadata(file(&vocabulary, change).metadata());
    let defaults = read(|_| ()).unwrap();
    assert_eq!((defaults.pre.as_str(), defaults.bos, defaults.add_bos), ("default", None, false));
    assert_eq!((&defaults.tokens, &defaults.merges), (&vocabulary.tokens, &vocabulary.merges));
    let llama = |writer: &mut GgufWriter| {
        writer.metadata("tokenizer.ggml.pre", "llama-bpe").metadata("tokenizer.ggml.bos_token_id", 3_u32);
    };
    // Llama 3 files without `add_bos_token` add a beginning-of-text token.
    assert!(read(llama).unwrap().add_bos);
    let stops = |writer: &mut GgufWriter| {
        writer.metadata("tokenizer.ggml.eos_token_id", 7_u32).metadata("tokenizer.ggml.eot_token_id", 8_u32);
        writer.metadata("tokenizer.ggml.eom_token_id", 5_u32).metadata("tokenizer.ggml.add_bos_token", false);
    };
    let stops = Tokenizer::new(read(stops).unwrap()).unwrap();
    assert_eq!(stops.stop_ids(), [5, 7, 8, stops.token_id("<|im_end|>").unwrap()]);
    assert!(matches!(read(|w| _ = w.metadata("tokenizer.ggml.bos_token_id", "x")), Err(TextError::Metadata(_))));

    let empty = Gguf::from_bytes(GgufWriter::new().to_bytes().unwrap()).unwrap();
    assert!(matches!(Tokenizer::from_gguf(&empty), Err(TextError::MissingKey("tokenizer.ggml.model"))));
    assert!(matches!(ChatTemplate::from_metadata(empty.metadata()), Err(TextError::NoTemplate)));
    for kind in ["plamo2", "bert", "t5", "rwkv"] {
        let mut writer = GgufWriter::new();
        writer.metadata("tokenizer.ggml.model", kind);
        let other = Gguf::from_bytes(writer.to_bytes().unwrap()).unwrap();
        let refused = Tokenizer::from_gguf(&other).map(drop);
        assert!(matches!(refused, Err(TextError::UnsupportedModel(name)) if name == kind));
    }
    let with_template = file(&vocabulary, |writer| {
        let bos = vocabulary.bos.unwrap();
        writer.metadata("tokenizer.chat_template", "{{ bos_token }}|{{ eos_token }}");
        writer.metadata("tokenizer.ggml.bos_token_id", bos).metadata("tokenizer.ggml.eos_token_id", u32::MAX);
    });
    let template = ChatTemplate::from_metadata(with_template.metadata()).unwrap();
    assert_eq!(template.render(&[], &RenderOptions::default()).unwrap(), "<s>|");
}

/// Files with many added tokens; llama.cpp issue 12473.
#[test]
fn a_hundred_thousand_added_tokens_load_quickly() {
    let mut vocabulary = vocabulary("llama-bpe");
    vocabulary.tokens.extend((0..100_000).map(|i| format!("<custom_token_{i}>")));
    vocabulary.token_types.resize(vocabulary.tokens.len(), 4);
    let start = std::time::Instant::now();
    let tokenizer = Tokenizer::new(vocabulary).unwrap();
    // Under a second in a release build on an idle machine.
    assert!(start.elapsed().as_secs() < 10, "{:?}", start.elapsed());
    let ids = tokenizer.encode("<custom_token_7>x<custom_token_77777>", false).unwrap();
    assert_eq!(ids.len(), 3);
    assert_eq!(tokenizer.decode(&ids[2..]).unwrap(), "<custom_token_77777>");
}

#[test]
fn ends_are_found_whatever_their_type() {
    for ty in [1, 3, 4] {
        let mut vocabulary = vocabulary("qwen2");
        let end = vocabulary.tokens.iter().position(|token| token == "<|im_end|>").unwrap();
        vocabulary.token_types[end] = ty;
        let tokenizer = Tokenizer::new(vocabulary).unwrap();
        let end = u32::try_from(end).unwrap();
        assert!(tokenizer.is_stop(end) && tokenizer.decode(&[97, end]).unwrap() == "a", "{ty}");
    }
    // Plain words are no ends. In OpenAI's harmony format, messages of one reply have ends.
    let mut vocabulary = vocabulary("gpt-2");
    let first = u32::try_from(vocabulary.tokens.len()).unwrap();
    vocabulary.tokens.extend(["</s>", "[EOS]", "<|return|>", "<|call|>", "<|end|>", "<|start|>"].map(str::to_owned));
    vocabulary.token_types.extend([1, 3, 3, 3, 3, 3]);
    let tokenizer = Tokenizer::new(vocabulary).unwrap();
    assert_eq!(tokenizer.stop_ids(), [first - 2, first + 1, first + 2, first + 3]);
    assert_eq!(tokenizer.decode(&[first + 4, first + 5]).unwrap(), "<|end|><|start|>");
}

/// llama.cpp issues 3634 and 11613: optional ids outside of the vocabulary are left out.
#[test]
fn optional_ids_beyond_the_vocabulary_are_left_out() {
    let vocabulary = vocabulary("qwen2");
    let wrong = file(&vocabulary, |writer| {
        writer.metadata("tokenizer.ggml.bos_token_id", u32::MAX).metadata("tokenizer.ggml.eot_token_id", 350_u32);
    });
    let tokenizer = Tokenizer::from_gguf(&wrong).unwrap();
    assert_eq!((tokenizer.bos_id(), tokenizer.stop_ids().len()), (None, 1));
}

fn refusal(change: impl FnOnce(&mut Vocabulary)) -> TextError {
    let mut vocabulary = vocabulary("qwen2");
    change(&mut vocabulary);
    let error = Tokenizer::new(vocabulary).unwrap_err();
    let message = error.to_string();
    assert!(!message.contains('\n') && message.len() < 600, "{message}");
    error
}

#[test]
fn malformed_vocabularies_are_refused() {
    use TextError as E;
    assert!(matches!(refusal(|v| v.model = "bert".to_owned()), E::UnsupportedModel(name) if name == "bert"));
    let unknown = refusal(|v| v.pre = "kimi-k2".to_owned());
    assert!(unknown.to_string().contains("kimi-k2") && unknown.to_string().contains("llama-bpe"), "{unknown}");
    assert!(matches!(refusal(|v| v.tokens.clear()), E::EmptyVocabulary));
    let duplicate = refusal(|v| v.tokens[300] = "!".to_owned());
    assert!(matches!(duplicate, E::DuplicateToken { first: 33, second: 300, .. }));
    let types = refusal(|v| v.token_types.truncate(3));
    assert!(matches!(types, E::TokenTypeCount { types: 3, .. }));
    assert!(matches!(refusal(|v| v.bos = Some(u32::MAX)), E::SpecialIdOutOfRange { id: u32::MAX, .. }));
    assert!(matches!(refusal(|v| v.eos = Some(350)), E::SpecialIdOutOfRange { id: 350, .. }));
    assert!(matches!(refusal(|v| v.extra_stops = vec![1, 99_999]), E::SpecialIdOutOfRange { id: 99_999, .. }));
    let no_bos = |v: &mut Vocabulary| (v.bos, v.add_bos) = (None, true);
    assert!(matches!(refusal(no_bos), E::MissingBos));
    for bad in ["", " ", "a", "a ", " b", "a b c", "a  b", "a\u{a0}b"] {
        assert!(matches!(refusal(|v| v.merges[1] = bad.to_owned()), E::MalformedMerge { rank: 1, .. }), "{bad:?}");
    }
    for (bad, absent) in [("zz a", "zz"), ("a zz", "zz"), ("z z", "zz"), ("Ġ 🙂", "🙂")] {
        let error = refusal(|v| v.merges[2] = bad.to_owned());
        assert!(matches!(error, E::MergeOutOfVocabulary { rank: 2, token } if token == absent), "{bad:?}");
    }
    let long = refusal(|v| v.merges[0] = "line\nbreak ".repeat(100_000));
    assert!(matches!(long, E::MalformedMerge { rank: 0, .. }));
    assert!(matches!(refusal(|v| v.model = "llama".to_owned()), E::ScoreCount { scores: 0, .. }));
}

#[test]
fn hostile_vocabularies_are_harmless() {
    let mut vocabulary = vocabulary("llama-bpe");
    let strange = ["", " ", "\0", "🙂", "a b", "\n", "\u{10ffff}", "a\u{301}"];
    vocabulary.tokens.extend(strange.map(str::to_owned));
    vocabulary.tokens.push("a".repeat(1 << 20));
    vocabulary.token_types.extend([3, 1, -7, 1, 4, i32::MAX, 5, 6, 1]);
    // A duplicate merge.
    vocabulary.merges.push(vocabulary.merges[0].clone());
    let tokenizer = Tokenizer::new(vocabulary).unwrap();
    let size = u32::try_from(tokenizer.vocab_size()).unwrap();
    let everything: Vec<u32> = (0..size).chain((0..size).rev()).collect();
    assert!(tokenizer.decode(&everything).unwrap().contains('🙂'));
    assert!(matches!(tokenizer.decode(&[size]), Err(TextError::UnknownToken { id, .. }) if id == size));
    assert_eq!(tokenizer.encode("a b", false).unwrap(), [tokenizer.token_id("a b").unwrap()]);
    for text in ["🙂 \0\n", "a\u{301}", "\u{10ffff}"] {
        assert_eq!(tokenizer.decode(&tokenizer.encode(text, true).unwrap()).unwrap(), text);
    }
}

#[test]
fn bytes_without_a_token_are_an_error() {
    let mut vocabulary = bytes_only("qwen2");
    vocabulary.tokens.truncate(200);
    let tokenizer = Tokenizer::new(vocabulary).unwrap();
    assert_eq!(tokenizer.encode("ok", false).unwrap(), [111, 107]);
    assert!(matches!(tokenizer.encode("naïve 🙂", false), Err(TextError::MissingByte(0xF0))));
}

/// llama.cpp pull request 25969: the byte of token `<0x-1>` was written before the start of an array.
#[test]
fn llama_cpp_25969_invalid_byte_tokens() {
    let mut vocabulary = bytes_only("gpt-2");
    let odd = ["<0x-1>", "<0x", "<0x>", "<0xGG>", "<0x100>", "<0x41>", "<0xFFFFFFFFFFFFFFFF>"];
    vocabulary.tokens.extend(odd.map(str::to_owned));
    // 6 is the type of byte tokens, which byte-level vocabularies do not use.
    vocabulary.token_types = (0..vocabulary.tokens.len()).map(|i| if i < 256 { 1 } else { 6 }).collect();
    let tokenizer = Tokenizer::new(vocabulary).unwrap();
    for (id, text) in (256..).zip(odd) {
        assert_eq!(tokenizer.token_bytes(id).as_deref(), Some(text.as_bytes()));
        assert_eq!(tokenizer.decode(&[id]).unwrap(), text);
        assert_eq!(tokenizer.decode(&tokenizer.encode(text, true).unwrap()).unwrap(), text);
    }
}

/// CVE-2025-49847 and similar: ids outside of the vocabulary, from the file and from the caller.
#[test]
fn cve_2025_49847_ids_beyond_the_vocabulary() {
    let tokenizer = tokenizer("qwen2");
    let size = u32::try_from(tokenizer.vocab_size()).unwrap();
    for id in [size, size + 1, 1 << 31, u32::MAX] {
        assert!(matches!(tokenizer.decode(&[id]), Err(TextError::UnknownToken { id: found, .. }) if found == id));
        assert!(tokenizer.token_bytes(id).is_none() && !tokenizer.is_control(id) && !tokenizer.is_stop(id));
        for place in 0..3 {
            let mut bad = vocabulary("qwen2");
            match place {
                0 => bad.bos = Some(id),
                1 => bad.eos = Some(id),
                _ => bad.extra_stops = vec![id],
            }
            let error = Tokenizer::new(bad).unwrap_err();
            assert!(matches!(error, TextError::SpecialIdOutOfRange { id: found, .. } if found == id), "{error}");
        }
    }
}
