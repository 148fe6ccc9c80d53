//! Sampling as it is chained on a device, against the sampler on the host: same logits, same seed, same tokens.

use ferrum_wgpu::{
    engine::{Sampler, SamplingOptions, argmax as host_argmax},
    gpu::{Adapter, Buffer, Device, Program, Readback, Recorder},
    kernels::sample::{
        argmax,
        draw::{self, Draw},
        top_k,
    },
    quant::Rng,
};

const VOCAB: u32 = 151_936;

/// Draws of each row.
const DRAWS: usize = 4;

/// Rows of logits with few likely tokens, so that no border is near a draw, and their sampling options.
fn rows() -> Vec<(Vec<f32>, SamplingOptions)> {
    let mut rng = Rng::new(1);
    let all = SamplingOptions { temperature: 1.0, top_k: 0, top_p: 1.0, min_p: 0.0, seed: 0 };
    [
        SamplingOptions { seed: u64::MAX, ..Default::default() },
        SamplingOptions { top_k: 50, top_p: 0.9, seed: 1 << 40, ..all },
        SamplingOptions { top_k: 64, min_p: 0.05, ..all },
        SamplingOptions { temperature: 0.0, ..all },
        SamplingOptions { temperature: 0.7, top_k: 1000, top_p: 0.97, seed: 5, ..all },
        SamplingOptions { top_p: 0.9, seed: 6, ..all },
    ]
    .into_iter()
    .map(|options| {
        let mut logits: Vec<f32> = (0..VOCAB).map(|_| rng.normal()).collect();
        for _ in 0..20 {
            logits[rng.below(VOCAB) as usize] = 16.0 + rng.normal();
        }
        (logits, options)
    })
    .collect()
}

async fn check(device: &Device) {
    let rows = rows();
    let count = rows.len() as u32;
    let logits: Vec<f32> = rows.iter().flat_map(|(logits, _)| logits.clone()).collect();
    let options = || rows.iter().map(|(_, options)| *options);
    let cuts: Vec<[f32; 4]> = options().map(|o| [o.temperature, o.top_k as f32, o.top_p, o.min_p]).collect();
    let start: Vec<[u32; 4]> = options().map(|o| [o.seed as u32, (o.seed >> 32) as u32, 0, 0]).collect();

    let upload = "the buffer fits";
    let logits = device.upload("logits", &logits).await.expect(upload);
    let cuts = device.upload("cuts", &cuts).await.expect(upload);
    let lists = u64::from(count * top_k::kept(VOCAB));
    let [full, free]: [Buffer<[u32; 2]>; 2] =
        [device.alloc("full", lists).await.expect(upload), device.alloc("free", lists).await.expect(upload)];
    let ids: Buffer<u32> = device.alloc("ids", count.into()).await.expect(upload);
    let read = Readback::new::<u32>(device, count.into(), 1).await.expect(upload);

    let mut rec = Recorder::new();
    argmax::record(&mut rec, (count, VOCAB), &logits, &full, &ids).expect("distinct buffers");
    let mut greedy = Program::new(device);
    greedy.prepare(device, rec.finish()).await.expect("a program");
    greedy.submit(device).expect("it runs");
    let likeliest: Vec<u32> = rows.iter().filter_map(|(logits, _)| host_argmax(logits)).collect();
    assert_eq!(read.read(device, &ids, count.into()).await.expect("ids"), likeliest);

    for from in [draw::From::Candidates, draw::From::Logits] {
        let draws = device.upload("draws", &start).await.expect(upload);
        let mut rec = Recorder::new();
        let list = top_k::record(&mut rec, (count, VOCAB), &logits, [&full, &free]).expect("distinct buffers");
        let (candidates, all) = match from {
            draw::From::Candidates => (Some(list), None),
            draw::From::Logits => (None, Some(&logits)),
        };
        let binds = draw::Binds { candidates, logits: all, cuts: &cuts, draws: &draws, ids: &ids, counts: None };
        let params = draw::Params { rows: count, n: VOCAB };
        rec.dispatch(Draw, draw::Variant { from, count: false }, params, binds).expect("distinct buffers");
        let mut program = Program::new(device);
        program.prepare(device, rec.finish()).await.expect("a program");
        let mut samplers: Vec<_> = options().map(|o| Sampler::new(o).expect("valid options")).collect();
        for number in 0..DRAWS {
            program.submit(device).expect("it runs");
            let drawn = read.read(device, &ids, count.into()).await.expect("ids");
            for (t, (sampler, (logits, options))) in samplers.iter_mut().zip(&rows).enumerate() {
                let wanted = sampler.sample(logits).expect("a token");
                // Lists of candidates are for at most 64 tokens.
                let held =
                    from == draw::From::Logits || options.temperature == 0.0 || (1..=64).contains(&options.top_k);
                assert!(!held || drawn[t] == wanted, "{from:?} {options:?} draw {number}: {} not {wanted}", drawn[t]);
            }
        }
    }
}

#[test]
fn gpu_draws_what_the_host_draws() {
    pollster::block_on(async {
        let adapter = Adapter::find(None).await.expect("an adapter: `make setup` installs a software one");
        check(&Device::new(&adapter).await.expect("a device")).await;
    });
}

#[test]
fn twins_draw_what_the_host_draws() {
    pollster::block_on(check(&Device::cpu()));
}
