//! A device that an application made by plain wgpu, with handlers of its own, and that is ours too.

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
    engine::{Engine, EngineError, EngineOptions, GenerateOptions, Progress, SamplingOptions},
    gguf::Gguf,
    gpu::{Adapter, Buffer, Device, GpuError, Program, Readback, Requirements},
    model::Model,
    wgpu,
};

/// An application with a device.
struct Application {
    adapter: wgpu::Adapter,
    device: wgpu::Device,
    queue: wgpu::Queue,
    /// What its handlers were told.
    errors: Arc<Mutex<Vec<String>>>,
    lost: Arc<AtomicU32>,
}

async fn adapter() -> wgpu::Adapter {
    // Whatever flags the application likes; ours are others.
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
        let (told, gone) = (Arc::clone(&errors), Arc::clone(&lost));
        device.on_uncaptured_error(Arc::new(move |error: wgpu::Error| {
            told.lock().expect("no panic").push(error.to_string());
        }));
        device.set_device_lost_callback(move |_, _| {
            gone.fetch_add(1, Ordering::Relaxed);
        });
        Self { adapter, device, queue, errors, lost }
    }

    fn lend(&self) -> Device {
        Device::from_wgpu(&self.adapter, self.device.clone(), self.queue.clone()).expect("a device")
    }

    /// Makes a mistake of its own, and checks that its handler is told of that and of nothing else.
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

    /// Counts some steps up from 0, and reads each.
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
        let device = application.lend();
        application.err();
        let counter = Counter::new(device.clone()).await;
        counter.count(10).await;
        application.err();

        // Our own errors stay with us.
        device.fail_allocations_after(0);
        assert!(matches!(device.alloc::<u32>("none", 1).await, Err(GpuError::OutOfMemory { .. })));
        let other = application.lend();
        other.edit_shaders("elementwise/add_rows", "p.factor", "p.no_such_member");
        let (ones, y) = buffers(&other).await;
        let error = Program::new(&other).prepare(&other, count_up(&y, &ones)).await.expect_err("it does not compile");
        assert!(matches!(error, GpuError::Shader { .. }), "{error}");
        // Buffers and programs of another device, which wgpu may not tell from this one's.
        let stranger = Counter::new(Application::new().await.lend()).await;
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
        let counter = Counter::new(application.lend()).await;
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    application.device.poll(wgpu::PollType::Poll).expect("a poll");
                    thread::sleep(Duration::from_micros(200));
                }
            });
            // Two sequences on one device, from two threads.
            let other =
                scope.spawn(|| pollster::block_on(async { Counter::new(application.lend()).await.count(50).await }));
            pollster::block_on(counter.count(50));
            let other = other.join();
            done.store(true, Ordering::Relaxed);
            other.expect("no panic");
        });
        application.no_errors();
    });
}

#[test]
fn nothing_blocks_and_a_wait_may_be_dropped() {
    pollster::block_on(async {
        let application = Application::new().await;
        let counter = Counter::new(application.lend()).await;
        counter.device.write(&counter.y, 0, &[0.0; N as usize]).await.expect("a write");
        let mut polls = 0;
        for step in 1..=20 {
            counter.program.submit(&counter.device).expect("it runs");
            let mut pending = counter.readback.start(&counter.device, &counter.y, N.into()).expect("a place");
            // Every poll is of a new future.
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
            // Readings that are given up while they are under way.
            for _ in 0..2 {
                counter.program.submit(&counter.device).expect("it runs");
                let started = counter.readback.start(&counter.device, &counter.y, N.into());
                if let Ok(mut pending) = started {
                    let wait = pin!(pending.wait(&counter.device));
                    let _ = wait.poll(&mut Context::from_waker(Waker::noop()));
                }
            }
            let read = counter.readback.read(&counter.device, &counter.y, N.into()).await;
            assert_eq!(read.expect("both places come back").len(), N as usize);
        }
        counter.count(3).await;
        application.no_errors();
    });
}

#[test]
fn an_applications_device_is_lost_for_us_too() {
    pollster::block_on(async {
        for polled in [false, true] {
            let application = Application::new().await;
            let Counter { device, mut program, readback, ones, y } = Counter::new(application.lend()).await;
            let idle = application.lend();
            let (idle_ones, idle_y) = buffers(&idle).await;
            program.submit(&device).expect("it runs");
            let mut under_way = readback.start(&device, &y, 1).expect("a place");
            application.device.destroy();
            if polled {
                application.device.poll(wgpu::PollType::wait_indefinitely()).expect("a poll");
            }
            let lost = |error: Option<GpuError>| assert!(matches!(error, Some(GpuError::Lost(_))), "{error:?}");
            lost(program.submit(&device).err());
            lost(under_way.wait(&device).await.err());
            lost(device.alloc::<f32>("late", 1).await.err());
            lost(device.write(&y, 0, &[0.0]).await.err());
            lost(device.write_now(&y, 0, &[0.0]).err());
            lost(readback.start(&device, &y, 1).err());
            lost(readback.read(&device, &y, 1).await.err());
            lost(Readback::new::<f32>(&device, 1, 1).await.err());
            lost(program.prepare(&device, count_up(&y, &ones)).await.err());
            // One that has nothing compiled yet.
            lost(Program::new(&idle).prepare(&idle, count_up(&idle_y, &idle_ones)).await.err());
            let late = Device::from_wgpu(&application.adapter, application.device.clone(), application.queue.clone());
            lost(late.err());
            drop((under_way, program, readback, ones, y, device));
            application.device.poll(wgpu::PollType::wait_indefinitely()).expect("a poll");
            assert_eq!(application.lost.load(Ordering::Relaxed), 1);
            application.no_errors();
        }
    });
}

#[test]
fn a_device_made_with_too_little_is_refused_by_name() {
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
fn requirements_are_what_our_own_devices_have() {
    pollster::block_on(async {
        let application = Application::new().await;
        let own = Adapter::find(Some(&application.adapter.get_info().name)).await.expect("the same adapter");
        assert_eq!(application.lend().caps(), Device::new(&own).await.expect("a device").caps());
        assert_eq!(application.lend().name(), own.name());
    });
}

/// What an engine on `device` answers, and the logits of the first token of that; `between` is called between its steps.
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
    session.truncate(0);
    let asked =
        GenerateOptions { sampling: SamplingOptions::greedy(), max_tokens: Some(24), ..GenerateOptions::default() };
    let mut reply = session.generate(&prompt, &asked).expect("a reply");
    let mut tokens = Vec::new();
    loop {
        match reply.step().await.expect("a step") {
            Progress::Computed => between(),
            Progress::Token(token) => tokens.push(token),
            Progress::Ended(_) => return (tokens, logits),
        }
    }
}

#[test]
fn an_engine_answers_on_an_applications_device_as_on_our_own() {
    pollster::block_on(async {
        let gguf = Gguf::from_bytes(TinyModel::default().to_bytes().expect("a file")).expect("a GGUF");
        let options = EngineOptions::default();
        let adapter = adapter().await;
        let ours = Adapter::from_wgpu(&adapter);
        let requirements = Engine::requirements(&ours, &gguf, &options).expect("it fits");
        let application = Application::with(adapter, requirements.clone()).await;
        let (device, limits) = (&application.device, application.device.limits());
        // Exactly what was asked for.
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
        let (tokens, logits) = answer(&application.lend(), &gguf, &options, between).await;
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
fn what_an_adapter_cannot_bind_is_refused_before_a_device_is_made() {
    pollster::block_on(async {
        let gguf = Gguf::from_bytes(TinyModel::default().to_bytes().expect("a file")).expect("a GGUF");
        let ours = Adapter::from_wgpu(&adapter().await);
        let limit = ours.caps().buffer_limit();
        // A token takes 512 bytes of a layer's cache.
        let ask = |tokens: u64| {
            let kv_tokens = Some(u32::try_from(tokens).unwrap_or(u32::MAX));
            Engine::requirements(&ours, &gguf, &EngineOptions { kv_tokens, ..EngineOptions::default() })
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
