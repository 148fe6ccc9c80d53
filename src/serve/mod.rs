//! The HTTP server: OpenAI's and Anthropic's APIs over a [`Service`], and a chat page.
//!
//! Everything is bounded: connections, headers, bodies, waiting requests and their times. A client that leaves frees the blocks
//! of its request before the next step. The server reads no file and prints nothing; it logs by `tracing`.

mod connection;
mod handlers;
mod metrics;
mod stall;

use std::{
    future::Future,
    io,
    pin::Pin,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::{net::TcpListener, sync::Notify};

use crate::{
    api::{ApiError, Observer, RequestContext, Service},
    engine::EngineError,
};
use metrics::Metrics;

/// The options of a [`Server`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ServeOptions {
    /// Requests that wait for a sequence of the engine; more are refused with 429.
    pub queue: u32,
    /// Keys of which a request needs one, but those of the page and of `/health`. None: no key is needed.
    pub api_keys: Vec<String>,
    /// The origin of web pages that may use the server, or `*`. None: only its own page.
    pub cors: Option<String>,
    /// Connections at once; more wait in the system's queue.
    pub max_connections: u32,
    /// Bytes of a request's body.
    pub max_body: usize,
    /// The longest time for the headers of a request, which is also that of an idle connection.
    pub header_timeout: Duration,
    /// The longest time for the body of a request.
    pub body_timeout: Duration,
    /// The longest time that a client may not read its response.
    pub stall_timeout: Duration,
    /// The longest time for a response, from when it was asked for.
    pub request_timeout: Duration,
    /// The longest time for responses in progress once the server is to end.
    pub drain_timeout: Duration,
    /// The local time's offset from UTC in seconds, for templates that write the date.
    pub utc_offset: i32,
}

impl Default for ServeOptions {
    fn default() -> Self {
        Self {
            queue: 64,
            api_keys: Vec::new(),
            cors: None,
            max_connections: 1024,
            max_body: 8 << 20,
            header_timeout: Duration::from_secs(30),
            body_timeout: Duration::from_secs(30),
            stall_timeout: Duration::from_secs(60),
            request_timeout: Duration::from_secs(3600),
            drain_timeout: Duration::from_secs(30),
            utc_offset: 0,
        }
    }
}

/// The future of a recovery.
pub type RecoverFuture = Pin<Box<dyn Future<Output = Result<(), EngineError>> + Send>>;

/// What recovers the engine after its device was lost.
pub type Recover = Box<dyn Fn() -> RecoverFuture + Send + Sync>;

/// An HTTP server. It answers 503 until [`Server::ready`] gives it a service.
#[derive(Clone)]
pub struct Server {
    shared: Arc<Shared>,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("options", &self.shared.options).finish_non_exhaustive()
    }
}

/// What all connections share.
struct Shared {
    options: ServeOptions,
    service: RwLock<Option<Arc<Service>>>,
    recover: RwLock<Option<Arc<Recover>>>,
    recovering: AtomicBool,
    /// The device is lost: wakes the task that recovers.
    lost: Notify,
    draining: AtomicBool,
    /// Requests that compute or wait, counted by choice.
    admitted: AtomicU32,
    metrics: Metrics,
    /// The number of the next request, and a number of this server, for ids and seeds.
    next_id: AtomicU64,
    origin: u64,
}

/// The place of a request among those that compute or wait; given back when it is dropped.
struct Admission {
    shared: Arc<Shared>,
    choices: u32,
}

impl Drop for Admission {
    fn drop(&mut self) {
        self.shared.admitted.fetch_sub(self.choices, Ordering::SeqCst);
    }
}

fn read<T: Clone>(lock: &RwLock<T>) -> T {
    lock.read().unwrap_or_else(PoisonError::into_inner).clone()
}

impl Server {
    /// Returns a server without a service.
    pub fn new(options: ServeOptions) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos() as u64);
        let shared = Shared {
            options,
            service: RwLock::default(),
            recover: RwLock::default(),
            recovering: AtomicBool::new(false),
            lost: Notify::new(),
            draining: AtomicBool::new(false),
            admitted: AtomicU32::new(0),
            metrics: Metrics::default(),
            next_id: AtomicU64::new(0),
            origin: now,
        };
        Self { shared: Arc::new(shared) }
    }

    /// Answers requests by `service` from now on. `recover` is called when the engine's device was lost.
    pub fn ready(&self, service: Service, recover: Option<Recover>) {
        let observer: Arc<dyn Observer> = Arc::new(Watch(Arc::downgrade(&self.shared)));
        *self.shared.recover.write().unwrap_or_else(PoisonError::into_inner) = recover.map(Arc::new);
        let service = Arc::new(service.observer(observer));
        *self.shared.service.write().unwrap_or_else(PoisonError::into_inner) = Some(service);
    }

    /// Accepts connections until `shutdown` is ready, and then ends within [`ServeOptions::drain_timeout`]. It needs a runtime
    /// of tokio with several threads.
    ///
    /// # Errors
    /// [`io::Error`] when no connection can be accepted.
    pub async fn run(&self, listener: std::net::TcpListener, shutdown: impl Future<Output = ()>) -> io::Result<()> {
        listener.set_nonblocking(true)?;
        let listener = TcpListener::from_std(listener)?;
        let recovery = tokio::spawn(recover_always(Arc::clone(&self.shared)));
        let result = connection::accept(&self.shared, listener, shutdown).await;
        recovery.abort();
        result
    }
}

/// Recovers the engine whenever its device was lost.
async fn recover_always(shared: Arc<Shared>) {
    loop {
        shared.lost.notified().await;
        let Some(recover) = read(&shared.recover) else { continue };
        let mut pause = Duration::from_millis(100);
        while let Err(error) = recover().await {
            tracing::error!(%error, "the device is lost, and recovery failed");
            tokio::time::sleep(pause).await;
            pause = (2 * pause).min(Duration::from_secs(30));
        }
        tracing::warn!("recovered from the loss of the device");
        shared.metrics.recoveries.fetch_add(1, Ordering::Relaxed);
        shared.recovering.store(false, Ordering::SeqCst);
    }
}

/// Takes statistics of the service's requests, and notices a lost device.
struct Watch(std::sync::Weak<Shared>);

impl Observer for Watch {
    fn first_token(&self, prompt: u32, cached: u32, after: Duration) {
        if let Some(shared) = self.0.upgrade() {
            shared.metrics.first_token(prompt, cached, after);
        }
    }

    fn token(&self, after: Duration) {
        if let Some(shared) = self.0.upgrade() {
            shared.metrics.token(after);
        }
    }

    fn embedded(&self, tokens: u32) {
        if let Some(shared) = self.0.upgrade() {
            shared.metrics.embedded(tokens);
        }
    }

    fn failed(&self, error: &EngineError) {
        let Some(shared) = self.0.upgrade() else { return };
        tracing::error!(%error, "a request failed");
        if error.needs_recovery() && !shared.recovering.swap(true, Ordering::SeqCst) {
            shared.lost.notify_one();
        }
    }
}

impl Shared {
    /// Returns the service, if it can compute now.
    fn service(&self) -> Result<Arc<Service>, ApiError> {
        let unavailable = |message: &str, code| {
            let mut error = ApiError::new(503, message).code(code);
            error.retry_after = Some(1);
            Err(error)
        };
        if self.draining.load(Ordering::SeqCst) {
            return unavailable("the server is ending", "draining");
        }
        if self.recovering.load(Ordering::SeqCst) {
            return unavailable("the device was lost; the server recovers", "device_lost");
        }
        match read(&self.service) {
            Some(service) => Ok(service),
            None => unavailable("the model is loading", "loading"),
        }
    }

    /// Admits a request of so many choices to compute or wait.
    fn admit(self: &Arc<Self>, service: &Service, choices: u32) -> Result<Admission, ApiError> {
        let most = service.engine().options().sequences.saturating_add(self.options.queue);
        let admit = |admitted: u32| admitted.checked_add(choices).filter(|sum| *sum <= most);
        match self.admitted.fetch_update(Ordering::SeqCst, Ordering::SeqCst, admit) {
            Ok(_) => Ok(Admission { shared: Arc::clone(self), choices }),
            Err(_) => {
                self.metrics.refused.fetch_add(1, Ordering::Relaxed);
                let mut error = ApiError::new(429, "too many requests are waiting").code("queue_full");
                error.retry_after = Some(self.metrics.seconds_per_request());
                Err(error)
            }
        }
    }

    /// Returns the context of a new request.
    fn context(&self) -> RequestContext {
        let number = self.next_id.fetch_add(1, Ordering::Relaxed);
        let now = SystemTime::now();
        let seed = self.origin.wrapping_add(number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        RequestContext {
            id: u128::from(self.origin) << 64 | u128::from(number),
            created: now.duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs()),
            seed: seed >> 1,
            now: Some((now, self.options.utc_offset)),
        }
    }
}
