//! Downloads from the Hub: resumed, and checked by length and hash.

use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use indicatif::ProgressBar;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::super::exit::{Code, Failure};
use super::super::output::printable;
use super::cache::{home, variable};
use super::name::Name;

/// Attempts in a row without progress.
const ATTEMPTS: u32 = 5;
/// The longest time that a server may ask to wait before another attempt.
const LONGEST_WAIT: Duration = Duration::from_secs(300);
/// The most bytes of the list of a repository's files.
const MAX_LIST: u64 = 32 << 20;
/// The most bytes of a file: no server's sizes overflow a sum.
const MAX_FILE: u64 = 1 << 44;

/// A file of a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RemoteFile {
    pub(super) path: String,
    pub(super) size: u64,
    /// The SHA-256, in lower case.
    pub(super) sha256: Option<String>,
    /// The name in `blobs`.
    pub(super) blob: String,
}

/// What ended a response.
enum Problem {
    /// Another attempt may help, after the time that the server asks for.
    Transient(Failure, Option<Duration>),
    /// No attempt helps.
    Final(Failure),
}

/// The connection to the Hub.
pub(super) struct Hub {
    agent: ureq::Agent,
    endpoint: String,
    token: Option<String>,
}

pub(super) fn network(message: impl std::fmt::Display) -> Failure {
    Failure::Error(Code::Network, message.to_string())
}

impl Hub {
    pub(super) fn new() -> Self {
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_resolve(seconds(30))
            .timeout_connect(seconds(30))
            .timeout_recv_response(seconds(60))
            // A stalled download is resumed.
            .timeout_recv_body(seconds(900))
            .user_agent(concat!("ferrum-wgpu/", env!("CARGO_PKG_VERSION")))
            .build();
        let token = variable("HF_TOKEN").or_else(|| {
            let path = variable("HF_TOKEN_PATH").map(PathBuf::from).or_else(|| Some(home()?.join("token")))?;
            fs::read_to_string(path).ok().map(|token| token.trim().to_owned()).filter(|token| !token.is_empty())
        });
        let endpoint = variable("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".to_owned());
        Self { agent: config.into(), endpoint: endpoint.trim_end_matches('/').to_owned(), token }
    }

    /// Sends a request, from byte `from` on. The token does not follow redirects to other hosts.
    fn get(&self, path: &str, from: u64) -> Result<ureq::http::Response<ureq::Body>, Failure> {
        let mut request = self.agent.get(format!("{}/{path}", self.endpoint));
        if let Some(token) = &self.token {
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        if from > 0 {
            request = request.header("Range", format!("bytes={from}-"));
        }
        request.call().map_err(|error| network(format!("{}: {error}", self.endpoint)))
    }

    /// Returns the commit of `main`, and the files of a repository.
    pub(super) fn files(&self, name: &Name) -> Result<(String, Vec<RemoteFile>), Failure> {
        let path = format!("api/models/{}/{}/revision/main?blobs=true", name.org, name.repo);
        let mut response = self.get(&path, 0)?;
        for attempt in 1..ATTEMPTS {
            if !matches!(response.status().as_u16(), 408 | 429 | 500..) {
                break;
            }
            sleep(retry_after(&response).unwrap_or(Duration::from_millis(100 << attempt)));
            response = self.get(&path, 0)?;
        }
        match response.status().as_u16() {
            200 => {}
            401 | 403 => return Err(network(format!("{name}: access is denied, or there is none: set HF_TOKEN"))),
            404 => return Err(network(format!("{name}: there is no such repository"))),
            status => return Err(network(format!("{name}: the server answers with status {status}"))),
        }
        let text = response.body_mut().with_config().limit(MAX_LIST).read_to_string();
        let text = text.map_err(|error| network(format!("{name}: {error}")))?;
        let invalid = || network(format!("{name}: the server's list of files is invalid"));
        let value: Value = serde_json::from_str(&text).map_err(|_| invalid())?;
        let is_hex = |text: &str| !text.is_empty() && text.len() <= 64 && text.chars().all(|c| c.is_ascii_hexdigit());
        let commit = value["sha"].as_str().filter(|sha| is_hex(sha)).ok_or_else(invalid)?;
        let mut files = Vec::new();
        for entry in value["siblings"].as_array().ok_or_else(invalid)? {
            let Some(path) = entry["rfilename"].as_str() else { continue };
            if !path.ends_with(".gguf") {
                continue;
            }
            // Names of a server are paths here.
            if path.split('/').any(|part| part.is_empty() || part.starts_with('.') || part.contains(['\\', ':', '\0']))
            {
                return Err(network(format!("{name}: {} is no valid name of a file", printable(path))));
            }
            let lfs = &entry["lfs"];
            let sha256 = lfs["sha256"].as_str().or(lfs["oid"].as_str()).filter(|sha| is_hex(sha) && sha.len() == 64);
            let size = lfs["size"].as_u64().or(entry["size"].as_u64());
            let blob = sha256.or(entry["blobId"].as_str().filter(|id| is_hex(id)));
            let (Some(size), Some(blob)) = (size, blob) else { continue };
            if size > MAX_FILE {
                return Err(network(format!("{name}: {} has an impossible size", printable(path))));
            }
            let (path, blob) = (path.to_owned(), blob.to_lowercase());
            files.push(RemoteFile { path, size, sha256: sha256.map(str::to_lowercase), blob });
        }
        Ok((commit.to_owned(), files))
    }

    /// Downloads a file to `blob`, which resumes what is there of it, and checks its hash.
    pub(super) fn download(
        &self,
        name: &Name,
        commit: &str,
        file: &RemoteFile,
        blob: &Path,
        bar: &ProgressBar,
    ) -> Result<(), Failure> {
        let part = blob.with_extension("incomplete");
        let io_error = |error: io::Error| Failure::Error(Code::Runtime, format!("{}: {error}", part.display()));
        let mut to =
            File::options().create(true).truncate(false).read(true).write(true).open(&part).map_err(io_error)?;
        let mut have = to.metadata().map_err(io_error)?.len();
        if have > file.size {
            have = 0;
        }
        let begun = bar.position();
        let mut failures = 0;
        while have < file.size {
            bar.set_position(begun + have);
            let before = have;
            let (problem, wait) = match self.append(name, commit, file, &mut to, &mut have, bar) {
                Ok(()) if have == file.size => break,
                Ok(()) => (network(format!("{name}: the connection ended after {have} of {} bytes", file.size)), None),
                Err(Problem::Transient(problem, wait)) => (problem, wait),
                Err(Problem::Final(problem)) => return Err(problem),
            };
            failures = if have > before { 0 } else { failures + 1 };
            if failures >= ATTEMPTS {
                return Err(problem);
            }
            sleep(wait.unwrap_or(Duration::from_millis(100 << (2 * failures).min(6))));
        }
        to.set_len(file.size).map_err(io_error)?;
        to.sync_all().map_err(io_error)?;
        if let Some(wanted) = &file.sha256 {
            let found = hash(&mut to).map_err(io_error)?;
            if found != *wanted {
                // Resuming would not mend it.
                let _ = fs::remove_file(&part);
                return Err(network(format!(
                    "{name}: {} has the SHA-256 {found}, not {wanted}; it was deleted",
                    file.path
                )));
            }
        }
        fs::rename(&part, blob).map_err(io_error)
    }

    /// Appends what one response brings.
    fn append(
        &self,
        name: &Name,
        commit: &str,
        file: &RemoteFile,
        to: &mut File,
        have: &mut u64,
        bar: &ProgressBar,
    ) -> Result<(), Problem> {
        let transient = |message: String| Problem::Transient(network(message), None);
        let path = format!("{}/{}/resolve/{commit}/{}", name.org, name.repo, file.path);
        let response = self.get(&path, *have).map_err(|problem| Problem::Transient(problem, None))?;
        match response.status().as_u16() {
            206 => {
                // `bytes FROM-TO/SIZE`
                let range = response.headers().get("content-range").and_then(|range| range.to_str().ok()).unwrap_or("");
                let of = range.strip_prefix("bytes ").and_then(|range| range.split_once('/'));
                let from = of.and_then(|(range, _)| range.split_once('-')?.0.parse::<u64>().ok());
                let total = of.and_then(|(_, total)| total.parse::<u64>().ok());
                if from != Some(*have) || total.is_some_and(|total| total != file.size) {
                    return Err(transient(format!("{name}: the server sends another range than was asked for")));
                }
            }
            // The server has no ranges.
            200 => *have = 0,
            416 => {
                // What is here is of no use to this server: from the beginning.
                *have = 0;
                return Err(transient(format!("{name}: the server refuses the range that was asked for (416)")));
            }
            404 => return Err(Problem::Final(network(format!("{name}: {} is not there", file.path)))),
            401 | 403 => return Err(Problem::Final(network(format!("{name}: access is denied: set HF_TOKEN")))),
            status @ (408 | 429 | 500..) => {
                let wait = retry_after(&response);
                return Err(Problem::Transient(network(format!("{name}: {}: status {status}", file.path)), wait));
            }
            status => return Err(Problem::Final(network(format!("{name}: {}: status {status}", file.path)))),
        }
        let io_error = |error: io::Error| {
            Problem::Final(Failure::Error(Code::Runtime, format!("cannot write the download: {error}")))
        };
        to.seek(io::SeekFrom::Start(*have)).map_err(io_error)?;
        let mut body = response.into_body().into_with_config().limit(u64::MAX).reader();
        let mut buffer = vec![0; 256 << 10];
        loop {
            let read = match body.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(read) => read,
                Err(error) => return Err(transient(format!("{name}: {error}"))),
            };
            if *have + read as u64 > file.size {
                return Err(Problem::Final(network(format!(
                    "{name}: {} is longer than the {} bytes that were announced",
                    file.path, file.size
                ))));
            }
            to.write_all(&buffer[..read]).map_err(io_error)?;
            *have += read as u64;
            bar.inc(read as u64);
        }
    }
}

/// Returns the time after which a server lets a client try again, if it says.
fn retry_after<B>(response: &ureq::http::Response<B>) -> Option<Duration> {
    let seconds = response.headers().get("retry-after")?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_secs(seconds).min(LONGEST_WAIT))
}

/// Returns the SHA-256 of a file.
fn hash(file: &mut File) -> io::Result<String> {
    file.seek(io::SeekFrom::Start(0))?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            break;
        }
        hasher.update(&buffer[..read]);
    }
    Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}
