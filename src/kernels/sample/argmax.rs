//! The token with the largest logit.

use super::{LAST, NO_TOKEN, Stage, count, hard_logits, order, sequence_of, some_penalised, some_picks};
use crate::gpu::{Caps, Case, Expect, Grid, Kernel, Source, kernel, wgsl};

kernel! {
    /// The id of each row's largest logit, of equal ones the lowest, in two stages: the first candidate of each 1,024 logits;
    /// then the id of the first of these, for the row's sequence. The token can be counted for [`super::penalties`].
    ///
    /// Shapes: rows `first ..` of `logits` `[_, n]`, and `best` `[rows, ⌈n / 1024⌉]` of key and id; then these as `candidates`
    /// `[rows, n]`, entries `first ..` of `picks` `[_, 2]`, whose second number is the sequence (clamped), `ids` and `penalties`
    /// `[sequences]`, and `counts` `[sequences, vocab]`. No two rows have the same sequence. A NaN sorts after all other logits;
    /// a row of NaNs gives [`NO_TOKEN`], which is not counted. Bound: exact.
    pub struct Argmax("sample/argmax") for Variant;
    params {
        /// Rows.
        rows: u32,
        /// Logits or candidates of a row.
        n: u32,
        /// The row of logits that is the dispatch's first.
        first: u32,
        /// Merge: sequences.
        sequences: u32,
        /// Merge: tokens of the vocabulary.
        vocab: u32,
    }
    binds {
        /// The logits.
        logits: read [f32] if |v| *v == Variant::Logits,
        /// The candidates of the stage before.
        candidates: read [[u32; 2]] if |v| *v != Variant::Logits,
        /// The rows' sequences.
        picks: read [[u32; 2]] if |v| *v != Variant::Logits,
        /// Which sequences are penalised.
        penalties: read [[f32; 4]] if |v| v.counts(),
        /// The first candidate of each group.
        best: write [[u32; 2]] if |v| *v == Variant::Logits,
        /// The sequences' tokens.
        ids: write [u32] if |v| *v != Variant::Logits,
        /// How often each token was generated, for penalties.
        counts: write [u32] if |v| v.counts(),
    }
}

const WG: u32 = 256;

/// The candidates of a workgroup.
const ITEMS: u32 = 1024;

/// The stages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Variant {
    /// From logits to the first candidate of each group.
    Logits,
    /// From these to the id of the token.
    Merge {
        /// Whether the tokens of penalised sequences are counted.
        count: bool,
    },
}

impl Variant {
    fn stage(self) -> Stage {
        match self {
            Self::Logits => Stage::Logits,
            Self::Merge { .. } => Stage::Merge,
        }
    }

    fn counts(self) -> bool {
        self == Self::Merge { count: true }
    }
}

/// Returns how many candidates of a row of `n` logits the first stage keeps.
pub(super) fn groups(n: u32) -> u32 {
    n.div_ceil(ITEMS)
}

impl Kernel for Argmax {
    fn supported(_: &Caps) -> Vec<Variant> {
        vec![Variant::Logits, Variant::Merge { count: false }, Variant::Merge { count: true }]
    }

    fn source(v: Variant) -> Source {
        let source = v.stage().fill(Source::new(wgsl!("sample/argmax.wgsl"), WG));
        let source = source.constant("MERGE", v != Variant::Logits);
        match v {
            Variant::Logits => source.with(wgsl!("sample/keep_best.wgsl")),
            Variant::Merge { count } => source
                .with(wgsl!("sample/pick.wgsl"))
                .with(wgsl!("sample/keep_token.wgsl"))
                .with(super::counting(count)),
        }
    }

    fn grid(v: Variant, p: &Params) -> Grid {
        match v {
            Variant::Logits => Grid { x: groups(p.n), y: p.rows },
            Variant::Merge { .. } => Grid { x: 1, y: p.rows },
        }
    }

    fn cpu(v: Variant, p: &Params, host: Host<'_>) {
        let row = |row| v.stage().row(host.logits, host.candidates, (p.first, row), p.n);
        match v {
            Variant::Logits => {
                for (best, first) in host.best.iter_mut().zip((0..p.rows).flat_map(|t| firsts(&row(t)))) {
                    *best = first;
                }
            }
            Variant::Merge { count: counted } => {
                for t in 0..p.rows {
                    let (sequence, id) = (sequence_of(host.picks, p.first + t, p.sequences), token(&row(t)));
                    host.ids[sequence] = id;
                    if counted {
                        count(host.counts, host.penalties, (sequence, p.vocab), id);
                    }
                }
            }
        }
    }

    fn reference(v: Variant, p: &Params, before: Host<'_>) -> Option<Expected> {
        // Keys are integers: the CPU kernel is exact.
        let (mut best, mut ids, mut counts) = (before.best.to_vec(), before.ids.to_vec(), before.counts.to_vec());
        Self::cpu(v, p, Host { best: &mut best, ids: &mut ids, counts: &mut counts, ..before });
        let merge = v != Variant::Logits;
        Some(Expected {
            best: (!merge).then(|| Expect::Exact(best.concat())),
            ids: merge.then_some(Expect::Exact(ids)),
            counts: v.counts().then_some(Expect::Exact(counts)),
            ..Default::default()
        })
    }

    fn cases(v: Variant) -> Vec<Case<Self>> {
        hard_logits().into_iter().map(|hard| case(v, hard)).collect()
    }
}

fn case(v: Variant, (name, rows, n, logits): (&str, u32, u32, Vec<f32>)) -> Case<Argmax> {
    let first = 2;
    let (logits, candidates) = v.stage().split(logits, n, first);
    let groups: Vec<Vec<[u32; 2]>> = (0..rows).map(|t| v.stage().row(&logits, &candidates, (first, t), n)).collect();
    let vocab = candidates.iter().map(|[_, id]| id + 1).max().unwrap_or(0);
    // What lies behind the last must stay.
    let poison = f32::NAN.to_bits();
    let mut data = Data { logits, candidates, ..Default::default() };
    let mut expected = Expected::default();
    let mut sequences = 0;
    match v {
        Variant::Logits => {
            let mut best: Vec<[u32; 2]> = groups.iter().flat_map(|row| firsts(row)).collect();
            best.push([poison; 2]);
            data.best = vec![[poison; 2]; best.len()];
            expected.best = Some(Expect::Exact(best.concat()));
        }
        Variant::Merge { count: counted } => {
            (data.picks, sequences) = some_picks(first, rows);
            data.ids = vec![poison; sequences as usize + 1];
            let mut ids = data.ids.clone();
            if counted {
                data.penalties = some_penalised(sequences);
                data.counts = (0..sequences * vocab).collect();
            }
            let mut counts = data.counts.clone();
            for (t, row) in (0..).zip(&groups) {
                let (sequence, id) = (sequence_of(&data.picks, first + t, sequences), token(row));
                ids[sequence] = id;
                if counted && id != NO_TOKEN && data.penalties[sequence][3] != 0.0 {
                    counts[sequence * vocab as usize + id as usize] += 1;
                }
            }
            expected.ids = Some(Expect::Exact(ids));
            expected.counts = counted.then_some(Expect::Exact(counts));
        }
    }
    Case { name: name.to_owned(), params: Params { rows, n, first, sequences, vocab }, data, expected }
}

/// The likeliest of candidates.
fn likeliest(of: &[[u32; 2]]) -> [u32; 2] {
    of.iter().copied().min_by_key(order).unwrap_or(LAST)
}

/// The likeliest of each group of a row.
fn firsts(row: &[[u32; 2]]) -> Vec<[u32; 2]> {
    row.chunks(ITEMS as usize).map(likeliest).collect()
}

/// The token of a row.
fn token(row: &[[u32; 2]]) -> u32 {
    match likeliest(row) {
        [0, _] => NO_TOKEN,
        [_, id] => id,
    }
}
