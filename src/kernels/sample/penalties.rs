//! Logit bias, penalties and masks.

use std::ops::Range;

use super::{sequence_of, some_picks};
use crate::{
    gpu::{Caps, Case, Expect, Grid, Kernel, Source, kernel, wgsl},
    quant::Rng,
};

kernel! {
    /// `l = logits[t, i] + bias[s, i]`; if `counts[s, i] > 0`, `l = l > 0 ? l / repetition : l · repetition`; if the token
    /// was generated, `l = l − presence − frequency · times`; if a mask forbids the token, `l` is [`MASKED`]; then
    /// `logits[t, i] = l`, `s` being the row's sequence. The host's is [`penalised`].
    ///
    /// Shapes: rows `first ..` of `logits` f32 `[_, n]` and of `picks` `[_, 2]`, whose second number is the sequence
    /// (clamped); `penalties` `[sequences]` of repetition (1 is none), presence, frequency (0 is none), and [`flags`] (0:
    /// the logits stay as they are, and the rest is not read); `counts` u32 and `bias` f32 `[sequences, n]`; `masks` u32
    /// `[sequences, ⌈n / 32⌉]`: bit `i % 32` of word `i / 32` allows token `i`. A count is how often the token was generated, plus [`IN_PROMPT`] where the prompt has it.
    /// Bound: 1e-6 of the magnitudes of logit and bias, both penalised, and of what is subtracted. Measured worst on
    /// lavapipe: 0.11 of it.
    pub struct Penalties("sample/penalties") for ();
    params {
        /// Rows.
        rows: u32,
        /// Logits of a row.
        n: u32,
        /// The row of logits that is the dispatch's first.
        first: u32,
        /// Sequences.
        sequences: u32,
    }
    binds {
        /// The rows' sequences.
        picks: read [[u32; 2]],
        /// Repetition, presence and frequency penalty of each sequence, and its flags.
        penalties: read [[f32; 4]],
        /// How often each token was generated, and whether it is in the prompt.
        counts: read [u32],
        /// What is added to each logit.
        bias: read [f32],
        /// The tokens that are allowed, a bit each.
        masks: read [u32],
        /// The logits.
        logits: write [f32],
    }
}

/// The logit of a token that a mask forbids.
pub const MASKED: f32 = -3.4e38;

/// Returns the flags of a sequence: 1 if it has penalties or a bias, plus 2 if it has a mask.
pub fn flags(penalised: bool, masked: bool) -> f32 {
    f32::from(u8::from(penalised) + 2 * u8::from(masked))
}

/// Returns whether flags have a bit.
fn has(flags: f32, bit: u32) -> bool {
    flags as u32 & bit != 0
}

/// Returns whether a sequence's mask, if it has one, allows a token.
fn allowed(masks: &[u32], p: &Params, sequence: usize, flags: f32, id: usize) -> bool {
    let words = p.n.div_ceil(32) as usize;
    !has(flags, 2) || masks[sequence * words + id / 32] >> (id % 32) & 1 == 1
}

/// Added to the count of a token that is in the prompt.
pub const IN_PROMPT: u32 = 1 << 31;

const WG: u32 = 256;

impl Kernel for Penalties {
    fn supported(_: &Caps) -> Vec<()> {
        vec![()]
    }

    fn source((): ()) -> Source {
        Source::new(wgsl!("sample/penalties.wgsl"), WG).with(wgsl!("sample/pick.wgsl"))
    }

    fn grid((): (), p: &Params) -> Grid {
        Grid { x: p.n.div_ceil(WG), y: p.rows }
    }

    fn cpu((): (), p: &Params, host: Host<'_>) {
        for t in 0..p.rows {
            let (logits, of_sequence, penalties) = places(p, host.picks, host.penalties, t);
            let sequence = of_sequence.start / (p.n as usize).max(1);
            let inputs = host.bias[of_sequence.clone()].iter().zip(&host.counts[of_sequence]);
            for (id, (logit, (bias, count))) in host.logits[logits].iter_mut().zip(inputs).enumerate() {
                *logit = match allowed(host.masks, p, sequence, penalties[3], id) {
                    true => penalised(*logit, *bias, *count, penalties),
                    false => MASKED,
                };
            }
        }
    }

    fn reference((): (), p: &Params, before: Host<'_>) -> Option<Expected> {
        let mut all = Expect::unchanged(before.logits);
        for t in 0..p.rows {
            let (logits, of_sequence, penalties) = places(p, before.picks, before.penalties, t);
            let sequence = of_sequence.start / (p.n as usize).max(1);
            let inputs = before.bias[of_sequence.clone()].iter().zip(&before.counts[of_sequence]);
            let inputs = before.logits[logits.clone()].iter().zip(inputs);
            for (id, (near, (logit, (bias, count)))) in all[logits].iter_mut().zip(inputs).enumerate() {
                let (value, terms) = match allowed(before.masks, p, sequence, penalties[3], id) {
                    true => exactly(*logit, *bias, *count, penalties),
                    false => (f64::from(MASKED), 0.0),
                };
                *near = (value, 1e-6 * terms);
            }
        }
        Some(Expected { logits: Some(Expect::Near(all)), ..Default::default() })
    }

    fn cases((): ()) -> Vec<Case<Self>> {
        let none = [1.0, 0.0, 0.0, 1.0];
        let off = [1.5, 1.0, 1.0, 0.0];
        [
            ("each penalty", 300, vec![none, [1.3, 0.0, 0.0, 1.0], [1.0, 1.5, 0.0, 1.0], [1.0, 0.0, 0.7, 1.0]]),
            ("all together", 257, vec![[0.5, -2.0, -0.25, 1.0], off, [2.0, 2.0, 2.0, 1.0]]),
            ("none penalised", 70, vec![off, off]),
            ("masked, and penalised too", 330, vec![[f32::NAN, 1.0, 1.0, 2.0], [1.3, 0.5, 0.25, 3.0], none]),
            ("one logit", 1, vec![[1.1, 0.5, 0.5, 1.0]]),
            ("Qwen3-30B-A3B's vocabulary", 151_936, vec![[1.05, 1.5, 0.1, 1.0]]),
        ]
        .into_iter()
        .map(|(name, n, of_rows)| {
            let (rows, first) = (of_rows.len() as u32, 1);
            let (picks, sequences) = some_picks(first, rows);
            let mut rng = Rng::new(u64::from(n));
            let mut logits: Vec<f32> = (0..(first + rows) * n).map(|_| 5.0 * rng.normal()).collect();
            let seen = [0, 0, 0, 1, 2, 1000, IN_PROMPT, IN_PROMPT + 3];
            let mut counts: Vec<u32> = (0..sequences * n).map(|_| seen[rng.below(8) as usize]).collect();
            let strengths = [0.0, 0.0, 0.0, 100.0, -100.0, -1e30];
            let mut bias: Vec<f32> = counts.iter().map(|_| strengths[rng.below(6) as usize]).collect();
            let masks: Vec<u32> = (0..sequences * n.div_ceil(32)).map(|_| rng.below(u32::MAX)).collect();
            let params = Params { rows, n, first, sequences };
            let mut penalties = vec![[f32::NAN; 4]; sequences as usize];
            let mut expected = Expect::unchanged(&logits[..(first * n) as usize]);
            for (t, of_row) in (first..).zip(of_rows) {
                let sequence = sequence_of(&picks, t, sequences);
                penalties[sequence] = of_row;
                let place = sequence * n as usize..(sequence + 1) * n as usize;
                if !has(of_row[3], 1) {
                    // Neither is read.
                    bias[place.clone()].fill(f32::NAN);
                    counts[place.clone()].fill(u32::MAX);
                }
                if of_row[3] == 0.0 {
                    logits[(t * n) as usize] = f32::NAN;
                }
                let inputs = bias[place.clone()].iter().zip(&counts[place]);
                for (id, (logit, (bias, count))) in logits[(t * n) as usize..].iter().zip(inputs).enumerate() {
                    let (value, terms) = match allowed(&masks, &params, sequence, of_row[3], id) {
                        true => exactly(*logit, *bias, *count, of_row),
                        false => (f64::from(MASKED), 0.0),
                    };
                    expected.push((value, 1e-6 * terms));
                }
            }
            // What lies behind the last must stay.
            logits.push(f32::NAN);
            expected.push((f64::NAN, 0.0));
            Case {
                name: name.to_owned(),
                params,
                data: Data { picks, penalties, counts, bias, masks, logits },
                expected: Expected { logits: Some(Expect::Near(expected)), ..Default::default() },
            }
        })
        .collect()
    }
}

/// Where a row's logits are, where its sequence's counts and bias, and its penalties.
fn places(p: &Params, picks: &[[u32; 2]], penalties: &[[f32; 4]], row: u32) -> (Range<usize>, Range<usize>, [f32; 4]) {
    let (n, sequence) = (p.n as usize, sequence_of(picks, p.first + row, p.sequences));
    let logits = (p.first + row) as usize * n;
    (logits..logits + n, sequence * n..(sequence + 1) * n, penalties[sequence])
}

/// A logit with bias and penalties, as vLLM and the OpenAI API define them, in this order:
///
/// - `logit + bias`;
/// - of a token that the sequence has, in its prompt or generated (`count > 0`): divided by `repetition` where it is
///   positive, multiplied by it where not;
/// - of one that was generated: less `presence + frequency · times`, `times` being the count without [`IN_PROMPT`].
///
/// `penalties` are repetition (1 is none), presence, frequency (0 is none), and [`flags`]: without the bit of penalties the
/// logit stays as it is.
pub fn penalised(logit: f32, bias: f32, count: u32, penalties: [f32; 4]) -> f32 {
    if !has(penalties[3], 1) { logit } else { exactly(logit, bias, count, penalties).0 as f32 }
}

/// The penalised logit, and the magnitudes of what it is made of; 0 where it stays as it is.
fn exactly(logit: f32, bias: f32, count: u32, penalties: [f32; 4]) -> (f64, f64) {
    let applied = has(penalties[3], 1);
    let [repetition, presence, frequency, _] = penalties.map(f64::from);
    let (logit, bias) = (f64::from(logit), f64::from(bias));
    if !applied {
        return (logit, 0.0);
    }
    let factor = match logit + bias {
        _ if count == 0 => 1.0,
        sum if sum > 0.0 => 1.0 / repetition,
        _ => repetition,
    };
    let generated = f64::from(count & !IN_PROMPT);
    let once = if generated > 0.0 { presence } else { 0.0 };
    let each = frequency * generated;
    ((logit + bias) * factor - once - each, (logit.abs() + bias.abs()) * factor + once.abs() + each.abs())
}
