//! Marks in the text of a conversation, which show in the rendered prompt what the template has not written.
//!
//! Users, tools and files can write the names of control tokens. In the rendered text these look like the template's.
//! Before rendering, a mark, a character that occurs nowhere else, is therefore put into the names, or at the ends of
//! all strings. A name with a mark in it is not a control token's; then the marks are removed.

use std::collections::{HashMap, HashSet};

use aho_corasick::{AhoCorasick, Input, MatchKind};
use minijinja::value::{Value, ValueKind};

use super::tokenizer::Tokenizer;

/// Where marks are put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Places {
    /// At both ends of strings, and wherever the first two characters of a name are. Nothing that a string begins and
    /// the template, or another string, continues is a name.
    Everywhere,
    /// At both ends of strings, and in whole names.
    EndsAndNames,
    /// In whole names, and in a string's end that begins a name.
    Names,
}

impl Places {
    /// All, the most thorough first.
    pub(super) const ALL: [Self; 3] = [Self::Everywhere, Self::EndsAndNames, Self::Names];
}

/// The names of a vocabulary's control tokens, and the mark.
pub(super) struct Marks {
    mark: char,
    names: Option<AhoCorasick>,
    /// The first two characters of names.
    starts: HashSet<(char, char)>,
    /// The names by their first character.
    by_first: HashMap<char, Vec<String>>,
}

impl Marks {
    /// Prepares marks. `texts` are texts in which the mark must not occur.
    pub(super) fn new(tokenizer: &Tokenizer, texts: &[&str]) -> Self {
        let names: Vec<&str> = tokenizer.control_names().filter(|name| !name.is_empty()).collect();
        let unused = |mark: &char| !texts.iter().chain(&names).any(|text| text.contains(*mark));
        // Noncharacters first; a text does not contain all the others.
        let mark = ('\u{FDD0}'..='\u{FDEF}').chain('\u{E000}'..=char::MAX).find(unused).unwrap_or('\u{FDD0}');
        let mut by_first: HashMap<char, Vec<String>> = HashMap::new();
        for name in &names {
            by_first.entry(name.chars().next().unwrap_or_default()).or_default().push((*name).to_owned());
        }
        let start = |name: &&str| name.chars().next().zip(name.chars().nth(1));
        Self {
            mark,
            starts: names.iter().filter_map(start).collect(),
            names: AhoCorasick::builder().match_kind(MatchKind::LeftmostLongest).build(&names).ok(),
            by_first,
        }
    }

    /// Returns the mark.
    pub(super) fn mark(&self) -> char {
        self.mark
    }

    /// Returns the text without marks.
    pub(super) fn strip(&self, text: &str) -> String {
        text.replace(self.mark, "")
    }

    /// Returns a value with marks in its strings.
    pub(super) fn value(&self, value: &Value, places: Places) -> Value {
        self.nested(value, places, false)
    }

    /// Marks a value. `free` is whether the keys of a map are a user's, not the format's.
    fn nested(&self, value: &Value, places: Places, free: bool) -> Value {
        if let Some(text) = value.as_str() {
            return self.string(text, places).into();
        }
        match value.kind() {
            ValueKind::Seq => {
                let items = value.try_iter().into_iter().flatten();
                items.map(|item| self.nested(&item, places, false)).collect::<Vec<_>>().into()
            }
            ValueKind::Map => {
                let keys = value.try_iter().into_iter().flatten();
                let pairs = keys.map(|key| {
                    let item = value.get_item(&key).unwrap_or_default();
                    let name = key.as_str().unwrap_or_default();
                    // Templates compare these with constants.
                    let places_within = if matches!(name, "role" | "type") { Places::Names } else { places };
                    let free_within = matches!(name, "properties" | "arguments");
                    let item = self.nested(&item, places_within, free_within);
                    match key.as_str() {
                        Some(key) => (self.string(key, if free { places } else { Places::Names }).into(), item),
                        None => (key, item),
                    }
                });
                Value::from_pairs(pairs.collect::<Vec<(Value, Value)>>())
            }
            _ => value.clone(),
        }
    }

    /// Returns a string with marks.
    fn string(&self, text: &str, places: Places) -> String {
        let inner = self.interrupted(text, places);
        let core = inner.trim();
        if places == Places::Names || core.is_empty() {
            return inner;
        }
        // Inside of the surrounding spaces, which templates trim.
        let start = inner.len() - inner.trim_start().len();
        let (before, after) = (inner.get(..start), inner.get(start + core.len()..));
        format!("{}{mark}{core}{mark}{}", before.unwrap_or_default(), after.unwrap_or_default(), mark = self.mark)
    }

    /// Returns a string with a mark after the first character of each name in it.
    fn interrupted(&self, text: &str, places: Places) -> String {
        let mut marked = String::with_capacity(text.len() + 8);
        let mut at = 0;
        while let Some(start) = self.next_name(text, at, places) {
            let end = start + text.get(start..).and_then(|rest| rest.chars().next()).map_or(1, char::len_utf8);
            marked.push_str(text.get(at..end).unwrap_or_default());
            marked.push(self.mark);
            at = end;
        }
        marked.push_str(text.get(at..).unwrap_or_default());
        marked
    }

    /// Returns the place of the next name, or beginning of a name, from `at` on.
    fn next_name(&self, text: &str, at: usize, places: Places) -> Option<usize> {
        let whole =
            self.names.as_ref().and_then(|names| names.find(Input::new(text).range(at..))).map(|name| name.start());
        let rest = text.get(at..)?;
        let begun = match places {
            Places::Everywhere => {
                let pairs = rest.char_indices().zip(rest.chars().skip(1));
                pairs.filter(|((_, a), b)| self.starts.contains(&(*a, *b))).map(|((start, _), _)| at + start).next()
            }
            Places::EndsAndNames => None,
            Places::Names => {
                rest.char_indices().map(|(start, _)| at + start).find(|&start| self.begins_at_end(text, start))
            }
        };
        whole.into_iter().chain(begun).min()
    }

    /// Returns whether the rest of `text` from `start` on is the beginning of a name.
    fn begins_at_end(&self, text: &str, start: usize) -> bool {
        let Some(rest) = text.get(start..) else { return false };
        let names = rest.chars().next().and_then(|first| self.by_first.get(&first));
        names.is_some_and(|names| names.iter().any(|name| name.starts_with(rest)))
    }
}
