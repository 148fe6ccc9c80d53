//! Models of the Hugging Face Hub, in the cache that other tools share.
//!
//! The cache is `$HF_HUB_CACHE`, else `$HF_HOME/hub`, else `~/.cache/huggingface/hub`. A repository `ORG/REPO` is the folder
//! `models--ORG--REPO`: `blobs` by hash, `refs/main` with a commit, and `snapshots/COMMIT` with links to the blobs.

use std::env;
use std::fs::{self, File};
use std::io::{self, IsTerminal, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::exit::{Code, Failure};
use super::output::{note, printable, size};

/// The quantization of names that give none.
const DEFAULT_QUANT: &str = "Q4_K_M";
/// Attempts in a row without progress.
const ATTEMPTS: u32 = 5;
/// The most bytes of the list of a repository's files.
const MAX_LIST: u64 = 32 << 20;
/// Disk space that a download leaves free.
const KEEP_FREE: u64 = 64 << 20;

/// The name of a model: `ORG/REPO[:QUANT]` or `ORG/REPO/FILE.gguf`, with or without `hf.co/` or `https://huggingface.co/`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name {
    org: String,
    repo: String,
    /// A quantization, or a file.
    wanted: Wanted,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Wanted {
    Default,
    Quant(String),
    File(String),
}

/// A file of a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
struct RemoteFile {
    path: String,
    size: u64,
    /// The SHA-256, in lower case.
    sha256: Option<String>,
    /// The name in `blobs`.
    blob: String,
}

impl Name {
    /// Parses a name. Returns `None` for what can be no name.
    pub fn parse(text: &str) -> Option<Self> {
        let mut text = text;
        for prefix in ["https://", "http://"] {
            text = text.strip_prefix(prefix).unwrap_or(text);
        }
        for prefix in ["huggingface.co/", "hf.co/", "hf:"] {
            text = text.strip_prefix(prefix).unwrap_or(text);
        }
        let part = |part: &str| -> bool {
            let fine = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
            !part.is_empty() && !part.starts_with('.') && part.len() <= 96 && part.chars().all(fine)
        };
        let (org, rest) = text.split_once('/')?;
        let (repo, wanted) = match rest.split_once('/') {
            None => match rest.split_once(':') {
                None => (rest, Wanted::Default),
                Some((repo, quant)) if part(quant) => (repo, Wanted::Quant(quant.to_owned())),
                Some(_) => return None,
            },
            Some((repo, file)) => {
                let file = file.strip_prefix("resolve/main/").or(file.strip_prefix("blob/main/")).unwrap_or(file);
                if !file.ends_with(".gguf") || !file.split('/').all(part) {
                    return None;
                }
                (repo, Wanted::File(file.to_owned()))
            }
        };
        let is_file = wanted == Wanted::Default && repo.ends_with(".gguf");
        let fine = part(org) && part(repo) && !is_file && !org.contains("--") && !repo.contains("--");
        fine.then(|| Self { org: org.to_owned(), repo: repo.to_owned(), wanted })
    }

    /// Returns the names of files that are wanted of all of a repository: the parts of one model.
    fn choose<'f>(&self, files: impl Iterator<Item = &'f str>) -> Result<Vec<String>, Failure> {
        let all: Vec<&str> = files.filter(|file| file.ends_with(".gguf") && !file.contains("mmproj")).collect();
        // The parts of a split file count as its first.
        let mut heads: Vec<&str> =
            all.iter().copied().filter(|file| part_of(file).is_none_or(|(_, n, _)| n == 1)).collect();
        heads.sort_unstable();
        let by_quant = |quant: &str| -> Vec<&str> {
            heads.iter().copied().filter(|file| quant_of(file).eq_ignore_ascii_case(quant)).collect()
        };
        let found: Vec<&str> = match &self.wanted {
            Wanted::File(wanted) => heads.iter().copied().filter(|file| file == wanted).collect(),
            Wanted::Quant(quant) => by_quant(quant),
            Wanted::Default => match by_quant(DEFAULT_QUANT) {
                none if none.is_empty() && heads.len() == 1 => heads.clone(),
                found => found,
            },
        };
        let [head] = found[..] else {
            let known = heads.iter().map(|file| printable(file)).collect::<Vec<_>>().join(", ");
            let problem = if found.is_empty() { "has no such file" } else { "has several such files" };
            return Err(Failure::model(format!("{self} {problem}; its models are: {known}")));
        };
        let Some((base, _, count)) = part_of(head) else { return Ok(vec![head.to_owned()]) };
        let parts: Vec<String> = (1..=count).map(|n| format!("{base}-{n:05}-of-{count:05}.gguf")).collect();
        match parts.iter().find(|part| !all.contains(&part.as_str())) {
            Some(missing) => Err(Failure::model(format!("{self}: the part {missing} is missing"))),
            None => Ok(parts),
        }
    }
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.org, self.repo)?;
        match &self.wanted {
            Wanted::Default => Ok(()),
            Wanted::Quant(quant) => write!(f, ":{quant}"),
            Wanted::File(file) => write!(f, "/{file}"),
        }
    }
}

/// Returns base, number and count of a part of a split file.
fn part_of(file: &str) -> Option<(&str, u32, u32)> {
    let stem = file.strip_suffix(".gguf")?;
    let (rest, count) = stem.rsplit_once("-of-")?;
    let (base, number) = rest.rsplit_once('-')?;
    let parse = |digits: &str| (digits.len() == 5).then(|| digits.parse::<u32>().ok()).flatten();
    parse(number).zip(parse(count)).filter(|(n, count)| (1..=*count).contains(n)).map(|(n, count)| (base, n, count))
}

/// Returns the quantization in a file's name: what follows the last dash or dot of its stem, such as `Q4_K_M` or `UD-Q2_K_XL`.
fn quant_of(file: &str) -> &str {
    let stem = file.strip_suffix(".gguf").unwrap_or(file);
    let stem = part_of(file).map_or(stem, |(base, ..)| base);
    let name = stem.rsplit('/').next().unwrap_or(stem);
    let quant = name.rsplit(['-', '.']).next().unwrap_or(name);
    match name.len().checked_sub(quant.len() + 3).and_then(|at| name.get(at..)) {
        Some(with) if with.starts_with("UD-") => with,
        _ => quant,
    }
}

/// Returns a variable of the environment, unless it is empty.
fn variable(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}

/// Returns the folder of Hugging Face's files.
fn home() -> Option<PathBuf> {
    variable("HF_HOME").map(PathBuf::from).or_else(|| {
        let cache = variable("XDG_CACHE_HOME").map(PathBuf::from).or_else(|| Some(dirs::home_dir()?.join(".cache")));
        Some(cache?.join("huggingface"))
    })
}

/// Returns the cache's folder.
pub fn cache() -> Result<PathBuf, Failure> {
    let found = variable("HF_HUB_CACHE").map(PathBuf::from).or_else(|| Some(home()?.join("hub")));
    found.ok_or_else(|| Failure::Error(Code::Runtime, "there is no home folder for the cache: set HF_HOME".to_owned()))
}

fn is_offline() -> bool {
    variable("HF_HUB_OFFLINE")
        .is_some_and(|value| !["0", "false", "no", "off"].contains(&value.to_lowercase().as_str()))
}

/// Returns the path of a MODEL: a file, or the name of a model in the cache, which is downloaded if it is not there.
pub fn resolve(model: &Path) -> Result<PathBuf, Failure> {
    let name = match model.to_str() {
        Some(text) if !model.exists() => Name::parse(text),
        _ => None,
    };
    // A path that is not there is more likely meant than a name with a folder.
    let Some(name) = name else { return Ok(model.to_owned()) };
    if let Some(path) = find(&name)? {
        return Ok(path);
    }
    if matches!(name.wanted, Wanted::File(_)) && !model.to_string_lossy().contains("hf.co/") {
        return Ok(model.to_owned());
    }
    pull(&name)
}

/// Returns the folder of a repository.
fn folder(name: &Name) -> Result<PathBuf, Failure> {
    Ok(cache()?.join(format!("models--{}--{}", name.org, name.repo)))
}

/// Returns the first part of a model in the cache, if it is there as a whole.
fn find(name: &Name) -> Result<Option<PathBuf>, Failure> {
    let folder = folder(name)?;
    let main = fs::read_to_string(folder.join("refs/main")).unwrap_or_default();
    let mut snapshots: Vec<PathBuf> = entries(&folder.join("snapshots"));
    // The latest commit first.
    snapshots.sort_by_key(|snapshot| !snapshot.ends_with(main.trim()));
    for snapshot in snapshots {
        let files = files_below(&snapshot);
        let Ok(chosen) = name.choose(files.iter().map(String::as_str)) else { continue };
        if chosen.iter().all(|file| snapshot.join(file).is_file()) {
            return Ok(chosen.first().map(|file| snapshot.join(file)));
        }
    }
    Ok(None)
}

/// Returns the entries of a folder; none if it cannot be read.
fn entries(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder).map(|all| all.flatten().map(|entry| entry.path()).collect()).unwrap_or_default()
}

/// Returns the paths of all files below a folder, relative to it, with slashes.
fn files_below(folder: &Path) -> Vec<String> {
    fn collect(folder: &Path, prefix: &str, depth: u32, to: &mut Vec<String>) {
        for path in entries(folder) {
            let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
            if path.is_dir() && depth < 4 {
                collect(&path, &format!("{prefix}{name}/"), depth + 1, to);
            } else {
                to.push(format!("{prefix}{name}"));
            }
        }
    }
    let mut all = Vec::new();
    collect(folder, "", 0, &mut all);
    all.sort();
    all
}

/// The connection to the Hub.
struct Hub {
    agent: ureq::Agent,
    endpoint: String,
    token: Option<String>,
}

fn network(message: impl std::fmt::Display) -> Failure {
    Failure::Error(Code::Network, message.to_string())
}

impl Hub {
    fn new() -> Self {
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
    fn files(&self, name: &Name) -> Result<(String, Vec<RemoteFile>), Failure> {
        let path = format!("api/models/{}/{}/revision/main?blobs=true", name.org, name.repo);
        let mut response = self.get(&path, 0)?;
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
            let (path, blob) = (path.to_owned(), blob.to_lowercase());
            files.push(RemoteFile { path, size, sha256: sha256.map(str::to_lowercase), blob });
        }
        Ok((commit.to_owned(), files))
    }

    /// Downloads a file to `blob`, which resumes what is there of it, and checks its hash.
    fn download(
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
            let problem = match self.append(name, commit, file, &mut to, &mut have, bar) {
                Ok(()) if have == file.size => break,
                Ok(()) => network(format!("{name}: the connection ended after {have} of {} bytes", file.size)),
                Err(Failure::Error(Code::Network, message)) => network(message),
                Err(other) => return Err(other),
            };
            failures = if have > before { 0 } else { failures + 1 };
            if failures >= ATTEMPTS {
                return Err(problem);
            }
            sleep(Duration::from_millis(100 << (2 * failures).min(6)));
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
    ) -> Result<(), Failure> {
        let path = format!("{}/{}/resolve/{commit}/{}", name.org, name.repo, file.path);
        let response = self.get(&path, *have)?;
        match response.status().as_u16() {
            206 => {
                // `bytes FROM-TO/SIZE`
                let range = response.headers().get("content-range").and_then(|range| range.to_str().ok()).unwrap_or("");
                let of = range.strip_prefix("bytes ").and_then(|range| range.split_once('/'));
                let from = of.and_then(|(range, _)| range.split_once('-')?.0.parse::<u64>().ok());
                let total = of.and_then(|(_, total)| total.parse::<u64>().ok());
                if from != Some(*have) || total.is_some_and(|total| total != file.size) {
                    return Err(network(format!("{name}: the server sends another range than was asked for")));
                }
            }
            // The server has no ranges.
            200 => *have = 0,
            404 => return Err(network(format!("{name}: {} is not there", file.path))),
            status => return Err(network(format!("{name}: {}: status {status}", file.path))),
        }
        let io_error = |error: io::Error| Failure::Error(Code::Runtime, format!("cannot write the download: {error}"));
        to.seek(io::SeekFrom::Start(*have)).map_err(io_error)?;
        let mut body = response.into_body().into_with_config().limit(u64::MAX).reader();
        let mut buffer = vec![0; 256 << 10];
        loop {
            let read = match body.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(read) => read,
                Err(error) => return Err(network(format!("{name}: {error}"))),
            };
            if *have + read as u64 > file.size {
                return Err(network(format!(
                    "{name}: {} is longer than the {} bytes that were announced",
                    file.path, file.size
                )));
            }
            to.write_all(&buffer[..read]).map_err(io_error)?;
            *have += read as u64;
            bar.inc(read as u64);
        }
    }
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

/// Returns the free bytes of a file system, if they are known.
#[cfg(unix)]
fn free_bytes(folder: &Path) -> Option<u64> {
    let of = nix::sys::statvfs::statvfs(folder).ok()?;
    Some(of.blocks_available() as u64 * of.fragment_size() as u64)
}

#[cfg(not(unix))]
fn free_bytes(_: &Path) -> Option<u64> {
    None
}

/// Links a snapshot's file to its blob.
fn link(blob: &Path, to: &Path) -> io::Result<()> {
    if let Some(folder) = to.parent() {
        fs::create_dir_all(folder)?;
    }
    let _ = fs::remove_file(to);
    #[cfg(unix)]
    {
        // Relative, so that the cache can be moved.
        let depth = to.components().count() - blob.components().count() + 1;
        let name = blob.file_name().unwrap_or_default();
        std::os::unix::fs::symlink(Path::new(&"../".repeat(depth)).join("blobs").join(name), to)
    }
    #[cfg(not(unix))]
    fs::hard_link(blob, to).or_else(|_| fs::copy(blob, to).map(|_| ()))
}

/// Downloads a model into the cache, and returns the path of its first part.
pub fn pull(name: &Name) -> Result<PathBuf, Failure> {
    if is_offline() {
        let message = format!("{name} is not in the cache, and HF_HUB_OFFLINE forbids to download it");
        return Err(network(message));
    }
    let hub = Hub::new();
    let (commit, files) = hub.files(name)?;
    let chosen = match name.choose(files.iter().map(|file| file.path.as_str())) {
        Err(Failure::Error(code, message)) if !files.is_empty() => {
            // With sizes, a quantization that fits can be chosen.
            for file in &files {
                note(format_args!("{:>10}  {}", size(file.size), printable(&file.path)));
            }
            return Err(Failure::Error(code, message));
        }
        chosen => chosen?,
    };
    let chosen: Vec<&RemoteFile> = files.iter().filter(|file| chosen.contains(&file.path)).collect();
    let folder = folder(name)?;
    let (blobs, snapshot) = (folder.join("blobs"), folder.join("snapshots").join(&commit));
    let io_error = |error: io::Error| Failure::Error(Code::Runtime, format!("{}: {error}", folder.display()));
    fs::create_dir_all(&blobs).and_then(|()| fs::create_dir_all(&snapshot)).map_err(io_error)?;
    let blob = |file: &RemoteFile| blobs.join(&file.blob);
    let length = |path: &Path| fs::metadata(path).map_or(0, |metadata| metadata.len());
    let missing: Vec<&&RemoteFile> = chosen.iter().filter(|file| length(&blob(file)) != file.size).collect();
    let partial: u64 = missing.iter().map(|file| length(&blob(file).with_extension("incomplete"))).sum();
    let needed = missing.iter().map(|file| file.size).sum::<u64>().saturating_sub(partial);
    if let Some(free) = free_bytes(&blobs).filter(|free| needed > 0 && needed + KEEP_FREE > *free) {
        return Err(Failure::Error(
            Code::Runtime,
            format!("{name} needs {} more on disk, but only {} are free", size(needed), size(free)),
        ));
    }
    let all = chosen.iter().map(|file| file.size).sum::<u64>();
    if !missing.is_empty() {
        note(format_args!("pulling {name}: {} in {} files", size(all), chosen.len()));
    }
    let bar = if io::stderr().is_terminal() { ProgressBar::new(all) } else { ProgressBar::hidden() };
    let style = "{wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}";
    bar.set_style(ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar()));
    let mut done = 0;
    for file in &chosen {
        bar.set_position(done);
        if file.sha256.is_none() {
            note(format_args!("note: the server gives no SHA-256 of {}", printable(&file.path)));
        }
        if length(&blob(file)) != file.size {
            hub.download(name, &commit, file, &blob(file), &bar)?;
        }
        link(&blob(file), &snapshot.join(&file.path)).map_err(io_error)?;
        done += file.size;
    }
    bar.finish_and_clear();
    let refs = folder.join("refs");
    fs::create_dir_all(&refs).and_then(|()| fs::write(refs.join("main"), &commit)).map_err(io_error)?;
    let first = chosen.iter().map(|file| &file.path).min().ok_or_else(|| network("there are no files"))?;
    Ok(snapshot.join(first))
}

/// A model in the cache.
#[derive(Debug)]
pub struct Cached {
    pub name: String,
    pub bytes: u64,
    folder: PathBuf,
    files: Vec<PathBuf>,
}

/// Returns the models in the cache, by name.
pub fn cached() -> Result<Vec<Cached>, Failure> {
    let mut all = Vec::new();
    for folder in entries(&cache()?) {
        let Some(name) = folder.file_name().and_then(|name| name.to_str()?.strip_prefix("models--")) else { continue };
        let Some((org, repo)) = name.split_once("--") else { continue };
        for snapshot in entries(&folder.join("snapshots")) {
            let files = files_below(&snapshot);
            let heads = files.iter().filter(|file| {
                file.ends_with(".gguf") && !file.contains("mmproj") && part_of(file).is_none_or(|(_, n, _)| n == 1)
            });
            for head in heads {
                let of_model: Vec<PathBuf> = match part_of(head) {
                    None => vec![snapshot.join(head)],
                    Some((base, _, count)) => {
                        (1..=count).map(|n| snapshot.join(format!("{base}-{n:05}-of-{count:05}.gguf"))).collect()
                    }
                };
                let bytes = of_model.iter().map(|file| fs::metadata(file).map_or(0, |metadata| metadata.len())).sum();
                let name = format!("{org}/{repo}:{}", quant_of(head));
                all.push(Cached { name, bytes, folder: folder.clone(), files: of_model });
            }
        }
    }
    all.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(all)
}

impl Cached {
    /// Deletes the model: its links, and its blobs unless another snapshot has them.
    pub fn remove(&self) -> Result<(), Failure> {
        let error = |error: io::Error| Failure::Error(Code::Runtime, format!("{}: {error}", self.folder.display()));
        let blobs: Vec<PathBuf> = self.files.iter().filter_map(|file| file.canonicalize().ok()).collect();
        for file in &self.files {
            if fs::symlink_metadata(file).is_ok() {
                fs::remove_file(file).map_err(error)?;
            }
        }
        let used: Vec<PathBuf> = entries(&self.folder.join("snapshots"))
            .iter()
            .flat_map(|snapshot| files_below(snapshot).into_iter().map(|file| snapshot.join(file)))
            .filter_map(|file| file.canonicalize().ok())
            .collect();
        for blob in blobs.iter().filter(|blob| blob.is_file() && !used.contains(blob)) {
            fs::remove_file(blob).map_err(error)?;
        }
        if used.is_empty() {
            // Nothing is left of the repository.
            fs::remove_dir_all(&self.folder).map_err(error)?;
        }
        Ok(())
    }
}

/// Returns whether a name means a model of the cache.
pub fn matches(name: &Name, cached: &Cached) -> bool {
    let of = format!("{}/{}:", name.org, name.repo);
    let quant = cached.name.get(of.len()..).unwrap_or_default();
    cached.name.to_lowercase().starts_with(&of.to_lowercase())
        && match &name.wanted {
            Wanted::Default => true,
            Wanted::Quant(wanted) => wanted.eq_ignore_ascii_case(quant),
            Wanted::File(file) => cached.files.iter().any(|path| path.ends_with(file)),
        }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_parsed() {
        let name = |org: &str, repo: &str, wanted| Some(Name { org: org.to_owned(), repo: repo.to_owned(), wanted });
        let quant = || Wanted::Quant("q8_0".to_owned());
        assert_eq!(Name::parse("a/b"), name("a", "b", Wanted::Default));
        assert_eq!(Name::parse("hf.co/a/b.c-GGUF:q8_0"), name("a", "b.c-GGUF", quant()));
        assert_eq!(Name::parse("https://huggingface.co/a/b"), name("a", "b", Wanted::Default));
        let file = Wanted::File("x/y.gguf".to_owned());
        assert_eq!(Name::parse("https://huggingface.co/a/b/resolve/main/x/y.gguf"), name("a", "b", file));
        for wrong in
            ["a", "/a/b", "../b", "a/b/c", "a/../x.gguf", "a/b.gguf", "a/b:", "a/.b", "models/x/../../y.gguf", "a b/c"]
        {
            assert_eq!(Name::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn files_are_chosen() {
        let files = [
            "m-Q4_K_M.gguf",
            "m-Q8_0.gguf",
            "b/m-BF16-00001-of-00002.gguf",
            "b/m-BF16-00002-of-00002.gguf",
            "mmproj-F16.gguf",
            "m-UD-Q4_K_M.gguf",
        ];
        let choose = |name: &str| Name::parse(name).expect("a name").choose(files.into_iter()).ok();
        assert_eq!(choose("a/b"), Some(vec![files[0].to_owned()]));
        assert_eq!(choose("a/b:q8_0"), Some(vec![files[1].to_owned()]));
        assert_eq!(choose("a/b:bf16"), Some(vec![files[2].to_owned(), files[3].to_owned()]));
        assert_eq!(choose("a/b:ud-q4_k_m"), Some(vec![files[5].to_owned()]));
        assert_eq!(choose("a/b:Q2_K"), None);
        assert_eq!(choose("a/b/m-Q8_0.gguf"), Some(vec![files[1].to_owned()]));
    }
}
