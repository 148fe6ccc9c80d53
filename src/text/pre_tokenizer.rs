//! Pre-tokenizers: they split text into the words that BPE encodes. `tokenizer.ggml.pre` names one.
//!
//! The original patterns end in `\s+(?!\S)|\s+`. The lookahead needs a backtracking matcher, which fails on long runs
//! of spaces. The patterns here end in `\s+`, for a linear-time matcher, and [`Stage::next`] replaces the lookahead: it
//! leaves the last space of a run to the next word.

use std::borrow::Cow;

use tokenizers::utils::SysRegex;
use unicode_normalization::{UnicodeNormalization, is_nfc};

use super::error::{TextError, excerpt};

const QWEN2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+";
const LLAMA3: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+";
const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+";
/// The alternative for line ends in [`QWEN2`] and [`LLAMA3`].
const LINE_ENDS: &str = r"\s*[\r\n]+";
const SINGLE_NUMERAL: &str = r"\p{N}";
/// As [`QWEN2`], with combining marks counted as letters.
const QWEN35: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+";
/// The vocabulary o200k of tiktoken: words end where an upper-case letter follows a lower-case one.
const O200K: &str = concat!(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|",
    r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+"
);
/// Mistral's Tekken: as [`O200K`], without contractions and with single digits.
const TEKKEN: &str = concat!(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|",
    r"\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+"
);
const DEEPSEEK_V3: &str = concat!(
    r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+|"##,
    r" ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+"
);
/// The letters of DeepSeek LLM, without those that have no case.
const CASED_LETTERS: &str = concat!(
    "\\s?[",
    "A-Za-z\\x{B5}\\x{C0}-\\x{D6}\\x{D8}-\\x{F6}\\x{F8}-\\x{1BA}\\x{1BC}-\\x{1BF}\\x{1C4}-\\x{293}",
    "\\x{295}-\\x{2AF}\\x{370}-\\x{373}\\x{376}\\x{377}\\x{37B}-\\x{37D}\\x{37F}\\x{386}\\x{388}-\\x{38A}",
    "\\x{38C}\\x{38E}-\\x{3A1}\\x{3A3}-\\x{3F5}\\x{3F7}-\\x{481}\\x{48A}-\\x{52F}\\x{531}-\\x{556}",
    "\\x{10A0}-\\x{10C5}\\x{13A0}-\\x{13F5}\\x{13F8}-\\x{13FD}\\x{1C90}-\\x{1CBA}\\x{1CBD}-\\x{1CBF}",
    "\\x{1D00}-\\x{1D2B}\\x{1D6B}-\\x{1D77}\\x{1D79}-\\x{1D9A}\\x{1E00}-\\x{1F15}\\x{1F18}-\\x{1F1D}",
    "\\x{1F20}-\\x{1F45}\\x{1F48}-\\x{1F4D}\\x{1F50}-\\x{1F57}\\x{1F59}\\x{1F5B}\\x{1F5D}\\x{1F5F}-\\x{1F7D}",
    "\\x{1F80}-\\x{1FB4}\\x{1FB6}-\\x{1FBC}\\x{1FBE}\\x{1FC2}-\\x{1FC4}\\x{1FC6}-\\x{1FCC}\\x{1FD0}-\\x{1FD3}",
    "\\x{1FD6}-\\x{1FDB}\\x{1FE0}-\\x{1FEC}\\x{1FF2}-\\x{1FF4}\\x{1FF6}-\\x{1FFC}\\x{2102}\\x{2107}",
    "\\x{210A}-\\x{2113}\\x{2115}\\x{2119}-\\x{211D}\\x{2124}\\x{2126}\\x{2128}\\x{212A}-\\x{212D}",
    "\\x{212F}-\\x{2134}\\x{2139}\\x{213C}-\\x{213F}\\x{2145}-\\x{2149}\\x{214E}\\x{2183}\\x{2184}",
    "\\x{2C00}-\\x{2C7B}\\x{2C7E}-\\x{2CE4}\\x{2CEB}-\\x{2CEE}\\x{2CF2}\\x{2CF3}\\x{A640}-\\x{A66D}",
    "\\x{A680}-\\x{A69B}\\x{A722}-\\x{A76F}\\x{A771}-\\x{A787}\\x{A78B}-\\x{A78E}\\x{AB70}-\\x{ABBF}",
    "\\x{FB00}-\\x{FB06}\\x{FB13}-\\x{FB17}\\x{FF21}-\\x{FF3A}\\x{FF41}-\\x{FF5A}\\x{10400}-\\x{1044F}",
    "\\x{104B0}-\\x{104D3}\\x{104D8}-\\x{104FB}\\x{10C80}-\\x{10CB2}\\x{10CC0}-\\x{10CF2}\\x{118A0}-\\x{118DF}",
    "\\x{1E900}-\\x{1E943}",
    "]+"
);
const FULL_WIDTH_PUNCTUATION: &str =
    r"\s?[!-/:-~\x{FF01}-\x{FF0F}\x{FF1A}-\x{FF5E}\x{2018}-\x{201F}\x{3000}-\x{3002}]+";
const IDEOGRAPHS: &str = r"[\x{4E00}-\x{9FA5}\x{800}-\x{4E00}\x{AC00}-\x{D7FF}]+";
const IDEOGRAPHS_AND_KANA: &str = r"[\x{4E00}-\x{9FA5}\x{3040}-\x{309F}\x{30A0}-\x{30FF}]+";
const LINE_END: &str = r"[\r\n]";
const SPACES_AT_THE_END: &str = r"\s+$";
const UP_TO_THREE_NUMERALS: &str = r"\p{N}{1,3}";
const FALCON_PUNCTUATION: &str = r"[\p{P}$+<=>^~|`]+";
const LETTERS: &str = r"\s?\p{L}+";
const SPACED_PUNCTUATION: &str = r"\s?\p{P}+";
const PUNCTUATION: &str = r"[\p{P}$+<=>^~|]+";
const NUMERALS: &str = r"\p{N}+";
const THREE_DIGITS: &str = "[0-9][0-9][0-9]";

/// A pre-tokenizer: its names in GGUF files, and its patterns. Each pattern splits the output of the previous one.
struct Scheme {
    names: &'static [&'static str],
    patterns: &'static [&'static str],
    /// Whether a word in the vocabulary is encoded as one token without applying merges (`ignore_merges`).
    ignore_merges: bool,
    /// The default of `tokenizer.ggml.add_bos_token`.
    add_bos: bool,
    /// Whether text is normalized to NFC first.
    nfc: bool,
}

impl Scheme {
    const fn new(names: &'static [&'static str], patterns: &'static [&'static str]) -> Self {
        Self { names, patterns, ignore_merges: false, add_bos: false, nfc: false }
    }

    const fn ignore_merges(self) -> Self {
        Self { ignore_merges: true, ..self }
    }

    const fn add_bos(self) -> Self {
        Self { add_bos: true, ..self }
    }

    const fn nfc(self) -> Self {
        Self { nfc: true, ..self }
    }
}

const SCHEMES: &[Scheme] = &[
    Scheme::new(&["qwen2", "deepseek-r1-qwen", "megrez", "stablelm2"], &[QWEN2]).nfc(),
    Scheme::new(&["hunyuan", "solar-open", "kormo", "f2llmv2", "grok-2"], &[QWEN2]),
    Scheme::new(&["qwen35"], &[QWEN35]),
    Scheme::new(&["llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"], &[LLAMA3])
        .ignore_merges()
        .add_bos(),
    Scheme::new(&["smollm3", "glm4", "glm5"], &[LLAMA3]).ignore_merges(),
    Scheme::new(&["dbrx", "smaug-bpe", "chatglm-bpe"], &[LLAMA3]),
    Scheme::new(&["gpt-4o", "o200k", "llama4", "kanana2", "talkie", "minimax-m2"], &[O200K]),
    Scheme::new(&["tekken"], &[TEKKEN]).ignore_merges().add_bos(),
    Scheme::new(
        &["deepseek-llm"],
        &[LINE_END, CASED_LETTERS, FULL_WIDTH_PUNCTUATION, SPACES_AT_THE_END, IDEOGRAPHS, NUMERALS],
    ),
    Scheme::new(&["deepseek-coder"], &[LINE_END, LETTERS, SPACED_PUNCTUATION, IDEOGRAPHS, SINGLE_NUMERAL]),
    Scheme::new(
        &["deepseek-v3", "hunyuan-dense", "joyai-llm", "hy_v4"],
        &[UP_TO_THREE_NUMERALS, IDEOGRAPHS_AND_KANA, DEEPSEEK_V3],
    ),
    Scheme::new(&["falcon"], &[FALCON_PUNCTUATION, GPT2, THREE_DIGITS]),
    Scheme::new(
        &["smollm", "starcoder", "refact", "codeshell", "exaone", "minerva-7b", "mellum2"],
        &[SINGLE_NUMERAL, GPT2],
    ),
    Scheme::new(&["command-r"], &[SINGLE_NUMERAL, GPT2]).nfc(),
    Scheme::new(
        &["gpt-2", "phi-2", "jais", "trillion", "gigachat", "exaone4", "a.x-4.0", "mellum", "granite-docling"],
        &[GPT2],
    ),
    Scheme::new(&["mpt", "olmo"], &[GPT2]).nfc(),
    Scheme::new(&["default"], &[PUNCTUATION, GPT2, NUMERALS, THREE_DIGITS]),
];

fn scheme(name: &str) -> Option<&'static Scheme> {
    SCHEMES.iter().find(|scheme| scheme.names.contains(&name))
}

/// Returns the default of `tokenizer.ggml.add_bos_token` for this pre-tokenizer.
pub(super) fn adds_bos_by_default(name: &str) -> bool {
    scheme(name).is_some_and(|scheme| scheme.add_bos)
}

/// A pre-tokenizer, compiled.
pub(super) struct PreTokenizer {
    stages: Vec<Stage>,
    ignore_merges: bool,
    nfc: bool,
}

impl PreTokenizer {
    /// Compiles the pre-tokenizer of this name.
    pub(super) fn new(name: &str) -> Result<Self, TextError> {
        let Some(scheme) = scheme(name) else {
            let supported: Vec<&str> = SCHEMES.iter().flat_map(|scheme| scheme.names).copied().collect();
            return Err(TextError::UnsupportedPreTokenizer { name: excerpt(name), supported: supported.join(", ") });
        };
        let stages = scheme.patterns.iter().map(|pattern| Stage::new(pattern)).collect::<Result<_, _>>()?;
        Ok(Self { stages, ignore_merges: scheme.ignore_merges, nfc: scheme.nfc })
    }

    /// Returns whether a word in the vocabulary is encoded as one token without applying merges.
    pub(super) fn ignore_merges(&self) -> bool {
        self.ignore_merges
    }

    /// Returns the text in the normalization form of the tokenizer.
    pub(super) fn normalize<'t>(&self, text: &'t str) -> Cow<'t, str> {
        if !self.nfc || is_nfc(text) { Cow::Borrowed(text) } else { Cow::Owned(text.nfc().collect()) }
    }

    /// Splits a text into words. Their concatenation is the text.
    pub(super) fn split<'t>(&self, text: &'t str) -> Vec<&'t str> {
        let mut words = if text.is_empty() { Vec::new() } else { vec![text] };
        for stage in &self.stages {
            let mut finer = Vec::with_capacity(words.len());
            for word in words {
                stage.split(word, &mut finer);
            }
            words = finer;
        }
        words
    }
}

/// One pattern. Its matches are words, and so is the text between matches.
struct Stage {
    regex: SysRegex,
    /// Whether the pattern matches line ends separately; they are then never left to the next word.
    matches_line_ends: bool,
}

impl Stage {
    fn new(pattern: &str) -> Result<Self, TextError> {
        let regex = SysRegex::new(pattern).map_err(|error| TextError::Tokenizer(error.to_string()))?;
        Ok(Self { regex, matches_line_ends: pattern.contains(LINE_ENDS) })
    }

    fn split<'t>(&self, text: &'t str, words: &mut Vec<&'t str>) {
        let mut rest = text;
        while let Some((before, word, after)) = self.next(rest) {
            words.extend([before, word].into_iter().filter(|piece| !piece.is_empty()));
            rest = after;
        }
        if !rest.is_empty() {
            words.push(rest);
        }
    }

    /// Returns the number of bytes at the end of a match that belong to the next word: the last space of a longer run.
    fn left_for_next(&self, word: &str) -> usize {
        match word.chars().next_back() {
            Some('\r' | '\n') if self.matches_line_ends => 0,
            Some(last) if last.len_utf8() < word.len() && word.chars().all(char::is_whitespace) => last.len_utf8(),
            _ => 0,
        }
    }

    /// Returns the next match, with the text before and after it.
    fn next<'t>(&self, text: &'t str) -> Option<(&'t str, &'t str, &'t str)> {
        let (start, mut end) = self.regex.find_iter(text).next()?;
        let word = text.get(start..end).filter(|word| !word.is_empty())?;
        let after = text.get(end..)?;
        if !after.is_empty() && !after.starts_with(char::is_whitespace) {
            end -= self.left_for_next(word);
        }
        Some((text.get(..start)?, text.get(start..end)?, text.get(end..)?))
    }
}
