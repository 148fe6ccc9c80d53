//! Attention on the default adapter: `cargo bench --bench attention`.
//!
//! Prints, for Qwen3-30B-A3B's shape of a key head with eight query heads each, a drawn token at several depths and a prompt of
//! 512 rows: the best of several rounds, and multiply-adds per second, `2 · heads · HD · context` a row.

use std::time::Instant;

use ferrum_wgpu::{
    gpu::{Adapter, Buffer, Device, GpuError, Program, Readback, Recorder},
    kernels::{
        KvType,
        attn::{
            CHUNK, Cache, Exchange, Tiles,
            attention::{self, Attention},
            attention_merge::{self, AttentionMerge},
            attention_part::{self, AttentionPart},
            part_words,
        },
    },
};

const HEADS: u32 = 16;
const KV_HEADS: u32 = 2;
const HEAD_DIM: u32 = 128;
const BLOCK: u32 = 32;
const CAPACITY: u32 = 4096;
const ROUNDS: usize = 5;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    pollster::block_on(bench())
}

async fn bench() -> Result<(), Box<dyn std::error::Error>> {
    let adapter = Adapter::find(None).await?;
    println!("{} ({}, {})", adapter.name(), adapter.backend(), adapter.driver());
    let device = Device::new(&adapter).await?;
    let exchanges =
        if device.caps().shuffles { &[Exchange::Memory, Exchange::Shuffle][..] } else { &[Exchange::Memory] };
    let kvs = if device.caps().pack_f16 { &KvType::ALL[..] } else { &[KvType::F32] };
    println!("exchange  cache   rows  context       time    GMAC/s");
    for (exchange, kv) in exchanges.iter().flat_map(|exchange| kvs.iter().map(move |kv| (*exchange, *kv))) {
        let variant = attention::Variant { head_dim: HEAD_DIM, cache: Cache::Paged, kv, exchange };
        // Zeros: times do not depend on them.
        let words = u64::from(2 * KV_HEADS * CAPACITY * kv.head_words(HEAD_DIM));
        let cache = device.alloc::<u32>("cache", words).await?.cast();
        let table: Vec<u32> = (0..CAPACITY / BLOCK).rev().collect();
        let table = device.upload("table", &table).await?;
        for contexts in [vec![256], vec![1024], vec![4096], (1..=512).collect::<Vec<u32>>()] {
            let rows = contexts.len() as u32;
            let places: Vec<u32> = contexts.iter().flat_map(|context| [context - 1, 0]).collect();
            let positions = device.upload("positions", &places).await?;
            let elements = u64::from(rows * HEADS * HEAD_DIM);
            let q = device.alloc::<f32>("queries", elements).await?.cast();
            let y = device.alloc::<f32>("outputs", elements).await?;
            let longest = contexts.iter().copied().max().unwrap_or(1);
            let (chunks, tiles) = (longest.div_ceil(CHUNK), Tiles::new(HEADS / KV_HEADS, rows > 1));
            let parts = u64::from(HEADS * chunks * part_words(HEAD_DIM));
            let parts = device.alloc::<f32>("parts", parts).await?.cast();
            let mut rec = Recorder::new();
            let params = attention::Params {
                rows,
                heads: HEADS,
                kv_heads: KV_HEADS,
                group: HEADS / KV_HEADS,
                tile_rows: tiles.rows,
                tile_heads: tiles.heads,
                head_tiles: tiles.per_key_head,
                capacity: CAPACITY,
                sequences: 1,
                max_blocks: CAPACITY / BLOCK,
                block: BLOCK,
                blocks: CAPACITY / BLOCK,
                window: 0,
                scale: 0.1,
            };
            if rows > 1 || chunks == 1 {
                let y = y.cast();
                let binds = attention::Binds { q: &q, kv: &cache, positions: &positions, table: Some(&table), y: &y };
                rec.dispatch(Attention, variant, params, binds)?;
            } else {
                let params = attention_part::Params {
                    rows,
                    heads: HEADS,
                    kv_heads: KV_HEADS,
                    group: HEADS / KV_HEADS,
                    tile_rows: tiles.rows,
                    tile_heads: tiles.heads,
                    head_tiles: tiles.per_key_head,
                    chunks,
                    capacity: CAPACITY,
                    sequences: 1,
                    max_blocks: CAPACITY / BLOCK,
                    block: BLOCK,
                    blocks: CAPACITY / BLOCK,
                    window: 0,
                    scale: 0.1,
                };
                let binds = attention_part::Binds {
                    q: &q,
                    kv: &cache,
                    positions: &positions,
                    table: Some(&table),
                    parts: &parts,
                };
                rec.dispatch(AttentionPart, variant, params, binds)?;
                let merge = attention_merge::Variant { head_dim: HEAD_DIM, cache: Cache::Paged };
                let params = attention_merge::Params { rows, heads: HEADS, chunks, capacity: CAPACITY, window: 0 };
                let binds = attention_merge::Binds { parts: &parts, positions: &positions, y: &y.cast() };
                rec.dispatch(AttentionMerge, merge, params, binds)?;
            }
            let products: f64 = contexts.iter().map(|c| f64::from(2 * HEADS * HEAD_DIM) * f64::from(*c)).sum();
            let time = best(&device, rec, &y).await?;
            println!(
                "{:9} {:5} {rows:6} {longest:8} {:9.3} ms {:9.2}",
                format!("{exchange:?}"),
                kv.name(),
                time * 1e3,
                products / time * 1e-9
            );
        }
    }
    Ok(())
}

/// Seconds of the quickest round.
async fn best(device: &Device, rec: Recorder, y: &Buffer<f32>) -> Result<f64, GpuError> {
    let mut program = Program::new(device);
    program.prepare(device, rec.finish()).await?;
    let readback = Readback::new::<f32>(device, 1, 1).await?;
    let mut best = f64::INFINITY;
    for round in 0..=ROUNDS {
        let start = Instant::now();
        program.run(device).await?;
        readback.read(device, y, 1).await?;
        if round > 0 {
            best = best.min(start.elapsed().as_secs_f64());
        }
    }
    Ok(best)
}
