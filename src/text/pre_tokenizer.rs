//! Splitting text into the words that BPE then works on, in the ways that `tokenizer.ggml.pre` names.
//!
//! The usual patterns end in `\s+(?!\S)|\s+`. The look-ahead asks for a backtracking matcher, which gives up on long
//! runs of spaces, so here the pattern ends in `\s+`, which a linear-time matcher takes, and [`Stage::next`] does what
//! the look-ahead did: it leaves the last space of a run to the word after it.

use tokenizers::utils::SysRegex;

use super::error::{TextError, excerpt};

const QWEN2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+";
const LLAMA3: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+";
const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+";
/// The rule for line ends in [`QWEN2`] and [`LLAMA3`].
const LINE_ENDS: &str = r"\s*[\r\n]+";
const SINGLE_NUMERAL: &str = r"\p{N}";
const PUNCTUATION: &str = r"[\p{P}$+<=>^~|]+";
const NUMERALS: &str = r"\p{N}+";
const THREE_DIGITS: &str = "[0-9][0-9][0-9]";

/// One way to split text: a name per model family that uses it, and the patterns, each of which splits what the one
/// before it left.
struct Scheme {
    names: &'static [&'static str],
    patterns: &'static [&'static str],
    /// Whether a word that is a token by itself is taken as it is, though the merges might not lead to it.
    whole_words: bool,
    /// Whether a file that does not say is to be given a beginning-of-text token.
    add_bos: bool,
}

const SCHEMES: &[Scheme] = &[
    Scheme {
        names: &["qwen2", "deepseek-r1-qwen", "megrez", "stablelm2", "hunyuan", "solar-open"],
        patterns: &[QWEN2],
        whole_words: false,
        add_bos: false,
    },
    Scheme {
        names: &["llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"],
        patterns: &[LLAMA3],
        whole_words: true,
        add_bos: true,
    },
    Scheme { names: &["dbrx", "smaug-bpe"], patterns: &[LLAMA3], whole_words: false, add_bos: false },
    Scheme {
        names: &["smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"],
        patterns: &[SINGLE_NUMERAL, GPT2],
        whole_words: false,
        add_bos: false,
    },
    Scheme {
        names: &["gpt-2", "phi-2", "mpt", "olmo", "jais", "trillion", "gigachat", "exaone4"],
        patterns: &[GPT2],
        whole_words: false,
        add_bos: false,
    },
    Scheme {
        names: &["default"],
        patterns: &[PUNCTUATION, GPT2, NUMERALS, THREE_DIGITS],
        whole_words: false,
        add_bos: false,
    },
];

fn scheme(name: &str) -> Option<&'static Scheme> {
    SCHEMES.iter().find(|scheme| scheme.names.contains(&name))
}

/// Whether files with this pre-tokenizer that do not say so want a beginning-of-text token.
pub(super) fn adds_bos_by_default(name: &str) -> bool {
    scheme(name).is_some_and(|scheme| scheme.add_bos)
}

/// A splitter of text into words.
pub(super) struct PreTokenizer {
    stages: Vec<Stage>,
    whole_words: bool,
}

impl PreTokenizer {
    /// The splitter of this name.
    pub(super) fn new(name: &str) -> Result<Self, TextError> {
        let Some(scheme) = scheme(name) else {
            let supported: Vec<&str> = SCHEMES.iter().flat_map(|scheme| scheme.names).copied().collect();
            return Err(TextError::UnsupportedPreTokenizer { name: excerpt(name), supported: supported.join(", ") });
        };
        let stages = scheme.patterns.iter().map(|pattern| Stage::new(pattern)).collect::<Result<_, _>>()?;
        Ok(Self { stages, whole_words: scheme.whole_words })
    }

    /// Whether a word that is a token by itself is taken as it is.
    pub(super) fn whole_words(&self) -> bool {
        self.whole_words
    }

    /// The words of a text, in order; together they are the text.
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

/// One pattern. What it matches is a word; so is what lies between two matches.
struct Stage {
    regex: SysRegex,
    /// Whether the pattern has a rule of its own for line ends, which then never go to the word after them.
    line_ends_stay: bool,
}

impl Stage {
    fn new(pattern: &str) -> Result<Self, TextError> {
        let regex = SysRegex::new(pattern).map_err(|error| TextError::Tokenizer(error.to_string()))?;
        Ok(Self { regex, line_ends_stay: pattern.contains(LINE_ENDS) })
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

    /// How many bytes at the end of a match go to the word after it: those of the last space of a longer run.
    fn left_for_next(&self, word: &str) -> usize {
        match word.chars().next_back() {
            Some('\r' | '\n') if self.line_ends_stay => 0,
            Some(last) if last.len_utf8() < word.len() && word.chars().all(char::is_whitespace) => last.len_utf8(),
            _ => 0,
        }
    }

    /// The next match, with the text before and after it.
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
