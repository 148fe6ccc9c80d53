//! An HTTP service that streams replies, with axum:
//! `cargo run --release --example axum_stream -- models/demo-q4_k_m.gguf`, then
//! `curl -N --data "Who are you?" http://127.0.0.1:8080/reply`. With `--self-test` it asks itself, checks the answers, and exits.
// axum proves that futures are `Send` through wgpu's deeply nested types.
#![recursion_limit = "256"]

use std::{
    error::Error,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::{
    Router,
    extract::State,
    http::StatusCode,
    response::{Sse, sse::Event},
    routing::post,
};
use ferrum_wgpu::{
    Adapter, BlockUsage, ChatTemplate, Device, Engine, EngineOptions, GenerateOptions, Gguf, Message, Model,
    RenderOptions, Reply, SamplingOptions, Tokenizer,
};
use futures_core::Stream;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

type Failure = Box<dyn Error + Send + Sync>;

/// What all requests share.
struct Service {
    engine: Engine,
    tokenizer: Tokenizer,
    template: ChatTemplate,
    options: GenerateOptions,
}

impl Service {
    /// Loads a model and makes an engine that computes up to eight replies at once.
    async fn new(device: &Device, gguf: &Gguf) -> Result<Self, Failure> {
        let model = Model::load(device, gguf, |_sent, _total| ()).await?;
        let options = EngineOptions::default().sequences(8).kv_tokens(4096);
        let engine = Engine::new(&model, &options).await?;
        let tokenizer = Tokenizer::from_gguf(gguf)?;
        let stop = tokenizer.stop_ids().to_vec();
        let options = GenerateOptions::default().sampling(SamplingOptions::greedy()).max_tokens(100).stop(stop);
        Ok(Self { engine, tokenizer, template: ChatTemplate::from_metadata(gguf.metadata())?, options })
    }

    /// Starts a reply. It owns its sequence, which is freed with it.
    fn reply(&self, question: &str) -> Result<Reply, Failure> {
        let prompt = self.template.render(&[Message::user(question)], &RenderOptions::default())?;
        Ok(self.engine.session().generate(&self.tokenizer.encode_prompt(&prompt)?, &self.options)?)
    }

    /// Returns whether no request is left and all blocks of the KV cache are free.
    fn is_idle(&self) -> bool {
        let BlockUsage { total, free, .. } = self.engine.blocks();
        self.engine.requests() == 0 && free == total
    }
}

/// The text of a reply as server-sent events. When the client closes the connection, axum drops it, which cancels the reply.
struct Events {
    service: Arc<Service>,
    reply: Reply,
    tokens: Vec<u32>,
    /// Bytes of text that were sent.
    sent: usize,
}

impl Stream for Events {
    type Item = Result<Event, Failure>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            let Some(token) = ready!(Pin::new(&mut self.reply).poll_next(context)) else { return Poll::Ready(None) };
            let token = match token {
                Ok(token) => token,
                Err(error) => return Poll::Ready(Some(Err(error.into()))),
            };
            self.tokens.push(token);
            let text = match self.service.tokenizer.decode(&self.tokens) {
                // A character may take several tokens.
                Ok(text) if text.ends_with(char::REPLACEMENT_CHARACTER) => continue,
                Ok(text) => text,
                Err(error) => return Poll::Ready(Some(Err(error.into()))),
            };
            let piece = text.get(self.sent..).unwrap_or_default();
            if !piece.is_empty() {
                let event = Event::default().data(piece);
                self.sent = text.len();
                return Poll::Ready(Some(Ok(event)));
            }
        }
    }
}

fn failed(error: impl ToString) -> (StatusCode, String) {
    (StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
}

/// Streams the reply to a question.
async fn reply(
    State(service): State<Arc<Service>>,
    question: String,
) -> Result<Sse<impl Stream<Item = Result<Event, Failure>>>, (StatusCode, String)> {
    let reply = service.reply(&question).map_err(failed)?;
    Ok(Sse::new(Events { service, reply, tokens: Vec::new(), sent: 0 }))
}

/// Returns the first five tokens of the reply to a question, and drops the rest.
async fn beginning(State(service): State<Arc<Service>>, question: String) -> Result<String, (StatusCode, String)> {
    let mut reply = service.reply(&question).map_err(failed)?;
    let mut tokens = Vec::new();
    while tokens.len() < 5
        && let Some(token) = reply.next().await.map_err(failed)?
    {
        tokens.push(token);
    }
    drop(reply);
    service.tokenizer.decode(&tokens).map_err(failed)
}

/// Returns the routes of the service.
fn router(service: Arc<Service>) -> Router {
    Router::new().route("/reply", post(reply)).route("/beginning", post(beginning)).with_state(service)
}

/// Sends a question and returns the connection.
async fn ask(address: SocketAddr, path: &str, question: &str) -> Result<TcpStream, Failure> {
    let mut stream = TcpStream::connect(address).await?;
    let length = question.len();
    let request = format!(
        "POST {path} HTTP/1.1\r\nHost: {address}\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{question}"
    );
    stream.write_all(request.as_bytes()).await?;
    Ok(stream)
}

/// Returns all that the server sends.
async fn answer(address: SocketAddr, path: &str, question: &str) -> Result<String, Failure> {
    let mut answer = Vec::new();
    ask(address, path, question).await?.read_to_end(&mut answer).await?;
    let answer = String::from_utf8(answer)?;
    if answer.starts_with("HTTP/1.1 200") { Ok(answer) } else { Err(answer.into()) }
}

/// Returns the text of an answer's events.
fn text_of(answer: &str) -> String {
    answer.lines().filter_map(|line| line.strip_prefix("data: ")).collect()
}

async fn until_idle(service: &Service) -> Result<(), Failure> {
    for _ in 0..1000 {
        if service.is_idle() {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Err(format!("{} requests and {:?} are left", service.engine.requests(), service.engine.blocks()).into())
}

/// Starts the service on a free port of this machine, and asks it.
async fn self_test(service: Arc<Service>) -> Result<(), Failure> {
    const QUESTION: &str = "What is the capital of France?";
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let server = tokio::spawn(axum::serve(listener, router(Arc::clone(&service))).into_future());

    // Two at once.
    let other = tokio::spawn(answer(address, "/reply", "Who are you?"));
    let whole = text_of(&answer(address, "/reply", QUESTION).await?);
    let other = text_of(&other.await??);
    println!("{QUESTION} {whole}\nWho are you? {other}");
    if whole.is_empty() || other.is_empty() || whole == other {
        return Err("the replies are empty or the same".into());
    }
    until_idle(&service).await?;

    // One that the handler drops midway.
    let beginning = answer(address, "/beginning", QUESTION).await?;
    let (_, beginning) = beginning.split_once("\r\n\r\n").ok_or("no body")?;
    println!("It begins: {beginning}");
    if beginning.is_empty() || !whole.starts_with(beginning.trim_end()) {
        return Err(format!("{beginning:?} is not the beginning of {whole:?}").into());
    }
    until_idle(&service).await?;

    // One whose client goes away: the story would be long.
    let mut stream = ask(address, "/reply", "Tell me a story about a mouse.").await?;
    let mut some = [0; 16];
    stream.read_exact(&mut some).await?;
    drop(stream);
    until_idle(&service).await?;
    server.abort();
    println!("All requests have ended, and all blocks are free.");
    Ok(())
}

async fn run() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let path = arguments.iter().find(|argument| !argument.starts_with("--"));
    let path = path.ok_or("usage: axum_stream MODEL [--self-test]")?;
    let device = Device::new(&Adapter::find(None).await?).await?;
    let service = Arc::new(Service::new(&device, &Gguf::open(path)?).await?);
    if arguments.iter().any(|argument| argument == "--self-test") {
        return self_test(service).await;
    }
    let listener = TcpListener::bind("127.0.0.1:8080").await?;
    println!("listening on http://{}", listener.local_addr()?);
    Ok(axum::serve(listener, router(service)).await?)
}

fn main() -> Result<(), Failure> {
    // One thread is enough: no future blocks it while the device computes.
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(run())
}
