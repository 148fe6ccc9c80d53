//! Bias and penalties on logits.

use crate::{
    gpu::{Caps, Case, Expect, Grid, Source, kernel, wgsl},
    quant::Rng,
};

kernel! {
    /// `logits[t, i] += bias[t, i]`, then penalties on tokens that the sequence has, as vLLM and the OpenAI API define
    /// them: `repetition` divides a positive logit and multiplies a negative one of any such token; of those that were
    /// generated `presence` is subtracted once, and `frequency` for each occurrence.
    ///
    /// Shapes: `logits`, `bias` f32 and `counts` u32 `[rows, n]`, `penalties` `[rows]` of repetition (1 is none), presence,
    /// frequency (0 is none) and a number that is not used. A count is how often the token was generated, plus
    /// [`IN_PROMPT`] where the prompt has it. Bound: 1e-6 of the magnitudes of logit and bias, both penalised, and of what
    /// is subtracted. Measured worst on lavapipe: 0.11 of it.
    pub struct Penalties("sample/penalties") for ();
    params {
        /// Rows.
        rows: u32,
        /// Logits of a row.
        n: u32,
    }
    binds {
        /// Repetition, presence and frequency penalty of each row.
        penalties: read [[f32; 4]],
        /// How often each token was generated, and whether it is in the prompt.
        counts: read [u32],
        /// What is added to each logit.
        bias: read [f32],
        /// The logits.
        logits: write [f32],
    }
}

/// Added to the count of a token that is in the prompt.
pub const IN_PROMPT: u32 = 1 << 31;

const WG: u32 = 256;

impl Penalties {
    fn variants(_: &Caps) -> Vec<()> {
        vec![()]
    }

    fn source((): ()) -> Source {
        Source::new(wgsl!("sample/penalties.wgsl"), WG)
    }

    fn grid((): (), p: &Params) -> Grid {
        Grid { x: p.n.div_ceil(WG), y: p.rows }
    }

    fn cpu((): (), p: &Params, host: Host<'_>) {
        let inputs = host.bias.iter().zip(host.counts);
        for (at, (logit, (bias, count))) in host.logits.iter_mut().zip(inputs).take((p.rows * p.n) as usize).enumerate()
        {
            *logit = penalised(*logit, *bias, *count, host.penalties[at / p.n as usize]).0 as f32;
        }
    }

    fn cases((): ()) -> Vec<Case<Self>> {
        let none = [1.0, 0.0, 0.0, 0.0];
        [
            ("each penalty", 300, vec![none, [1.3, 0.0, 0.0, 0.0], [1.0, 1.5, 0.0, 0.0], [1.0, 0.0, 0.7, 0.0]]),
            ("all together", 257, vec![[0.5, -2.0, -0.25, f32::NAN], [2.0, 2.0, 2.0, f32::NAN]]),
            ("one logit", 1, vec![[1.1, 0.5, 0.5, 0.0]]),
            ("Qwen3-30B-A3B's vocabulary", 151_936, vec![[1.05, 1.5, 0.1, 0.0]]),
        ]
        .into_iter()
        .map(|(name, n, penalties)| {
            let rows = penalties.len() as u32;
            let mut rng = Rng::new(u64::from(n));
            let mut logits: Vec<f32> = (0..rows * n).map(|_| 5.0 * rng.normal()).collect();
            let seen = [0, 0, 0, 1, 2, 1000, IN_PROMPT, IN_PROMPT + 3];
            let counts: Vec<u32> = logits.iter().map(|_| seen[rng.below(8) as usize]).collect();
            let strengths = [0.0, 0.0, 0.0, 100.0, -100.0, -1e30];
            let bias: Vec<f32> = logits.iter().map(|_| strengths[rng.below(6) as usize]).collect();
            let inputs = logits.iter().zip(&bias).zip(&counts).enumerate();
            let mut expected: Vec<(f64, f64)> = inputs
                .map(|(at, ((logit, bias), count))| penalised(*logit, *bias, *count, penalties[at / n as usize]))
                .map(|(value, terms)| (value, 1e-6 * terms))
                .collect();
            // What lies behind the last must stay.
            logits.push(f32::NAN);
            expected.push((f64::NAN, 0.0));
            Case {
                name: name.to_owned(),
                params: Params { rows, n },
                data: Data { penalties, counts, bias, logits },
                expected: Expected { logits: Some(Expect::Near(expected)), ..Default::default() },
            }
        })
        .collect()
    }
}

/// The penalised logit, and the magnitudes of what it is made of.
fn penalised(logit: f32, bias: f32, count: u32, penalties: [f32; 4]) -> (f64, f64) {
    let [repetition, presence, frequency, _] = penalties.map(f64::from);
    let (logit, bias) = (f64::from(logit), f64::from(bias));
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
