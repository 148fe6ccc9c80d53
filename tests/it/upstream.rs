//! The upstream bugs of docs/UPSTREAM.md. A test fails here when a bug is fixed: then remove the workaround.

use ferrum_wgpu::wgpu;
use naga::valid::{Capabilities, ValidationFlags, Validator};

fn parse(text: &str) -> Result<naga::Module, String> {
    naga::front::wgsl::parse_str(text).map_err(|error| error.emit_to_string(text))
}

fn validate(module: &naga::Module) -> Result<naga::valid::ModuleInfo, String> {
    Validator::new(ValidationFlags::all(), Capabilities::all()).validate(module).map_err(|error| format!("{error:?}"))
}

/// Returns the WGSL of an entry of docs/UPSTREAM.md.
fn wgsl(entry: &str) -> String {
    let page = include_str!("../../docs/UPSTREAM.md");
    let section = page.split("\n## ").find(|s| s.starts_with(entry)).unwrap_or_else(|| panic!("no entry {entry}"));
    let (_, code) = section.split_once("```wgsl\n").expect("a shader");
    code.split_once("```").expect("its end").0.to_owned()
}

#[test]
fn naga_refuses_enable_subgroups() {
    let error = parse(&wgsl("naga refuses `enable subgroups;`")).expect_err("fixed");
    assert!(error.contains("subgroups"), "{error}");
}

#[test]
fn naga_accepts_a_barrier_in_divergent_flow() {
    let module = parse(&wgsl("naga accepts a barrier in divergent flow")).expect("WGSL");
    validate(&module).expect("fixed");
}

#[test]
fn naga_takes_a_bitcast_to_halves_for_one_to_floats() {
    let error = parse(&wgsl("naga takes a bitcast to halves for one to floats")).expect_err("fixed");
    assert!(error.contains("vec2<f32>"), "{error}");
}

#[test]
fn naga_names_square_cooperative_matrices_only() {
    let shader = wgsl("naga names square cooperative matrices only");
    let error = parse(&shader).expect_err("fixed");
    assert!(error.contains("coop_mat8x16"), "{error}");
    // All else in it is valid.
    let module = parse(&shader.replace("coop_mat8x16", "coop_mat16x16")).expect("WGSL");
    validate(&module).expect("a valid module");
}

async fn device() -> (wgpu::Device, wgpu::Queue) {
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
    let adapter = instance.request_adapter(&wgpu::RequestAdapterOptions::default()).await;
    let adapter = adapter.expect("`make setup` installs a software one");
    adapter.request_device(&wgpu::DeviceDescriptor::default()).await.expect("a device")
}

fn buffer(device: &wgpu::Device, size: u64, usage: wgpu::BufferUsages) -> wgpu::Buffer {
    device.create_buffer(&wgpu::BufferDescriptor { label: None, size, usage, mapped_at_creation: false })
}

/// Submits a copy of `value` to a staging buffer, after some slow copies.
fn copy(
    (device, queue): &(wgpu::Device, wgpu::Queue),
    slow: &[wgpu::Buffer; 2],
    value: &wgpu::Buffer,
    staging: &wgpu::Buffer,
    times: usize,
) {
    let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
    for _ in 0..times {
        encoder.copy_buffer_to_buffer(&slow[0], 0, &slow[1], 0, slow[0].size());
    }
    encoder.copy_buffer_to_buffer(value, 0, staging, 0, 4);
    queue.submit([encoder.finish()]);
}

#[test]
#[ignore = "a race that does not occur on every machine"]
fn wgpu_maps_a_buffer_for_a_copy_that_is_not_done() {
    let ours = pollster::block_on(device());
    let (device, queue) = &ours;
    let moved = wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
    let slow = [(); 2].map(|()| buffer(device, 32 << 20, moved));
    let value = buffer(device, 4, moved);
    let staging = buffer(device, 4, wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST);
    // The first copy must be in flight when the second mapping is requested. A busy machine needs more copies.
    let stale = (1..=20u8).any(|attempt| {
        queue.write_buffer(&value, 0, &[0; 4]);
        copy(&ours, &slow, &value, &staging, 8 * usize::from(attempt));
        staging.map_async(wgpu::MapMode::Read, .., |_| ());
        staging.unmap();
        queue.write_buffer(&value, 0, &[attempt; 4]);
        copy(&ours, &slow, &value, &staging, 40);
        let (sender, receiver) = std::sync::mpsc::channel();
        staging.map_async(wgpu::MapMode::Read, .., move |mapped| drop(sender.send(mapped)));
        while receiver.try_recv().is_err() {
            device.poll(wgpu::PollType::Poll).expect("a poll");
        }
        let read = staging.get_mapped_range(..).expect("it is mapped")[0];
        staging.unmap();
        device.poll(wgpu::PollType::wait_indefinitely()).expect("a poll");
        read != attempt
    });
    assert!(stale, "fixed");
}

#[test]
fn wgpu_takes_one_instances_buffers_for_anothers() {
    let [(one, queue), (other, _)] = [(); 2].map(|()| pollster::block_on(device()));
    one.on_uncaptured_error(std::sync::Arc::new(|error: wgpu::Error| panic!("fixed: {error}")));
    let usage = wgpu::BufferUsages::COPY_DST;
    // Both are the first buffer of their instance.
    let [_own, strange] = [&one, &other].map(|device| buffer(device, 4, usage));
    queue.write_buffer(&strange, 0, &[1; 4]);
}
