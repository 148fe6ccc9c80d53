//! What drivers do wrong: memory that runs out, shaders that do not compile, devices that are lost. Each is an error value.

#[path = "common/count_up.rs"]
mod count_up;

use count_up::{N, count_up};
use ferrum_wgpu::gpu::{Adapter, Device, GpuError, Program, Readback};

async fn devices() -> [Device; 2] {
    let adapter = Adapter::find(None).await.expect("an adapter: `make setup` installs a software one");
    [Device::new(&adapter).await.expect("a device"), Device::cpu()]
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
fn memory_that_runs_out_is_an_error_and_the_device_goes_on() {
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
fn a_shader_that_does_not_compile_is_an_error_and_the_device_goes_on() {
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

#[test]
fn every_call_on_a_lost_device_says_so() {
    pollster::block_on(async {
        let [device, cpu] = devices().await;
        let ones = device.upload("ones", &[1.0; N as usize]).await.expect("ones");
        let y = device.upload("y", &[0.0; N as usize]).await.expect("y");
        let mut program = Program::new(&device);
        program.prepare(&device, count_up(&y, &ones)).await.expect("a program");
        let readback = Readback::new::<f32>(&device, N.into(), 2).await.expect("a ring");
        program.submit(&device).expect("it runs");
        let mut under_way = readback.start(&device, &y, 1).expect("a place");
        device.lose();
        let lost = |error: Option<GpuError>| assert!(matches!(error, Some(GpuError::Lost(_))), "{error:?}");
        for _ in 0..2 {
            lost(program.submit(&device).err());
            lost(under_way.wait(&device).await.err());
            lost(device.alloc::<f32>("late", 1).await.err());
            lost(device.write(&y, 0, &[0.0]).await.err());
            lost(device.write_now(&y, 0, &[0.0]).err());
            lost(readback.start(&device, &y, 1).err());
            lost(readback.read(&device, &y, 1).await.err());
            lost(Readback::new::<f32>(&device, 1, 1).await.err());
            lost(program.prepare(&device, count_up(&y, &ones)).await.err());
        }
        drop((under_way, program, readback, y, ones, device));

        cpu.lose();
        counts(&cpu).await;
        let [fresh, _] = devices().await;
        counts(&fresh).await;
    });
}
