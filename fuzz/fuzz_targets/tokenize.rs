//! Encodes, decodes and streams arbitrary text with arbitrary vocabularies in a file's metadata.
#![no_main]

use ferrum_wgpu::{ChatTemplate, Gguf, gguf::{Array, GgufWriter, Value}, Tokenizer};
use ferrum_wgpu_fuzz::{Input, check_line};
use libfuzzer_sys::fuzz_target;

const PRE: [&str; 8] = ["qwen2", "llama-bpe", "smollm", "gpt-2", "default", "dbrx", "", "none"];

fuzz_target!(|bytes: &[u8]| {
    if bytes.starts_with(b"GGUF") {
        if let Ok(file) = Gguf::from_bytes(bytes.to_vec()) {
            check(&file, "<|im_start|>user\nnaïve 🙂 12345  \n\n x's", false);
            if let Err(error) = ChatTemplate::from_metadata(file.metadata()) {
                check_line(error);
            }
        }
        return;
    }
    let mut input = Input::new(bytes);
    let (file, whole) = vocabulary(&mut input);
    let Ok(file) = file.to_bytes().and_then(Gguf::from_bytes) else { return };
    check(&file, &String::from_utf8_lossy(input.rest()), whole);
});

/// Returns a file with a vocabulary, and whether decoding must reproduce every text: all bytes have tokens, and all
/// tokens are normal.
fn vocabulary(input: &mut Input) -> (GgufWriter, bool) {
    let flags = input.byte();
    let mut tokens: Vec<String> = alphabet();
    if flags & 1 != 0 {
        tokens.truncate(input.byte().into());
    }
    let whole = tokens.len() == 256 && flags & 6 == 0;
    for _ in 0..input.pick(32) {
        tokens.push(input.text());
    }
    // Merges of existing tokens, which add their results, or arbitrary text.
    let mut merges = Vec::new();
    for _ in 0..input.pick(64) {
        match input.byte() {
            0 => merges.push(input.text()),
            _ => {
                let (left, right) = (input.index(tokens.len()), input.index(tokens.len()));
                if let (Some(left), Some(right)) = (tokens.get(left), tokens.get(right)) {
                    let (merge, token) = (format!("{left} {right}"), format!("{left}{right}"));
                    if token.len() > 512 {
                        continue;
                    }
                    merges.push(merge);
                    if !tokens.contains(&token) {
                        tokens.push(token);
                    }
                }
            }
        }
    }
    let mut file = GgufWriter::new();
    file.metadata("tokenizer.ggml.model", "gpt2").metadata("tokenizer.ggml.pre", PRE[input.pick(PRE.len())]);
    if flags & 2 != 0 {
        let types: Vec<i32> = (0..tokens.len()).map(|_| i32::from(input.byte().cast_signed())).collect();
        file.metadata("tokenizer.ggml.token_type", types);
    }
    if flags & 4 != 0 {
        let types: Vec<u64> = (0..input.pick(300)).map(|_| input.number()).collect();
        file.metadata("tokenizer.ggml.token_type", Value::Array(Array::U64(types)));
    }
    for (bit, key) in [(8, "bos_token_id"), (16, "eos_token_id"), (32, "eot_token_id")] {
        if flags & bit != 0 {
            file.metadata(format!("tokenizer.ggml.{key}"), input.number());
        }
    }
    if flags & 64 != 0 {
        file.metadata("tokenizer.ggml.add_bos_token", flags & 128 != 0);
    }
    file.metadata("tokenizer.ggml.tokens", tokens).metadata("tokenizer.ggml.merges", merges);
    (file, whole)
}

fn check(file: &Gguf, text: &str, whole: bool) {
    let tokenizer = match Tokenizer::from_gguf(file) {
        Ok(tokenizer) => tokenizer,
        Err(error) => return check_line(error),
    };
    let size = tokenizer.vocab_size() as u32;
    assert!(tokenizer.stop_ids().iter().all(|&id| id < size));
    for special in [false, true] {
        let ids = match tokenizer.encode(text, special) {
            Ok(ids) => ids,
            Err(error) => {
                check_line(error);
                continue;
            }
        };
        assert!(ids.iter().all(|&id| id < size) && ids.len() <= text.len());
        let decoded = tokenizer.decode(&ids).expect("its own ids");
        assert!(!whole || decoded == text, "{text:?} became {decoded:?}");
        let mut stream = tokenizer.decode_stream();
        let mut pieces: String = ids.iter().filter_map(|&id| stream.push(id).expect("an id")).collect();
        pieces.extend(stream.finish());
        assert_eq!(pieces, decoded);
    }
    if let Ok(ids) = tokenizer.encode_prompt(text) {
        let mut stream = tokenizer.decode_stream().show_control(true);
        let _: Vec<_> = ids.iter().map(|&id| stream.push(id)).collect();
    }
    let all: Vec<u32> = (0..size).collect();
    tokenizer.decode(&all).expect("all ids");
    assert!(tokenizer.decode(&[size]).is_err() && tokenizer.token_bytes(size).is_none());
}

/// Returns the 256 characters of the byte-level alphabet.
fn alphabet() -> Vec<String> {
    let mut others = 0x100..;
    (0..=255_u8)
        .map(|byte| match byte {
            b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF => char::from(byte).to_string(),
            _ => others.next().and_then(char::from_u32).map(String::from).unwrap_or_default(),
        })
        .collect()
}
