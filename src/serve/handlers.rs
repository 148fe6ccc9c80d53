//! The endpoints.

use std::{
    convert::Infallible,
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll},
    time::{Duration, Instant},
};

use axum::{
    Router,
    body::{Body, Bytes, to_bytes},
    extract::{Path, Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header},
    middleware::{Next, from_fn_with_state},
    response::{
        IntoResponse, Response as HttpResponse, Sse,
        sse::{Event, KeepAlive},
    },
    routing::{get, post},
};
use futures_core::Stream;
use serde_json::{Value, json};
use tokio::{
    runtime::{Handle, RuntimeFlavor},
    task::block_in_place,
    time::{Sleep, sleep, timeout},
};

use super::{Admission, Shared};
use crate::api::{ApiError, RequestContext, Response, Service, StreamEvent};

/// A comment is sent when a stream is silent for so long, so that proxies keep it.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// The page at `/`.
const PAGE: &str = include_str!("page.html");

/// The description of the API. Its limits are those of the module `api`; the stage `clients` of the tests compares both.
const OPENAPI: &str = include_str!("openapi.json");

type Shares = State<Arc<Shared>>;

/// Starts the response to a request.
type Start = fn(&Service, Value, &RequestContext) -> Result<Response, ApiError>;

/// Returns all routes.
pub(super) fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/", get(page))
        .route("/health", get(health))
        .route("/metrics", get(metrics))
        .route("/openapi.json", get(async || ([(header::CONTENT_TYPE, "application/json")], OPENAPI)))
        .route("/v1/models", get(models))
        .route("/v1/models/{*name}", get(model))
        .route("/v1/chat/completions", post(chat))
        .route("/v1/completions", post(completions))
        .route("/v1/embeddings", post(embeddings))
        .route("/v1/messages", post(messages))
        .route("/v1/messages/count_tokens", post(count_tokens))
        .route("/tokenize", post(tokenize))
        .route("/detokenize", post(detokenize))
        .fallback(async || failed(&ApiError::new(404, "there is no such endpoint"), false))
        .method_not_allowed_fallback(async || failed(&ApiError::new(405, "the endpoint has another method"), false))
        .layer(from_fn_with_state(Arc::clone(&shared), guard))
        .with_state(shared)
}

/// Returns an error as a response.
fn failed(error: &ApiError, anthropic: bool) -> HttpResponse {
    let body = if anthropic { error.anthropic() } else { error.openai() };
    let status = StatusCode::from_u16(error.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = answer(&body);
    *response.status_mut() = status;
    if let Some(seconds) = error.retry_after {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// Returns JSON as a response.
fn answer(value: &Value) -> HttpResponse {
    ([(header::CONTENT_TYPE, "application/json")], value.to_string()).into_response()
}

fn result(value: Result<Value, ApiError>, anthropic: bool) -> HttpResponse {
    match value {
        Ok(value) => answer(&value),
        Err(error) => failed(&error, anthropic),
    }
}

/// Checks origin and key of a request, and counts its response.
async fn guard(State(shared): Shares, request: Request, next: Next) -> HttpResponse {
    let anthropic = request.uri().path().starts_with("/v1/messages");
    let origin = request.headers().get(header::ORIGIN).cloned();
    let allowed = shared.options.cors.as_deref().and_then(|cors| HeaderValue::from_str(cors).ok());
    let cors = origin.as_ref().zip(allowed).filter(|(origin, allowed)| allowed == "*" || allowed == *origin);
    let cors = cors.map(|(_, allowed)| allowed);
    let mut response = if request.method() == Method::OPTIONS && cors.is_some() {
        StatusCode::NO_CONTENT.into_response()
    } else if origin.is_some_and(|origin| !is_own(&origin, request.headers())) && cors.is_none() {
        // A page of another origin could not read the answer, but make the server work.
        failed(&ApiError::new(403, "pages of other origins may not use this server").code("cors"), anthropic)
    } else if !has_key(&shared.options.api_keys, request.uri().path(), request.headers()) {
        failed(&ApiError::new(401, "a valid API key is needed").code("invalid_api_key"), anthropic)
    } else {
        next.run(request).await
    };
    let headers = response.headers_mut();
    if let Some(origin) = cors {
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, POST, OPTIONS"));
        headers.insert(
            header::ACCESS_CONTROL_ALLOW_HEADERS,
            HeaderValue::from_static("authorization, content-type, x-api-key, anthropic-version"),
        );
    }
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    shared.metrics.response(response.status().as_u16());
    response
}

/// Returns whether an origin is the server itself, as the client names it.
fn is_own(origin: &HeaderValue, headers: &HeaderMap) -> bool {
    let (Ok(origin), Some(Ok(host))) = (origin.to_str(), headers.get(header::HOST).map(HeaderValue::to_str)) else {
        return false;
    };
    origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://")) == Some(host)
}

/// Returns whether a request has one of the keys, or needs none.
fn has_key(keys: &[String], path: &str, headers: &HeaderMap) -> bool {
    if keys.is_empty() || matches!(path, "/" | "/health") {
        return true;
    }
    let bearer = headers.get(header::AUTHORIZATION).and_then(|value| value.as_bytes().strip_prefix(b"Bearer "));
    let given = bearer.or_else(|| headers.get(HeaderName::from_static("x-api-key")).map(HeaderValue::as_bytes));
    let given = given.unwrap_or_default();
    // All keys are compared, each in a time that depends on the given key only.
    keys.iter().fold(false, |found, key| found | same(given, key.as_bytes()))
}

/// Compares in a time that depends on the length of `given` only.
fn same(given: &[u8], key: &[u8]) -> bool {
    let mut difference = u8::from(given.len() != key.len() || key.is_empty());
    for (i, byte) in given.iter().enumerate() {
        difference |= byte ^ key.get(i % key.len().max(1)).copied().unwrap_or(0);
    }
    std::hint::black_box(difference) == 0
}

async fn page() -> HttpResponse {
    let policy = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; \
                  img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
    let headers = [(header::CONTENT_TYPE, "text/html; charset=utf-8"), (header::CONTENT_SECURITY_POLICY, policy)];
    (headers, PAGE).into_response()
}

async fn health(State(shared): Shares) -> HttpResponse {
    result(shared.service().map(|_| json!({"status": "ok"})), false)
}

async fn metrics(State(shared): Shares) -> HttpResponse {
    let service = super::read(&shared.service);
    let text = shared.metrics.text(service.as_deref(), shared.admitted.load(Ordering::SeqCst));
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response()
}

fn model_object(service: &Service) -> Value {
    let engine = service.engine();
    json!({
        "id": service.name(), "object": "model", "created": 0, "owned_by": "ferrum-wgpu",
        "meta": {
            "n_ctx": engine.context(), "n_vocab": engine.config().vocab, "n_parallel": engine.options().sequences,
        },
    })
}

async fn models(State(shared): Shares) -> HttpResponse {
    result(shared.service().map(|service| json!({"object": "list", "data": [model_object(&service)]})), false)
}

async fn model(State(shared): Shares, Path(name): Path<String>) -> HttpResponse {
    result(
        shared.service().and_then(|service| match name == service.name() {
            true => Ok(model_object(&service)),
            false => Err(ApiError::new(404, "there is no such model").code("model_not_found")),
        }),
        false,
    )
}

async fn chat(state: Shares, body: Body) -> HttpResponse {
    generate(state.0, body, false, Service::chat).await
}

async fn completions(state: Shares, body: Body) -> HttpResponse {
    generate(state.0, body, false, Service::completion).await
}

async fn embeddings(State(shared): Shares, body: Body) -> HttpResponse {
    let value = async {
        let service = shared.service()?;
        let value = read_json(&shared, body).await?;
        let inputs = value.get("input").and_then(Value::as_array);
        let many = inputs.filter(|list| !list.first().is_some_and(Value::is_number)).map_or(1, Vec::len);
        // No more are computed at once than there are sequences.
        let sequences = service.engine().options().sequences;
        let mut running = Running::new(shared.admit(&service, (many as u32).clamp(1, sequences))?);
        let embeddings = apart(move || service.embeddings(value)).await;
        let whole = match embeddings {
            Ok(embeddings) => {
                let computes = Computes::of(&shared);
                timeout(shared.options.request_timeout, computes.run(embeddings.whole())).await
            }
            Err(error) => Ok(Err(error)),
        };
        running.complete = true;
        whole.unwrap_or_else(|_| Err(too_slow()))
    };
    result(value.await, false)
}

async fn messages(state: Shares, body: Body) -> HttpResponse {
    generate(state.0, body, true, Service::messages).await
}

async fn count_tokens(State(shared): Shares, body: Body) -> HttpResponse {
    let context = shared.context();
    compute(shared, body, true, move |service, value| service.count_tokens(value, &context)).await
}

async fn tokenize(State(shared): Shares, body: Body) -> HttpResponse {
    compute(shared, body, false, Service::tokenize).await
}

async fn detokenize(State(shared): Shares, body: Body) -> HttpResponse {
    compute(shared, body, false, Service::detokenize).await
}

/// Reads the JSON of a body.
async fn read_json(shared: &Shared, body: Body) -> Result<Value, ApiError> {
    let most = shared.options.max_body;
    let read = timeout(shared.options.body_timeout, to_bytes(body, most)).await;
    let bytes: Bytes = match read {
        Err(_) => return Err(ApiError::new(408, "the body did not come in time")),
        Ok(Err(_)) => return Err(ApiError::new(413, format!("the body is incomplete or longer than {most} bytes"))),
        Ok(Ok(bytes)) => bytes,
    };
    serde_json::from_slice(&bytes).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        ApiError::new(400, format!("the body is no JSON: line {line}, column {column}")).code("invalid_json")
    })
}

/// Runs work of the service that does not wait, on a thread that may be busy for a while.
async fn apart<R: Send + 'static>(work: impl FnOnce() -> Result<R, ApiError> + Send + 'static) -> Result<R, ApiError> {
    let joined = tokio::task::spawn_blocking(work).await;
    joined.unwrap_or_else(|_| Err(ApiError::new(500, "internal error")))
}

/// Answers a request that needs no device.
async fn compute(
    shared: Arc<Shared>,
    body: Body,
    anthropic: bool,
    work: impl FnOnce(&Service, Value) -> Result<Value, ApiError> + Send + 'static,
) -> HttpResponse {
    let value = async {
        let service = shared.service()?;
        let value = read_json(&shared, body).await?;
        apart(move || work(&service, value)).await
    };
    result(value.await, anthropic)
}

/// Answers a request that generates.
async fn generate(shared: Arc<Shared>, body: Body, anthropic: bool, start: Start) -> HttpResponse {
    let computes = Computes::of(&shared);
    match begin(&shared, body, start).await {
        Err(error) => failed(&error, anthropic),
        Ok((response, running)) if response.is_stream() => {
            let limit = Box::pin(sleep(shared.options.request_timeout));
            let events = Events { response: Some(response), computes, running, limit };
            let mut http = Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response();
            // nginx would hold events back.
            http.headers_mut().insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
            http
        }
        Ok((response, mut running)) => {
            let whole = timeout(shared.options.request_timeout, computes.run(response.whole())).await;
            running.complete = true;
            let whole = whole.unwrap_or_else(|_| Err(too_slow()));
            result(whole, anthropic)
        }
    }
}

async fn begin(shared: &Arc<Shared>, body: Body, start: Start) -> Result<(Response, Running), ApiError> {
    let service = shared.service()?;
    let value = read_json(shared, body).await?;
    let choices = |value: &Value, prompts: &str| {
        let n = value.get("n").and_then(Value::as_u64).unwrap_or(1);
        let prompts = value.get(prompts).and_then(Value::as_array);
        let many = prompts.filter(|list| !list.first().is_some_and(Value::is_number)).map_or(1, Vec::len);
        n.saturating_mul(many as u64).clamp(1, 1024) as u32
    };
    let admission = shared.admit(&service, choices(&value, "prompt"))?;
    let running = Running::new(admission);
    let context = shared.context();
    let response = apart(move || start(&service, value, &context)).await;
    match response {
        Ok(response) => Ok((response, running)),
        Err(error) => {
            let mut running = running;
            running.complete = true;
            Err(error)
        }
    }
}

/// Returns the error of a response that took longer than [`ServeOptions::request_timeout`](super::ServeOptions::request_timeout).
fn too_slow() -> ApiError {
    ApiError::new(408, "the response took too long").code("timeout")
}

/// Returns an event as a server-sent one.
fn sse(event: StreamEvent) -> Event {
    let http = Event::default().data(event.data);
    match event.name {
        Some(name) => http.event(name),
        None => http,
    }
}

/// A request in progress.
struct Running {
    admission: Admission,
    started: Instant,
    complete: bool,
}

impl Running {
    fn new(admission: Admission) -> Self {
        Self { admission, started: Instant::now(), complete: false }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let metrics = &self.admission.shared.metrics;
        metrics.requests.add(self.started.elapsed());
        if !self.complete {
            metrics.cancelled.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Where futures of the engine are polled: with the CPU as device they compute, and the other tasks of the thread move to another.
#[derive(Clone, Copy, Debug)]
struct Computes {
    apart: bool,
}

impl Computes {
    fn of(shared: &Shared) -> Self {
        let is_cpu = super::read(&shared.service).is_some_and(|service| service.engine().is_cpu());
        let threads = Handle::current().runtime_flavor() == RuntimeFlavor::MultiThread;
        Self { apart: is_cpu && threads }
    }

    fn poll<R>(self, poll: impl FnOnce() -> R) -> R {
        if self.apart { block_in_place(poll) } else { poll() }
    }

    async fn run<F: Future>(self, future: F) -> F::Output {
        let mut future = pin!(future);
        poll_fn(|context| self.poll(|| future.as_mut().poll(context))).await
    }
}

/// The events of a streamed response. Dropped when the client leaves, which cancels the request.
struct Events {
    response: Option<Response>,
    computes: Computes,
    running: Running,
    limit: Pin<Box<Sleep>>,
}

impl Stream for Events {
    type Item = Result<Event, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        let Some(response) = &mut this.response else { return Poll::Ready(None) };
        match this.computes.poll(|| Pin::new(&mut *response).poll_next(context)) {
            Poll::Ready(Some(event)) => Poll::Ready(Some(Ok(sse(event)))),
            Poll::Ready(None) => {
                this.running.complete = true;
                this.response = None;
                Poll::Ready(None)
            }
            Poll::Pending => match this.limit.as_mut().poll(context) {
                Poll::Pending => Poll::Pending,
                Poll::Ready(()) => {
                    let event = response.error(&too_slow());
                    this.response = None;
                    Poll::Ready(Some(Ok(sse(event))))
                }
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::{OPENAPI, same};

    #[test]
    fn the_description_is_of_this_version() {
        let document: Value = serde_json::from_str(OPENAPI).expect("JSON");
        assert_eq!(document["info"]["version"], env!("CARGO_PKG_VERSION"));
    }

    #[test]
    fn keys_are_compared_whole() {
        for (given, key, wanted) in [
            ("a", "a", true),
            ("", "", false),
            ("ab", "a", false),
            ("aa", "a", false),
            ("a", "ab", false),
            ("", "a", false),
        ] {
            assert_eq!(same(given.as_bytes(), key.as_bytes()), wanted, "{given} {key}");
        }
    }
}
