//! Samples a token by temperature, top-k, top-p, min-p and XTC.

use super::{
    Cuts, LAST, MAX_TOP_K, NO_TOKEN, count, key, logit, order, philox, sequence_of, some_penalised, some_picks,
};
use crate::{
    gpu::{Caps, Case, Expect, Grid, Kernel, Source, kernel, wgsl},
    quant::Rng,
};

kernel! {
    /// Samples the id of a row's sequence from the row's candidates or from all its tokens. Logits are divided by the temperature,
    /// then cut by top-k, top-p (nucleus sampling; Holtzman et al. 2020, arXiv:1904.09751), min-p (Nguyen et al. 2024,
    /// arXiv:2407.01082) and XTC ([`exclude_top`]), in this order. The random numbers are Philox's of seed and counter, and the
    /// counter is incremented. A temperature of 0 takes the largest logit and leaves the counter. The token can be counted for
    /// [`super::penalties`].
    ///
    /// Shapes: `candidates` `[rows, 64]` as [`super::top_k`] leaves them, or rows `first ..` of `logits` `[_, vocab]` f32;
    /// entries `first ..` of `picks` `[_, 2]`, whose second number is the sequence (clamped), no two of them the same;
    /// `cuts` `[sequences, 2]` as in [`Cuts`], with a temperature of 0 or at least 1e-30, `draws` `[sequences]` of seed
    /// and counter, low words first, `ids` and `penalties` `[sequences]`, `counts` `[sequences, vocab]`. A top-k of 0
    /// keeps all; there are [`MAX_TOP_K`] candidates, so that a larger top-k needs `logits`. Logits are clamped to ±1e30. A row
    /// of NaNs gives [`NO_TOKEN`], which is not counted, and leaves the counter. Bounds: random numbers exact; tokens exact if
    /// the draw and every cut are more than 1e-5 of the mass from a boundary ([`margin`]), as in all cases.
    pub struct Draw("sample/draw") for Variant;
    params {
        /// Rows.
        rows: u32,
        /// Tokens of the vocabulary.
        vocab: u32,
        /// The row of logits that is the dispatch's first.
        first: u32,
        /// Sequences.
        sequences: u32,
    }
    binds {
        /// Keys and ids, likeliest first.
        candidates: read [[u32; 2]] if |v| v.from == From::Candidates,
        /// All tokens' logits.
        logits: read [f32] if |v| v.from == From::Logits,
        /// The rows' sequences.
        picks: read [[u32; 2]],
        /// [`Cuts`] of each sequence.
        cuts: read [[f32; 4]],
        /// Which sequences are penalised.
        penalties: read [[f32; 4]] if |v| v.count,
        /// Seed and counter of each sequence.
        draws: write [[u32; 4]],
        /// The sequences' tokens.
        ids: write [u32],
        /// How often each token was generated, for penalties.
        counts: write [u32] if |v| v.count,
    }
}

const LIST: usize = MAX_TOP_K as usize;

/// What a token is sampled from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum From {
    /// The candidates, sorted: the fast path.
    Candidates,
    /// All tokens: several passes over them, by one workgroup per row.
    Logits,
}

/// The source, and whether tokens are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Variant {
    /// What a token is sampled from.
    pub from: From,
    /// Whether the tokens of penalised sequences are counted.
    pub count: bool,
}

/// Applies top-p and min-p to tokens that are sorted by weight: keeps the first ones whose mass reaches `top_p`, then those of
/// at least `min_p` times the first weight, which is one.
pub fn cut(tokens: &mut Vec<(u32, f64)>, top_p: f32, min_p: f32) {
    if top_p < 1.0 {
        let mass: f64 = tokens.iter().map(|(_, weight)| weight).sum();
        let mut reached = 0.0;
        let enough = tokens.iter().position(|(_, weight)| {
            reached += weight;
            reached >= f64::from(top_p) * mass
        });
        tokens.truncate(enough.map_or(tokens.len(), |last| last + 1));
    }
    tokens.retain(|(_, weight)| *weight >= f64::from(min_p));
}

/// Excludes top choices (XTC, as llama.cpp defines it) from tokens that are sorted by weight, with a probability: of those with at
/// least a share `threshold` of the mass, only the last stays. `number` in [0, 1) decides. A threshold above 0.5 excludes none.
pub fn exclude_top(tokens: &mut Vec<(u32, f64)>, [probability, threshold]: [f32; 2], number: f64) {
    if threshold <= 0.5 && number < f64::from(probability) {
        let least = f64::from(threshold) * tokens.iter().map(|(_, weight)| weight).sum::<f64>();
        let likely = tokens.iter().take_while(|(_, weight)| *weight >= least).count();
        tokens.drain(..likely.saturating_sub(1));
    }
}

/// Returns the token that `number` in [0, 1) selects: the one in which this share of the mass lies.
pub fn pick(tokens: &[(u32, f64)], number: f64) -> Option<u32> {
    let mass: f64 = tokens.iter().map(|(_, weight)| weight).sum();
    let mut reached = 0.0;
    let drawn = tokens.iter().find(|(_, weight)| {
        reached += weight;
        number * mass < reached
    });
    drawn.or(tokens.last()).map(|(id, _)| *id)
}

impl Kernel for Draw {
    fn supported(_: &Caps) -> Vec<Variant> {
        let both = |from| [false, true].map(|count| Variant { from, count });
        [From::Candidates, From::Logits].into_iter().flat_map(both).collect()
    }

    fn source(v: Variant) -> Source {
        let source = match v.from {
            From::Candidates => Source::new(wgsl!("sample/draw.wgsl"), MAX_TOP_K),
            From::Logits => Source::new(wgsl!("sample/draw_full_vocab.wgsl"), 256),
        };
        source.with_all([
            wgsl!("lib/order.wgsl"),
            wgsl!("lib/philox.wgsl"),
            wgsl!("sample/draw_state.wgsl"),
            wgsl!("sample/pick.wgsl"),
            super::counting(v.count),
        ])
    }

    fn grid(_: Variant, p: &Params) -> Grid {
        Grid { x: p.rows, y: 1 }
    }

    fn cpu(v: Variant, p: &Params, host: Host<'_>) {
        for t in 0..p.rows {
            let sequence = sequence_of(host.picks, p.first + t, p.sequences);
            let sorted = match v.from {
                From::Candidates => host.candidates[t as usize * LIST..][..LIST].to_vec(),
                From::Logits => sorted(&host.logits[((p.first + t) * p.vocab) as usize..][..p.vocab as usize]),
            };
            let draws = &mut host.draws[sequence];
            let id;
            let cuts = [host.cuts[2 * sequence], host.cuts[2 * sequence + 1]];
            (id, *draws) = draw(&sorted, cuts, *draws);
            host.ids[sequence] = id;
            if v.count {
                count(host.counts, host.penalties, (sequence, p.vocab), id);
            }
        }
    }

    fn cases(v: Variant) -> Vec<Case<Self>> {
        // The last is Qwen3-30B-A3B's vocabulary.
        [("few tokens", 5, 1.5, 60), ("one token", 1, 1.0, 60), ("all equal", 100, 0.0, 60)]
            .into_iter()
            .chain([("near", 1000, 0.5, 60), ("random", 1000, 3.0, 60), ("far apart", 80, 1e4, 60)])
            .chain([("huge", 70, 3e37, 60), ("vocabulary", 151_936, 4.0, 10)])
            .map(|(name, n, size, rows)| case(v, name, n, size, rows))
            .collect()
    }
}

/// Returns rows of `n` logits of about `size` with many cuts, with seeds whose draws are far enough from a boundary.
fn case(v: Variant, name: &str, n: u32, size: f32, rows: usize) -> Case<Draw> {
    let many_cuts: [Cuts; 14] = [
        // Qwen3's; no cut; each cut alone; all; greedy; hot and cold.
        ([0.6, 20.0, 0.95, 0.0], [0.0, 0.1]),
        ([1.0, 0.0, 1.0, 0.0], [0.0, 0.1]),
        ([1.0, 7.0, 1.0, 0.0], [0.0, 0.1]),
        ([1.0, 64.0, 0.71, 0.0], [0.0, 0.1]),
        ([1.0, 1000.0, 1.0, 0.093], [0.0, 0.1]),
        ([0.8, 40.0, 0.93, 0.047], [0.0, 0.1]),
        ([0.0, 20.0, 0.95, 0.0], [1.0, 0.0]),
        ([30.0, 50.0, 0.88, 0.0], [0.0, 0.1]),
        ([1e-3, 3.0, 0.5, 0.5], [0.0, 0.1]),
        ([1.0, 1.0, 1.0, 1.0], [1.0, 0.1]),
        // XTC: alone, behind cuts, half of the time; all kept tokens are likely enough; a threshold that excludes none.
        ([1.0, 0.0, 1.0, 0.0], [1.0, 0.1]),
        ([0.8, 40.0, 0.93, 0.047], [0.5, 0.05]),
        ([2.0, 70.0, 0.4, 0.0], [1.0, 0.0]),
        ([1.0, 20.0, 1.0, 0.0], [1.0, 0.51]),
    ]
    .map(|(cuts, [probability, threshold])| [cuts, [probability, threshold, 0.0, 0.0]]);
    let mut rng = Rng::new(u64::from(n));
    let mut trials = Vec::new();
    for cuts in many_cuts.into_iter().cycle().take(rows) {
        // Some rows have no draw that is far enough, because a cut is on a boundary.
        let found = (0..50).find_map(|_| {
            let mut logits: Vec<f32> = (0..n).map(|_| size * rng.normal()).collect();
            if n > 80 && rng.below(2) == 0 {
                logits[3] = f32::NAN;
            }
            let mut sorted = sorted(&logits);
            if v.from == From::Candidates {
                sorted.resize(LIST, LAST);
            }
            // The counter's low word overflows in one of four.
            let counter = if rng.below(4) == 0 { u64::from(u32::MAX) } else { rng.next_u64() };
            let seed = rng.next_u64();
            let state = [seed, counter].map(|n| [n as u32, (n >> 32) as u32]).concat();
            let state: [u32; 4] = state.try_into().unwrap_or_default();
            (distance(&sorted, cuts, state) > 1e-5).then_some((logits, sorted, state))
        });
        trials.extend(found.map(|(logits, sorted, state)| (logits, sorted, cuts, state)));
    }
    for cuts in [[1.0, 20.0, 0.9, 0.1], [0.0, 0.0, 1.0, 0.0]].map(|cuts| [cuts, [1.0, 0.1, 0.0, 0.0]]) {
        let logits = vec![f32::NAN; n as usize];
        let mut sorted = sorted(&logits);
        sorted.resize(LIST.max(sorted.len()), LAST);
        trials.insert(trials.len() / 2, (logits, sorted, cuts, [1, 2, 3, 4]));
    }
    let (rows, first) = (trials.len() as u32, 3);
    let (picks, sequences) = some_picks(first, rows);
    // Elements of sequences without a row must stay, and those behind the last one.
    let mut data = Data {
        picks,
        cuts: vec![[f32::NAN; 4]; 2 * sequences as usize],
        draws: vec![[9; 4]; sequences as usize],
        ids: vec![7; sequences as usize + 1],
        ..Default::default()
    };
    if v.from == From::Logits {
        data.logits = vec![1e9; (first * n) as usize];
    }
    if v.count {
        data.penalties = some_penalised(sequences);
        data.counts = (0..sequences * n).collect();
    }
    let (mut ids, mut counts) = (data.ids.clone(), data.counts.clone());
    let mut draws = data.draws.clone();
    for (t, (logits, sorted, cuts, state)) in (first..).zip(trials) {
        let sequence = sequence_of(&data.picks, t, sequences);
        let (id, next) = draw(&sorted, cuts, state);
        (ids[sequence], draws[sequence]) = (id, next);
        if v.count && id != NO_TOKEN && data.penalties[sequence][3] != 0.0 {
            counts[sequence * n as usize + id as usize] += 1;
        }
        data.cuts[2 * sequence..][..2].copy_from_slice(&cuts);
        data.draws[sequence] = state;
        match v.from {
            From::Candidates => data.candidates.extend(&sorted[..LIST]),
            From::Logits => data.logits.extend(logits),
        }
    }
    Case {
        name: format!("{name}, {rows} rows"),
        params: Params { rows, vocab: n, first, sequences },
        data,
        expected: Expected {
            draws: Some(Expect::Exact(draws.concat())),
            ids: Some(Expect::Exact(ids)),
            counts: v.count.then_some(Expect::Exact(counts)),
            ..Default::default()
        },
    }
}

/// Returns a row's candidates, sorted.
fn sorted(logits: &[f32]) -> Vec<[u32; 2]> {
    let mut sorted: Vec<_> = (0u32..).zip(logits).map(|(id, logit)| [key(*logit), id]).collect();
    sorted.sort_unstable_by_key(order);
    sorted
}

/// Returns the sampled token, and seed and counter after it.
fn draw(candidates: &[[u32; 2]], cuts: Cuts, draws: [u32; 4]) -> (u32, [u32; 4]) {
    let [best, likeliest] = candidates[0];
    if best == 0 {
        return (NO_TOKEN, draws);
    }
    let [[temperature, _, top_p, min_p], [probability, threshold, ..]] = cuts;
    if temperature == 0.0 {
        return (likeliest, draws);
    }
    let (seed, counter) = seed_and_counter(draws);
    let mut tokens = weighted(candidates, cuts[0]);
    cut(&mut tokens, top_p, min_p);
    let [number, second] = philox::uniform(seed, counter);
    exclude_top(&mut tokens, [probability, threshold], second);
    let next = counter.wrapping_add(1);
    let id = pick(&tokens, number).unwrap_or(likeliest);
    (id, [draws[0], draws[1], next as u32, (next >> 32) as u32])
}

fn seed_and_counter([seed_low, seed_high, low, high]: [u32; 4]) -> (u64, u64) {
    let number = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
    (number(seed_low, seed_high), number(low, high))
}

/// Returns the candidates that top-k keeps, each with its weight.
fn weighted(candidates: &[[u32; 2]], [temperature, top_k, ..]: [f32; 4]) -> Vec<(u32, f64)> {
    let most = if top_k >= 1.0 { top_k as usize } else { candidates.len() };
    let largest = f64::from(logit(candidates[0][0]));
    let weight = |key| ((f64::from(logit(key)) - largest) / f64::from(temperature)).exp();
    let there = candidates.iter().take(most).filter(|c| **c != LAST);
    there.map(|[key, id]| (*id, weight(*key))).collect()
}

/// Returns how far the cuts and the draw are from the nearest boundary between tokens, as a share of the mass of a row of
/// `logits`. A device may sample another token than the reference if this is within the rounding of its sums. `cuts` and
/// `draws` are those of [`Draw`].
pub fn margin(logits: &[f32], cuts: Cuts, draws: [u32; 4]) -> f64 {
    if logits.is_empty() { f64::INFINITY } else { distance(&sorted(logits), cuts, draws) }
}

/// Returns the [`margin`] of sorted candidates.
fn distance(candidates: &[[u32; 2]], cuts: Cuts, draws: [u32; 4]) -> f64 {
    let [[temperature, _, top_p, min_p], [probability, threshold, ..]] = cuts;
    let mut nearest = f64::INFINITY;
    if temperature == 0.0 {
        return nearest;
    }
    let mut tokens = weighted(candidates, cuts[0]);
    let boundaries = |tokens: &[(u32, f64)]| -> Vec<f64> {
        let mass: f64 = tokens.iter().map(|(_, weight)| weight).sum();
        let mut reached = 0.0;
        // The last boundary is the whole mass, which rounding does not cross.
        let inner = &tokens[..tokens.len() - 1];
        let boundary = |(_, weight): &(u32, f64)| {
            reached += weight;
            reached / mass
        };
        inner.iter().map(boundary).collect()
    };
    let nearest_to =
        |boundaries: Vec<f64>, at: f64| boundaries.iter().map(|b| (b - at).abs()).fold(f64::INFINITY, f64::min);
    if top_p < 1.0 {
        nearest = nearest_to(boundaries(&tokens), f64::from(top_p));
        cut(&mut tokens, top_p, 0.0);
    }
    if min_p > 0.0 {
        let mass: f64 = tokens.iter().map(|(_, weight)| weight).sum();
        // The first token's weight is exactly one.
        let weights = tokens.iter().skip(1).map(|(_, weight)| weight / mass).collect();
        nearest = nearest.min(nearest_to(weights, f64::from(min_p) / mass));
        cut(&mut tokens, 1.0, min_p);
    }
    let (seed, counter) = seed_and_counter(draws);
    let [number, second] = philox::uniform(seed, counter);
    let mass = |tokens: &[(u32, f64)]| tokens.iter().map(|(_, weight)| weight).sum::<f64>();
    let (kept, count) = (mass(&tokens), tokens.len());
    let shares: Vec<f64> = tokens.iter().map(|(_, weight)| weight / kept).collect();
    exclude_top(&mut tokens, [probability, threshold], second);
    let share = mass(&tokens) / kept;
    if threshold <= 0.5 && second < f64::from(probability) {
        nearest = nearest.min(nearest_to(shares, f64::from(threshold)));
    }
    // The first token that XTC keeps begins at 0.
    let dropped = if tokens.len() < count { number } else { f64::INFINITY };
    nearest.min(share * nearest_to(boundaries(&tokens), number).min(dropped))
}
