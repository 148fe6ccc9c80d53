//! The server under many clients for a while: `make soak` runs it.
#![cfg(feature = "serve")]

use std::{
    io::{BufRead, BufReader},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use ferrum_wgpu::{low_level::quant::Rng, serve::ServeOptions};
use serde_json::{Value, json};

use crate::serve::{request, run, send, until_idle, with};

const CLIENTS: u64 = 64;
const URL: &str = "/v1/chat/completions";

/// Returns one of some requests: greedy and seeded ones of several lengths, and constrained ones.
fn ask(kind: usize) -> Value {
    let texts = ["What is the capital of France?", "Who are you?", "Tell me a story.", "What is the sea?"];
    let body = json!({
        "messages": [{"role": "user", "content": texts[kind % 4]}], "max_tokens": 8 + 5 * (kind % 5), "stream": true,
    });
    match kind / 4 {
        0 => with(body, json!({"temperature": 0})),
        1 => with(body, json!({"temperature": 1.2, "seed": kind})),
        2 => with(body, json!({"temperature": 0.7, "top_k": 20, "seed": kind, "repetition_penalty": 1.2})),
        _ => with(body, json!({"temperature": 1, "seed": kind, "regex": "[A-Z][a-z ]{3,60}\\."})),
    }
}

const KINDS: usize = 16;

/// Returns the text of a stream, or `None` if it was left after `leave` lines.
fn stream(address: std::net::SocketAddr, kind: usize, leave: Option<u32>) -> Option<String> {
    let mut text = String::new();
    let mut status = String::new();
    for (number, line) in (0..).zip(BufReader::new(send(address, "POST", URL, "", Some(&ask(kind)))).lines()) {
        let line = line.expect("a line");
        if number == 0 {
            status = line;
            assert!(status.contains(" 200 "), "{status}");
            continue;
        }
        if leave == Some(number) {
            return None;
        }
        let Some(data) = line.strip_prefix("data: ") else { continue };
        if data == "[DONE]" {
            return Some(text);
        }
        let chunk: Value = serde_json::from_str(data).expect("JSON");
        assert!(chunk.get("error").is_none(), "{chunk}");
        text.push_str(chunk["choices"][0]["delta"]["content"].as_str().unwrap_or_default());
    }
    panic!("the stream broke off: {status}")
}

/// Returns resident memory in KiB, and the number of open files; only Linux tells.
fn resources() -> (u64, usize) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let memory =
        status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix("kB")?.trim().parse().ok());
    (memory.unwrap_or(0), std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count))
}

/// Runs the clients for a time, and returns how many streams ended and were left.
fn clients(address: std::net::SocketAddr, alone: &Arc<Vec<String>>, time: Duration) -> (u32, u32) {
    let counts: Arc<[AtomicU32; 2]> = Arc::default();
    let threads: Vec<_> = (0..CLIENTS)
        .map(|client| {
            let (alone, counts) = (Arc::clone(alone), Arc::clone(&counts));
            thread::spawn(move || {
                let (begun, mut rng) = (Instant::now(), Rng::new(client + time.as_millis() as u64));
                while begun.elapsed() < time {
                    let kind = rng.below(KINDS as u32) as usize;
                    let leave = (rng.below(3) == 0).then(|| 1 + rng.below(40));
                    match stream(address, kind, leave) {
                        Some(text) => {
                            assert_eq!(text, alone[kind], "request {kind}");
                            counts[0].fetch_add(1, Ordering::Relaxed);
                        }
                        None => {
                            counts[1].fetch_add(1, Ordering::Relaxed);
                        }
                    }
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().expect("a client"));
    (counts[0].load(Ordering::Relaxed), counts[1].load(Ordering::Relaxed))
}

/// `SOAK_SECONDS` sets another time.
#[test]
#[ignore = "long: `make soak` runs it"]
fn sixty_four_clients_get_what_each_gets_alone() {
    let seconds = std::env::var("SOAK_SECONDS").ok().and_then(|seconds| seconds.parse().ok()).unwrap_or(60);
    let mut options = ServeOptions::default();
    options.queue = 1024;
    let server = run(options);
    let alone: Arc<Vec<String>> =
        Arc::new((0..KINDS).map(|kind| stream(server.address, kind, None).expect("a whole stream")).collect());
    // The first clients allocate what all others use again.
    clients(server.address, &alone, Duration::from_secs(10));
    until_idle(&server.engine);
    let before = resources();
    let (ended, left) = clients(server.address, &alone, Duration::from_secs(seconds));
    until_idle(&server.engine);
    // Connections end shortly after their clients.
    let begun = Instant::now();
    let mut after = resources();
    while after.1 > before.1 && begun.elapsed() < Duration::from_secs(10) {
        thread::sleep(Duration::from_millis(50));
        after = resources();
    }
    println!("{ended} streams ended, {left} were left; {} KiB before, {} KiB after", before.0, after.0);
    assert!(ended > 100 && left > 50, "{ended} ended, {left} left");
    assert!(after.1 <= before.1, "{} files were open, now {}", before.1, after.1);
    assert!(after.0 < before.0 + 32 * 1024, "{} KiB before, {} KiB after", before.0, after.0);
    let (_, _, metrics) = request(server.address, "GET", "/metrics", "", None);
    let metrics = metrics.as_str().expect("a text");
    assert!(metrics.contains("ferrum_wgpu_kv_blocks_used 0") && metrics.contains("ferrum_wgpu_requests_admitted 0"));
}
