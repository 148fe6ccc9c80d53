//! A device that the application has created with its own error handlers, and shares with the library.

use std::{
    pin::pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    task::{Context, Poll, Waker},
    thread,
    time::Duration,
};

use crate::common::count_up::{N, count_up};
use crate::common::tiny_model::TinyModel;
use ferrum_wgpu::{
    Adapter, Device, Engine, EngineError, EngineOptions, GenerateOptions, Gguf, GpuError, Model, Progress,
    Requirements, SamplingOptions,
    low_level::gpu::{Buffer, Program, Readback},
    wgpu,
};

/// An application with a wgpu device.
struct Application {
    adapter: wgpu::Adapter,
    device: wgpu::Device,
    queue: wgpu::Queue,
    /// The errors that its handler got.
    errors: Arc<Mutex<Vec<String>>>,
    lost: Arc<AtomicU32>,
}

async fn adapter() -> wgpu::Adapter {
    // With other flags than the library's instances.
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
    instance
        .request_adapter(&wgpu::RequestAdapterOptions::default())
        .await
        .expect("`make setup` installs a software one")
}

async fn request(
    adapter: &wgpu::Adapter,
    limits: wgpu::Limits,
    features: wgpu::Features,
) -> (wgpu::Device, wgpu::Queue) {
    let descriptor =
        wgpu::DeviceDescriptor { required_limits: limits, required_features: features, ..Default::default() };
    adapter.request_device(&descriptor).await.expect("a device")
}

impl Application {
    async fn new() -> Self {
        let adapter = adapter().await;
        let requirements = Requirements::of(&adapter);
        Self::with(adapter, requirements).await
    }

    async fn with(adapter: wgpu::Adapter, Requirements { features, limits }: Requirements) -> Self {
        let (device, queue) = request(&adapter, limits, features).await;
        let (errors, lost) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicU32::new(0)));
        let (reported, gone) = (Arc::clone(&errors), Arc::clone(&lost));
        device.on_uncaptured_error(Arc::new(move |error: wgpu::Error| {
            reported.lock().expect("no panic").push(error.to_string());
        }));
        device.set_device_lost_callback(move |_, _| {
            gone.fetch_add(1, Ordering::Relaxed);
        });
        Self { adapter, device, queue, errors, lost }
    }

    fn share(&self) -> Device {
        Device::from_wgpu(&self.adapter, self.device.clone(), self.queue.clone()).expect("a device")
    }

    /// Makes an invalid call, and checks that its handler gets this error and no other.
    fn err(&self) {
        let _ = self.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("a mistake of the application"),
            size: 4,
            usage: wgpu::BufferUsages::empty(),
            mapped_at_creation: false,
        });
        let errors = std::mem::take(&mut *self.errors.lock().expect("no panic"));
        assert!(errors.len() == 1 && errors[0].contains("a mistake of the application"), "{errors:?}");
    }

    fn no_errors(&self) {
        let errors = self.errors.lock().expect("no panic");
        assert!(errors.is_empty(), "{errors:?}");
    }
}

async fn buffers(device: &Device) -> (Buffer<f32>, Buffer<f32>) {
    let ones = device.upload("ones", &[1.0; N as usize]).await.expect("ones");
    (ones, device.upload("y", &[0.0; N as usize]).await.expect("y"))
}

struct Counter {
    device: Device,
    program: Program,
    readback: Readback,
    ones: Buffer<f32>,
    y: Buffer<f32>,
}

impl Counter {
    async fn new(device: Device) -> Self {
        let (ones, y) = buffers(&device).await;
        let mut program = Program::new(&device);
        program.prepare(&device, count_up(&y, &ones)).await.expect("a program");
        let readback = Readback::new::<f32>(&device, N.into(), 2).await.expect("a ring");
        Self { device, program, readback, ones, y }
    }

    /// Counts up from 0, and reads each count.
    async fn count(&self, steps: u32) {
        self.device.write_now(&self.y, 0, &[0.0; N as usize]).expect("a write");
        for step in 1..=steps {
            self.program.submit(&self.device).expect("it runs");
            let values = self.readback.read(&self.device, &self.y, N.into()).await.expect("values");
            assert_eq!(values, [step as f32; N as usize]);
        }
    }
}

#[test]
fn an_application_keeps_its_handlers() {
    pollster::block_on(async {
        let application = Application::new().await;
        application.err();
        let device = application.share();
        application.err();
        let counter = Counter::new(device.clone()).await;
        counter.count(10).await;
        application.err();

        // The library's errors do not reach the application.
        device.fail_allocations_after(0);
        assert!(matches!(device.alloc::<u32>("none", 1).await, Err(GpuError::OutOfMemory { .. })));
        let other = application.share();
        other.edit_shaders("elementwise/add_rows", "p.factor", "p.no_such_member");
        let (ones, y) = buffers(&other).await;
        let error = Program::new(&other).prepare(&other, count_up(&y, &ones)).await.expect_err("it does not compile");
        assert!(matches!(error, GpuError::Shader { .. }), "{error}");
        // Buffers and programs of another device, which wgpu does not always detect.
        let stranger = Counter::new(Application::new().await.share()).await;
        for (device, y, ones) in [(&device, &stranger.y, &ones), (&stranger.device, &y, &counter.ones)] {
            let foreign = |error| assert!(matches!(error, Some(GpuError::OutOfRange { .. })), "{error:?}");
            foreign(counter.readback.start(device, y, 1).err());
            foreign(device.write_now(y, 0, &[1.0]).err());
            foreign(Program::new(device).prepare(device, count_up(y, ones)).await.err());
        }
        assert!(matches!(counter.program.submit(&stranger.device), Err(GpuError::OtherDevice)));
        counter.count(2).await;
        application.no_errors();
        drop((counter, device, other, ones, y));
        application.err();
        assert_eq!(application.lost.load(Ordering::Relaxed), 0);
    });
}

#[test]
fn waiting_works_when_the_application_polls() {
    pollster::block_on(async {
        let application = Application::new().await;
        let counter = Counter::new(application.share()).await;
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    application.device.poll(wgpu::PollType::Poll).expect("a poll");
                    thread::sleep(Duration::from_micros(200));
                }
            });
            // From two threads.
            let other =
                scope.spawn(|| pollster::block_on(async { Counter::new(application.share()).await.count(50).await }));
            pollster::block_on(counter.count(50));
            let other = other.join();
            done.store(true, Ordering::Relaxed);
            other.expect("no panic");
        });
        application.no_errors();
    });
}

#[test]
fn no_call_blocks_and_a_wait_may_be_dropped() {
    pollster::block_on(async {
        let application = Application::new().await;
        let counter = Counter::new(application.share()).await;
        counter.device.write(&counter.y, 0, &[0.0; N as usize]).await.expect("a write");
        let mut polls = 0;
        for step in 1..=20 {
            counter.program.submit(&counter.device).expect("it runs");
            let mut pending = counter.readback.start(&counter.device, &counter.y, N.into()).expect("a slot");
            // Each poll is of a new future.
            let values = loop {
                polls += 1;
                let mut wait = pin!(pending.wait(&counter.device));
                if let Poll::Ready(values) = wait.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                    break values.expect("values");
                }
            };
            assert_eq!(values, [step as f32; N as usize]);
        }
        println!("{polls} polls for 20 readings");
        for _ in 0..20 {
            // Reads that are dropped in flight.
            for _ in 0..2 {
                counter.program.submit(&counter.device).expect("it runs");
                let started = counter.readback.start(&counter.device, &counter.y, N.into());
                if let Ok(mut pending) = started {
                    let wait = pin!(pending.wait(&counter.device));
                    let _ = wait.poll(&mut Context::from_waker(Waker::noop()));
                }
            }
            let read = counter.readback.read(&counter.device, &counter.y, N.into()).await;
            assert_eq!(read.expect("both slots are free again").len(), N as usize);
        }
        counter.count(3).await;
        application.no_errors();
    });
}

#[test]
fn the_loss_of_the_applications_device_is_an_error() {
    pollster::block_on(async {
        for polled in [false, true] {
            let application = Application::new().await;
            let Counter { device, mut program, readback, ones, y } = Counter::new(application.share()).await;
            let idle = application.share();
            let (idle_ones, idle_y) = buffers(&idle).await;
            program.submit(&device).expect("it runs");
            let mut in_flight = readback.start(&device, &y, 1).expect("a slot");
            application.device.destroy();
            if polled {
                application.device.poll(wgpu::PollType::wait_indefinitely()).expect("a poll");
            }
            let lost = |error: Option<GpuError>| assert!(matches!(error, Some(GpuError::Lost(_))), "{error:?}");
            lost(program.submit(&device).err());
            lost(in_flight.wait(&device).await.err());
            lost(device.alloc::<f32>("late", 1).await.err());
            lost(device.write(&y, 0, &[0.0]).await.err());
            lost(device.write_now(&y, 0, &[0.0]).err());
            lost(readback.start(&device, &y, 1).err());
            lost(readback.read(&device, &y, 1).await.err());
            lost(Readback::new::<f32>(&device, 1, 1).await.err());
            lost(program.prepare(&device, count_up(&y, &ones)).await.err());
            // A device that has not compiled anything yet.
            lost(Program::new(&idle).prepare(&idle, count_up(&idle_y, &idle_ones)).await.err());
            let late = Device::from_wgpu(&application.adapter, application.device.clone(), application.queue.clone());
            lost(late.err());
            drop((in_flight, program, readback, ones, y, device));
            application.device.poll(wgpu::PollType::wait_indefinitely()).expect("a poll");
            assert_eq!(application.lost.load(Ordering::Relaxed), 1);
            application.no_errors();
        }
    });
}

#[test]
fn a_device_below_the_requirements_is_rejected() {
    pollster::block_on(async {
        let adapter = adapter().await;
        let (device, queue) = request(&adapter, wgpu::Limits::downlevel_defaults(), wgpu::Features::empty()).await;
        let error = Device::from_wgpu(&adapter, device, queue).expect_err("too few storage buffers");
        assert!(matches!(error, GpuError::Unsuited { what: "storage buffers", has: 4, needs: 8, .. }), "{error}");

        let (device, queue) = request(&adapter, wgpu::Limits::default(), wgpu::Features::empty()).await;
        let device = Device::from_wgpu(&adapter, device, queue).expect("WebGPU's defaults are enough");
        assert!(!device.caps().subgroups);
        Counter::new(device).await.count(2).await;
    });
}

#[test]
fn requirements_give_the_capabilities_of_own_devices() {
    pollster::block_on(async {
        let application = Application::new().await;
        let own = Adapter::find(Some(&application.adapter.get_info().name)).await.expect("the same adapter");
        assert_eq!(application.share().caps(), Device::new(&own).await.expect("a device").caps());
        assert_eq!(application.share().name(), own.name());
    });
}

/// Returns the reply of an engine on `device`, and the logits of its first token. Calls `between` between steps.
async fn answer(
    device: &Device,
    gguf: &Gguf,
    options: &EngineOptions,
    mut between: impl FnMut(),
) -> (Vec<u32>, Vec<f32>) {
    let model = Model::load(device, gguf, |_, _| ()).await.expect("a model");
    let engine = Engine::new(&model, options).await.expect("an engine");
    let prompt: Vec<u32> = (1..40).collect();
    let mut session = engine.session();
    let logits = session.forward(&prompt).await.expect("logits");
    session.truncate(0).expect("an idle session");
    let asked = GenerateOptions::default().sampling(SamplingOptions::greedy()).max_tokens(24);
    let mut reply = session.generate(&prompt, &asked).expect("a reply");
    let mut tokens = Vec::new();
    loop {
        match reply.step().await.expect("a step") {
            Progress::Computed => between(),
            Progress::Token(token) => tokens.push(token),
            Progress::Finished(_) => return (tokens, logits),
        }
    }
}

#[test]
fn an_engine_gives_the_same_bits_on_an_applications_device() {
    pollster::block_on(async {
        let gguf = Gguf::from_bytes(TinyModel::default().to_bytes().expect("a file")).expect("a GGUF");
        let options = EngineOptions::default();
        let adapter = adapter().await;
        let ours = Adapter::from_wgpu(&adapter);
        let requirements = Engine::requirements(&ours, &gguf, &options).expect("it fits");
        let application = Application::with(adapter, requirements.clone()).await;
        let (device, limits) = (&application.device, application.device.limits());
        // Exactly the requirements.
        assert_eq!(device.features(), requirements.features);
        assert_eq!(limits.max_storage_buffer_binding_size, requirements.limits.max_storage_buffer_binding_size);
        assert_eq!(limits.max_buffer_size, requirements.limits.max_buffer_size);

        let work = device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("the application's work"),
            size: 1 << 16,
            usage: wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        let mut submissions = 0;
        let between = || {
            let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
            encoder.clear_buffer(&work, 0, None);
            application.queue.submit([encoder.finish()]);
            submissions += 1;
        };
        let (tokens, logits) = answer(&application.share(), &gguf, &options, between).await;
        assert!(submissions > 0 && tokens.len() == 24, "{submissions} submissions, {tokens:?}");
        application.err();
        application.no_errors();

        let own = Device::new(&ours).await.expect("a device");
        let (own_tokens, own_logits) = answer(&own, &gguf, &options, || ()).await;
        assert_eq!(tokens, own_tokens);
        assert_eq!(logits.len(), 512);
        assert!(logits.iter().zip(&own_logits).all(|(a, b)| a.to_bits() == b.to_bits()), "other bits");
    });
}

#[test]
fn a_cache_over_the_binding_limit_is_rejected_without_a_device() {
    pollster::block_on(async {
        let gguf = Gguf::from_bytes(TinyModel::default().to_bytes().expect("a file")).expect("a GGUF");
        let ours = Adapter::from_wgpu(&adapter().await);
        let limit = ours.caps().buffer_limit();
        // A token needs 512 bytes of a layer's KV cache.
        let ask = |tokens: u64| {
            let kv_tokens = Some(u32::try_from(tokens).unwrap_or(u32::MAX));
            Engine::requirements(&ours, &gguf, &EngineOptions::default().kv_tokens(kv_tokens))
        };
        let needed = (200 << 20).min(limit);
        let asked = ask(needed / 512).expect("it fits").limits;
        let asked = asked.max_storage_buffer_binding_size;
        assert_eq!(asked, needed.max(wgpu::Limits::default().max_storage_buffer_binding_size).min(limit));
        if limit / 512 < u64::from(u32::MAX) {
            match ask(limit / 512 + 32) {
                Err(EngineError::Gpu(error)) => assert!(matches!(*error, GpuError::TooLarge { .. }), "{error}"),
                other => panic!("{other:?}"),
            }
        }
    });
}
