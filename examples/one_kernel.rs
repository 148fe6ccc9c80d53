//! Runs a single kernel on a device that the application created with wgpu: `cargo run --example one_kernel`.

use ferrum_wgpu::{
    Device, Requirements,
    low_level::{
        gpu::{Program, Readback, Recorder},
        kernels::elementwise::add_rows::{AddRows, Binds, Params},
    },
    wgpu,
};

async fn run() -> Result<(), Box<dyn std::error::Error>> {
    // The application creates the device. It may request more than the library requires.
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
    let adapter = instance.request_adapter(&wgpu::RequestAdapterOptions::default()).await?;
    let Requirements { features, limits } = Requirements::of(&adapter);
    let descriptor =
        wgpu::DeviceDescriptor { required_features: features, required_limits: limits, ..Default::default() };
    let (device, queue) = adapter.request_device(&descriptor).await?;

    // `host_owned_device.rs` runs a whole model on such a device.
    let device = Device::from_wgpu(&adapter, device, queue)?;
    let x = device.upload("x", &[1.0, 2.0, 3.0]).await?;
    let y = device.upload("y", &[10.0, 10.0, 10.0]).await?;
    let mut recorder = Recorder::new();
    let params = Params { rows: 1, n: 3, x_stride: 3, x_offset: 0, y_stride: 3, y_offset: 0, factor: 0.5 };
    recorder.dispatch(AddRows, (), params, Binds { x: &x, y: &y })?;
    let mut program = Program::new(&device);
    program.prepare(&device, recorder.finish()).await?;

    // Two results in flight: the second is computed while the first is read.
    let readback = Readback::new::<f32>(&device, y.len(), 2).await?;
    program.submit(&device)?;
    let mut first = readback.start(&device, &y, y.len())?;
    program.submit(&device)?;
    let mut second = readback.start(&device, &y, y.len())?;
    println!("{:?}", first.wait(&device).await?);
    println!("{:?}", second.wait(&device).await?);
    Ok(())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    pollster::block_on(run())
}
