//! SentencePiece's BPE: neighbours whose concatenation is a token are merged, the token of the highest score first.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use super::error::TextError;
use super::token_ids::{TokenIds, byte_token};

/// Scores of the tokens, and the tokens of bytes for characters that have none.
pub(super) struct SentencePiece {
    scores: Vec<f32>,
    bytes: Vec<Option<u32>>,
    unknown: Option<u32>,
}

/// A piece of the text; empty after it was merged into its left neighbour.
#[derive(Clone, Copy)]
struct Symbol {
    start: usize,
    len: usize,
    prev: Option<usize>,
    next: Option<usize>,
}

/// A merge of two neighbours. The greatest comes first: the highest score, then the leftmost.
struct Candidate {
    score: f32,
    left: usize,
    right: usize,
    len: usize,
}

impl Ord for Candidate {
    fn cmp(&self, other: &Self) -> Ordering {
        self.score.total_cmp(&other.score).then(other.left.cmp(&self.left))
    }
}

impl PartialOrd for Candidate {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Candidate {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Candidate {}

impl SentencePiece {
    /// Creates a model. `scores` are those of the tokens, in the order of their ids.
    pub(super) fn new(ids: &TokenIds, scores: Vec<f32>, unknown: Option<u32>) -> Self {
        let byte = |byte: u8| {
            let alone = char::from(byte).is_ascii().then(|| char::from(byte).to_string());
            ids.get(&byte_token(byte)).or_else(|| ids.text(&alone?))
        };
        Self { scores, bytes: (0..=u8::MAX).map(byte).collect(), unknown }
    }

    /// Appends the tokens of a text, in which U+2581 stands for the space, to `output`.
    pub(super) fn encode(&self, text: &str, ids: &TokenIds, output: &mut Vec<u32>) -> Result<(), TextError> {
        let mut symbols: Vec<Symbol> = text
            .char_indices()
            .enumerate()
            .map(|(at, (start, c))| Symbol { start, len: c.len_utf8(), prev: at.checked_sub(1), next: Some(at + 1) })
            .collect();
        if let Some(last) = symbols.last_mut() {
            last.next = None;
        }
        let mut queue = BinaryHeap::new();
        for right in 1..symbols.len() {
            self.consider(text, ids, &symbols, Some(right - 1), Some(right), &mut queue);
        }
        while let Some(Candidate { left, right, len, .. }) = queue.pop() {
            let (Some(&first), Some(&second)) = (symbols.get(left), symbols.get(right)) else { continue };
            // Stale: one of the two was merged with another neighbour.
            if first.len == 0 || second.len == 0 || first.len + second.len != len {
                continue;
            }
            symbols[left] = Symbol { len, next: second.next, ..first };
            symbols[right].len = 0;
            if let Some(next) = second.next {
                symbols[next].prev = Some(left);
            }
            self.consider(text, ids, &symbols, first.prev, Some(left), &mut queue);
            self.consider(text, ids, &symbols, Some(left), second.next, &mut queue);
        }
        for symbol in symbols.iter().filter(|symbol| symbol.len > 0) {
            let piece = text.get(symbol.start..symbol.start + symbol.len).unwrap_or_default();
            match ids.text(piece) {
                Some(id) => output.push(id),
                None => self.encode_bytes(piece, output)?,
            }
        }
        Ok(())
    }

    /// Adds the merge of two neighbours to the queue if the result is a token.
    fn consider(
        &self,
        text: &str,
        ids: &TokenIds,
        symbols: &[Symbol],
        left: Option<usize>,
        right: Option<usize>,
        queue: &mut BinaryHeap<Candidate>,
    ) {
        let (Some(left), Some(right)) = (left, right) else { return };
        let (first, second) = (symbols[left], symbols[right]);
        let len = first.len + second.len;
        let id = text.get(first.start..first.start + len).and_then(|piece| ids.text(piece));
        let score = id.and_then(|id| self.scores.get(usize::try_from(id).ok()?));
        if let Some(&score) = score {
            queue.push(Candidate { score, left, right, len });
        }
    }

    /// Appends the tokens of a character's bytes; the unknown token if there are none.
    fn encode_bytes(&self, piece: &str, output: &mut Vec<u32>) -> Result<(), TextError> {
        let tokens: Option<Vec<u32>> = piece.bytes().map(|byte| self.bytes[usize::from(byte)]).collect();
        match (tokens, self.unknown) {
            (Some(tokens), _) => output.extend(tokens),
            (None, Some(unknown)) => output.push(unknown),
            (None, None) => return Err(TextError::MissingByte(piece.bytes().next().unwrap_or_default())),
        }
        Ok(())
    }
}
