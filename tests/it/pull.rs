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
    time::{Duration, Instant},
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
    /// Each response ends at a random place, or is a refusal; this is the seed.
    Random(u32),
    /// It refuses the first requests with this status.
    Busy(u16),
    /// It refuses ranges.
    NoSuchRange,
    /// It redirects without end.
    Circle,
    /// It sends nothing after so many bytes.
    Stalls(usize),
}

/// Returns a random number: a step of xorshift (Marsaglia 2003).
fn random(state: &mut u32) -> u32 {
    *state ^= *state << 13;
    *state ^= *state >> 17;
    *state ^= *state << 5;
    *state
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
        let (mut state, mut stalled) = (if let Fault::Random(seed) = fault { seed } else { 1 }, Vec::new());
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
                let draw = random(&mut state);
                let refusal = match fault {
                    Fault::Busy(status) if number < 2 => Some(status),
                    Fault::NoSuchRange if start > 0 => Some(416),
                    Fault::Random(_) if number < 6 && draw % 8 < 2 => Some(if draw % 16 < 8 { 429 } else { 503 }),
                    _ => None,
                };
                if let Some(status) = refusal {
                    let wait = if matches!(fault, Fault::Busy(_)) { 1 } else { 0 };
                    send(
                        format!(
                            "HTTP/1.1 {status} No\r\nRetry-After: {wait}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
                        ),
                        &[],
                    );
                    continue;
                }
                if fault == Fault::Circle {
                    send(
                        format!(
                            "HTTP/1.1 302 Found\r\nLocation: {base}/cdn\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
                        ),
                        &[],
                    );
                    continue;
                }
                let mut body = all[start..].to_vec();
                if fault == Fault::WrongBytes {
                    body[5] ^= 1;
                }
                let length = body.len();
                let end = match fault {
                    Fault::BreaksOff(most) | Fault::Stalls(most) => body.len().min(most),
                    Fault::NoSuchRange if number == 0 => 1000,
                    // Not even the head of one in eight; the rest is whole after some breaks.
                    Fault::Random(_) if number < 6 && draw % 8 == 2 => continue,
                    Fault::Random(_) if number < 6 => (random(&mut state) as usize) % (body.len() + 1),
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
                if matches!(fault, Fault::Stalls(_)) && number == 0 {
                    stalled.push(stream);
                }
            }
        }
    });
    (address, count)
}

fn ferrum(home: &Path, endpoint: &str, args: &[&str]) -> Output {
    command(home, endpoint, args).output().expect("it runs")
}

fn command(home: &Path, endpoint: &str, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ferrum-wgpu"));
    for name in ["HF_HUB_CACHE", "HF_HUB_OFFLINE", "HF_TOKEN", "HF_TOKEN_PATH", "RUST_LOG"] {
        command.env_remove(name);
    }
    command.env("HF_HOME", home).env("HF_ENDPOINT", endpoint).env("NO_PROXY", "127.0.0.1").args(args);
    if args.contains(&"token/m") {
        command.env("HF_TOKEN", "hf_secret");
    }
    command
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
fn fifty_downloads_broken_at_random_points_end_with_the_right_bytes() {
    let broken = AtomicU32::new(0);
    thread::scope(|scope| {
        for worker in 0..10u32 {
            let broken = &broken;
            scope.spawn(move || {
                for seed in (0..5).map(|n| 0x9E37_79B9 ^ (5 * worker + n + 1)) {
                    let home = home(&format!("random-{seed}"));
                    let (endpoint, count) = serve(Fault::Random(seed));
                    // One without any progress for five attempts is begun again, as a user would.
                    let mut output = ferrum(&home, &endpoint, &["pull", "some/m:q4_k_m"]);
                    while output.status.code() == Some(8) && count.load(Ordering::SeqCst) <= 6 {
                        output = ferrum(&home, &endpoint, &["pull", "some/m:q4_k_m"]);
                    }
                    pulled(&home, &output);
                    broken.fetch_add(count.load(Ordering::SeqCst) - 1, Ordering::SeqCst);
                    fs::remove_dir_all(home).expect("the cache");
                }
            });
        }
    });
    assert!(broken.load(Ordering::SeqCst) >= 100, "{broken:?} breaks in all");
}

#[test]
fn a_download_that_was_killed_is_resumed() {
    let home = home("killed");
    let (endpoint, count) = serve(Fault::Stalls(100_000));
    let mut child = command(&home, &endpoint, &["pull", "some/m:q4_k_m"]).spawn().expect("it runs");
    let part = home.join("hub/models--some--m/blobs").join(sha()).with_extension("incomplete");
    let deadline = Instant::now() + Duration::from_secs(60);
    while fs::metadata(&part).map_or(0, |part| part.len()) < 100_000 {
        assert!(Instant::now() < deadline, "it does not begin");
        thread::sleep(Duration::from_millis(20));
    }
    child.kill().expect("it runs");
    child.wait().expect("it ran");
    pulled(&home, &ferrum(&home, &endpoint, &["pull", "some/m:q4_k_m"]));
    // The rest is more than what the server sends at once.
    assert_eq!(count.load(Ordering::SeqCst), 4);
}

#[test]
fn servers_that_refuse_are_asked_again() {
    for (fault, responses, seconds) in [(Fault::Busy(429), 3, 2), (Fault::Busy(503), 3, 2), (Fault::NoSuchRange, 3, 0)]
    {
        let home = home(&format!("{fault:?}").replace(['(', ')'], "-"));
        let (endpoint, count) = serve(fault);
        let begun = Instant::now();
        pulled(&home, &ferrum(&home, &endpoint, &["pull", "some/m:q4_k_m"]));
        assert_eq!(count.load(Ordering::SeqCst), responses, "{fault:?}");
        assert!(begun.elapsed() >= Duration::from_secs(seconds), "{fault:?}: Retry-After is honoured");
    }
    for fault in [Fault::Circle, Fault::Busy(410)] {
        let home = home(&format!("{fault:?}").replace(['(', ')'], "-"));
        let (endpoint, _) = serve(fault);
        assert_eq!(ferrum(&home, &endpoint, &["pull", "some/m:q4_k_m"]).status.code(), Some(8), "{fault:?}");
    }
}

// A device that is always full.
#[cfg(target_os = "linux")]
#[test]
fn a_disk_that_fills_up_is_an_error() {
    let home = home("filled");
    let (endpoint, count) = serve(Fault::None);
    let blobs = home.join("hub/models--some--m/blobs");
    fs::create_dir_all(&blobs).expect("a folder");
    let part = blobs.join(sha()).with_extension("incomplete");
    std::os::unix::fs::symlink("/dev/full", &part).expect("a link");
    let output = ferrum(&home, &endpoint, &["pull", "some/m:q4_k_m"]);
    let log = String::from_utf8_lossy(&output.stderr);
    assert_eq!((output.status.code(), count.load(Ordering::SeqCst)), (Some(1), 1), "{log}");
    assert!(log.contains("No space left"), "{log}");
    // With room it goes on.
    fs::remove_file(&part).expect("the link");
    pulled(&home, &ferrum(&home, &endpoint, &["pull", "some/m:q4_k_m"]));
}

#[test]
fn what_fits_the_device_is_proposed() {
    let home = home("fits");
    let (endpoint, count) = serve(Fault::None);
    let listed = ferrum(&home, &endpoint, &["list", "some/m", "--vram", "600KiB"]);
    let text = String::from_utf8_lossy(&listed.stdout).into_owned();
    let line = |quant: &str| text.lines().find(|line| line.contains(quant)).expect("a line").to_owned();
    assert!(line("Q4_K_M").contains("* ") && line("Q4_K_M").contains("fits"), "{text}");
    assert!(line("Q8_0").contains("too large") && !line("Q8_0").contains('*'), "{text}");
    let refused = ferrum(&home, &endpoint, &["pull", "some/m:Q2_K", "--vram", "2MiB"]);
    let log = String::from_utf8_lossy(&refused.stderr);
    assert!(refused.status.code() == Some(3) && log.contains("some/m:Q8_0 is the largest that fits"), "{log}");
    assert_eq!(count.load(Ordering::SeqCst), 0, "nothing is downloaded");
    // A name without a quantization is pulled after the list.
    let pulled_default = ferrum(&home, &endpoint, &["pull", "some/m", "--vram", "2MiB"]);
    pulled(&home, &pulled_default);
    assert!(String::from_utf8_lossy(&pulled_default.stderr).contains("Q8_0"));
}

#[test]
fn lies_are_found() {
    for (fault, word) in [
        (Fault::Size(u64::MAX), "impossible size"),
        (Fault::WrongBytes, "SHA-256"),
        (Fault::TooLong, "longer than"),
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
