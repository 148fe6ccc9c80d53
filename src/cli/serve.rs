//! The command `serve`.

use std::net::{IpAddr, TcpListener, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use ferrum_wgpu::api::Service;
use ferrum_wgpu::low_level::gpu::WaitMode;
use ferrum_wgpu::serve::{Recover, ServeOptions, Server};
use ferrum_wgpu::{ChatTemplate, Config, Device, Engine, EngineOptions, Gguf, KvType, Pooling};

use super::args::{DeviceArg, LookupArg, PrecisionArg, SnapshotArgs, TuneArg, kv_type, pooling};
use super::device::DeviceChoice;
use super::exit::{Code, Failure};
use super::memory::MemoryArgs;
use super::output::note;
use super::start::{self, ReadyEngine};
use super::{load, template};

/// A model that answers requests, and its engine.
#[derive(Debug, Args)]
pub struct ServiceArgs {
    /// The GGUF file, or the name of a model on the Hugging Face Hub: ORG/REPO[:QUANT].
    pub model: PathBuf,
    /// Sequences computed at once.
    #[arg(long, visible_alias = "np", value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub parallel: u32,
    /// Context size of a sequence in tokens [default: the model's, at most 4096].
    #[arg(short, long, visible_alias = "ctx-size", value_name = "TOKENS")]
    ctx: Option<u32>,
    /// Tokens of all sequences together in the KV cache [default: the context for each sequence].
    #[arg(long, value_name = "TOKENS")]
    kv_tokens: Option<u32>,
    /// Data type of the KV cache [default: f16 if the device supports it, else f32].
    #[arg(long, value_name = "TYPE", value_parser = kv_type())]
    kv_type: Option<KvType>,
    /// Name of the model in requests and responses [default: the file's name without extension].
    #[arg(long, value_name = "NAME")]
    alias: Option<String>,
    /// Chat template: a file in Jinja, or the name of one of the model file's templates.
    #[arg(long, value_name = "FILE|NAME")]
    chat_template: Option<String>,
    /// How hidden states become embeddings [default: as the file says, else mean].
    #[arg(long, value_name = "POOLING", value_parser = pooling())]
    pooling: Option<Pooling>,
    #[command(flatten)]
    lookup: LookupArg,
    #[command(flatten)]
    snapshots: SnapshotArgs,
    #[command(flatten)]
    memory: MemoryArgs,
    #[command(flatten)]
    precision: PrecisionArg,
    #[command(flatten)]
    tune: TuneArg,
    #[command(flatten)]
    pub device: DeviceArg,
}

/// Serve a model over HTTP: OpenAI's and Anthropic's APIs, and a chat page.
///
/// See docs/SERVE.md for endpoints and fields. SIGTERM and Ctrl-C end the server after the responses in progress.
#[derive(Debug, Args)]
pub struct ServeArgs {
    #[command(flatten)]
    service: ServiceArgs,
    /// Address to listen on. Other machines reach only addresses that are not of the loopback interface.
    #[arg(long, default_value = "127.0.0.1")]
    host: String,
    /// Port to listen on; 0 is any free one.
    #[arg(long, default_value_t = 8080)]
    port: u16,
    /// Requests that may wait for a sequence; more are refused with 429.
    #[arg(long, value_name = "N", default_value_t = 64)]
    queue: u32,
    /// API key that requests need, or a file with a key on each line. May be repeated.
    #[arg(long, value_name = "KEY|FILE")]
    api_key: Vec<String>,
    /// Origin of web pages that may use the server, such as https://example.org, or * [default: none].
    #[arg(long, value_name = "ORIGIN")]
    cors: Option<String>,
    /// Longest time of a response in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 3600)]
    timeout: u64,
    /// Longest time of responses in progress once the server is to end, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    drain: u64,
}

/// Returns the API keys given, or in the files given.
fn keys(given: &[String]) -> Result<Vec<String>, Failure> {
    let mut keys = Vec::new();
    for key in given {
        if Path::new(key).is_file() {
            let text = template::text(Path::new(key))?;
            keys.extend(text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned));
        } else {
            keys.push(key.clone());
        }
    }
    if keys.is_empty() != given.is_empty() || keys.iter().any(String::is_empty) {
        return Err(Failure::usage("--api-key: no key is given"));
    }
    Ok(keys)
}

/// Returns a socket that listens.
fn listen(host: &str, port: u16) -> Result<TcpListener, Failure> {
    let error = |error| Failure::Error(Code::Runtime, format!("cannot listen on {host}:{port}: {error}"));
    let address = host.parse::<IpAddr>().map(|ip| (ip, port).into());
    let address = match address {
        Ok(address) => address,
        Err(_) => (host, port)
            .to_socket_addrs()
            .map_err(error)?
            .next()
            .ok_or_else(|| Failure::usage(format!("cannot listen on {host}: it has no address")))?,
    };
    TcpListener::bind(address).map_err(error)
}

/// Waits for Ctrl-C or SIGTERM.
async fn ended() -> Code {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        if let Ok(mut terminate) = signal(SignalKind::terminate()) {
            return tokio::select! {
                _ = terminate.recv() => Code::Terminated,
                _ = tokio::signal::ctrl_c() => Code::Interrupted,
            };
        }
    }
    let _ = tokio::signal::ctrl_c().await;
    Code::Interrupted
}

/// Runs the command. The socket listens before the model is loaded, and answers 503 until then.
pub async fn serve(args: &ServeArgs) -> Result<Code, Failure> {
    let mut options = ServeOptions::default();
    options.queue = args.queue;
    options.api_keys = keys(&args.api_key)?;
    options.cors.clone_from(&args.cors);
    options.request_timeout = Duration::from_secs(args.timeout);
    options.drain_timeout = Duration::from_secs(args.drain);
    options.utc_offset = template::local_time().1;
    // What is wrong with the file is found before anything listens.
    let (gguf, context) = args.service.open()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(8)
        .enable_all()
        .build()
        .map_err(|error| Failure::Error(Code::Runtime, format!("cannot start the runtime: {error}")))?;
    let listener = listen(&args.host, args.port)?;
    let address = listener.local_addr().map_err(|error| Failure::Error(Code::Runtime, error.to_string()))?;
    note(format_args!("listening on http://{address}"));
    if !address.ip().is_loopback() && options.api_keys.is_empty() {
        note(format_args!("note: other machines can use this server without a key (--api-key)"));
    }
    let server = Server::new(options);
    let (send, ends) = tokio::sync::oneshot::channel();
    let running = {
        let server = server.clone();
        runtime.spawn(async move {
            let mut code = Code::Success;
            let result = server.run(listener, async { code = ended().await }).await;
            let _ = send.send((code, result));
        })
    };
    match args.service.start(gguf, context).await {
        Ok((service, file)) => {
            let recover = recovery(service.engine().clone(), file, args.service.device.device.clone());
            server.ready(service, Some(recover));
        }
        Err(failure) => {
            running.abort();
            runtime.shutdown_background();
            return Err(failure);
        }
    }
    note(format_args!("ready"));
    let (code, result) =
        ends.await.map_err(|_| Failure::Error(Code::Runtime, "the server ended unexpectedly".to_owned()))?;
    runtime.shutdown_background();
    result.map_err(|error| Failure::Error(Code::Runtime, format!("the server failed: {error}")))?;
    Ok(code)
}

impl ServiceArgs {
    /// Opens the file, and returns the context of a sequence.
    pub fn open(&self) -> Result<(Gguf, u32), Failure> {
        let gguf = load::open(&self.model, true)?;
        let config = Config::from_gguf(&gguf)?;
        let context = EngineOptions::default().context(self.ctx).context_for(config.context_length)?;
        Ok((gguf, context))
    }

    /// Loads the model, and returns its service and the file.
    pub async fn start(&self, gguf: Gguf, context: u32) -> Result<(Service, Arc<Gguf>), Failure> {
        let choice = DeviceChoice::choose_for(self.device.device.as_deref(), gguf.file_len()).await?;
        let tokens = self.kv_tokens.unwrap_or_else(|| context.saturating_mul(self.parallel));
        let options = EngineOptions::default()
            .context(self.ctx)
            .kv_tokens(tokens)
            .kv_type(self.kv_type)
            .sequences(self.parallel)
            .lookup(self.lookup.lookup)
            .plan(self.precision.plan());
        let options = self.snapshots.set(options);
        let fit = self.memory.plan(&choice, &gguf, options)?;
        let device = choice.open().await?;
        self.memory.report(&fit, choice.kv_type());
        // Loading takes the file; requests and a recovery need it again.
        let file = Arc::new(load::open(&self.model, true)?);
        let ReadyEngine { engine, times, .. } = start::start(&device, gguf, &fit, self.tune).await?;
        device.set_wait_mode(WaitMode::Pending);
        let (seconds, kv_type) = (times.all.as_secs_f64(), engine.kv_type().await.name());
        note(format_args!(
            "loaded in {seconds:.3} s: {} sequences of {} tokens, {kv_type} KV cache",
            self.parallel,
            engine.context()
        ));
        let stem = self.model.file_stem().and_then(|stem| stem.to_str()).unwrap_or("model");
        let mut service = Service::new(&engine, &file, self.alias.as_deref().unwrap_or(stem))?;
        if let Some(pooling) = self.pooling {
            service = service.pooling(pooling);
        }
        if let Some(name) = &self.chat_template {
            let tokenizer = service.tokenizer();
            let (bos, eos) = (tokenizer.bos_token().unwrap_or(""), tokenizer.eos_token().unwrap_or(""));
            let chosen = match name.as_str() {
                path if Path::new(path).is_file() => ChatTemplate::new(&template::text(Path::new(path))?, bos, eos)?,
                "chatml" => ChatTemplate::chatml(),
                name => ChatTemplate::named(file.metadata(), name)?,
            };
            service = service.template(chosen);
        }
        Ok((service, file))
    }
}

/// Returns what opens the device again and loads the model's weights.
fn recovery(engine: Engine, file: Arc<Gguf>, wanted: Option<String>) -> Recover {
    Box::new(move || {
        let (engine, file, wanted) = (engine.clone(), Arc::clone(&file), wanted.clone());
        Box::pin(async move {
            let device = match wanted.as_deref() {
                Some("cpu") => Device::cpu(),
                wanted => Device::new(&ferrum_wgpu::Adapter::find(wanted).await?).await?,
            };
            engine.recover(&device, &file).await
        })
    })
}
