//! Helpers that record and run single kernels.

use std::sync::{
    OnceLock,
    atomic::{AtomicUsize, Ordering},
};

use ferrum_wgpu::{
    Adapter, Device,
    low_level::{
        gpu::{Buffer, Element, Program, Readback, Recorder},
        quant::Rng,
    },
};

/// Opens the device under test.
pub async fn gpu() -> Device {
    let adapter = Adapter::find(None).await.expect("an adapter: `make setup` installs a software one");
    Device::new(&adapter).await.expect("a device")
}

/// Returns one of the two devices that tests share, so that most pipelines are compiled once: the same to all calls of a test. A
/// software driver has one thread to compile and run a device's kernels. Tests that lose the device, inject faults or count
/// its objects need their own.
pub fn shared_gpu() -> Device {
    static SHARED: [OnceLock<Device>; 2] = [const { OnceLock::new() }; 2];
    static TESTS: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static TEST: usize = TESTS.fetch_add(1, Ordering::Relaxed);
    }
    let shared = &SHARED[TEST.with(|test| test % SHARED.len())];
    shared.get_or_init(|| pollster::block_on(gpu())).clone()
}

/// Uploads `values` to a new buffer.
pub async fn upload<T: Element>(device: &Device, values: &[T]) -> Buffer<T> {
    // Buffers cannot be empty.
    let filled = if values.is_empty() { device.alloc("empty", 1).await } else { device.upload("values", values).await };
    filled.expect("a buffer")
}

/// Runs the recorded dispatches and returns the bits of `y`.
pub async fn run(device: &Device, rec: Recorder, y: &Buffer<f32>) -> Vec<u32> {
    let mut program = Program::new(device);
    program.prepare(device, rec.finish()).await.expect("shaders compile");
    program.submit(device).expect("the program runs");
    let readback = Readback::new::<f32>(device, y.len(), 1).await.expect("a buffer");
    let values = readback.read(device, y, y.len()).await.expect("values");
    values.into_iter().map(f32::to_bits).collect()
}

/// Returns `count` normally distributed values.
pub fn normal(rng: &mut Rng, count: usize) -> Vec<f32> {
    (0..count).map(|_| rng.normal()).collect()
}
