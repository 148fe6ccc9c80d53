//! Faults of drivers: out of memory, shaders that do not compile, lost devices, queues that hang. Each is an error value.

use std::time::{Duration, Instant};

use crate::common::count_up::{N, count_up, count_up_often};
use crate::common::within::within;
use ferrum_wgpu::{
    Adapter, Device, GpuError, Requirements,
    low_level::gpu::{Program, Readback},
    wgpu,
};

async fn devices() -> [Device; 2] {
    let adapter = Adapter::find(None).await.expect("an adapter: `make setup` installs a software one");
    [Device::new(&adapter).await.expect("a device"), Device::cpu()]
}

/// Returns a device that the application has created.
async fn of_application() -> Device {
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
    let adapter = instance.request_adapter(&wgpu::RequestAdapterOptions::default()).await;
    let adapter = adapter.expect("`make setup` installs a software one");
    let Requirements { features, limits } = Requirements::of(&adapter);
    let descriptor =
        wgpu::DeviceDescriptor { required_limits: limits, required_features: features, ..Default::default() };
    let (device, queue) = adapter.request_device(&descriptor).await.expect("a device");
    Device::from_wgpu(&adapter, device, queue).expect("a device that we can use")
}

async fn counts(device: &Device) {
    let ones = device.upload("ones", &[1.0; N as usize]).await.expect("ones");
    let y = device.upload("y", &[0.0; N as usize]).await.expect("y");
    let mut program = Program::new(device);
    program.prepare(device, count_up(&y, &ones)).await.expect("a program");
    program.submit(device).expect("it runs");
    let readback = Readback::new::<f32>(device, N.into(), 1).await.expect("a ring");
    assert_eq!(readback.read(device, &y, N.into()).await.expect("values"), [1.0; N as usize]);
}

#[test]
fn out_of_memory_is_an_error_and_the_device_still_works() {
    pollster::block_on(async {
        for device in devices().await {
            let ones = device.upload("ones", &[1.0; N as usize]).await.expect("ones");
            let y = device.upload("y", &[0.0; N as usize]).await.expect("y");
            let mut program = Program::new(&device);
            device.fail_allocations_after(1);
            device.alloc::<f32>("the last", 3).await.expect("one more");
            let error = device.alloc::<f32>("one too many", 3).await.expect_err("memory has run out");
            assert!(matches!(&error, GpuError::OutOfMemory { label, bytes: 12 } if label == "one too many"), "{error}");
            if !device.is_cpu() {
                let error = Readback::new::<f32>(&device, 8, 2).await.expect_err("no memory");
                assert!(matches!(&error, GpuError::OutOfMemory { bytes: 32, .. }), "{error}");
                let error = program.prepare(&device, count_up(&y, &ones)).await.expect_err("no memory");
                assert!(matches!(&error, GpuError::OutOfMemory { .. }), "{error}");
            }
            device.fail_allocations_after(u64::MAX);
            program.prepare(&device, count_up(&y, &ones)).await.expect("memory is back");
            program.submit(&device).expect("it runs");
            counts(&device).await;
        }
    });
}

#[test]
fn a_shader_that_does_not_compile_is_an_error_and_the_device_still_works() {
    pollster::block_on(async {
        let [device, _] = devices().await;
        let ones = device.upload("ones", &[1.0; N as usize]).await.expect("ones");
        let y = device.upload("y", &[0.0; N as usize]).await.expect("y");
        device.edit_shaders("elementwise/add_rows", "p.factor", "p.no_such_member");
        let mut program = Program::new(&device);
        for _ in 0..2 {
            let error = program.prepare(&device, count_up(&y, &ones)).await.expect_err("it does not compile");
            let GpuError::Shader { kernel, message, .. } = &error else { panic!("{error}") };
            assert!(*kernel == "elementwise/add_rows" && message.contains("no_such_member"), "{error}");
        }
        program.submit(&device).expect("it has nothing to run");
        device.edit_shaders("elementwise/add_rows", "p.no_such_member", "p.factor");
        counts(&device).await;
    });
}

/// Loses a device with work in flight, and checks every call.
async fn every_call_fails(device: Device, lose: impl FnOnce(&Device), is_right: impl Fn(&GpuError) -> bool) {
    let ones = device.upload("ones", &[1.0; N as usize]).await.expect("ones");
    let y = device.upload("y", &[0.0; N as usize]).await.expect("y");
    let mut program = Program::new(&device);
    program.prepare(&device, count_up(&y, &ones)).await.expect("a program");
    let readback = Readback::new::<f32>(&device, N.into(), 2).await.expect("a ring");
    program.submit(&device).expect("it runs");
    let mut in_flight = readback.start(&device, &y, 1).expect("a slot");
    lose(&device);
    let lost = |error: Option<GpuError>| {
        let error = error.expect("the device is lost");
        assert!(is_right(&error) && error.is_loss(), "{error}");
    };
    lost(in_flight.wait(&device).await.err());
    for _ in 0..2 {
        lost(program.submit(&device).err());
        lost(in_flight.wait(&device).await.err());
        lost(device.alloc::<f32>("late", 1).await.err());
        lost(device.write(&y, 0, &[0.0]).await.err());
        lost(device.write_now(&y, 0, &[0.0]).err());
        lost(readback.start(&device, &y, 1).err());
        lost(readback.read(&device, &y, 1).await.err());
        lost(Readback::new::<f32>(&device, 1, 1).await.err());
        lost(program.prepare(&device, count_up(&y, &ones)).await.err());
    }
}

#[test]
fn every_call_on_a_lost_device_fails() {
    pollster::block_on(async {
        let [device, cpu] = devices().await;
        every_call_fails(device, Device::lose, |error| matches!(error, GpuError::Lost(_))).await;
        cpu.lose();
        counts(&cpu).await;
        let [fresh, _] = devices().await;
        counts(&fresh).await;
    });
}

/// The deadline of a queue that hangs.
const DEADLINE: Duration = Duration::from_millis(300);

#[test]
fn a_queue_that_hangs_is_lost_after_the_deadline() {
    let hang = |device: &Device| {
        device.set_deadline(Some(DEADLINE));
        device.hang();
    };
    let is_right = |error: &GpuError| matches!(error, GpuError::Hung { waited: DEADLINE });
    for application in [false, true] {
        within(Duration::from_secs(60), move || {
            pollster::block_on(async {
                let device = if application { of_application().await } else { devices().await[0].clone() };
                assert!(device.deadline().is_some_and(|deadline| deadline >= Duration::from_secs(30)));
                let start = Instant::now();
                every_call_fails(device.clone(), hang, is_right).await;
                assert_eq!(device.deadline(), Some(DEADLINE));
                // Only the first call waits.
                println!("{:?}", start.elapsed());
                assert!(start.elapsed() >= DEADLINE);
                let [fresh, cpu] = devices().await;
                hang(&cpu);
                assert_eq!(cpu.deadline(), None);
                counts(&cpu).await;
                counts(&fresh).await;
            });
        });
    }
}

#[test]
fn a_write_notices_a_queue_that_hangs() {
    within(Duration::from_secs(60), || {
        pollster::block_on(async {
            // Large enough that the write waits.
            for device in [devices().await[0].clone(), of_application().await] {
                let much = device.alloc::<f32>("much", 12 << 20).await.expect("a buffer");
                device.set_deadline(Some(DEADLINE));
                device.hang();
                let error = device.write(&much, 0, &vec![1.0; 12 << 20]).await.expect_err("it hangs");
                assert!(matches!(error, GpuError::Hung { .. }), "{error}");
            }
        });
    });
}

/// Adds a loop of `rounds` to each invocation of `y += 1`. Software drivers end loops after 65,535 iterations.
fn spin(device: &Device, rounds: u32) {
    let begin = "fn kernel(workgroup: vec3<u32>, invocation: u32) {";
    let spin = format!(
        "{begin}
            var s = bitcast<u32>(y[0]) + invocation;
            for (var i = 0u; i < {rounds}u; i += 1u) {{ s ^= s << 13u; s ^= s >> 17u; s ^= s << 5u; }}
            if s == 123456789u {{ y[1] = 0.0; }}"
    );
    device.edit_shaders("elementwise/add_rows", begin, &spin);
}

#[test]
fn work_beyond_the_deadline_is_lost_and_dropping_it_does_not_wait() {
    within(Duration::from_secs(120), || {
        pollster::block_on(async {
            for device in [devices().await[0].clone(), of_application().await] {
                // Seconds of work that no driver interrupts.
                let (rounds, times) = if device.is_software() { (20_000, 400) } else { (60_000, 60_000) };
                spin(&device, rounds);
                let ones = device.upload("ones", &[1.0; N as usize]).await.expect("ones");
                let y = device.upload("y", &[0.0; N as usize]).await.expect("y");
                let mut program = Program::new(&device);
                program.prepare(&device, count_up_often(&y, &ones, times)).await.expect("a program");
                let readback = Readback::new::<f32>(&device, 1, 1).await.expect("a ring");
                let taken = readback.start(&device, &y, 1).expect("a slot");
                device.set_deadline(Some(DEADLINE));
                let start = Instant::now();
                program.submit(&device).expect("it runs");
                // Waiting for a slot submits nothing: a submission to lavapipe would block now.
                let error = readback.read(&device, &y, 1).await.expect_err("it takes too long");
                assert!(matches!(error, GpuError::Hung { waited: DEADLINE }), "{error}");
                assert!(program.submit(&device).is_err_and(|error| error.is_loss()));
                let waited = start.elapsed();
                drop((taken, readback, program, ones, y, device));
                println!("{waited:?}, dropped after {:?}", start.elapsed());
                assert!(waited >= DEADLINE && start.elapsed() < Duration::from_secs(3), "{waited:?}");
            }
            counts(&devices().await[0]).await;
        });
    });
}

#[test]
fn a_queue_that_makes_progress_does_not_hang() {
    within(Duration::from_secs(120), || {
        pollster::block_on(async {
            for device in [devices().await[0].clone(), of_application().await] {
                spin(&device, 60_000);
                let ones = device.upload("ones", &[1.0; N as usize]).await.expect("ones");
                let y = device.upload("y", &[0.0; N as usize]).await.expect("y");
                let mut program = Program::new(&device);
                program.prepare(&device, count_up(&y, &ones)).await.expect("a program");
                let readback = Readback::new::<f32>(&device, N.into(), 1).await.expect("a ring");
                let run = async |times: u32| {
                    let start = Instant::now();
                    for _ in 0..times {
                        program.submit(&device).expect("it runs");
                    }
                    readback.read(&device, &y, 1).await.map(|y| (y[0], start.elapsed()))
                };
                run(1).await.expect("it runs");
                let (_, once) = run(1).await.expect("it runs");
                device.set_deadline(Some(12 * once));
                let (y, all) = run(40).await.expect("all of it makes progress");
                println!("{once:?}, {all:?}");
                assert!(y == 42.0 && all > 12 * once, "{y} after {all:?}, {once:?} each");
            }
        });
    });
}
