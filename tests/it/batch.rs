//! Batches that are killed: each request is in the output once, with the response of a run without interruption.
#![cfg(all(feature = "cli", feature = "serve"))]

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

const DEMO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/models/demo-q4_k_m.gguf");
/// The requests of the batch.
const REQUESTS: usize = 24;

fn command(input: &Path, output: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ferrum-wgpu"));
    command.arg("batch").arg(input).arg(DEMO).arg("-o").arg(output).args(["--ctx", "128", "--parallel", "4"]);
    command
}

/// Runs a batch to its end, and returns what it writes on standard error.
fn finish(input: &Path, output: &Path) -> String {
    let ended = command(input, output).output().expect("it runs");
    let log = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert_eq!(ended.status.code(), Some(0), "{log}");
    log
}

/// Returns the whole lines of an output.
fn lines(output: &Path) -> usize {
    fs::read_to_string(output).unwrap_or_default().matches('\n').count()
}

/// Returns the choices by the id of the request. No id may be there twice.
fn choices(output: &Path) -> BTreeMap<String, Value> {
    let mut all = BTreeMap::new();
    for line in fs::read_to_string(output).expect("the output").lines() {
        let value: Value = serde_json::from_str(line).expect("JSON");
        let id = value["custom_id"].as_str().expect("an id").to_owned();
        let before = all.insert(id, value["response"]["body"]["choices"].clone());
        assert!(before.is_none(), "{line}: twice");
    }
    all
}

#[test]
fn killed_batches_have_each_request_once() {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("batch-killed");
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).expect("a folder");
    let (input, whole, killed) = (folder.join("in.jsonl"), folder.join("whole.jsonl"), folder.join("killed.jsonl"));
    let requests: String = (0..REQUESTS)
        .map(|i| {
            let messages = json!([{"role": "user", "content": format!("What is {i} + 3?")}]);
            let body = json!({"messages": messages, "max_tokens": 16, "temperature": 1.0});
            let url = "/v1/chat/completions";
            json!({"custom_id": format!("r{i}"), "method": "POST", "url": url, "body": body}).to_string() + "\n"
        })
        .collect();
    fs::write(&input, requests).expect("a file");
    let log = finish(&input, &whole);
    // Slots are empty at the end only, when fewer requests are left than there are slots.
    let occupancy = log.split("; ").find_map(|part| part.split_once(" % of")?.0.trim().parse::<u32>().ok());
    assert!(occupancy.is_some_and(|percent| percent >= 70), "{log}");
    for kill in 1..=3 {
        let wanted = kill * REQUESTS / 5;
        let mut child = command(&input, &killed).stderr(Stdio::null()).spawn().expect("it runs");
        let deadline = Instant::now() + Duration::from_secs(120);
        while lines(&killed) < wanted {
            assert!(Instant::now() < deadline, "{} of {wanted} lines", lines(&killed));
            sleep(Duration::from_millis(5));
        }
        child.kill().expect("it runs");
        child.wait().expect("it ran");
    }
    let done = lines(&killed);
    assert!(done < REQUESTS, "it was killed too late");
    let log = finish(&input, &killed);
    assert!(log.contains(&format!("{} of {REQUESTS} requests", REQUESTS - done)), "{log}");
    assert_eq!(choices(&killed).len(), REQUESTS);
    assert_eq!(choices(&killed), choices(&whole));
}
