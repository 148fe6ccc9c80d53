//! Grammars that constrain replies: JSON schemas, regular expressions, and context-free grammars, by llguidance.

use std::{fmt, sync::Arc};

use llguidance::{Matcher, ParserFactory, api::TopLevelGrammar};
use toktrie::{ApproximateTokEnv, InferenceCapabilities, SimpleVob, TokEnv, TokRxInfo, TokTrie};

use crate::{engine::Constraint, text::Tokenizer};

/// The longest grammar in bytes.
const MAX_LEN: usize = 1 << 20;

/// A grammar that replies follow.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Grammar {
    /// JSON by a schema: the text of a JSON object.
    JsonSchema(String),
    /// Any JSON object.
    JsonObject,
    /// A regular expression, of the whole reply.
    Regex(String),
    /// A grammar in llguidance's form of Lark, or in llama.cpp's GBNF (with `::=`).
    Grammar(String),
}

/// The error of a grammar that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct GrammarError(String);

impl GrammarError {
    fn new(error: impl fmt::Display) -> Self {
        Self(error.to_string())
    }
}

/// Compiles grammars for a tokenizer. It can be shared between threads.
pub struct GrammarCompiler {
    factory: ParserFactory,
}

impl fmt::Debug for GrammarCompiler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GrammarCompiler").finish_non_exhaustive()
    }
}

impl GrammarCompiler {
    /// Returns a compiler for a tokenizer. It takes about a second for 150,000 tokens.
    ///
    /// # Errors
    /// [`GrammarError`] if the vocabulary has no stop token.
    pub fn new(tokenizer: &Tokenizer) -> Result<Self, GrammarError> {
        let count = tokenizer.vocab_size() as u32;
        let words: Vec<Vec<u8>> = (0..count)
            .map(|id| match tokenizer.hidden_name(id) {
                // Control tokens are no text.
                Some(name) => [&[TokTrie::SPECIAL_TOKEN_MARKER], name.as_bytes()].concat(),
                None => tokenizer.token_bytes(id).unwrap_or_default().into_owned(),
            })
            .collect();
        let stops = tokenizer.stop_ids();
        let eos = *stops.first().ok_or_else(|| GrammarError("the vocabulary has no end-of-text token".to_owned()))?;
        let trie = TokTrie::from(&TokRxInfo::new(count, eos), &words).with_eos_tokens(stops);
        let environment: TokEnv = Arc::new(ApproximateTokEnv::new(trie));
        let slices = llguidance::earley::SlicedBiasComputer::general_slices();
        let mut factory =
            ParserFactory::new(&environment, InferenceCapabilities::default(), &slices).map_err(GrammarError::new)?;
        factory.quiet();
        Ok(Self { factory })
    }

    /// Compiles a grammar to a constraint of one reply. The stop tokens end it, once it may end.
    ///
    /// # Errors
    /// [`GrammarError`] if the grammar is invalid, not supported, or too large.
    pub fn compile(&self, grammar: &Grammar) -> Result<Box<dyn Constraint>, GrammarError> {
        let schema = |schema| Ok(TopLevelGrammar::from_json_schema(bounded_space(schema)));
        let parsed = match grammar {
            Grammar::JsonSchema(text) | Grammar::Regex(text) | Grammar::Grammar(text) if text.len() > MAX_LEN => {
                Err(GrammarError(format!("the grammar is longer than {MAX_LEN} bytes")))
            }
            Grammar::JsonSchema(text) => serde_json::from_str(text).map_err(GrammarError::new).and_then(schema),
            Grammar::JsonObject => schema(serde_json::json!({"type": "object"})),
            Grammar::Regex(regex) => Ok(TopLevelGrammar::from_regex(regex)),
            Grammar::Grammar(text) if text.contains("::=") => gbnf_to_lark(text).map(TopLevelGrammar::from_lark),
            Grammar::Grammar(text) => Ok(TopLevelGrammar::from_lark(text.clone())),
        };
        let parser = self.factory.create_parser(parsed?);
        let mut matcher = Matcher::new(parser);
        match matcher.get_error() {
            Some(error) => Err(GrammarError(short(&error))),
            None => {
                // The first mask finds what only shows in use.
                matcher.compute_mask_or_eos().map_err(|error| GrammarError(short(&error.to_string())))?;
                Ok(Box::new(Matched(matcher)))
            }
        }
    }
}

/// Returns a schema whose JSON has at most a space, or a line end with its indentation, at each place. With any number of
/// them, a model may write nothing else.
pub(crate) fn bounded_space(mut schema: serde_json::Value) -> serde_json::Value {
    const OPTIONS: &str = "x-guidance";
    if let Some(object) = schema.as_object_mut().filter(|object| !object.contains_key(OPTIONS)) {
        object.insert(OPTIONS.to_owned(), serde_json::json!({"whitespace_pattern": r" |\n {0,16}"}));
    }
    schema
}

/// Returns the first lines of a message.
fn short(message: &str) -> String {
    message.lines().take(4).collect::<Vec<_>>().join(" ").chars().take(500).collect()
}

/// A grammar in the course of a reply.
struct Matched(Matcher);

impl Constraint for Matched {
    fn mask(&mut self, mask: &mut [u32]) -> Result<(), String> {
        let allowed: SimpleVob = self.0.compute_mask_or_eos().map_err(|error| short(&error.to_string()))?;
        for (word, bits) in mask.iter_mut().zip(allowed.as_slice()) {
            *word = *bits;
        }
        Ok(())
    }

    fn accept(&mut self, token: u32) -> Result<(), String> {
        self.0.consume_token(token).map_err(|error| short(&error.to_string()))
    }
}

/// Translates a grammar from llama.cpp's GBNF to Lark.
fn gbnf_to_lark(text: &str) -> Result<String, GrammarError> {
    let mut lark = String::with_capacity(text.len() + text.len() / 8);
    let characters: Vec<char> = text.chars().collect();
    let (mut at, mut depth) = (0, 0usize);
    let error = |at: usize, problem: &str| GrammarError(format!("GBNF, character {at}: {problem}"));
    let word = |from: usize| {
        let end =
            (from..characters.len()).find(|i| !(characters[*i].is_alphanumeric() || "-_".contains(characters[*i])));
        end.unwrap_or(characters.len())
    };
    while let Some(&c) = characters.get(at) {
        match c {
            '#' => {
                while characters.get(at).is_some_and(|c| *c != '\n') {
                    at += 1;
                }
                continue;
            }
            '"' | '[' => {
                let close = if c == '"' { '"' } else { ']' };
                let mut end = at + 1;
                while characters.get(end).is_some_and(|c| *c != close) {
                    end += if characters[end] == '\\' { 2 } else { 1 };
                }
                if end >= characters.len() {
                    return Err(error(at, "no closing quote or bracket"));
                }
                let inside: String = characters[at + 1..end].iter().collect();
                if c == '"' {
                    lark.push_str(&format!("\"{}\"", inside.replace("\\'", "'")));
                } else {
                    let inside = inside.replace('/', "\\/").replace('[', "\\[");
                    lark.push_str(&format!("/[{inside}]/"));
                }
                at = end + 1;
                continue;
            }
            '.' => lark.push_str("/(?s:.)/"),
            ':' => {
                if !characters[at..].starts_with(&[':', ':', '=']) {
                    return Err(error(at, "expected ::="));
                }
                lark.push(':');
                at += 3;
                continue;
            }
            '(' | ')' => {
                depth = if c == '(' { depth + 1 } else { depth.saturating_sub(1) };
                lark.push(c);
            }
            '\n' => {
                // Alternatives go on in the next line, if it begins no rule.
                let next = (at..characters.len()).find(|i| !characters[*i].is_whitespace());
                let begins_rule = next.is_some_and(|next| {
                    let rest: String = characters[word(next)..].iter().take(200).collect();
                    word(next) > next && rest.trim_start().starts_with("::=")
                });
                lark.push(if depth == 0 && (begins_rule || next.is_none()) { '\n' } else { ' ' });
            }
            c if c.is_alphanumeric() => {
                let end = word(at);
                let name: String = characters[at..end].iter().collect();
                lark.push_str(&rule_name(&name));
                at = end;
                continue;
            }
            '{' => {
                while let Some(&c) = characters.get(at) {
                    lark.push(c);
                    if c == '}' {
                        break;
                    }
                    at += 1;
                }
            }
            c => lark.push(c),
        }
        at += 1;
    }
    Ok(lark)
}

/// Returns a rule's name in Lark, which has lower case and no dashes: `_a` stands for `A`, `__` for a dash, `_0` for `_`. No two
/// names become one.
fn rule_name(name: &str) -> String {
    match name {
        "root" => return "start".to_owned(),
        // A rule of this name would be taken for the root.
        "start" => return "gbnf_start".to_owned(),
        _ => {}
    }
    let mut lark = "r_".to_owned();
    for c in name.chars() {
        match c {
            '-' => lark.push_str("__"),
            '_' => lark.push_str("_0"),
            c if c.is_uppercase() => {
                lark.push('_');
                lark.extend(c.to_lowercase());
            }
            c => lark.push(c),
        }
    }
    lark
}

#[cfg(test)]
mod tests {
    use super::gbnf_to_lark;

    #[test]
    fn gbnf_becomes_lark() {
        let gbnf = "root ::= answer # all\nanswer ::= (\"yes\" | \"no\"\n  | [a-z/]+) ws{1,2}\nws ::= [ \\t]*\n";
        let lark = gbnf_to_lark(gbnf).expect("a grammar");
        assert_eq!(
            lark,
            "start : r_answer \nr_answer : (\"yes\" | \"no\"   | /[a-z\\/]/+) r_ws{1,2}\nr_ws : /[ \\t]/*\n"
        );
        let names = ["a-b", "a_b", "aB", "ab", "a--b", "a-B", "A-b", "a0b", "a_0b"].map(super::rule_name);
        assert_eq!(names.iter().collect::<std::collections::HashSet<_>>().len(), names.len(), "{names:?}");
        assert!(gbnf_to_lark("root ::= \"open").is_err());
        assert!(gbnf_to_lark("root :: x").is_err());
    }
}
