//! Measurement of a device's memory bandwidth, the upper bound of its kernels.

use std::time::Instant;

use ferrum_wgpu::low_level::kernels::elementwise::copy_rows;
use ferrum_wgpu::{
    Device, GpuError,
    low_level::gpu::{Program, Readback, Recorder},
};

/// Maximum words per buffer: larger than GPU caches.
const WORDS: u64 = 16 << 20;
/// Words per row of the copied matrix.
const ROW: u32 = 1 << 16;
/// Copies per submission, and number of timed submissions.
const COPIES: usize = 4;
const ROUNDS: usize = 5;

/// Returns the bytes per second, read plus written, of copying a buffer: the best of several rounds.
pub async fn bandwidth(device: &Device) -> Result<f64, GpuError> {
    let words = WORDS.min(device.caps().buffer_limit() / 4);
    let (n, rows) = (ROW.min(words as u32), (words / u64::from(ROW)).max(1) as u32);
    let x = device.alloc::<u32>("copied from", words).await?;
    let y = device.alloc::<u32>("copied to", words).await?;
    let mut recorder = Recorder::new();
    for _ in 0..COPIES {
        recorder.dispatch(
            copy_rows::CopyRows,
            (),
            copy_rows::Params { rows, n, x_stride: n, x_offset: 0, y_stride: n, y_offset: 0 },
            copy_rows::Binds { x: &x, y: &y },
        )?;
    }
    let mut program = Program::new(device);
    program.prepare(device, recorder.finish()).await?;
    let readback = Readback::new::<u32>(device, 1, 1).await?;
    let bytes = 2.0 * 4.0 * f64::from(rows) * f64::from(n) * COPIES as f64;
    let mut best: f64 = 0.0;
    // The first round is a warm-up.
    for round in 0..=ROUNDS {
        let start = Instant::now();
        program.run(device).await?;
        readback.read(device, &y, 1).await?;
        if round > 0 {
            best = best.max(bytes / start.elapsed().as_secs_f64().max(1e-9));
        }
    }
    Ok(best)
}
