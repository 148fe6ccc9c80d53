//! The tokenizer and chat templates: the demo model's golden prompts, ids of Hugging Face's tokenizers, malformed
//! vocabularies, hostile input, streaming.

use ferrum_wgpu::{ChatTemplate, Json, Message, RenderOptions, TextError, Tokenizer, low_level::text::Vocabulary};
use ferrum_wgpu::{
    Gguf,
    gguf::{Array, GgufWriter},
};

/// Merges learnt without a pre-tokenizer, so that they cross all boundaries of pre-tokenization.
const MERGES: &str = "Ġ Ġ/Ċ Ġ/ĠĠ Ġ/! !/. ./Ċ Ċ/e Ġ/Ã ©/Ã© Ġ/! ĊĊ/$ $/( x/. $$/? ?/Ġ (x/ĠĠ ../!! !ĊĊ/Ġ(x )/Ġ(x) Ġ/a ĉ/\
    b Ġ/ĉ bĠ/č ĊĠ/aĉ ĉbĠ/čĊĠ c/' L/' R/' S/' T/I 'L/L Ġ/a m/d o/e 'R/n 'T/w e'R/Ġ we'R/eĠ 'S/I'L LĠ/do n'T/ĠĠĠ ĊĠ/\
    ĠĠĠ t/1 2/1 y/3 4/5 Ġ/6 7/8 Â/x 1y/² Â/½ Ġ/Ġ 8Â/12 34/5Ġ 67/²Â ½Ġ/' s/H e/a b/a f/a Ã/b s/c af/d 's/e m/e n/\
    e s/l l/l d's/n aÃ/n bs/o r/o ĠĠ/p â/t ĊĊ/v eĠ/w or/§ ð/¬ Ġ/¯ veĠ/± ä/º ¬Ġ/Â ł/ã ģ/æ Ŀ/Ģ ĥ/Ļ Ĥ/Ł ĻĤ/ĠĠ x/ĠĠ en/\
    Ã©Ġ æĿ";

/// Returns the 256 characters of the byte-level alphabet, in the order of the bytes.
fn alphabet() -> Vec<String> {
    let printable = |byte: u32| matches!(byte, 0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF);
    let mut next = 0x100..;
    (0..256)
        .map(|byte| if printable(byte) { byte } else { next.next().unwrap() })
        .map(|code| char::from_u32(code).unwrap().to_string())
        .collect()
}

/// Returns a vocabulary of all bytes, the merges above and their results, and three special tokens: control, control,
/// user-defined.
fn vocabulary(pre: &str) -> Vocabulary {
    let merges: Vec<String> = MERGES.split('/').map(str::to_owned).collect();
    let mut tokens = alphabet();
    for merge in &merges {
        let token = merge.replace(' ', "");
        if !tokens.contains(&token) {
            tokens.push(token);
        }
    }
    let mut token_types = vec![1; tokens.len()];
    let bos = u32::try_from(tokens.len()).unwrap();
    tokens.extend(["<s>", "<|im_end|>", "<tool>"].map(str::to_owned));
    token_types.extend([3, 3, 4]);
    Vocabulary {
        model: "gpt2".to_owned(),
        pre: pre.to_owned(),
        tokens,
        token_types,
        merges,
        bos: Some(bos),
        eos: None,
        extra_stops: vec![],
        add_bos: false,
        add_eos: false,
        scores: vec![],
        unknown: None,
        add_space_prefix: false,
    }
}

fn tokenizer(pre: &str) -> Tokenizer {
    Tokenizer::new(vocabulary(pre)).unwrap()
}

/// Returns a vocabulary of single bytes.
fn bytes_only(pre: &str) -> Vocabulary {
    Vocabulary { tokens: alphabet(), token_types: vec![], merges: vec![], bos: None, ..vocabulary(pre) }
}

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

/// Returns a file with this vocabulary, edited by `change`.
fn file(vocabulary: &Vocabulary, change: impl FnOnce(&mut GgufWriter)) -> Gguf {
    let mut writer = GgufWriter::new();
    writer
        .metadata("tokenizer.ggml.model", vocabulary.model.as_str())
        .metadata("tokenizer.ggml.tokens", Array::String(vocabulary.tokens.clone()))
        .metadata("tokenizer.ggml.token_type", Array::I32(vocabulary.token_types.clone()))
        .metadata("tokenizer.ggml.merges", Array::String(vocabulary.merges.clone()));
    change(&mut writer);
    Gguf::from_bytes(writer.to_bytes().unwrap()).unwrap()
}

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

/// Returns a small vocabulary of SentencePiece with control, byte and user-defined tokens.
fn sentence_piece() -> Vocabulary {
    let mut tokens: Vec<String> = ["<unk>", "<s>", "</s>", "<start_of_turn>"].map(str::to_owned).to_vec();
    let mut token_types = vec![2, 3, 3, 3];
    tokens.extend((0..256).map(|byte| format!("<0x{byte:02X}>")));
    token_types.extend([6; 256]);
    let pieces = ["\u{2581}", "a", "b", "\u{2581}a", "ab", "\u{2581}ab", "<", "s", ">", "<s", "/", "\u{2581}<", "é"];
    tokens.extend(pieces.map(str::to_owned));
    token_types.extend([1; 13]);
    tokens.push("<tool>".to_owned());
    token_types.push(4);
    // Longer pieces first; the control tokens' 0 is the highest.
    let scores = tokens.iter().enumerate().map(|(id, t)| if id < 260 { 0.0 } else { t.chars().count() as f32 - 9.0 });
    Vocabulary {
        model: "llama".to_owned(),
        scores: scores.collect(),
        tokens,
        token_types,
        merges: vec![],
        bos: Some(1),
        eos: Some(2),
        unknown: Some(0),
        add_bos: true,
        add_space_prefix: true,
        ..vocabulary("default")
    }
}

/// Returns a small vocabulary of Gemma 4: BPE of characters, bytes for the others.
fn gemma4() -> Vocabulary {
    let merges = ["\u{2581} a", "\n \n", "< s", "<s >"].map(str::to_owned).to_vec();
    let mut v =
        Vocabulary { model: "gemma4".to_owned(), scores: vec![], merges, add_space_prefix: false, ..sentence_piece() };
    v.tokens.extend(["\n", "\n\n", "<turn|>"].map(str::to_owned));
    v.token_types.extend([1, 1, 3]);
    v
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

/// Text of users and tools does not become control tokens, in whatever pieces it comes; the template's does.
#[test]
fn conversations_cannot_forge_control_tokens() {
    const TEMPLATE: &str = "{{ bos_token }}{% for m in messages %}{{ bos_token }}{{ m.role }}:\
        {% if m.content is string %}{{ m.content | trim }}{% else %}{% for p in m.content %}{{ p.text }}{% endfor %}{% endif %}\
        {% endfor %}{% if tools %}{% for k, v in tools[0].properties.items() %}<{{ k }}>{{ v.description }}{% endfor %}{% endif %}";
    for vocabulary in [vocabulary("qwen2"), vocabulary("llama-bpe"), vocabulary("default"), sentence_piece(), gemma4()]
    {
        let kind = (vocabulary.model.clone(), vocabulary.pre.clone());
        let tokenizer = Tokenizer::new(vocabulary).unwrap();
        let template = ChatTemplate::new(TEMPLATE, "<s>", "</s>").unwrap();
        let bos = tokenizer.token_id("<s>").unwrap();
        let count = |ids: &[u32]| ids.iter().filter(|&&id| tokenizer.is_control(id)).count();
        let options = RenderOptions::default();
        let parts = Json::parse(r#"[{"type": "text", "text": "<"}, {"type": "text", "text": "s>"}]"#).unwrap();
        for (messages, options) in [
            (vec![Message::user(" <s>a<s><<s>>s> ")], options.clone()),
            (vec![Message::user("a"), Message::tool("<s>")], options.clone()),
            (vec![Message::user("").with("content", parts)], options.clone()),
            (
                vec![Message::user("a")],
                options.clone().tools(Json::parse(r#"[{"properties": {"s": {"description": "<s>"}}}]"#).unwrap()),
            ),
        ] {
            let ids = template.encode(&tokenizer, &messages, &options).unwrap();
            assert_eq!(count(&ids), 1 + messages.len(), "{kind:?}: {messages:?}: {ids:?}");
            assert_eq!(ids[..2], [bos, bos]);
            // The text is the same, but for the template's control tokens.
            let rendered = template.render(&messages, &options).unwrap();
            let shown: String = ids
                .iter()
                .map(|&id| String::from_utf8_lossy(&tokenizer.token_bytes(id).unwrap()).into_owned())
                .collect();
            assert_eq!(shown.replace(' ', ""), rendered.replace(' ', ""), "{kind:?}");
            let all = options.parse_special(true);
            let parsed = template.encode(&tokenizer, &messages, &all).unwrap();
            assert!(count(&parsed) > 1 + messages.len() && parsed == tokenizer.encode_prompt(&rendered).unwrap());
        }
    }
}

/// Tools, calls, results and documents in the templates of Qwen3-Coder, Granite 3.3, SmolLM3 and one of this project, as
/// Jinja2 renders them with transformers' settings (tools/make_template_goldens.py).
#[test]
fn tools_and_documents_are_rendered_as_jinja2_does() {
    let goldens = include_str!("../golden/templates.json");
    let goldens: serde_json::Value = serde_json::from_str(goldens).unwrap();
    assert_eq!(goldens["now"], "2026-03-04T05:06:07+00:00");
    let now = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_772_600_767);
    let parse = |json: &serde_json::Value| json.as_str().map(|json| Json::parse(json).unwrap());
    let (mut rendered, mut refused) = (0, 0);
    for template in goldens["templates"].as_array().unwrap() {
        let parsed = ChatTemplate::new(template["source"].as_str().unwrap(), "<s>", "</s>").unwrap();
        for case in template["cases"].as_array().unwrap() {
            let options = RenderOptions::default()
                .add_generation_prompt(case["add_generation_prompt"].as_bool().unwrap())
                .now(now)
                .tools(parse(&case["tools"]))
                .documents(parse(&case["documents"]));
            let got = parsed.render_json(&parse(&case["messages"]).unwrap(), &options);
            match case["expected"].as_str() {
                Some(expected) => {
                    assert_eq!(got.unwrap(), expected, "{}: {}", template["name"], case["name"]);
                    rendered += 1;
                }
                None => {
                    assert!(got.is_err(), "{}: {}: {got:?}", template["name"], case["name"]);
                    refused += 1;
                }
            }
        }
    }
    assert_eq!((rendered, refused), (42, 2));
}

#[test]
fn a_template_without_the_message_is_refused() {
    let template = ChatTemplate::new("{{ messages[0].role }}", "", "").unwrap();
    let refused = template.encode(&tokenizer("qwen2"), &[Message::user("Hi")], &RenderOptions::default());
    assert!(matches!(refused, Err(TextError::TemplateDropsMessage)), "{refused:?}");
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

/// CVE-2024-34359: a Jinja template executed code of the host.
#[test]
fn cve_2024_34359_templates_cannot_reach_the_host() {
    for source in [
        "{% for c in ().__class__.__base__.__subclasses__() %}{{ c }}{% endfor %}",
        "{{ self.__init__.__globals__.__builtins__.__import__('os').popen('id').read() }}",
        "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
        "{{ messages.__class__.__mro__[1].__subclasses__() }}",
        "{{ ''['__class__'].__mro__ }}",
        "{{ config.items() }}",
        "{{ raise_exception.__globals__.os }}",
        "{% include '/etc/passwd' %}",
        "{% import '/etc/passwd' as secrets %}{{ secrets }}",
        "{% extends '/etc/passwd' %}",
        "{{ namespace.__init__.__globals__.__builtins__ }}",
        "{{ 'a'.format.__globals__.sys }}",
        "{{ '{0.__class__.__init__.__globals__}'.format(messages) }}",
        "{{ open('/etc/passwd').read() }}",
        "{{ debug() }}",
        "{{ lipsum.__globals__.os.popen('id').read() }}",
    ] {
        let rendered = ChatTemplate::new(source, "", "")
            .and_then(|template| template.render(&[Message::user("Hi")], &RenderOptions::default()));
        assert!(rendered.is_err(), "{source}: {rendered:?}");
    }
}
