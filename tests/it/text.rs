//! The tokenizer: the demo model's golden prompts, ids of Hugging Face's tokenizers, special tokens, streaming.

use crate::common::vocabulary::{bytes_only, gemma4, sentence_piece, tokenizer, vocabulary};
use ferrum_wgpu::low_level::text::Vocabulary;
use ferrum_wgpu::{ChatTemplate, Gguf, Message, RenderOptions, TextError, Tokenizer};

#[test]
fn demo_model_prompts_and_answers() {
    let file = Gguf::open("models/demo-q4_k_m.gguf").unwrap();
    let tokenizer = Tokenizer::from_gguf(&file).unwrap();
    let template = ChatTemplate::from_metadata(file.metadata()).unwrap();
    let golden = std::fs::read_to_string("tests/golden/demo.json").unwrap();
    let golden: serde_json::Value = serde_json::from_str(&golden).unwrap();
    let cases = golden["answers"].as_array().unwrap();
    assert!(!cases.is_empty());
    for case in cases {
        let ids = |key: &str| -> Vec<u32> {
            case[key].as_array().unwrap().iter().map(|id| u32::try_from(id.as_u64().unwrap()).unwrap()).collect()
        };
        let prompt = case["prompt"].as_str().unwrap();
        let conversation = [Message::user(prompt)];
        let rendered = template.render(&conversation, &RenderOptions::default()).unwrap();
        assert_eq!(rendered, ChatTemplate::chatml().render(&conversation, &RenderOptions::default()).unwrap());
        assert_eq!(tokenizer.encode_prompt(&rendered).unwrap(), ids("prompt_tokens"), "{prompt}");
        assert_eq!(tokenizer.decode(&ids("answer_tokens")).unwrap(), case["answer"].as_str().unwrap());
    }
    assert_eq!(tokenizer.vocab_size(), 1504);
    assert_eq!(tokenizer.eos_token(), Some("<|im_end|>"));
    // `<|endoftext|>` is found by its text, `<|im_end|>` by the metadata as well.
    // `<|im_start|>` starts another turn.
    assert_eq!(tokenizer.stop_ids(), [1501, 1502, 1503]);
    assert!(tokenizer.is_stop(1503) && !tokenizer.is_stop(1500));
}

/// Compares with the ids of Hugging Face's tokenizers 0.22 for the same vocabulary, merges and pattern.
#[test]
fn splits_as_hugging_face_does() {
    const TEXTS: [&str; 8] = [
        "Hello  world's   test\n\n  x",
        "I'LL don'T we'Re 'Sam",
        "12345 67 8²½ x1y",
        "a\t\tb \r\n c\n",
        "!!!\n\n??  ...$$ (x)",
        "naïve café 東京 で🙂é",
        "  \n \n",
        "tab\u{a0}nbsp\u{2003}em  end  ",
    ];
    let qwen2: [&[u32]; 8] = [
        &[312, 322, 111, 32, 32, 331, 108, 100, 311, 256, 32, 116, 321, 116, 261, 32, 32, 120],
        &[73, 281, 76, 32, 288, 110, 284, 32, 119, 101, 282, 101, 32, 39, 83, 287],
        &[49, 50, 51, 52, 53, 32, 54, 55, 32, 56, 194, 178, 194, 189, 32, 120, 49, 121],
        &[97, 9, 9, 98, 32, 13, 10, 32, 99, 10],
        &[272, 269, 32, 32, 260, 268, 32, 40, 120, 41],
        &[324, 175, 118, 101, 32, 317, 263, 32, 339, 335, 186, 172, 32, 338, 167, 240, 342, 263],
        &[256, 257, 10],
        &[116, 313, 337, 325, 112, 226, 340, 319, 32, 32, 320, 100, 256],
    ];
    let mut llama = qwen2;
    llama[2] = &[298, 51, 52, 53, 32, 302, 32, 303, 305, 189, 32, 120, 49, 121];
    let mut gpt2 = qwen2;
    gpt2[0] = &[312, 322, 111, 32, 32, 331, 108, 100, 311, 256, 32, 116, 321, 116, 10, 257, 32, 120];
    gpt2[1] = &[73, 39, 76, 76, 32, 288, 110, 39, 84, 32, 119, 101, 39, 82, 101, 32, 39, 83, 287];
    gpt2[2] = &[308, 53, 32, 302, 307, 305, 189, 32, 120, 49, 121];
    gpt2[4] = &[259, 33, 10, 10, 269, 32, 32, 260, 268, 32, 40, 120, 41];
    let mut smollm = gpt2;
    smollm[2] = qwen2[2];
    let mut default = gpt2;
    default[0] = &[312, 322, 111, 32, 32, 331, 108, 100, 39, 115, 256, 32, 116, 321, 116, 10, 257, 32, 120];
    default[2] = llama[2];
    default[4] = &[259, 33, 261, 269, 256, 260, 268, 32, 40, 120, 41];
    for (pre, expected) in
        [("qwen2", qwen2), ("llama-bpe", llama), ("gpt-2", gpt2), ("smollm", smollm), ("default", default)]
    {
        let tokenizer = tokenizer(pre);
        for (text, expected) in TEXTS.iter().zip(expected) {
            assert_eq!(tokenizer.encode(text, true).unwrap(), expected, "{pre}: {text:?}");
        }
    }
}

#[test]
fn text_survives_the_round_trip() {
    let texts = [
        "",
        " ",
        "\0\u{1}\u{7f}",
        "über façade Ελληνικά Привет שלום مرحبا हिन्दी ไทย 한국어 日本語",
        "👩‍🚀👨‍👩‍👧‍👦🏳️‍🌈 e\u{301} \u{fffd}\u{feff}",
        "Ġ is not a space, Ċ not a line end",
        "\u{10ffff}\u{e000}\u{2028}\u{85}\u{3000}x",
        "<tool>not <s>special</s>",
        "fn main() {\r\n\t\tlet x = 1_000;\r\n}\r\n\r\n",
    ];
    for pre in ["qwen2", "llama-bpe", "llama3", "smollm", "gpt-2", "default", "olmo", "dbrx"] {
        let tokenizer = tokenizer(pre);
        for text in texts {
            // The tokenizers of Qwen2 and OLMo compose characters.
            let composed =
                if ["qwen2", "olmo"].contains(&pre) { text.replace("e\u{301}", "é") } else { text.to_owned() };
            assert_eq!(tokenizer.decode(&tokenizer.encode(text, false).unwrap()).unwrap(), composed, "{pre}");
        }
    }
}

#[test]
fn sentence_piece_merges_by_score_and_falls_back_to_bytes() {
    let tokenizer = Tokenizer::new(sentence_piece()).unwrap();
    let id = |text| tokenizer.token_id(text).unwrap();
    let byte = |byte: u32| byte + 4;
    assert_eq!(tokenizer.encode("ab", false).unwrap(), [id("\u{2581}ab")]);
    assert_eq!(tokenizer.encode("a ab", false).unwrap(), [id("\u{2581}a"), id("\u{2581}ab")]);
    assert_eq!(
        tokenizer.encode("é東\n", false).unwrap(),
        [id("\u{2581}"), id("é"), byte(0xE6), byte(0x9D), byte(0xB1), byte(10)]
    );
    // A space is added after special tokens too.
    assert_eq!(tokenizer.encode("<s>a<tool>a", true).unwrap(), [1, id("\u{2581}a"), id("<tool>"), id("\u{2581}a")]);
    assert_eq!(tokenizer.encode_prompt("ab").unwrap(), [1, id("\u{2581}ab")]);
    // Neither control tokens nor byte tokens come of plain text, though the score of `<s>` is the highest.
    let plain = tokenizer.encode("<s><0x0A>", false).unwrap();
    assert!(!plain.contains(&1) && plain.iter().all(|&token| token != byte(10)), "{plain:?}");
    for text in ["a  b", " a", "é東\n", "<s>", ""] {
        assert_eq!(tokenizer.decode(&tokenizer.encode(text, false).unwrap()).unwrap(), text);
    }
    let without = Tokenizer::new(Vocabulary { add_space_prefix: false, ..sentence_piece() }).unwrap();
    assert_eq!(without.encode("ab a", false).unwrap(), [id("ab"), id("\u{2581}a")]);
    assert_eq!(tokenizer.stop_ids(), [2, 3]);
}

#[test]
fn gemma_4_merges_characters_of_whole_lines() {
    let tokenizer = Tokenizer::new(gemma4()).unwrap();
    let id = |text| tokenizer.token_id(text).unwrap();
    assert_eq!(
        tokenizer.encode("b a\n\n東", false).unwrap(),
        [id("b"), id("\u{2581}a"), id("\n\n"), 0xE6 + 4, 0x9D + 4, 0xB1 + 4]
    );
    // The merge of `<s>`, a control token, is not applied.
    assert_eq!(tokenizer.encode("<s>", false).unwrap(), [id("<s"), id(">")]);
    assert_eq!(tokenizer.decode(&[id("\u{2581}a"), 0xC3 + 4, 0xA9 + 4]).unwrap(), " aé");
    assert!(tokenizer.is_stop(id("<turn|>")));
}

#[test]
fn special_tokens() {
    let tokenizer = tokenizer("qwen2");
    let id = |text| tokenizer.token_id(text).unwrap();
    let ids = tokenizer.encode("a<s>b<tool><|im_end|>", true).unwrap();
    assert_eq!(ids, [97, id("<s>"), 98, id("<tool>"), id("<|im_end|>")]);
    // Control tokens are hidden, user-defined ones are shown.
    assert_eq!(tokenizer.decode(&ids).unwrap(), "ab<tool>");
    let mut stream = tokenizer.decode_stream().show_control(true);
    let shown: String = ids.iter().filter_map(|&id| stream.push(id).unwrap()).collect();
    assert_eq!(shown, "a<s>b<tool><|im_end|>");
    // Without parsing, control tokens are text; user-defined tokens are always found.
    let plain = tokenizer.encode("<s><tool>", false).unwrap();
    assert_eq!(plain, [u32::from(b'<'), u32::from(b's'), u32::from(b'>'), id("<tool>")]);
    assert!(tokenizer.is_control(id("<s>")) && !tokenizer.is_control(id("<tool>")));
    assert_eq!(tokenizer.stop_ids(), [id("<|im_end|>")]);
    assert_eq!(tokenizer.token_bytes(id("<s>")).as_deref(), Some(b"<s>".as_slice()));
    assert_eq!(tokenizer.token_bytes(256).as_deref(), Some(b"  ".as_slice()));
    assert_eq!(tokenizer.token_bytes(u32::MAX), None);
}

#[test]
fn longest_special_token_wins() {
    let mut vocabulary = bytes_only("qwen2");
    vocabulary.token_types = vec![1; 256];
    vocabulary.tokens.extend(["<a", "<a>", "<a><b>", "[.*]"].map(str::to_owned));
    vocabulary.token_types.extend([3, 3, 4, 3]);
    let tokenizer = Tokenizer::new(vocabulary).unwrap();
    assert_eq!(tokenizer.encode("<a><b><a><a[.*]", true).unwrap(), [258, 257, 256, 259]);
}

#[test]
fn beginning_of_text_is_added_once() {
    let mut vocabulary = vocabulary("llama-bpe");
    let bos = vocabulary.bos.unwrap();
    let without = Tokenizer::new(vocabulary.clone()).unwrap();
    assert_eq!(without.encode_prompt("x").unwrap(), [120]);
    assert_eq!(without.bos_token(), Some("<s>"));
    vocabulary.add_bos = true;
    let with = Tokenizer::new(vocabulary).unwrap();
    assert_eq!(with.encode_prompt("x").unwrap(), [bos, 120]);
    assert_eq!(with.encode_prompt("<s>x").unwrap(), [bos, 120]);
    assert_eq!(with.encode_prompt("").unwrap(), [bos]);
    assert_eq!(with.encode("x", true).unwrap(), [120]);
}

#[test]
fn whole_words_come_before_merges_for_llama_only() {
    for (pre, expected) in [("llama-bpe", vec![256]), ("qwen2", vec![104, 105])] {
        let mut vocabulary = bytes_only(pre);
        vocabulary.tokens.push("hi".to_owned());
        assert_eq!(Tokenizer::new(vocabulary).unwrap().encode("hi", false).unwrap(), expected, "{pre}");
    }
}

#[test]
fn long_texts_are_tokenized_in_linear_time() {
    let long = |piece: &str| piece.repeat((1 << 18) / piece.len());
    for pre in ["qwen2", "smollm", "default"] {
        let tokenizer = tokenizer(pre);
        for text in
            [long("a"), long(" "), long("\n"), long("7"), long("!"), long(" \n"), long("<s"), long("é "), long("'")]
        {
            let ids = tokenizer.encode(&text, true).unwrap();
            assert!(tokenizer.decode(&ids).unwrap() == text, "{pre}: {:?}…", &text[..2]);
        }
    }
}

#[test]
fn streams_emit_whole_characters() {
    let tokenizer = tokenizer("gpt-2");
    let pieces = |ids: &[u32]| -> Vec<Option<String>> {
        let mut stream = tokenizer.decode_stream();
        let mut pieces: Vec<_> = ids.iter().map(|&id| stream.push(id).unwrap()).collect();
        pieces.push(stream.finish());
        pieces
    };
    let some = |text: &str| Some(text.to_owned());
    // An emoji of four bytes in three tokens, the last of which has two bytes.
    assert_eq!(pieces(&[240, 159, 341]), [None, None, some("🙂"), None]);
    assert_eq!(pieces(&[97, 240, 342, 98]), [some("a"), None, some("🙂"), some("b"), None]);
    // Invalid bytes are emitted at once, and do not delay what follows.
    assert_eq!(pieces(&[0xFF, 97]), [some("\u{fffd}"), some("a"), None]);
    assert_eq!(pieces(&[0xE6, 97]), [None, some("\u{fffd}a"), None]);
    assert_eq!(pieces(&[0xF0, 0x9F, 0xF0]), [None, None, some("\u{fffd}"), some("\u{fffd}")]);
    assert_eq!(pieces(&[0x80, 0x80]), [some("\u{fffd}"), some("\u{fffd}"), None]);
    assert_eq!(pieces(&[0xED, 0xA0]), [None, some("\u{fffd}\u{fffd}"), None]);
    let mut stream = tokenizer.decode_stream();
    assert_eq!(stream.push(0xE6).unwrap(), None);
    assert!(matches!(stream.push(99_999), Err(TextError::UnknownToken { id: 99_999, .. })));
    assert_eq!((stream.push(0x9D).unwrap(), stream.push(0xB1).unwrap()), (None, some("東")));
    // For arbitrary bytes, the concatenated pieces equal the decoded text.
    let mut state = 1_u32;
    let ids: Vec<u32> = (0..20_000)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 16) % 349
        })
        .collect();
    let bytes: Vec<u8> = ids
        .iter()
        .filter(|&&id| !tokenizer.is_control(id))
        .flat_map(|&id| tokenizer.token_bytes(id).unwrap().into_owned())
        .collect();
    let streamed: String = pieces(&ids).into_iter().flatten().collect();
    assert_eq!(streamed, tokenizer.decode(&ids).unwrap());
    assert_eq!(streamed, String::from_utf8_lossy(&bytes));
}
