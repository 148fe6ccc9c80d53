//! Rows that are multiplied one by one and several at once, on the default adapter: `cargo bench --bench gemv`.
//!
//! Prints microseconds a row of either, the best of several rounds, warm-up discarded.

use std::time::Instant;

use ferrum_wgpu::{
    gpu::{Adapter, Buffer, Device, GpuError, Program, Readback, Recorder},
    kernels::linear::{
        Epilogue, Rows,
        gemv::{self, Gemv},
        gemv_columns::{self, COLUMNS, GemvColumns},
    },
    quant::{Planes, WeightType, random_blocks},
};

const K: u32 = 2048;
const ROWS: [u32; 4] = [1, 4, 8, 16];
const ROUNDS: usize = 5;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    pollster::block_on(bench())
}

async fn bench() -> Result<(), Box<dyn std::error::Error>> {
    let adapter = Adapter::find(None).await?;
    println!("{} ({}, {})", adapter.name(), adapter.backend(), adapter.driver());
    let device = Device::new(&adapter).await?;
    println!("weights          rows    one by one    at once");
    for (ty, n) in [WeightType::Q4K, WeightType::Q6K].into_iter().flat_map(|ty| [2048, 8192].map(|n| (ty, n))) {
        let planes = Planes::new(ty, u64::from(n), u64::from(K)).ok_or("no rows of whole blocks")?;
        let raw = random_blocks(ty, (n * K) as usize / ty.block_len(), 0.05, 1);
        let mut words = vec![[0u32; 4]; planes.vec4s() as usize];
        for part in planes.pack(0, &raw) {
            words[part.start as usize..][..part.words.len()].copy_from_slice(&part.words);
        }
        let w = device.upload("weights", &words).await?;
        let x: Vec<f32> = (0..ROWS[3] * K).map(|i| (i * 7919 % 1013) as f32 / 500.0 - 1.0).collect();
        let x = device.upload("inputs", &x).await?.cast();
        let y = device.alloc("outputs", u64::from(ROWS[3] * n)).await?;
        let (row_units, units, variant) =
            (planes.row_units(), planes.units(), gemv::Variant { ty, rows: Rows::Dense, epilogue: Epilogue::Store });
        for rows in ROWS {
            let params = gemv::Params {
                rows,
                n,
                k: K,
                row_units,
                units,
                y_stride: n,
                share: 1,
                experts: 1,
                held: 1,
                matrix_rows: n,
                ..Default::default()
            };
            let mut one_by_one = Recorder::new();
            one_by_one.dispatch(Gemv, variant, params, gemv::Binds { w: &w, x: &x, ids: None, y: &y })?;
            let params = gemv_columns::Params {
                rows,
                n,
                k: K,
                row_units,
                units,
                y_stride: n,
                tiles: rows.div_ceil(COLUMNS),
                share: 1,
                experts: 1,
                held: 1,
                matrix_rows: n,
                ..Default::default()
            };
            let mut at_once = Recorder::new();
            let binds = gemv_columns::Binds { w: &w, x: &x, pairs: None, tiles: None, y: &y };
            at_once.dispatch(GemvColumns, variant, params, binds)?;
            let mut times = [0.0; 2];
            for (time, rec) in times.iter_mut().zip([one_by_one, at_once]) {
                *time = best(&device, rec, &y).await? * 1e6 / f64::from(rows);
            }
            println!("{ty:?} [{n}, {K}]  {rows:6}  {:9.1} us {:7.1} us", times[0], times[1]);
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
