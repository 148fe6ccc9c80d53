//! The HTTP server on the demo model: one engine and server for all tests.
#![cfg(feature = "serve")]

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::LazyLock,
    thread,
    time::{Duration, Instant},
};

use ferrum_wgpu::{
    Device, Engine, EngineOptions, Gguf, Model,
    api::Service,
    serve::{ServeOptions, Server},
};
use serde_json::{Value, json};

use crate::common::engines::{demo_bytes, gpu};

/// A server with its engine.
pub(crate) struct Running {
    pub(crate) address: SocketAddr,
    pub(crate) engine: Engine,
    device: Device,
    server: Server,
}

/// Starts a server on a free port, in a thread that nobody waits for. It has no service yet.
fn start(options: ServeOptions) -> (SocketAddr, Server) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let server = Server::new(options);
    let running = server.clone();
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        runtime.expect("a runtime").block_on(running.run(listener, std::future::pending())).expect("it runs");
    });
    (address, server)
}

fn engine(device: &Device, gguf: &Gguf) -> Engine {
    let options = EngineOptions::default().sequences(3).context(512).kv_tokens(2048);
    pollster::block_on(async {
        let model = Model::load(device, gguf, |_, _| ()).await.expect("a model");
        Engine::new(&model, &options).await.expect("an engine")
    })
}

pub(crate) fn run(options: ServeOptions) -> Running {
    let (address, server) = start(options);
    // The model is not there yet.
    let (status, _, body) = request(address, "GET", "/health", "", None);
    assert_eq!((status, body["error"]["code"].as_str()), (503, Some("loading")), "{body}");
    let gguf = Gguf::from_bytes(demo_bytes()).expect("a GGUF");
    let device = pollster::block_on(gpu());
    let engine = engine(&device, &gguf);
    server.ready(Service::new(&engine, &gguf, "demo").expect("a service"), None);
    let (status, _, body) = request(address, "GET", "/health", "", None);
    assert_eq!((status, &body), (200, &json!({"status": "ok"})));
    Running { address, engine, device, server }
}

static SERVER: LazyLock<Running> = LazyLock::new(|| run(ServeOptions::default()));

/// Sends a request and returns status, headers and body: JSON, or a text.
pub(crate) fn request(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &str,
    body: Option<&Value>,
) -> (u16, String, Value) {
    let mut stream = send(address, method, path, headers, body);
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("an answer");
    let (head, body) = text.split_once("\r\n\r\n").expect("a head");
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    let body = if head.contains("transfer-encoding: chunked") { dechunk(body) } else { body.to_owned() };
    (status, head.to_owned(), serde_json::from_str(&body).unwrap_or(Value::String(body)))
}

pub(crate) fn send(address: SocketAddr, method: &str, path: &str, headers: &str, body: Option<&Value>) -> TcpStream {
    let mut stream = TcpStream::connect(address).expect("a connection");
    stream.set_read_timeout(Some(Duration::from_secs(120))).expect("a timeout");
    let body = body.map(Value::to_string).unwrap_or_default();
    let length = body.len();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: {address}\r\nContent-Length: {length}\r\nConnection: close\r\n{headers}\r\n{body}"
    );
    stream.write_all(request.as_bytes()).expect("it is sent");
    stream
}

fn dechunk(mut body: &str) -> String {
    let mut all = String::new();
    while let Some((size, rest)) = body.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).expect("a size");
        all.push_str(&rest[..size]);
        body = rest[size..].trim_start_matches("\r\n");
    }
    all
}

fn post(path: &str, body: Value) -> (u16, Value) {
    let (status, _, body) = request(SERVER.address, "POST", path, "Content-Type: application/json\r\n", Some(&body));
    (status, body)
}

fn fine(path: &str, body: Value) -> Value {
    let (status, answer) = post(path, body);
    assert_eq!(status, 200, "{answer}");
    answer
}

/// Returns the events of a stream: names and data.
fn events(path: &str, body: Value) -> Vec<(String, Value)> {
    let (status, text) = post(path, body);
    let Value::String(text) = text else { panic!("{status} {text}") };
    let mut all = Vec::new();
    for event in text.split("\n\n").filter(|event| !event.trim().is_empty()) {
        let of =
            |field: &str| event.lines().find_map(|line| line.strip_prefix(field)).unwrap_or_default().trim().to_owned();
        let data = of("data:");
        all.push((of("event:"), serde_json::from_str(&data).unwrap_or(Value::String(data))));
    }
    all
}

fn ask(text: &str) -> Value {
    json!({"messages": [{"role": "user", "content": text}], "temperature": 0, "max_tokens": 24})
}

pub(crate) fn with(mut body: Value, more: Value) -> Value {
    let more = more.as_object().expect("an object").clone();
    body.as_object_mut().expect("an object").extend(more);
    body
}

fn content(answer: &Value) -> &str {
    answer["choices"][0]["message"]["content"].as_str().expect("a content")
}

const FRANCE: &str = "What is the capital of France?";

/// Waits until no request is left and all blocks are free.
pub(crate) fn until_idle(engine: &Engine) {
    let start = Instant::now();
    while engine.requests() > 0 || engine.blocks().free != engine.blocks().total {
        assert!(start.elapsed() < Duration::from_secs(20), "{} {:?}", engine.requests(), engine.blocks());
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn chats_are_answered_whole_and_streamed() {
    let whole = fine("/v1/chat/completions", ask(FRANCE));
    assert!(content(&whole).contains("Paris"), "{whole}");
    assert_eq!((&whole["object"], &whole["model"]), (&json!("chat.completion"), &json!("demo")));
    assert_eq!(whole["choices"][0]["finish_reason"], "stop");
    let usage = &whole["usage"];
    let number = |value: &Value| value.as_u64().expect("a number");
    assert_eq!(number(&usage["total_tokens"]), number(&usage["prompt_tokens"]) + number(&usage["completion_tokens"]));
    assert_eq!(whole["timings"]["predicted_n"], usage["completion_tokens"]);

    let more = json!({"stream": true, "stream_options": {"include_usage": true}});
    let chunks = events("/v1/chat/completions", with(ask(FRANCE), more));
    assert_eq!(chunks.last().expect("events").1, "[DONE]");
    let usage = &chunks[chunks.len() - 2].1;
    assert_eq!(
        (&usage["choices"], &usage["usage"]["completion_tokens"]),
        (&json!([]), &whole["usage"]["completion_tokens"])
    );
    let text: String =
        chunks.iter().filter_map(|(_, chunk)| chunk["choices"][0]["delta"]["content"].as_str()).collect();
    assert_eq!(text, content(&whole));
    // Without usage, the last chunk ends the choice, and has the timings.
    let chunks = events("/v1/chat/completions", with(ask(FRANCE), json!({"stream": true})));
    let last = &chunks[chunks.len() - 2].1;
    assert_eq!(last["choices"][0]["finish_reason"], "stop");
    assert!(last["timings"]["predicted_per_second"].is_number() && last.get("usage").is_none(), "{last}");

    // A long prompt is found in the cache the second time.
    let long = "The sea is deep. ".repeat(12) + FRANCE;
    fine("/v1/chat/completions", ask(&long));
    let again = fine("/v1/chat/completions", ask(&long));
    assert!(number(&again["usage"]["prompt_tokens_details"]["cached_tokens"]) >= 32, "{again}");
}

#[test]
fn sampling_fields_are_applied() {
    let url = "/v1/chat/completions";
    let sampled = json!({"temperature": 4, "top_p": 1, "top_k": 0, "seed": 7, "n": 2});
    let one = fine(url, with(ask("Tell me a story."), sampled.clone()));
    let two = fine(url, with(ask("Tell me a story."), sampled));
    assert_eq!(one["choices"], two["choices"]);
    assert_ne!(one["choices"][0]["message"], one["choices"][1]["message"]);
    let stopped = fine(url, with(ask(FRANCE), json!({"stop": ["Par"]})));
    assert!(!content(&stopped).contains("Par") && stopped["choices"][0]["finish_reason"] == "stop", "{stopped}");
    let short = fine(url, with(ask(FRANCE), json!({"max_tokens": null, "max_completion_tokens": 2})));
    assert_eq!(
        (&short["usage"]["completion_tokens"], &short["choices"][0]["finish_reason"]),
        (&json!(2), &json!("length"))
    );
    let free = fine("/v1/completions", json!({"prompt": "The", "temperature": 0, "max_tokens": 1, "logprobs": 2}));
    let first = free["choices"][0]["logprobs"]["tokens"][0].as_str().expect("a token").to_owned();
    let id = fine("/tokenize", json!({"content": first}))["tokens"][0].to_string();
    let biased = json!({"prompt": "The", "temperature": 0, "max_tokens": 1, "logprobs": 2, "logit_bias": {id: -100}});
    assert_ne!(fine("/v1/completions", biased)["choices"][0]["logprobs"]["tokens"][0], json!(first));
    let penalised = json!({"repetition_penalty": 1.3, "presence_penalty": 0.5, "frequency_penalty": 0.5, "min_p": 0.1});
    fine(url, with(ask(FRANCE), penalised));
}

#[test]
fn log_probabilities_are_returned() {
    let answer = fine("/v1/chat/completions", with(ask(FRANCE), json!({"logprobs": true, "top_logprobs": 3})));
    let tokens = answer["choices"][0]["logprobs"]["content"].as_array().expect("a list");
    let text: String = tokens.iter().map(|token| token["token"].as_str().expect("a token")).collect();
    assert_eq!(text, content(&answer));
    for token in tokens {
        let top = token["top_logprobs"].as_array().expect("a list");
        assert_eq!((top.len(), &top[0]["token"]), (3, &token["token"]));
        assert!(token["logprob"].as_f64().expect("a number") <= 0.0);
    }
    let streamed =
        events("/v1/chat/completions", with(ask(FRANCE), json!({"logprobs": true, "top_logprobs": 3, "stream": true})));
    let streamed: Vec<Value> = streamed
        .iter()
        .filter_map(|(_, chunk)| chunk["choices"][0]["logprobs"]["content"].as_array().cloned())
        .flatten()
        .collect();
    assert_eq!(&streamed, tokens);
}

#[test]
fn completions_and_tokens() {
    let prompts = json!({"prompt": ["Once upon a time", "The sea"], "temperature": 0, "max_tokens": 5, "echo": true});
    let answer = fine("/v1/completions", prompts);
    let text = |i: usize| answer["choices"][i]["text"].as_str().expect("a text");
    assert!(text(0).starts_with("Once upon a time") && text(1).starts_with("The sea"), "{answer}");
    let ids = fine("/tokenize", json!({"content": "Once upon a time"}));
    let tokens = json!({"prompt": ids["tokens"], "temperature": 0, "max_tokens": 5});
    let same = fine("/v1/completions", tokens);
    assert_eq!(format!("Once upon a time{}", same["choices"][0]["text"].as_str().expect("a text")), text(0));
    assert_eq!(fine("/detokenize", json!({"tokens": ids["tokens"]}))["content"], "Once upon a time");
    let (_, _, models) = request(SERVER.address, "GET", "/v1/models", "", None);
    assert_eq!(models["data"][0]["id"], "demo");
    let chunks =
        events("/v1/completions", json!({"prompt": "The sea", "temperature": 0, "max_tokens": 5, "stream": true}));
    let streamed: String = chunks.iter().filter_map(|(_, chunk)| chunk["choices"][0]["text"].as_str()).collect();
    assert_eq!(format!("The sea{streamed}"), text(1));
}

#[test]
fn texts_are_embedded() {
    let url = "/v1/embeddings";
    let texts = ["The sea is deep.", "The sea is very deep.", "Who are you?", "What is the capital of France?"];
    let answer = fine(url, json!({"input": texts, "model": "demo", "dimensions": null}));
    let vector = |answer: &Value, i: usize| -> Vec<f64> {
        assert_eq!((&answer["data"][i]["object"], &answer["data"][i]["index"]), (&json!("embedding"), &json!(i)));
        let list = answer["data"][i]["embedding"].as_array().expect("a list");
        list.iter().map(|value| value.as_f64().expect("a number")).collect()
    };
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let all: Vec<Vec<f64>> = (0..texts.len()).map(|i| vector(&answer, i)).collect();
    assert!(all.iter().all(|vector| (dot(vector, vector) - 1.0).abs() < 1e-5));
    assert!(dot(&all[0], &all[1]) > dot(&all[0], &all[2]), "texts that are alike have like vectors");
    let count = |text: &str| fine("/tokenize", json!({"content": text, "add_special": true}))["count"].as_u64();
    let tokens: u64 = texts.iter().filter_map(|text| count(text)).sum();
    assert_eq!(answer["usage"], json!({"prompt_tokens": tokens, "total_tokens": tokens}));
    // Alone, as tokens, and in base64 it is the same.
    let ids = fine("/tokenize", json!({"content": texts[1], "add_special": true}))["tokens"].clone();
    for input in [json!(texts[1]), ids.clone(), json!([ids])] {
        assert_eq!(vector(&fine(url, json!({"input": input, "user": "me"})), 0), all[1]);
    }
    let packed = fine(url, json!({"input": texts[1], "encoding_format": "base64"}));
    assert_eq!(packed["data"][0]["embedding"].as_str().map(str::len), Some((4 * all[1].len()).div_ceil(3) * 4));
    for (body, param) in [
        (json!({}), "input"),
        (json!({"input": []}), "input"),
        (json!({"input": "", "dimensions": 2}), "dimensions"),
        (json!({"input": [[1], [4_000_000_000u32]]}), "input[1]"),
        (json!({"input": "x", "encoding_format": "hex"}), "encoding_format"),
        (json!({"input": ["x", "deep sea ".repeat(900)]}), "input[1]"),
        (json!({"input": "x", "truncate": true}), "truncate"),
    ] {
        let (status, answer) = post(url, body.clone());
        assert_eq!((status, answer["error"]["param"].as_str()), (400, Some(param)), "{body}: {answer}");
    }
}

#[test]
fn what_is_not_supported_is_refused_by_name() {
    let cases = [
        (json!({"messages": []}), "messages"),
        (json!({}), "messages"),
        (with(ask("Hi"), json!({"temperature": "hot"})), "temperature"),
        (with(ask("Hi"), json!({"temperature": -1})), "temperature"),
        (with(ask("Hi"), json!({"frequency_penalty": 3})), "frequency_penalty"),
        (with(ask("Hi"), json!({"n": 0})), "n"),
        (with(ask("Hi"), json!({"web_search_options": {}})), "web_search_options"),
        (with(ask("Hi"), json!({"modalities": ["audio"]})), "modalities"),
        (with(ask("Hi"), json!({"top_logprobs": 2})), "top_logprobs"),
        (with(ask("Hi"), json!({"stream_options": {"include_usage": true}})), "stream_options"),
        (with(ask("Hi"), json!({"logit_bias": {"x": 1}})), "logit_bias"),
        (with(ask("Hi"), json!({"stream": 1})), "stream"),
        (with(ask("Hi"), json!({"tools": [{"type": "function"}]})), "tools[0].function"),
        (with(ask("Hi"), json!({"tool_choice": "required"})), "tool_choice"),
        (with(ask("Hi"), json!({"response_format": {"type": "xml"}})), "response_format.type"),
        (with(ask("Hi"), json!({"response_format": {"type": "regex", "pattern": "("}})), "response_format"),
        (json!({"messages": [{"role": "king", "content": "Hi"}]}), "messages[0].role"),
        (json!({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}), "messages[0].content[0].type"),
        (json!({"messages": [{"role": "user", "content": "Hi", "colour": 1}]}), "messages[0].colour"),
    ];
    for (body, param) in cases {
        let (status, answer) = post("/v1/chat/completions", body.clone());
        assert_eq!((status, answer["error"]["param"].as_str()), (400, Some(param)), "{body}: {answer}");
        assert_eq!(answer["error"]["type"], "invalid_request_error");
    }
    let (status, answer) = post("/v1/chat/completions", with(ask("Hi"), json!({"model": "other"})));
    assert_eq!((status, answer["error"]["code"].as_str()), (404, Some("model_not_found")));
    let (status, answer) = post("/v1/chat/completions", ask(&"deep sea ".repeat(900)));
    assert_eq!((status, answer["error"]["code"].as_str()), (400, Some("context_length_exceeded")), "{answer}");
    let (status, answer) = post("/v1/completions", json!({"prompt": "Hi", "suffix": "x"}));
    assert_eq!((status, answer["error"]["param"].as_str()), (400, Some("suffix")));
    let (status, _, answer) = request(SERVER.address, "GET", "/v2/nothing", "", None);
    assert_eq!((status, answer["error"]["type"].as_str()), (404, Some("not_found_error")));
    let (status, _, _) = request(SERVER.address, "GET", "/v1/chat/completions", "", None);
    assert_eq!(status, 405);
    let (status, answer) = post("/v1/messages", ask("Hi"));
    assert_eq!((status, &answer["type"]), (200, &json!("message")), "{answer}");
    let (status, answer) = post("/v1/messages", json!({"messages": [{"role": "user", "content": "Hi"}]}));
    assert_eq!((status, answer["error"]["type"].as_str()), (400, Some("invalid_request_error")), "{answer}");
}

#[test]
fn replies_follow_schemas_and_grammars() {
    let url = "/v1/chat/completions";
    let schema = json!({
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 12}, "days": {"type": "integer", "minimum": 0, "maximum": 9}},
        "required": ["city", "days"], "additionalProperties": false,
    });
    let format = json!({"type": "json_schema", "json_schema": {"name": "answer", "strict": true, "schema": schema}});
    let formats = json!({"response_format": format, "max_tokens": 80});
    // Beside a free request, which they do not change.
    let free = fine(url, ask(FRANCE));
    let beside = thread::spawn(|| fine(url, ask(FRANCE)));
    let hot = json!({"temperature": 1.5, "top_k": 0, "top_p": 1, "seed": 3});
    for sampling in [
        json!({"temperature": 0}),
        json!({"temperature": 1, "seed": 3}),
        with(hot.clone(), json!({"xtc_probability": 1, "xtc_threshold": 0.05})),
        with(hot.clone(), json!({"mirostat": 1, "mirostat_tau": 3})),
        with(hot.clone(), json!({"mirostat": 2, "mirostat_tau": 3, "repetition_penalty": 1.2})),
    ] {
        let answer = fine(url, with(with(ask(FRANCE), formats.clone()), sampling));
        let value: Value = serde_json::from_str(content(&answer)).unwrap_or_else(|_| panic!("{answer}"));
        assert!(value["city"].is_string() && value["days"].as_u64().is_some_and(|days| days < 10), "{value}");
        assert_eq!(value.as_object().map(serde_json::Map::len), Some(2));
    }
    assert_eq!(content(&beside.join().expect("an answer")), content(&free));
    let date = json!({"response_format": {"type": "regex", "pattern": "[0-9]{4}-[0-9]{2}"}});
    let answer = fine(url, with(ask(FRANCE), date));
    assert_eq!(content(&answer).len(), 7);
    assert!(content(&answer).bytes().all(|b| b.is_ascii_digit() || b == b'-'), "{answer}");
    let gbnf = "root ::= (\"yes\" | \"no\") \"!\"";
    let answer = fine(url, with(ask(FRANCE), json!({"grammar": gbnf})));
    assert!(["yes!", "no!"].contains(&content(&answer)), "{answer}");
    let lark = "start: \"a\" | \"b\"";
    let answer = fine(url, with(ask(FRANCE), json!({"response_format": {"type": "grammar", "grammar": lark}})));
    assert!(["a", "b"].contains(&content(&answer)), "{answer}");
    // A grammar that forbids nothing changes nothing.
    let all = fine(url, with(ask(FRANCE), json!({"response_format": {"type": "regex", "pattern": "(?s:.*)"}})));
    assert_eq!(content(&all), content(&free));
}

fn tools() -> Value {
    let parameters = json!({
        "type": "object", "properties": {"city": {"type": "string", "enum": ["Paris", "Rome"]}},
        "required": ["city"], "additionalProperties": false,
    });
    json!([{"type": "function", "function": {"name": "weather", "description": "The weather", "parameters": parameters}}])
}

#[test]
fn a_required_tool_is_called() {
    let body = with(ask(FRANCE), json!({"tools": tools(), "tool_choice": "required", "max_tokens": 80}));
    let answer = fine("/v1/chat/completions", body.clone());
    let choice = &answer["choices"][0];
    assert_eq!(choice["finish_reason"], "tool_calls", "{answer}");
    let call = &choice["message"]["tool_calls"][0];
    assert_eq!((&call["type"], &call["function"]["name"]), (&json!("function"), &json!("weather")));
    let arguments: Value = serde_json::from_str(call["function"]["arguments"].as_str().expect("a text")).expect("JSON");
    assert!(["Paris", "Rome"].contains(&arguments["city"].as_str().expect("a city")), "{arguments}");
    let chunks = events("/v1/chat/completions", with(body, json!({"stream": true})));
    let deltas: Vec<&Value> = chunks
        .iter()
        .map(|(_, chunk)| &chunk["choices"][0]["delta"]["tool_calls"][0])
        .filter(|call| call.is_object())
        .collect();
    assert_eq!(deltas[0]["function"]["name"], "weather");
    assert!(deltas.len() > 3, "arguments come in parts: {deltas:?}");
    assert!(deltas[0]["id"].as_str().is_some_and(|id| id.starts_with("call_")));
    let streamed: String = deltas.iter().filter_map(|call| call["function"]["arguments"].as_str()).collect();
    assert_eq!(serde_json::from_str::<Value>(&streamed).expect("JSON"), arguments);
    // The result goes back to the model.
    let mut history = vec![json!({"role": "user", "content": FRANCE}), choice["message"].clone()];
    history.push(json!({"role": "tool", "tool_call_id": call["id"], "content": "Sunny"}));
    fine("/v1/chat/completions", json!({"messages": history, "tools": tools(), "max_tokens": 4}));
}

#[test]
fn anthropics_messages_are_answered() {
    let body = json!({"model": "demo", "max_tokens": 24, "temperature": 0, "messages": [{"role": "user", "content": [{"type": "text", "text": FRANCE}]}]});
    let whole = fine("/v1/messages", body.clone());
    assert_eq!((&whole["role"], &whole["stop_reason"]), (&json!("assistant"), &json!("end_turn")));
    let text = whole["content"][0]["text"].as_str().expect("a text");
    assert!(text.contains("Paris"));
    let all = events("/v1/messages", with(body.clone(), json!({"stream": true})));
    let names: Vec<&str> = all.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!((names[0], names[1]), ("message_start", "content_block_start"));
    assert_eq!(names[names.len() - 3..], ["content_block_stop", "message_delta", "message_stop"]);
    let streamed: String = all.iter().filter_map(|(_, event)| event["delta"]["text"].as_str()).collect();
    assert_eq!(streamed, text);
    let count = fine("/v1/messages/count_tokens", json!({"model": "demo", "messages": body["messages"]}));
    assert_eq!(
        count["input_tokens"].as_u64().expect("a number"),
        whole["usage"]["input_tokens"].as_u64().expect("a number")
            + whole["usage"]["cache_read_input_tokens"].as_u64().expect("a number")
    );
    let stops = json!({"stop_sequences": ["zzz", "Par"]});
    let stopped = fine("/v1/messages", with(body.clone(), stops.clone()));
    assert_eq!((&stopped["stop_reason"], &stopped["stop_sequence"]), (&json!("stop_sequence"), &json!("Par")));
    assert_eq!(whole["stop_sequence"], Value::Null);
    let all = events("/v1/messages", with(with(body.clone(), stops), json!({"stream": true})));
    assert_eq!(all[all.len() - 2].1["delta"], json!({"stop_reason": "stop_sequence", "stop_sequence": "Par"}));
    let tool = json!({"name": "weather", "input_schema": tools()[0]["function"]["parameters"]});
    let tools = json!({"tools": [tool], "tool_choice": {"type": "any"}, "max_tokens": 80});
    let called = fine("/v1/messages", with(body, tools));
    assert_eq!(
        (&called["stop_reason"], &called["content"][0]["type"]),
        (&json!("tool_use"), &json!("tool_use")),
        "{called}"
    );
    assert!(called["content"][0]["input"]["city"].is_string(), "{called}");
}

#[test]
fn responses_that_take_too_long_end_with_an_error_of_their_api() {
    let mut options = ServeOptions::default();
    options.request_timeout = Duration::ZERO;
    let (address, server) = start(options);
    let gguf = Gguf::from_bytes(demo_bytes()).expect("a GGUF");
    server.ready(Service::new(&SERVER.engine, &gguf, "demo").expect("a service"), None);
    let ask = |path: &str, more: Value| request(address, "POST", path, "", Some(&with(ask("Hello"), more)));
    let (status, _, body) = ask("/v1/chat/completions", json!({}));
    assert_eq!((status, body["error"]["code"].as_str()), (408, Some("timeout")), "{body}");
    let (_, _, chat) = ask("/v1/chat/completions", json!({"stream": true}));
    let chat = chat.as_str().expect("events");
    assert!(chat.contains(r#"data: {"error":"#) && !chat.contains("event: "), "{chat}");
    let (_, _, messages) = ask("/v1/messages", json!({"stream": true}));
    let messages = messages.as_str().expect("events");
    assert!(messages.contains("event: error") && messages.contains(r#""type":"error""#), "{messages}");
    until_idle(&SERVER.engine);
}

#[test]
fn a_client_that_sends_no_whole_header_is_left() {
    let mut options = ServeOptions::default();
    options.header_timeout = Duration::from_millis(200);
    let (address, _) = start(options);
    let begun = Instant::now();
    let mut stream = TcpStream::connect(address).expect("a connection");
    stream.set_read_timeout(Some(Duration::from_secs(60))).expect("a timeout");
    stream.write_all(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-").expect("it is sent");
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest);
    let waited = begun.elapsed();
    assert!(waited >= Duration::from_millis(150) && waited < Duration::from_secs(50), "{waited:?}");
    assert!(!String::from_utf8_lossy(&rest).contains("200 OK"));
}

#[test]
fn faults_and_limits() {
    let mut options = ServeOptions::default();
    options.queue = 1;
    options.api_keys = vec!["secret".to_owned(), "other".to_owned()];
    options.cors = Some("https://example.org".to_owned());
    options.max_body = 10_000;
    let Running { address, engine, device, server } = run(options);
    let key = "Authorization: Bearer secret\r\n";
    let story = json!({"messages": [{"role": "user", "content": "Tell me a story."}], "max_tokens": 400, "ignore_eos": true, "stream": true});
    for wrong in ["", "Authorization: Bearer wrong\r\n", "x-api-key: secre\r\n"] {
        let (status, _, body) = request(address, "POST", "/v1/chat/completions", wrong, Some(&ask("Hi")));
        assert_eq!((status, body["error"]["type"].as_str()), (401, Some("authentication_error")));
    }
    assert_eq!(request(address, "POST", "/tokenize", "x-api-key: other\r\n", Some(&json!({"content": "Hi"}))).0, 200);
    let big = json!({"content": "x".repeat(20_000)});
    assert_eq!(request(address, "POST", "/tokenize", key, Some(&big)).0, 413);
    let (status, head, _) = request(
        address,
        "POST",
        "/tokenize",
        &format!("{key}Origin: https://example.org\r\n"),
        Some(&json!({"content": "Hi"})),
    );
    assert!(status == 200 && head.contains("access-control-allow-origin: https://example.org"), "{head}");
    assert_eq!(
        request(
            address,
            "POST",
            "/tokenize",
            &format!("{key}Origin: https://other.org\r\n"),
            Some(&json!({"content": "Hi"}))
        )
        .0,
        403
    );

    // Three run, one waits, and the fifth is refused.
    let mut streams: Vec<TcpStream> =
        (0..4).map(|_| send(address, "POST", "/v1/chat/completions", key, Some(&story))).collect();
    let start = Instant::now();
    while engine.requests() < 4 {
        assert!(start.elapsed() < Duration::from_secs(20));
        thread::sleep(Duration::from_millis(1));
    }
    let (status, head, body) = request(address, "POST", "/v1/chat/completions", key, Some(&ask("Hi")));
    assert_eq!((status, body["error"]["code"].as_str()), (429, Some("queue_full")), "{head}");
    assert!(head.contains("retry-after: "), "{head}");
    // Clients that leave free their blocks; the last one goes on.
    let last = streams.pop().expect("a stream");
    drop(streams);
    let mut lines = BufReader::new(last).lines();
    assert!(lines.any(|line| line.expect("a line").contains("\"delta\":{\"content\"")), "it goes on");
    drop(lines);
    until_idle(&engine);
    let (_, _, metrics) = request(address, "GET", "/metrics", key, None);
    let metrics = metrics.as_str().expect("a text");
    for wanted in [
        "ferrum_wgpu_requests_refused_total 1",
        "ferrum_wgpu_requests_cancelled_total 4",
        "ferrum_wgpu_kv_blocks_used 0",
    ] {
        assert!(metrics.contains(wanted), "{wanted}: {metrics}");
    }

    // A lost device: the request gets an error event, and the server recovers.
    let gguf = Gguf::from_bytes(demo_bytes()).expect("a GGUF");
    let recovered = engine.clone();
    let again = std::sync::Arc::new(gguf);
    let service = Service::new(&engine, &again, "demo").expect("a service");
    server.ready(
        service,
        Some(Box::new(move || {
            let (engine, gguf) = (recovered.clone(), std::sync::Arc::clone(&again));
            Box::pin(async move { engine.recover(&gpu().await, &gguf).await })
        })),
    );
    let stream = send(address, "POST", "/v1/chat/completions", key, Some(&story));
    let mut lines = BufReader::new(stream).lines();
    assert!(lines.any(|line| line.expect("a line").contains("\"delta\":{\"content\"")));
    device.lose();
    assert!(lines.any(|line| line.expect("a line").contains("device_lost")), "an error event");
    let start = Instant::now();
    while request(address, "GET", "/health", "", None).0 != 200 {
        assert!(start.elapsed() < Duration::from_secs(60), "it recovers");
        thread::sleep(Duration::from_millis(20));
    }
    let (status, _, body) = request(address, "POST", "/v1/chat/completions", key, Some(&ask(FRANCE)));
    assert!(status == 200 && content(&body).contains("Paris"), "{body}");
}

#[test]
fn many_streams_are_each_as_alone() {
    let questions = [FRANCE, "Who are you?", "Tell me a story.", "What is the sea?"];
    let alone: Vec<Value> = questions.iter().map(|question| fine("/v1/chat/completions", ask(question))).collect();
    let threads: Vec<_> = (0..16usize)
        .map(|i| {
            thread::spawn(move || {
                let question = [FRANCE, "Who are you?", "Tell me a story.", "What is the sea?"][i % 4];
                if i % 5 == 4 {
                    // This one leaves after some bytes.
                    let mut stream = send(
                        SERVER.address,
                        "POST",
                        "/v1/chat/completions",
                        "",
                        Some(&with(ask(question), json!({"stream": true}))),
                    );
                    let _ = stream.read(&mut [0; 300]);
                    return None;
                }
                Some((i % 4, fine("/v1/chat/completions", ask(question))))
            })
        })
        .collect();
    for thread in threads {
        if let Some((question, answer)) = thread.join().expect("an answer") {
            assert_eq!(content(&answer), content(&alone[question]));
        }
    }
}

#[cfg(feature = "cli")]
mod command {
    use std::{
        fs,
        io::{BufRead, BufReader, Read},
        path::PathBuf,
        process::Command,
    };

    use serde_json::{Value, json};

    use super::{FRANCE, ask, content, request, send, with};
    use crate::common::program::program;

    const DEMO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/models/demo-q4_k_m.gguf");

    fn ferrum(args: &[&str]) -> Command {
        let mut command = program();
        command.args(args);
        command
    }

    fn file(name: &str, text: &str) -> String {
        let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
        fs::write(&path, text).expect("a file");
        path.to_str().expect("UTF-8").to_owned()
    }

    #[test]
    fn serve_answers_and_drains() {
        let args = ["serve", DEMO, "--device", "cpu", "--port", "0", "--ctx", "256", "-np", "2", "--api-key", "k"];
        let mut child = ferrum(&args).spawn().expect("it starts");
        let mut log = BufReader::new(child.stderr.take().expect("a pipe")).lines().map_while(Result::ok);
        let address = log.find_map(|line| line.strip_prefix("listening on http://").map(str::to_owned));
        let address = address.and_then(|address| address.parse().ok()).expect("an address");
        assert!(log.any(|line| line == "ready"));
        let key = "Authorization: Bearer k\r\n";
        let (status, _, answer) = request(address, "POST", "/v1/chat/completions", key, Some(&ask(FRANCE)));
        assert!(status == 200 && content(&answer).contains("Paris"), "{answer}");
        assert_eq!(answer["model"], "demo-q4_k_m");
        let (_, _, page) = request(address, "GET", "/", "", None);
        assert!(page.as_str().is_some_and(|page| page.contains("<title>ferrum-wgpu</title>")));
        let story = with(ask("Tell me a story."), json!({"max_tokens": 60, "ignore_eos": true, "stream": true}));
        let mut stream = BufReader::new(send(address, "POST", "/v1/chat/completions", key, Some(&story)));
        let mut line = String::new();
        while !line.contains("\"delta\":{\"content\"") {
            line.clear();
            assert!(stream.read_line(&mut line).expect("a line") > 0);
        }
        let killed = Command::new("kill").args(["-TERM", &child.id().to_string()]).status().expect("kill");
        assert!(killed.success());
        // The response in progress ends, and then the server.
        let mut rest = String::new();
        stream.read_to_string(&mut rest).expect("the rest");
        assert!(rest.contains("[DONE]"), "{rest}");
        assert_eq!(child.wait().expect("it ends").code(), Some(143));
    }

    #[test]
    fn batches_are_resumed() {
        let line = |id: &str, body: Value| json!({"custom_id": id, "method": "POST", "url": "/v1/chat/completions", "body": body});
        let lines: Vec<String> = ["What is the sea?", FRANCE, "Who are you?"]
            .iter()
            .enumerate()
            .map(|(i, text)| line(&format!("r{i}"), ask(text)).to_string())
            .chain([line("wrong", json!({"messages": []})).to_string()])
            .chain([
                json!({"custom_id": "vector", "method": "POST", "url": "/v1/embeddings", "body": {"input": FRANCE}})
                    .to_string(),
            ])
            .collect();
        let input = file("batch.jsonl", &(lines.join("\n") + "\n"));
        let output = file("batch-out.jsonl", "");
        let args = ["batch", &input, DEMO, "-o", &output, "--device", "cpu", "--ctx", "256", "--np", "2"];
        let run = |left: &str| {
            let ended = ferrum(&args).output().expect("it runs");
            let log = String::from_utf8_lossy(&ended.stderr).into_owned();
            assert_eq!(ended.status.code(), Some(0), "{log}");
            assert!(log.contains(&format!("{left} of 5 requests")), "{log}");
            let mut all: Vec<Value> = fs::read_to_string(&output)
                .expect("the output")
                .lines()
                .map(|line| serde_json::from_str(line).expect("JSON"))
                .collect();
            all.sort_by_key(|value| value["custom_id"].to_string());
            all.into_iter().map(|value| value["response"].clone()).collect::<Vec<_>>()
        };
        let first = run("5");
        assert_eq!(first.len(), 5);
        assert!(content(&first[1]["body"]).contains("Paris") && first[4]["status_code"] == 400, "{first:?}");
        let vector = first[3]["body"]["data"][0]["embedding"].as_array().expect("a vector");
        let norm: f64 = vector.iter().filter_map(Value::as_f64).map(|value| value * value).sum();
        assert!((norm - 1.0).abs() < 1e-5, "{norm}");
        // Interrupted in its third line.
        let text = fs::read_to_string(&output).expect("the output");
        let cut: usize = text.lines().take(2).map(|line| line.len() + 1).sum();
        fs::write(&output, &text[..cut + 20]).expect("a file");
        let again = run("3");
        for (a, b) in first.iter().zip(&again) {
            let told = |response: &Value| {
                let body = &response["body"];
                (response["status_code"].clone(), body["choices"].clone(), body["data"].clone())
            };
            assert_eq!(told(a), told(b));
        }
    }

    #[test]
    fn embed_prints_a_vector_for_each_line() {
        let run = |more: &[&str]| -> Value {
            let args = [&["embed", DEMO, "-p", "The sea\nWho are you?", "--device", "cpu"], more].concat();
            let output = ferrum(&args).output().expect("it runs");
            assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
            serde_json::from_slice(&output.stdout).expect("JSON")
        };
        let unit = run(&[]);
        let openai = run(&["--embd-output-format", "json", "--pooling", "mean"]);
        assert_eq!(openai["data"][1]["embedding"], unit[1]);
        assert_ne!(run(&["--pooling", "last"])[0], unit[0]);
        let plain = run(&["--embd-normalize", "-1"]);
        let norm = |vector: &Value| -> f64 {
            let list = vector.as_array().expect("a list");
            list.iter().filter_map(Value::as_f64).map(|value| value * value).sum::<f64>().sqrt()
        };
        assert!((norm(&unit[0]) - 1.0).abs() < 1e-5 && (norm(&plain[0]) - 1.0).abs() > 1e-3);
        let output = ferrum(&["embed", DEMO, "-p", "x\n\ny", "--device", "cpu"]).output().expect("it runs");
        assert_eq!(output.status.code(), Some(2));
    }

    #[test]
    fn run_follows_a_schema_and_a_grammar() {
        let schema = json!({"type": "object", "properties": {"city": {"enum": ["Paris", "Rome"]}}, "required": ["city"], "additionalProperties": false});
        let schema = file("schema.json", &schema.to_string());
        let grammar = file("grammar.gbnf", "root ::= \"It is \" [A-Z]+ \".\"\n");
        let run = |option: &str, file: &str| {
            let args = ["run", DEMO, "-p", FRANCE, "--temp", "0", "-n", "40", "--device", "cpu", option, file];
            let output = ferrum(&args).output().expect("it runs");
            assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
            String::from_utf8_lossy(&output.stdout).into_owned()
        };
        let value: Value = serde_json::from_str(&run("--json-schema", &schema)).expect("JSON");
        assert!(["Paris", "Rome"].contains(&value["city"].as_str().expect("a city")), "{value}");
        assert!(run("--grammar", &grammar).starts_with("It is "));
        let broken = file("broken.json", "{\"type\": 3}");
        let output = ferrum(&["run", DEMO, "-p", "x", "--device", "cpu", "-j", &broken]).output().expect("it runs");
        assert_eq!(output.status.code(), Some(2), "{}", String::from_utf8_lossy(&output.stderr));
    }
}
