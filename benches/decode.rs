//! Prefill and decode of a model on the default adapter: `cargo bench --bench decode [-- MODEL.gguf]`.
//!
//! Prints tokens per second of the best of several rounds, warm-up discarded, for prompts that are computed row by row, some
//! rows at once and by tiles, and the dispatches of a token.

use std::time::Instant;

use ferrum_wgpu::{
    engine::{Session, SessionOptions, argmax},
    gguf::Gguf,
    gpu::{Adapter, Device},
    model::{Model, Tiers},
};

const PROMPT: usize = 128;
const GENERATED: usize = 32;
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
    let one_by_one = Tiers { columns_rows: u32::MAX, bucket_pairs: u32::MAX, ..Tiers::SOFTWARE };
    for (name, tiers) in [("row by row", one_by_one), ("some at once", Tiers::SOFTWARE), ("by tiles", Tiers::GPU)] {
        let options = SessionOptions { tiers: Some(tiers), ..Default::default() };
        let mut session = Session::new(&model, &options).await?;
        let (mut prefill, mut decode) = (f64::INFINITY, f64::INFINITY);
        for round in 0..=ROUNDS {
            session.truncate(0);
            let start = Instant::now();
            let mut logits = session.forward(&prompt).await?;
            let filled = start.elapsed().as_secs_f64();
            let start = Instant::now();
            for _ in 0..GENERATED {
                logits = session.forward(&[argmax(&logits).unwrap_or(0)]).await?;
            }
            let decoded = start.elapsed().as_secs_f64();
            // The first round compiles the kernels.
            if round > 0 {
                (prefill, decode) = (prefill.min(filled), decode.min(decoded));
            }
        }
        println!("{name}");
        println!("  pp{PROMPT:<12} {:>8.1} t/s", PROMPT as f64 / prefill);
        println!("  tg{GENERATED:<12} {:>8.1} t/s", GENERATED as f64 / decode);
        println!("  dispatches    {:>8} a token", session.decode_dispatches());
    }
    Ok(())
}
