//! Small vocabularies of each kind.

use ferrum_wgpu::gguf::{Array, GgufWriter};
use ferrum_wgpu::low_level::text::Vocabulary;
use ferrum_wgpu::{Gguf, Tokenizer};

/// Merges learnt without a pre-tokenizer, so that they cross all boundaries of pre-tokenization.
pub const MERGES: &str = "Ġ Ġ/Ċ Ġ/ĠĠ Ġ/! !/. ./Ċ Ċ/e Ġ/Ã ©/Ã© Ġ/! ĊĊ/$ $/( x/. $$/? ?/Ġ (x/ĠĠ ../!! !ĊĊ/Ġ(x )/Ġ(x) Ġ/a ĉ/\
    b Ġ/ĉ bĠ/č ĊĠ/aĉ ĉbĠ/čĊĠ c/' L/' R/' S/' T/I 'L/L Ġ/a m/d o/e 'R/n 'T/w e'R/Ġ we'R/eĠ 'S/I'L LĠ/do n'T/ĠĠĠ ĊĠ/\
    ĠĠĠ t/1 2/1 y/3 4/5 Ġ/6 7/8 Â/x 1y/² Â/½ Ġ/Ġ 8Â/12 34/5Ġ 67/²Â ½Ġ/' s/H e/a b/a f/a Ã/b s/c af/d 's/e m/e n/\
    e s/l l/l d's/n aÃ/n bs/o r/o ĠĠ/p â/t ĊĊ/v eĠ/w or/§ ð/¬ Ġ/¯ veĠ/± ä/º ¬Ġ/Â ł/ã ģ/æ Ŀ/Ģ ĥ/Ļ Ĥ/Ł ĻĤ/ĠĠ x/ĠĠ en/\
    Ã©Ġ æĿ";

/// Returns the 256 characters of the byte-level alphabet, in the order of the bytes.
pub fn alphabet() -> Vec<String> {
    let printable = |byte: u32| matches!(byte, 0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF);
    let mut next = 0x100..;
    (0..256)
        .map(|byte| if printable(byte) { byte } else { next.next().unwrap() })
        .map(|code| char::from_u32(code).unwrap().to_string())
        .collect()
}

/// Returns a vocabulary of all bytes, the merges above and their results, and three special tokens: control, control,
/// user-defined.
pub fn vocabulary(pre: &str) -> Vocabulary {
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

pub fn tokenizer(pre: &str) -> Tokenizer {
    Tokenizer::new(vocabulary(pre)).unwrap()
}

/// Returns a vocabulary of single bytes.
pub fn bytes_only(pre: &str) -> Vocabulary {
    Vocabulary { tokens: alphabet(), token_types: vec![], merges: vec![], bos: None, ..vocabulary(pre) }
}

/// Returns a file with this vocabulary, edited by `change`.
pub fn file(vocabulary: &Vocabulary, change: impl FnOnce(&mut GgufWriter)) -> Gguf {
    let mut writer = GgufWriter::new();
    writer
        .metadata("tokenizer.ggml.model", vocabulary.model.as_str())
        .metadata("tokenizer.ggml.tokens", Array::String(vocabulary.tokens.clone()))
        .metadata("tokenizer.ggml.token_type", Array::I32(vocabulary.token_types.clone()))
        .metadata("tokenizer.ggml.merges", Array::String(vocabulary.merges.clone()));
    change(&mut writer);
    Gguf::from_bytes(writer.to_bytes().unwrap()).unwrap()
}

/// Returns a small vocabulary of SentencePiece with control, byte and user-defined tokens.
pub fn sentence_piece() -> Vocabulary {
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
pub fn gemma4() -> Vocabulary {
    let merges = ["\u{2581} a", "\n \n", "< s", "<s >"].map(str::to_owned).to_vec();
    let mut v =
        Vocabulary { model: "gemma4".to_owned(), scores: vec![], merges, add_space_prefix: false, ..sentence_piece() };
    v.tokens.extend(["\n", "\n\n", "<turn|>"].map(str::to_owned));
    v.token_types.extend([1, 1, 3]);
    v
}
