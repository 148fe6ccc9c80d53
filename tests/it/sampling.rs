//! Sampling on a device compared with the host sampler: same logits, same seed, same tokens.

use crate::common::device::shared_gpu;
use ferrum_wgpu::{
    Device, SamplingOptions,
    low_level::{
        engine::Sampler,
        gpu::{Buffer, Program, Readback, Recorder},
        kernels::sample::{
            Buffers, Cuts, NO_TOKEN, Rows, SamplingPath, Sizes, draw,
            penalties::{self, IN_PROMPT},
            record,
        },
        quant::Rng,
    },
};

/// The number of sequence slots; two of them stay free.
const SEQUENCES: u32 = 10;

/// The token of a free slot.
const FREE: u32 = 123;

const UPLOAD: &str = "the buffer fits";

/// A sequence and the host's copy of its state.
struct Sequence {
    slot: u32,
    options: SamplingOptions,
    penalties: [f32; 4],
    bias: Vec<f32>,
    counts: Vec<u32>,
    sampler: Sampler,
    /// The number of tokens sampled so far.
    sampled: u64,
    /// The base logits. Each step perturbs them a little, so that likely tokens recur.
    logits: Vec<f32>,
    likely: Vec<u32>,
}

impl Sequence {
    fn cuts(&self) -> Cuts {
        let o = &self.options;
        let xtc = [o.xtc_probability, o.xtc_threshold, 0.0, 0.0];
        [[o.temperature, o.top_k as f32, o.top_p, o.min_p], xtc]
    }

    fn draws(&self) -> [u32; 4] {
        let (seed, sampled) = (self.options.seed, self.sampled);
        [seed as u32, (seed >> 32) as u32, sampled as u32, (sampled >> 32) as u32]
    }

    fn is_penalised(&self) -> bool {
        self.penalties[3] != 0.0
    }

    /// Returns the logits of this step.
    fn step(&self, rng: &mut Rng) -> Vec<f32> {
        let mut logits = self.logits.clone();
        for id in &self.likely {
            logits[*id as usize] += rng.normal();
        }
        if rng.below(15) == 0 {
            logits.fill(f32::NAN);
        }
        logits
    }

    /// Checks a token sampled from `logits`. Returns whether the host could determine it.
    fn check(&mut self, logits: &[f32], sampled: u32) -> bool {
        let inputs = self.bias.iter().zip(&self.counts);
        let logits: Vec<f32> = (logits.iter().zip(inputs))
            .map(|(logit, (bias, count))| penalties::penalised(*logit, *bias, *count, self.penalties))
            .collect();
        // Penalised logits up to 100 differ on a device by a few roundings.
        let threshold = if self.is_penalised() { 1e-4 } else { 1e-5 };
        let nan = logits[0].is_nan();
        let clear = nan || draw::margin(&logits, self.cuts(), self.draws()) > threshold;
        let wanted = self.sampler.sample(&logits).unwrap_or(NO_TOKEN);
        assert!(!clear || sampled == wanted, "slot {} draw {}: {sampled}, expected {wanted}", self.slot, self.sampled);
        assert_eq!(nan, sampled == NO_TOKEN);
        if !nan {
            self.sampled += u64::from(self.options.temperature > 0.0);
            self.counts[sampled as usize] += u32::from(self.is_penalised());
        }
        clear
    }
}

/// Returns sequences with all sampling methods. They have few likely tokens, so that thresholds are rarely close.
fn sequences(vocab: u32) -> Vec<Sequence> {
    let greedy = SamplingOptions::default().temperature(0.0);
    let all = SamplingOptions::default().temperature(1.0).top_k(0).top_p(1.0);
    let none = [3.0, 3.0, 3.0, 0.0];
    let mut rng = Rng::new(1);
    [
        (5, greedy.clone(), none),
        (0, greedy, [1.1, 0.5, 0.25, 1.0]),
        (9, SamplingOptions::default().seed(u64::MAX), none),
        (
            2,
            all.clone().top_k(64).min_p(0.05).xtc_probability(0.7).xtc_threshold(0.05).seed(1 << 40),
            [1.0, 0.0, 0.5, 1.0],
        ),
        (3, all.clone().top_p(0.9).xtc_probability(0.5).seed(6), none),
        (7, all.clone().temperature(0.7).top_k(1000).top_p(0.97).seed(5), [1.3, 1.0, 0.0, 1.0]),
        (1, all.clone().top_k(1), none),
        (6, all.clone().seed(7), [1.0, 2.0, 1.0, 1.0]),
    ]
    .into_iter()
    .map(|(slot, options, penalties)| {
        let likely: Vec<u32> = (0..20).map(|_| rng.below(vocab)).collect();
        let mut logits: Vec<f32> = (0..vocab).map(|_| rng.normal()).collect();
        let (mut bias, mut counts) = (vec![0.0; vocab as usize], vec![0; vocab as usize]);
        for (i, id) in likely.iter().map(|id| *id as usize).enumerate() {
            logits[id] = 16.0;
            bias[id] = [0.0, 0.0, 1.5, -100.0][i % 4];
            counts[id] = if i % 3 == 0 { IN_PROMPT } else { 0 };
        }
        let sampler = Sampler::new(options.clone()).expect("valid options");
        Sequence { slot, options, penalties, bias, counts, sampler, sampled: 0, logits, likely }
    })
    .collect()
}

/// The buffers of sampling and a program that uses them.
struct Sampling {
    vocab: u32,
    logits: Buffer<f32>,
    picks: Buffer<[u32; 2]>,
    cuts: Buffer<[f32; 4]>,
    draws: Buffer<[u32; 4]>,
    tokens: Buffer<u32>,
    penalties: Buffer<[f32; 4]>,
    bias: Buffer<f32>,
    counts: Buffer<u32>,
    masks: Buffer<u32>,
    candidates: [Buffer<[u32; 2]>; 2],
    program: Program,
    read: Readback,
}

impl Sampling {
    async fn new(device: &Device, vocab: u32, sequences: &[Sequence]) -> Self {
        let sizes = Sizes::new(sequences.len() as u32, SEQUENCES, vocab);
        let mut tokens = vec![FREE; SEQUENCES as usize];
        let mut cuts = vec![[f32::NAN; 4]; 2 * SEQUENCES as usize];
        let (mut draws, mut penalties) = (vec![[9; 4]; SEQUENCES as usize], vec![[f32::NAN; 4]; SEQUENCES as usize]);
        let (mut bias, mut counts) = (vec![f32::NAN; sizes.tokens as usize], vec![77; sizes.tokens as usize]);
        for s in sequences {
            let slot = s.slot as usize;
            (tokens[slot], draws[slot], penalties[slot]) = (0, s.draws(), s.penalties);
            cuts[2 * slot..][..2].copy_from_slice(&s.cuts());
            let place = slot * vocab as usize..(slot + 1) * vocab as usize;
            // Sequences without penalties do not read theirs.
            if s.is_penalised() {
                bias[place.clone()].copy_from_slice(&s.bias);
                counts[place].copy_from_slice(&s.counts);
            }
        }
        let [full, free] = sizes.candidates;
        Self {
            vocab,
            logits: device.alloc("logits", sizes.logits).await.expect(UPLOAD),
            picks: device.alloc("picks", sizes.picks).await.expect(UPLOAD),
            cuts: device.upload("cuts", &cuts).await.expect(UPLOAD),
            draws: device.upload("draws", &draws).await.expect(UPLOAD),
            tokens: device.upload("tokens", &tokens).await.expect(UPLOAD),
            penalties: device.upload("penalties", &penalties).await.expect(UPLOAD),
            bias: device.upload("bias", &bias).await.expect(UPLOAD),
            counts: device.upload("counts", &counts).await.expect(UPLOAD),
            masks: device.alloc("masks", sizes.masks).await.expect(UPLOAD),
            candidates: [
                device.alloc("full", full).await.expect(UPLOAD),
                device.alloc("free", free).await.expect(UPLOAD),
            ],
            program: Program::new(device),
            read: Readback::new::<u32>(device, sizes.tokens, 1).await.expect(UPLOAD),
        }
    }

    /// Samples a token for each sequence from its logits, and returns all slots' tokens.
    async fn step(&mut self, device: &Device, drawing: &[(&Sequence, &[f32])]) -> Vec<u32> {
        let mut order: Vec<_> = drawing.iter().collect();
        order.sort_by_key(|(s, _)| SamplingPath::new(s.cuts()));
        let mut rows = Rows { sequences: SEQUENCES, vocab: self.vocab, ..Default::default() };
        let (mut picks, mut logits) = (Vec::new(), Vec::new());
        for (s, of_row) in order {
            rows.add(SamplingPath::new(s.cuts()));
            rows.penalised |= s.is_penalised();
            picks.push([7000, s.slot]);
            logits.extend_from_slice(of_row);
        }
        device.write(&self.logits, 0, &logits).await.expect(UPLOAD);
        device.write(&self.picks, 0, &picks).await.expect(UPLOAD);
        let [full, free] = &self.candidates;
        let buffers = Buffers {
            logits: &self.logits,
            picks: &self.picks,
            cuts: &self.cuts,
            draws: &self.draws,
            tokens: &self.tokens,
            penalties: &self.penalties,
            bias: &self.bias,
            counts: &self.counts,
            masks: &self.masks,
            candidates: [full, free],
        };
        let mut rec = Recorder::new();
        record(&mut rec, &rows, &buffers).expect("distinct buffers");
        let plan = rec.finish();
        assert!(plan.steps().len() <= 8, "{} dispatches", plan.steps().len());
        self.program.prepare(device, plan).await.expect("a program");
        self.program.submit(device).expect("the program runs");
        self.read.read(device, &self.tokens, SEQUENCES.into()).await.expect("tokens")
    }
}

/// Samples some of the sequences at each step, together and one by one.
async fn check(device: &Device, vocab: u32, steps: u32) {
    let mut sequences = sequences(vocab);
    let mut together = Sampling::new(device, vocab, &sequences).await;
    let mut alone = Sampling::new(device, vocab, &sequences).await;
    let mut rng = Rng::new(2);
    let (mut clear, mut rows) = (0, 0);
    let mut tokens = together.read.read(device, &together.tokens, SEQUENCES.into()).await.expect("tokens");
    for step in 0..steps {
        let logits: Vec<Option<Vec<f32>>> =
            sequences.iter().map(|s| (step == 0 || rng.below(4) > 0).then(|| s.step(&mut rng))).collect();
        let drawing: Vec<(&Sequence, &[f32])> =
            sequences.iter().zip(&logits).filter_map(|(s, logits)| Some((s, logits.as_deref()?))).collect();
        let before = tokens;
        tokens = together.step(device, &drawing).await;
        for one in drawing {
            let token = alone.step(device, &[one]).await[one.0.slot as usize];
            assert_eq!(token, tokens[one.0.slot as usize], "slot {} at step {step}, alone", one.0.slot);
        }
        for slot in 0..SEQUENCES as usize {
            let drew = sequences.iter().zip(&logits).any(|(s, l)| s.slot as usize == slot && l.is_some());
            assert!(drew || tokens[slot] == before[slot], "slot {slot} at step {step}");
        }
        for (s, logits) in sequences.iter_mut().zip(&logits) {
            let Some(logits) = logits else { continue };
            rows += 1;
            clear += u32::from(s.check(logits, tokens[s.slot as usize]));
        }
    }
    assert!(10 * clear >= 9 * rows, "only {clear} of {rows} tokens are far enough from a threshold");
    let draws = together.read.read(device, &together.draws, SEQUENCES.into()).await.expect("draws");
    let counts = together.read.read(device, &together.counts, (SEQUENCES * vocab).into()).await.expect("counts");
    let mut wanted = (vec![[9; 4]; SEQUENCES as usize], vec![vec![77; vocab as usize]; SEQUENCES as usize]);
    for s in &sequences {
        let slot = s.slot as usize;
        wanted.0[slot] = s.draws();
        if s.is_penalised() {
            wanted.1[slot].clone_from(&s.counts);
        }
    }
    assert_eq!(draws, wanted.0);
    assert!(counts == wanted.1.concat(), "counts");
}

/// Checks twenty steps with a small vocabulary, and one with Qwen3-30B-A3B's.
async fn check_all(device: &Device) {
    check(device, 3000, 20).await;
    check(device, 151_936, 1).await;
}

#[test]
fn the_gpu_samples_as_the_host_does() {
    pollster::block_on(async {
        check_all(&shared_gpu()).await;
    });
}

#[test]
fn the_cpu_kernels_sample_as_the_host_does() {
    pollster::block_on(check_all(&Device::cpu()));
}
