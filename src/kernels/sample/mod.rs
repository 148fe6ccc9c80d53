//! Kernels that sample the next token of each of several sequences: [`penalties`] on its logits, then [`argmax`], or [`top_k`]
//! and [`draw`]. [`record`] records them.
//!
//! The state of a sequence (cuts, seed and counter, counts, bias, last token) is at the sequence's index in the buffers; `picks`
//! gives the sequence of a row of logits. So the next step can be submitted before the host has seen a token.
//!
//! [`Cuts`] are temperature, top-k, top-p (nucleus sampling; Holtzman et al. 2020), min-p (Nguyen et al. 2024) and XTC.
//!
//! A candidate is `[key, id]`. The key is an integer in the order of the logits, so that the choice is exact: larger keys come
//! first, of equal keys the lower id. A NaN comes last.

pub mod argmax;
pub mod draw;
pub mod penalties;
pub mod philox;
pub mod top_k;

use crate::{
    gpu::{Buffer, Fragment, GpuError, Recorder, Source, wgsl},
    quant::Rng,
};

use argmax::Argmax;
use draw::Draw;
use penalties::Penalties;

/// The candidates of a row that [`top_k`] keeps, and the largest number that [`draw`] samples from.
pub const MAX_TOP_K: u32 = 64;

/// How a sequence's tokens are sampled: temperature, top-k, top-p and min-p; XTC's probability and threshold, and two unused
/// numbers.
pub type Cuts = [[f32; 4]; 2];

/// The id of a row whose logits are all NaN.
pub const NO_TOKEN: u32 = u32::MAX;

/// The candidate that sorts last.
const LAST: [u32; 2] = [0, NO_TOKEN];

/// The kernels that sample a token. They depend only on the sequence's own cuts. Rows of logits are in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SamplingPath {
    /// Argmax, at a temperature of 0.
    Greedy,
    /// A draw from the top-k candidates, if top-k is at most [`MAX_TOP_K`].
    TopK,
    /// A draw from the full vocabulary.
    FullVocab,
}

impl SamplingPath {
    /// Returns the path for cuts.
    pub fn new([[temperature, top_k, ..], _]: Cuts) -> Self {
        if temperature == 0.0 {
            Self::Greedy
        } else if (1.0..=MAX_TOP_K as f32).contains(&top_k) {
            Self::TopK
        } else {
            Self::FullVocab
        }
    }
}

/// The number of rows of logits of each [`SamplingPath`], in the order of the paths.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Rows {
    /// Sequences that the buffers hold.
    pub sequences: u32,
    /// Tokens of the vocabulary.
    pub vocab: u32,
    /// Rows of [`SamplingPath::Greedy`].
    pub greedy: u32,
    /// Rows of [`SamplingPath::TopK`].
    pub top_k: u32,
    /// Rows of [`SamplingPath::FullVocab`].
    pub full_vocab: u32,
    /// Whether one of their sequences has penalties, a bias or a mask.
    pub penalised: bool,
}

impl Rows {
    /// Adds a row.
    pub fn add(&mut self, path: SamplingPath) {
        *match path {
            SamplingPath::Greedy => &mut self.greedy,
            SamplingPath::TopK => &mut self.top_k,
            SamplingPath::FullVocab => &mut self.full_vocab,
        } += 1;
    }

    /// Returns the number of rows.
    pub fn count(&self) -> u32 {
        self.greedy + self.top_k + self.full_vocab
    }
}

/// The buffers of [`record`], of at least the sizes in [`Sizes`].
#[derive(Clone, Copy, Debug)]
pub struct Buffers<'a> {
    /// `[rows, vocab]`. Penalties change them.
    pub logits: &'a Buffer<f32>,
    /// `[rows, 2]`: the second number is the row's sequence. No sequence has two rows.
    pub picks: &'a Buffer<[u32; 2]>,
    /// `[sequences, 2]`: [`Cuts`].
    pub cuts: &'a Buffer<[f32; 4]>,
    /// `[sequences]`: seed and counter, low words first. A draw increments its counter.
    pub draws: &'a Buffer<[u32; 4]>,
    /// `[sequences]`: the sampled tokens, or [`NO_TOKEN`]. Those of other sequences stay.
    pub tokens: &'a Buffer<u32>,
    /// `[sequences]`: see [`penalties`]. Read only if rows are penalised, like the next two.
    pub penalties: &'a Buffer<[f32; 4]>,
    /// `[sequences, vocab]`: added to the logits.
    pub bias: &'a Buffer<f32>,
    /// `[sequences, vocab]`: how often each token was generated, and [`penalties::IN_PROMPT`]. The tokens of penalised sequences
    /// are counted.
    pub counts: &'a Buffer<u32>,
    /// `[sequences, ⌈vocab / 32⌉]`: a bit for each token that is allowed.
    pub masks: &'a Buffer<u32>,
    /// Intermediate results.
    pub candidates: [&'a Buffer<[u32; 2]>; 2],
}

/// The least number of elements of each of [`Buffers`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Of the logits.
    pub logits: u64,
    /// Of the picks.
    pub picks: u64,
    /// Of the cuts.
    pub cuts: u64,
    /// Of draws, tokens and penalties, each.
    pub sequences: u64,
    /// Of bias and counts, each; without penalties they may be of any size.
    pub tokens: u64,
    /// Of the masks; without masks they may be of any size.
    pub masks: u64,
    /// Of the two buffers of candidates.
    pub candidates: [u64; 2],
}

impl Sizes {
    /// Returns the sizes for at most `rows` rows of logits at a time.
    pub fn new(rows: u32, sequences: u32, vocab: u32) -> Self {
        let [rows, sequences, tokens] = [rows, sequences, vocab].map(u64::from);
        let kept = top_k::kept(vocab);
        Self {
            logits: rows * tokens,
            picks: rows,
            cuts: 2 * sequences,
            sequences,
            tokens: sequences * tokens,
            masks: sequences * tokens.div_ceil(32),
            candidates: [kept, top_k::kept(kept)].map(|of_a_row| rows * u64::from(of_a_row)),
        }
    }
}

/// Records the sampling of a token from each row of logits, in a number of dispatches that does not depend on the number of
/// sequences. The token of a sequence depends only on its own logits and state.
///
/// Bias, penalties and masks are applied to the logits if `rows.penalised`. Then the logits are divided by the temperature, and cut by
/// top-k, top-p, min-p and XTC, in this order.
///
/// # Errors
/// [`GpuError::Aliased`] when buffers are bound twice.
pub fn record(rec: &mut Recorder, rows: &Rows, b: &Buffers<'_>) -> Result<(), GpuError> {
    let Rows { sequences, vocab, greedy, top_k, full_vocab, penalised: count } = *rows;
    let [full, free] = b.candidates;
    let (penalties, counts) = (count.then_some(b.penalties), count.then_some(b.counts));
    if count {
        rec.dispatch(
            Penalties,
            (),
            penalties::Params { rows: rows.count(), n: vocab, first: 0, sequences },
            penalties::Binds {
                picks: b.picks,
                penalties: b.penalties,
                counts: b.counts,
                bias: b.bias,
                masks: b.masks,
                logits: b.logits,
            },
        )?;
    }
    let none = argmax::Binds {
        logits: None,
        candidates: None,
        picks: None,
        penalties: None,
        best: None,
        ids: None,
        counts: None,
    };
    let params = argmax::Params { rows: greedy, n: vocab, first: 0, sequences, vocab };
    let binds = argmax::Binds { logits: Some(b.logits), best: Some(full), ..none };
    rec.dispatch(Argmax, argmax::Variant::Logits, params, binds)?;
    rec.dispatch(
        Argmax,
        argmax::Variant::Merge { count },
        argmax::Params { n: argmax::groups(vocab), ..params },
        argmax::Binds { candidates: Some(full), picks: Some(b.picks), penalties, ids: Some(b.tokens), counts, ..none },
    )?;
    let list = top_k::record(rec, (greedy, top_k, vocab), b.logits, [full, free])?;
    let (picks, cuts, draws, ids) = (b.picks, b.cuts, b.draws, b.tokens);
    let drawn = |candidates, logits| draw::Binds { candidates, logits, picks, cuts, penalties, draws, ids, counts };
    let params = draw::Params { rows: top_k, vocab, first: greedy, sequences };
    rec.dispatch(Draw, draw::Variant { from: draw::From::Candidates, count }, params, drawn(Some(list), None))?;
    let params = draw::Params { rows: full_vocab, first: greedy + top_k, ..params };
    rec.dispatch(Draw, draw::Variant { from: draw::From::Logits, count }, params, drawn(None, Some(b.logits)))
}

/// Fills the slot that receives a sampled token.
fn counting(count: bool) -> Fragment {
    if count { wgsl!("sample/count.wgsl") } else { wgsl!("sample/count_nothing.wgsl") }
}

/// Counts a token, if it exists and the sequence is penalised.
fn count(counts: &mut [u32], penalties: &[[f32; 4]], (sequence, vocab): (usize, u32), id: u32) {
    if id < vocab && penalties[sequence][3] != 0.0 {
        let times = &mut counts[sequence * vocab as usize + id as usize];
        *times = times.wrapping_add(1);
    }
}

/// Returns the sequence of a row of logits.
fn sequence_of(picks: &[[u32; 2]], row: u32, sequences: u32) -> usize {
    picks[row as usize][1].min(sequences - 1) as usize
}

/// The input of a kernel that runs in stages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stage {
    /// The logits.
    Logits,
    /// The candidates that the stage before has kept.
    Merge,
}

impl Stage {
    const ALL: [Self; 2] = [Self::Logits, Self::Merge];

    fn fill(self, source: Source) -> Source {
        source.with(wgsl!("lib/order.wgsl")).with(match self {
            Self::Logits => wgsl!("sample/from_logits.wgsl"),
            Self::Merge => wgsl!("sample/from_candidates.wgsl"),
        })
    }

    /// Returns the candidates of a row of a dispatch whose first row of logits is `first`.
    fn row(self, logits: &[f32], candidates: &[[u32; 2]], (first, row): (u32, u32), n: u32) -> Vec<[u32; 2]> {
        let range = |row: u32| (row * n) as usize..((row + 1) * n) as usize;
        match self {
            Self::Logits => (0u32..).zip(&logits[range(first + row)]).map(|(id, logit)| [key(*logit), id]).collect(),
            Self::Merge => candidates[range(row)].to_vec(),
        }
    }

    /// Returns rows of logits behind `first` others, or the same as candidates out of order, for test cases.
    fn split(self, logits: Vec<f32>, n: u32, first: u32) -> (Vec<f32>, Vec<[u32; 2]>) {
        match self {
            Self::Logits => ([vec![f32::INFINITY; (first * n) as usize], logits].concat(), Vec::new()),
            Self::Merge => {
                let ids = |i: usize| i as u32 % n * 977 % 99_991;
                let candidates = logits.iter().enumerate().map(|(i, logit)| [key(*logit), ids(i)]);
                (Vec::new(), candidates.collect())
            }
        }
    }
}

/// Returns an integer in the order of the logits: 0 for a NaN, the same for both zeros.
fn key(logit: f32) -> u32 {
    const ZERO: u32 = 1 << 31;
    match logit.to_bits() {
        _ if logit.is_nan() => 0,
        bits if bits < ZERO => ZERO + bits,
        bits => ZERO - (bits - ZERO),
    }
}

/// Returns the logit of a key, clamped to ±1e30; −1e30 for the key of a NaN.
fn logit(key: u32) -> f32 {
    let magnitude = f32::from_bits(key.abs_diff(1 << 31).min(1e30f32.to_bits()));
    if key >= 1 << 31 { magnitude } else { -magnitude }
}

/// Returns the sort key of a candidate.
fn order([key, id]: &[u32; 2]) -> (std::cmp::Reverse<u32>, u32) {
    (std::cmp::Reverse(*key), *id)
}

/// Returns the picks of `rows` rows behind `first` others in a test case, and the number of sequences. Sequences are in another
/// order than rows, and some have no row. The last row's is out of range and becomes the last one.
fn some_picks(first: u32, rows: u32) -> (Vec<[u32; 2]>, u32) {
    let mut picks = vec![[7000, 0]; first as usize];
    picks.extend((1..rows).rev().map(|sequence| [7000, sequence]));
    picks.push([7000, u32::MAX]);
    (picks, rows + 2)
}

/// Returns penalties for a test case that only tests which sequences are penalised: every other one.
fn some_penalised(sequences: u32) -> Vec<[f32; 4]> {
    (0..sequences).map(|sequence| [f32::NAN, f32::NAN, f32::NAN, (sequence % 2) as f32]).collect()
}

/// Returns logits that are hard to order: name, rows, elements of a row, and the rows.
fn hard_logits() -> Vec<(&'static str, u32, u32, Vec<f32>)> {
    let mut rng = Rng::new(22);
    let mut random = |count: u32| -> Vec<f32> { (0..count).map(|_| 3.0 * rng.normal()).collect() };
    let mut with_nans = random(1500);
    (with_nans[0], with_nans[1200]) = (f32::NAN, -f32::NAN);
    // Multiples of one half only, so that many are equal.
    let coarse: Vec<f32> = random(2 * 3000).iter().map(|l| (l * 2.0).round() / 2.0).collect();
    let subnormal: Vec<f32> =
        (0..70).map(|i| f32::from_bits(i * 5 % 70) * if i % 2 == 0 { 1.0 } else { -1.0 }).collect();
    vec![
        ("one", 2, 1, random(2)),
        ("fewer than are kept", 3, 5, random(15)),
        ("a whole group", 1, 1024, random(1024)),
        ("one more", 2, 1025, random(2050)),
        ("many equal", 2, 3000, coarse),
        ("all equal", 1, 1100, vec![-0.75; 1100]),
        ("two zeros", 1, 4, vec![-1.0, -0.0, 0.0, -0.0]),
        ("subnormal", 1, 70, subnormal),
        ("infinite and huge", 1, 6, vec![f32::MAX, f32::NEG_INFINITY, f32::INFINITY, f32::MIN, 0.0, f32::INFINITY]),
        ("NaNs among others", 1, 1500, with_nans),
        ("nothing but NaNs", 1, 70, vec![f32::NAN; 70]),
        ("two tiles", 2, 4097, random(2 * 4097)),
        // The largest are of as few invocations of `top_k` as can be.
        ("some columns are largest", 1, 6000, (0..6000).map(|i| if i % 256 < 64 { i as f32 } else { -1.0 }).collect()),
        ("the last is largest", 1, 2500, (0..2500).map(|i| i as f32).collect()),
        ("Qwen3-30B-A3B's vocabulary", 1, 151_936, random(151_936)),
    ]
}
