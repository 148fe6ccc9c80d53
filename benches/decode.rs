//! Prefill and decode speed of a model on the default adapter: `cargo bench --bench decode [-- MODEL.gguf]`.
//!
//! Prints the best rate of several rounds after a warm-up, for prefill by GEMV and by GEMM, for one sequence and for a
//! batch, and the dispatches per token.

use std::time::Instant;

use ferrum_wgpu::{
    Adapter, Device, Engine, EngineOptions, GenerateOptions, Gguf, Model, SamplingOptions, Session,
    low_level::model::{KernelSelection, PlanOptions},
};

const PROMPT: usize = 128;
const GENERATED: u32 = 32;
const BATCH: u32 = 16;
const ROUNDS: usize = 3;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // Cargo adds `--bench`.
    let path = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    let path = path.unwrap_or_else(|| concat!(env!("CARGO_MANIFEST_DIR"), "/models/demo-q4_k_m.gguf").to_owned());
    pollster::block_on(bench(&path))
}

async fn bench(path: &str) -> Result<(), Box<dyn std::error::Error>> {
    let gguf = Gguf::open(path)?;
    let adapter = Adapter::find(None).await?;
    println!("{} ({}, {})", adapter.name(), adapter.backend(), adapter.driver());
    let device = Device::new(&adapter).await?;
    let start = Instant::now();
    let model = Model::load(&device, &gguf, |_, _| ()).await?;
    println!("load            {:>8.1} ms", start.elapsed().as_secs_f64() * 1e3);
    let vocab = model.config().vocab;
    let prompt: Vec<u32> = (0..PROMPT as u32).map(|i| i * 7919 % vocab).collect();
    for (name, kernels) in [("GEMV", KernelSelection::SOFTWARE), ("GEMM", KernelSelection::GPU)] {
        let plan = PlanOptions { kernels: Some(kernels), ..Default::default() };
        let context = Some(256);
        let options = EngineOptions::default().plan(plan).context(context).prefix_sharing(false);
        let engine = Engine::new(&model, &options).await?;
        let mut session = engine.session();
        let mut prefill = f64::INFINITY;
        for _ in 0..=ROUNDS {
            session.truncate(0)?;
            let start = Instant::now();
            session.forward(&prompt).await?;
            prefill = prefill.min(start.elapsed().as_secs_f64());
        }
        println!("{name}");
        println!("  pp{PROMPT:<12} {:>8.1} t/s", PROMPT as f64 / prefill);
        println!("  tg{GENERATED:<12} {:>8.1} t/s", decode(&mut [session]).await?);
        println!("  dispatches    {:>8} per token", engine.decode_dispatches().await);
        let many = options.sequences(BATCH).kv_tokens(BATCH * 64);
        let engine = Engine::new(&model, &many).await?;
        let mut sessions: Vec<_> = (0..BATCH).map(|_| engine.session()).collect();
        println!("  tg{GENERATED} x {BATCH:<7} {:>8.1} t/s", decode(&mut sessions).await?);
    }
    Ok(())
}

/// Returns the tokens per second of all sequences together in the best round, decoded after a short prompt.
async fn decode(sessions: &mut [Session]) -> Result<f64, Box<dyn std::error::Error>> {
    let options = GenerateOptions::default().sampling(SamplingOptions::greedy()).max_tokens(GENERATED);
    let mut best = f64::INFINITY;
    for _ in 0..=ROUNDS {
        let mut replies = Vec::new();
        for (session, token) in sessions.iter_mut().zip(1..) {
            session.truncate(0)?;
            replies.push(session.generate(&[token], &options)?);
        }
        // The first token of each reply ends its prefill.
        for reply in &mut replies {
            reply.next().await?;
        }
        let start = Instant::now();
        for reply in &mut replies {
            while reply.next().await?.is_some() {}
        }
        best = best.min(start.elapsed().as_secs_f64());
    }
    Ok(f64::from(GENERATED - 1) * sessions.len() as f64 / best)
}
