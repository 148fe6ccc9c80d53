//! Downloads from a local endpoint that breaks off, redirects, and lies.
#![cfg(feature = "cli")]

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    thread,
};

use serde_json::json;
use sha2::{Digest, Sha256};

/// What a server does wrong.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    None,
    /// Each response ends after so many bytes.
    BreaksOff(usize),
    /// It has no ranges, and breaks off the first time.
    NoRanges,
    /// It announces fewer bytes than it sends.
    TooLong,
    /// It announces more bytes than there are.
    TooShort,
    /// It sends other bytes.
    WrongBytes,
    /// It sends another range than was asked for.
    WrongRange,
    /// It wants a token.
    Denied,
    /// A file's name leads out of the cache.
    Escapes,
    /// It announces files of this size.
    Size(u64),
}

/// The bytes of each file.
fn data() -> Vec<u8> {
    (0..100_000u32).flat_map(|i| i.to_le_bytes()).collect()
}

fn sha() -> String {
    Sha256::digest(data()).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Starts a server, and returns its address and the number of its responses with data.
fn serve(fault: Fault) -> (String, Arc<AtomicU32>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = format!("http://{}", listener.local_addr().expect("an address"));
    let count = Arc::new(AtomicU32::new(0));
    let (counted, sha, base) = (Arc::clone(&count), sha(), address.clone());
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("a connection");
            let mut lines = BufReader::new(stream.try_clone().expect("a stream")).lines().map_while(Result::ok);
            let first = lines.next().unwrap_or_default();
            let headers: Vec<String> =
                lines.take_while(|line| !line.is_empty()).map(|line| line.to_lowercase()).collect();
            let path = first.split(' ').nth(1).unwrap_or_default();
            let from =
                headers.iter().find_map(|line| line.strip_prefix("range: bytes=")?.strip_suffix('-')?.parse().ok());
            let authorised = headers.iter().any(|line| line == "authorization: bearer hf_secret");
            let mut send = |head: String, body: &[u8]| {
                let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body));
            };
            let all = data();
            if fault == Fault::Denied && !authorised {
                send("HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".to_owned(), &[]);
            } else if path.starts_with("/api/models/") {
                let size = match fault {
                    Fault::TooShort => all.len() as u64 + 10,
                    Fault::TooLong => all.len() as u64 - 10,
                    Fault::Size(size) => size,
                    _ => all.len() as u64,
                };
                let file = |name: &str| json!({"rfilename": name, "size": size, "blobId": "ab12", "lfs": {"sha256": sha, "size": size}});
                let mut siblings =
                    vec![file("m-Q4_K_M.gguf"), file("m-Q8_0-00001-of-00002.gguf"), file("m-Q8_0-00002-of-00002.gguf")];
                if fault == Fault::Escapes {
                    siblings = vec![file("../../m-Q4_K_M.gguf")];
                }
                let body = json!({"sha": "c0ffee", "siblings": siblings}).to_string();
                let length = body.len();
                send(
                    format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"),
                    body.as_bytes(),
                );
            } else if path.contains("/resolve/c0ffee/") {
                // The data is elsewhere, as the Hub's is.
                send(
                    format!(
                        "HTTP/1.1 302 Found\r\nLocation: {base}/cdn\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
                    ),
                    &[],
                );
            } else {
                let number = counted.fetch_add(1, Ordering::SeqCst);
                let start: usize = from.filter(|_| fault != Fault::NoRanges).unwrap_or(0);
                let mut body = all[start..].to_vec();
                if fault == Fault::WrongBytes {
                    body[5] ^= 1;
                }
                let length = body.len();
                let end = match fault {
                    Fault::BreaksOff(most) => body.len().min(most),
                    Fault::NoRanges if number == 0 => 1000,
                    _ => body.len(),
                };
                let told = if fault == Fault::WrongRange { start + 1 } else { start };
                let status = if start > 0 {
                    format!("206 Partial Content\r\nContent-Range: bytes {told}-{}/{}", all.len() - 1, all.len())
                } else {
                    "200 OK".to_owned()
                };
                let end = if fault == Fault::WrongRange && start == 0 { 1000 } else { end };
                send(
                    format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"),
                    &body[..end],
                );
            }
        }
    });
    (address, count)
}

fn ferrum(home: &Path, endpoint: &str, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ferrum-wgpu"));
    for name in ["HF_HUB_CACHE", "HF_HUB_OFFLINE", "HF_TOKEN", "HF_TOKEN_PATH", "RUST_LOG"] {
        command.env_remove(name);
    }
    command.env("HF_HOME", home).env("HF_ENDPOINT", endpoint).env("NO_PROXY", "127.0.0.1").args(args);
    if args.contains(&"token/m") {
        command.env("HF_TOKEN", "hf_secret");
    }
    command.output().expect("it runs")
}

fn home(name: &str) -> PathBuf {
    let home = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("pull-{name}"));
    let _ = fs::remove_dir_all(&home);
    home
}

fn pulled(home: &Path, output: &Output) {
    let log = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{log}");
    let path = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    assert!(Path::new(&path).starts_with(home), "{path}");
    assert!(fs::read(&path).expect("the file") == data(), "{path}");
}

#[test]
fn downloads_end_with_the_right_bytes() {
    for (fault, responses) in [(Fault::None, 1), (Fault::BreaksOff(90_000), 5), (Fault::NoRanges, 2)] {
        let home = home(&format!("{fault:?}").replace(['(', ')'], "-"));
        let (endpoint, count) = serve(fault);
        pulled(&home, &ferrum(&home, &endpoint, &["pull", "some/m"]));
        assert_eq!(count.load(Ordering::SeqCst), responses, "{fault:?}");
        // What is there is not downloaded again.
        pulled(&home, &ferrum(&home, &endpoint, &["pull", "hf.co/some/m:q4_k_m"]));
        assert_eq!(count.load(Ordering::SeqCst), responses, "{fault:?}");
    }
    let home = home("token");
    let (endpoint, _) = serve(Fault::Denied);
    let denied = ferrum(&home, &endpoint, &["pull", "some/m"]);
    assert_eq!(denied.status.code(), Some(8));
    assert!(String::from_utf8_lossy(&denied.stderr).contains("HF_TOKEN"));
}

#[test]
fn lies_are_found() {
    for (fault, word) in [
        (Fault::Size(u64::MAX), "impossible size"),
        (Fault::WrongBytes, "SHA-256"),
        (Fault::TooLong, "another range"),
        (Fault::TooShort, "another range"),
        (Fault::WrongRange, "range"),
        (Fault::Escapes, "no valid name"),
    ] {
        let home = home(&format!("{fault:?}").replace(['(', ')'], "-"));
        let (endpoint, _) = serve(fault);
        let output = ferrum(&home, &endpoint, &["pull", "some/m"]);
        let log = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(8), "{fault:?}: {log}");
        assert!(log.contains(word) && !log.contains("hf_secret"), "{fault:?}: {log}");
        let snapshot = home.join("hub/models--some--m/snapshots/c0ffee/m-Q4_K_M.gguf");
        assert!(!snapshot.exists(), "{fault:?}");
    }
}

// The free space is known on these systems.
#[cfg(unix)]
#[test]
fn a_full_disk_is_found_before_the_download() {
    let home = home("full");
    let (endpoint, count) = serve(Fault::Size(1 << 44));
    let output = ferrum(&home, &endpoint, &["pull", "some/m"]);
    let log = String::from_utf8_lossy(&output.stderr);
    assert_eq!((output.status.code(), count.load(Ordering::SeqCst)), (Some(1), 0), "{log}");
    assert!(log.contains("more on disk"), "{log}");
}

#[test]
fn models_are_listed_and_removed() {
    let home = home("list");
    let (endpoint, _) = serve(Fault::None);
    let run = |args: &[&str]| ferrum(&home, &endpoint, args);
    pulled(&home, &run(&["pull", "some/m"]));
    let parts = run(&["pull", "some/m:Q8_0"]);
    assert_eq!(parts.status.code(), Some(0));
    assert!(String::from_utf8_lossy(&parts.stdout).trim().ends_with("m-Q8_0-00001-of-00002.gguf"));
    let listed = String::from_utf8_lossy(&run(&["list"]).stdout).into_owned();
    assert!(listed.contains("some/m:Q4_K_M") && listed.contains("some/m:Q8_0"), "{listed}");
    // A name is found in the cache; this one is no GGUF file.
    let tokens = run(&["tokenize", "some/m", "-p", "x"]);
    assert_eq!(tokens.status.code(), Some(3), "{}", String::from_utf8_lossy(&tokens.stderr));
    let unknown = run(&["pull", "some/m:Q2_K"]);
    assert_eq!(unknown.status.code(), Some(3));
    assert!(String::from_utf8_lossy(&unknown.stderr).contains("m-Q8_0-00001-of-00002.gguf"));
    assert_eq!(run(&["rm", "some/m"]).status.code(), Some(2));
    assert_eq!(run(&["rm", "some/m:q8_0"]).status.code(), Some(0));
    // The other model has the same bytes, and stays.
    pulled(&home, &run(&["pull", "some/m"]));
    assert_eq!(run(&["rm", "some/m"]).status.code(), Some(0));
    assert!(!home.join("hub/models--some--m").exists());
    assert_eq!(run(&["rm", "some/m"]).status.code(), Some(2));
    // Offline, nothing is asked.
    let mut offline = Command::new(env!("CARGO_BIN_EXE_ferrum-wgpu"));
    offline.env("HF_HOME", &home).env("HF_ENDPOINT", &endpoint).env("HF_HUB_OFFLINE", "1").args(["pull", "some/m"]);
    assert_eq!(offline.output().expect("it runs").status.code(), Some(8));
}
