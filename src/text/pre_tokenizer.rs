//! Pre-tokenizers: they split text into the words that BPE encodes. `tokenizer.ggml.pre` names one.
//!
//! The original patterns end in `\s+(?!\S)|\s+`. The lookahead needs a backtracking matcher, which fails on long runs
//! of spaces. The patterns here end in `\s+`, for a linear-time matcher, and [`Stage::next`] replaces the lookahead: it
//! leaves the last space of a run to the next word.

use tokenizers::utils::SysRegex;

use super::error::{TextError, excerpt};

const QWEN2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+";
const LLAMA3: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+";
const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+";
/// The alternative for line ends in [`QWEN2`] and [`LLAMA3`].
const LINE_ENDS: &str = r"\s*[\r\n]+";
const SINGLE_NUMERAL: &str = r"\p{N}";
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
}

const SCHEMES: &[Scheme] = &[
    Scheme {
        names: &["qwen2", "deepseek-r1-qwen", "megrez", "stablelm2", "hunyuan", "solar-open"],
        patterns: &[QWEN2],
        ignore_merges: false,
        add_bos: false,
    },
    Scheme {
        names: &["llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"],
        patterns: &[LLAMA3],
        ignore_merges: true,
        add_bos: true,
    },
    Scheme { names: &["dbrx", "smaug-bpe"], patterns: &[LLAMA3], ignore_merges: false, add_bos: false },
    Scheme {
        names: &["smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"],
        patterns: &[SINGLE_NUMERAL, GPT2],
        ignore_merges: false,
        add_bos: false,
    },
    Scheme {
        names: &["gpt-2", "phi-2", "mpt", "olmo", "jais", "trillion", "gigachat", "exaone4"],
        patterns: &[GPT2],
        ignore_merges: false,
        add_bos: false,
    },
    Scheme {
        names: &["default"],
        patterns: &[PUNCTUATION, GPT2, NUMERALS, THREE_DIGITS],
        ignore_merges: false,
        add_bos: false,
    },
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
}

impl PreTokenizer {
    /// Compiles the pre-tokenizer of this name.
    pub(super) fn new(name: &str) -> Result<Self, TextError> {
        let Some(scheme) = scheme(name) else {
            let supported: Vec<&str> = SCHEMES.iter().flat_map(|scheme| scheme.names).copied().collect();
            return Err(TextError::UnsupportedPreTokenizer { name: excerpt(name), supported: supported.join(", ") });
        };
        let stages = scheme.patterns.iter().map(|pattern| Stage::new(pattern)).collect::<Result<_, _>>()?;
        Ok(Self { stages, ignore_merges: scheme.ignore_merges })
    }

    /// Returns whether a word in the vocabulary is encoded as one token without applying merges.
    pub(super) fn ignore_merges(&self) -> bool {
        self.ignore_merges
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
