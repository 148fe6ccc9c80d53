//! Several readbacks in flight, writes that do not wait, and futures that are `Send`.

use std::{
    future::Future,
    pin::pin,
    task::{Context, Poll, Waker},
};

use crate::common::count_up::{N, count_up};
use ferrum_wgpu::{
    Adapter, Device, GpuError,
    low_level::gpu::{Buffer, Pending, Program, Readback},
};

async fn devices() -> [Device; 2] {
    let adapter = Adapter::find(None).await.expect("an adapter: `make setup` installs a software one");
    [Device::new(&adapter).await.expect("a device"), Device::cpu()]
}

#[test]
fn each_read_returns_the_contents_of_its_submission() {
    pollster::block_on(async {
        for device in devices().await {
            let ones = device.upload("ones", &[1.0f32; N as usize]).await.expect("ones");
            let y = device.upload("y", &[0.0f32; N as usize]).await.expect("y");
            let mut program = Program::new(&device);
            program.prepare(&device, count_up(&y, &ones)).await.expect("a program");
            let readback = Readback::new::<f32>(&device, N.into(), 3).await.expect("a ring");
            let mut in_flight = Vec::new();
            let mut seen = Vec::new();
            for _ in 0..20 {
                if in_flight.len() == 3 {
                    let full = readback.start(&device, &y, 1).expect_err("a fourth");
                    assert!(matches!(full, GpuError::ReadbackFull { depth: 3 }), "{full}");
                    // The second first, so that slots are reused in another order.
                    let values = in_flight.remove(1);
                    seen.push(finished(&device, values).await);
                }
                program.submit(&device).expect("it runs");
                in_flight.push(readback.start(&device, &y, N.into()).expect("a slot"));
            }
            for pending in in_flight {
                seen.push(finished(&device, pending).await);
            }
            seen.sort_by(f32::total_cmp);
            assert_eq!(seen, (1..=20).map(|i| i as f32).collect::<Vec<_>>());
        }
    });
}

async fn finished(device: &Device, mut pending: Pending<f32>) -> f32 {
    let values = pending.wait(device).await.expect("values");
    assert!(values.len() == N as usize && values.iter().all(|v| *v == values[0]), "{values:?}");
    assert!(matches!(pending.wait(device).await, Err(GpuError::AlreadyRead)));
    values[0]
}

#[test]
fn reads_may_be_dropped_at_any_time() {
    pollster::block_on(async {
        for device in devices().await {
            let y = device.upload("y", &[0u32; N as usize]).await.expect("y");
            let readback = Readback::new::<u32>(&device, N.into(), 2).await.expect("a ring");
            for i in 0..50u32 {
                device.write_now(&y, 0, &[i; N as usize]).expect("a write");
                drop(readback.start(&device, &y, N.into()));
                // Dropped reads may still use both slots.
                drop(readback.start(&device, &y, N.into()));
                device.write_now(&y, 0, &[i + 1000; N as usize]).expect("a write");
                assert_eq!(readback.read(&device, &y, N.into()).await.expect("values"), [i + 1000; N as usize]);
            }
            // A future that is dropped after its first poll, then another of the same read.
            let mut pending = readback.start(&device, &y, 2).expect("a slot");
            {
                let first = pin!(pending.wait(&device));
                if let Poll::Ready(values) = first.poll(&mut Context::from_waker(Waker::noop())) {
                    assert_eq!(values.expect("values"), [1049; 2]);
                    continue;
                }
            }
            assert_eq!(pending.wait(&device).await.expect("values"), [1049; 2]);
        }
    });
}

#[test]
fn invalid_reads_are_rejected() {
    pollster::block_on(async {
        let [gpu, cpu] = devices().await;
        for (device, other) in [(&gpu, &cpu), (&cpu, &gpu)] {
            let outside = |error| matches!(error, Some(GpuError::OutOfRange { .. }));
            let y = device.upload("y", &[7u32; 8]).await.expect("y");
            let readback = Readback::new::<u32>(device, 4, 1).await.expect("a ring");
            assert!(outside(readback.start(device, &y, 5).err()));
            assert!(outside(readback.start(device, &y, u64::MAX).err()));
            assert!(outside(readback.start(other, &y, 1).err()));
            let foreign = other.upload("foreign", &[7u32; 8]).await.expect("a buffer");
            assert!(outside(readback.start(device, &foreign, 1).err()));
            assert!(outside(device.write_now(&y, 5, &[1; 4]).err()));
            assert!(outside(device.write_now(&foreign, 0, &[1; 4]).err()));
            let mut pending = readback.start(device, &y, 4).expect("failed reads use no slot");
            assert!(outside(pending.wait(other).await.err()));
            assert_eq!(pending.wait(device).await.expect("values"), [7; 4]);
            assert_eq!(readback.read(device, &y, 0).await.expect("none"), [0u32; 0]);
        }
    });
}

fn is_send<T: Send>(value: T) -> T {
    value
}

#[test]
fn futures_are_send() {
    pollster::block_on(async {
        for device in devices().await {
            let ones: Buffer<f32> = is_send(device.alloc("ones", N.into())).await.expect("memory");
            is_send(device.write(&ones, 0, &[1.0; N as usize])).await.expect("a write");
            let y = is_send(device.upload("y", &[0.0f32; N as usize])).await.expect("y");
            let mut program = is_send(Program::new(&device));
            is_send(program.prepare(&device, count_up(&y, &ones))).await.expect("a program");
            let readback = is_send(is_send(Readback::new::<f32>(&device, N.into(), 1)).await.expect("a ring"));
            std::thread::scope(|scope| {
                scope.spawn(|| program.submit(&device).expect("it runs")).join().expect("no panic");
            });
            assert_eq!(is_send(readback.read(&device, &y, 1)).await.expect("values"), [1.0]);
            let mut pending = is_send(readback.start(&device, &y, 1).expect("a slot"));
            assert_eq!(is_send(pending.wait(&device)).await.expect("values"), [1.0]);
        }
    });
}

#[test]
fn large_writes_are_complete() {
    pollster::block_on(async {
        for device in devices().await {
            // No multiple of the chunks that are passed to the driver.
            let words: Vec<u32> = (0..(20 << 20) / 4 + 5).collect();
            let buffer = device.alloc::<u32>("words", words.len() as u64 + 3).await.expect("a buffer");
            device.write(&buffer, 3, &words).await.expect("it is written");
            let readback = Readback::new::<u32>(&device, buffer.len(), 1).await.expect("a reader");
            let read = readback.read(&device, &buffer, buffer.len()).await.expect("it is read");
            assert!(read[..3] == [0; 3] && read[3..] == words);
            // A write out of bounds writes nothing.
            let outside = device.write(&buffer, 4, &words).await.expect_err("a write outside");
            assert!(matches!(outside, GpuError::OutOfRange { .. }), "{outside}");
            let read = readback.read(&device, &buffer, 8).await.expect("it is read");
            assert!(read[3..] == words[..5]);
        }
    });
}
