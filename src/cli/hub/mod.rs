//! Models of the Hugging Face Hub, in the cache that other tools share.
//!
//! The cache is `$HF_HUB_CACHE`, else `$HF_HOME/hub`, else `~/.cache/huggingface/hub`. A repository `ORG/REPO` is the folder
//! `models--ORG--REPO`: `blobs` by hash, `refs/main` with a commit, and `snapshots/COMMIT` with links to the blobs.

mod cache;
mod download;
mod name;
mod offers;

use std::fs;
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};

use indicatif::{ProgressBar, ProgressStyle};

use super::exit::{Code, Failure};
use super::output::{note, printable, size};
use cache::{find, folder, free_bytes, link, variable};
use download::{Hub, RemoteFile, network};
use name::Wanted;
use offers::{Offer, best_quant};

pub use cache::{cached, matches};
pub use name::Name;
pub use offers::{device_memory, listing};

/// Disk space that a download leaves free.
const KEEP_FREE: u64 = 64 << 20;

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
    pull(&name, None)
}

/// Returns the models of a repository on the Hub that a name can mean.
pub fn offers(name: &Name) -> Result<Vec<Offer>, Failure> {
    if is_offline() {
        return Err(network("HF_HUB_OFFLINE forbids to ask the Hub"));
    }
    Ok(offers::offers(name, &Hub::new().files(name)?.1))
}

/// Downloads a model into the cache, and returns the path of its first part. `memory` is the device's in bytes, to propose
/// what fits; by default what the device reports.
pub fn pull(name: &Name, memory: Option<u64>) -> Result<PathBuf, Failure> {
    if is_offline() {
        let message = format!("{name} is not in the cache, and HF_HUB_OFFLINE forbids to download it");
        return Err(network(message));
    }
    let hub = Hub::new();
    let (commit, files) = hub.files(name)?;
    let chosen = name.choose(files.iter().map(|file| file.path.as_str()));
    let every = Name { wanted: Wanted::Default, ..name.clone() };
    let offers = offers::offers(&every, &files);
    let open = name.wanted == Wanted::Default && offers.len() > 1;
    if open || (chosen.is_err() && !offers.is_empty()) {
        let memory = memory.or_else(device_memory);
        note(format_args!("{}", listing(&offers, memory).trim_end()));
        if let (Err(Failure::Error(code, message)), Some(best)) = (&chosen, best_quant(&offers, memory)) {
            return Err(Failure::Error(*code, format!("{message}; {every}:{best} is the largest that fits")));
        }
    }
    let chosen = chosen?;
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
