//! An application that renders frames and generates text on its own wgpu device and queue:
//! `cargo run --release --example host_owned_device -- models/demo-q4_k_m.gguf "Tell me a story about a mouse."`.

use std::{
    error::Error,
    future::poll_fn,
    pin::pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
        mpsc,
    },
    task::{Context, Poll, Waker},
    thread,
    time::{Duration, Instant},
};

use ferrum_wgpu::{
    Adapter, ChatTemplate, Device, Engine, EngineError, EngineOptions, GenerateOptions, Gguf, Message, Model, Progress,
    RenderOptions, Requirements, Tokenizer, wgpu,
};

/// The time between two frames.
const FRAME: Duration = Duration::from_millis(16);

/// A minimal application: a device with its own error handler, and a picture to draw.
struct Application {
    adapter: wgpu::Adapter,
    device: wgpu::Device,
    queue: wgpu::Queue,
    picture: wgpu::TextureView,
    /// The number of uncaptured errors.
    errors: Arc<AtomicU32>,
    shown: Arc<Mutex<Shown>>,
}

/// Statistics of the frames that the GPU has finished.
#[derive(Default)]
struct Shown {
    frames: u32,
    last: Option<Instant>,
    longest: Duration,
}

impl Application {
    async fn new(adapter: wgpu::Adapter, needed: Requirements) -> Result<Self, Box<dyn Error>> {
        let descriptor = wgpu::DeviceDescriptor {
            required_features: needed.features,
            required_limits: needed.limits,
            ..Default::default()
        };
        let (device, queue) = adapter.request_device(&descriptor).await?;
        let errors = Arc::new(AtomicU32::new(0));
        let counter = Arc::clone(&errors);
        device.on_uncaptured_error(Arc::new(move |_| {
            counter.fetch_add(1, Ordering::Relaxed);
        }));
        let texture = device.create_texture(&wgpu::TextureDescriptor {
            label: Some("picture"),
            size: wgpu::Extent3d { width: 640, height: 480, depth_or_array_layers: 1 },
            mip_level_count: 1,
            sample_count: 1,
            dimension: wgpu::TextureDimension::D2,
            format: wgpu::TextureFormat::Rgba8Unorm,
            usage: wgpu::TextureUsages::RENDER_ATTACHMENT,
            view_formats: &[],
        });
        let picture = texture.create_view(&wgpu::TextureViewDescriptor::default());
        Ok(Self { adapter, device, queue, picture, errors, shown: Arc::default() })
    }

    /// Draws a frame: a colour. It is counted when the GPU has finished it.
    fn draw(&self, frame: u32) {
        let colour = wgpu::Color { r: f64::from(frame % 60) / 60.0, g: 0.0, b: 0.0, a: 1.0 };
        let mut encoder = self.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        drop(encoder.begin_render_pass(&wgpu::RenderPassDescriptor {
            color_attachments: &[Some(wgpu::RenderPassColorAttachment {
                view: &self.picture,
                depth_slice: None,
                resolve_target: None,
                ops: wgpu::Operations { load: wgpu::LoadOp::Clear(colour), store: wgpu::StoreOp::Store },
            })],
            ..Default::default()
        }));
        self.queue.submit([encoder.finish()]);
        let shown = Arc::clone(&self.shown);
        self.queue.on_submitted_work_done(move || {
            let (mut shown, now) = (shown.lock().unwrap_or_else(PoisonError::into_inner), Instant::now());
            let gap = shown.last.replace(now).map_or(Duration::ZERO, |last| now - last);
            *shown = Shown { frames: shown.frames + 1, longest: shown.longest.max(gap), ..*shown };
        });
    }

    /// Runs the event loop: draws frames at their times, and otherwise calls `task`, until it returns a value.
    fn run<T>(&self, what: &str, mut task: impl FnMut() -> Option<T>) -> Result<T, Box<dyn Error>> {
        let (mut frame, mut due, start) = (0, Instant::now(), Instant::now());
        *self.shown.lock().unwrap_or_else(PoisonError::into_inner) = Shown { last: Some(start), ..Shown::default() };
        let value = loop {
            if Instant::now() >= due {
                self.device.poll(wgpu::PollType::Poll)?;
                self.draw(frame);
                (frame, due) = (frame + 1, Instant::now() + FRAME);
            }
            if let Some(value) = task() {
                break value;
            }
        };
        let shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        let unshown = shown.last.map_or(Duration::ZERO, |last| last.elapsed());
        let (seconds, longest) = (start.elapsed().as_secs_f64(), shown.longest.max(unshown).as_millis());
        eprintln!("{what}: {seconds:.2} s, {} frames, at most {longest} ms from one to the next", shown.frames);
        Ok(value)
    }
}

/// Loads the model on the application's device and compiles its pipelines.
async fn load(device: &Device, gguf: &Gguf, options: &EngineOptions) -> Result<Engine, EngineError> {
    let model = Model::load(device, gguf, |_sent, _total| ()).await?;
    let engine = Engine::new(&model, options).await?;
    engine.warm_up().await?;
    Ok(engine)
}

/// Yields to the event loop. Waiting for the GPU yields too, but software drivers compute inside the submission, which
/// leaves nothing to wait for.
async fn yield_now() {
    let mut waited = false;
    poll_fn(|_| if std::mem::replace(&mut waited, true) { Poll::Ready(()) } else { Poll::Pending }).await;
}

/// Prints an answer as it is generated. Returns its number of tokens.
async fn answer(engine: &Engine, tokenizer: &Tokenizer, prompt: &str) -> Result<u32, Box<dyn Error>> {
    let stop = tokenizer.stop_ids().to_vec();
    let options = GenerateOptions::default().stop(stop);
    let mut session = engine.session();
    let mut text = tokenizer.decode_stream();
    let mut reply = session.generate(&tokenizer.encode_prompt(prompt)?, &options)?;
    let mut tokens = 0;
    loop {
        match reply.step().await? {
            Progress::Computed => {}
            Progress::Token(token) => {
                print!("{}", text.push(token)?.unwrap_or_default());
                tokens += 1;
            }
            Progress::Finished(_) => break,
        }
        yield_now().await;
    }
    println!("{}", text.finish().unwrap_or_default());
    Ok(tokens)
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(path), Some(question)) = (arguments.next(), arguments.next()) else {
        return Err("usage: host_owned_device MODEL QUESTION".into());
    };
    let gguf = Gguf::open(path)?;
    let tokenizer = Tokenizer::from_gguf(&gguf)?;
    let template = ChatTemplate::from_metadata(gguf.metadata())?;
    let prompt = template.render(&[Message::user(question)], &RenderOptions::default())?;
    // The longest time for which a submission of the model may delay a frame.
    let options = EngineOptions::default().max_submit(FRAME / 2);
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
    let adapter = pollster::block_on(instance.request_adapter(&wgpu::RequestAdapterOptions::default()))?;
    let needed = Engine::requirements(&Adapter::from_wgpu(&adapter), &gguf, &options)?;
    // An application may request more.
    let application = pollster::block_on(Application::new(adapter, needed))?;

    let Application { adapter, device, queue, .. } = &application;
    let shared = Device::from_wgpu(adapter, device.clone(), queue.clone())?;
    // Compiling blocks its thread, so it runs on its own.
    let (sender, loaded) = mpsc::channel();
    let engine = thread::scope(|scope| {
        scope.spawn(|| sender.send(pollster::block_on(load(&shared, &gguf, &options))));
        application.run("loading", || loaded.recv_timeout(Duration::from_millis(1)).ok())
    })??;
    // From here on the model never blocks: it runs in the event loop.
    let mut answering = pin!(answer(&engine, &tokenizer, &prompt));
    let mut context = Context::from_waker(Waker::noop());
    let tokens = application.run("answering", || match answering.as_mut().poll(&mut context) {
        Poll::Ready(tokens) => Some(tokens),
        Poll::Pending => None,
    })??;
    let (name, errors) = (shared.name(), application.errors.load(Ordering::Relaxed));
    eprintln!("{tokens} tokens on {name}; {errors} uncaptured errors");
    Ok(())
}
