//! The cache: models that are there as a whole, and links to their blobs.

use std::env;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::super::exit::{Code, Failure};
use super::name::{Name, Wanted, part_of, quant_of};

/// Returns a variable of the environment, unless it is empty.
pub(super) fn variable(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}

/// Returns the folder of Hugging Face's files.
pub(super) fn home() -> Option<PathBuf> {
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

/// Returns the folder of a repository.
pub(super) fn folder(name: &Name) -> Result<PathBuf, Failure> {
    Ok(cache()?.join(format!("models--{}--{}", name.org, name.repo)))
}

/// Returns the first part of a model in the cache, if it is there as a whole.
pub(super) fn find(name: &Name) -> Result<Option<PathBuf>, Failure> {
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

/// Returns the free bytes of a file system, if they are known.
#[cfg(unix)]
pub(super) fn free_bytes(folder: &Path) -> Option<u64> {
    let of = nix::sys::statvfs::statvfs(folder).ok()?;
    Some(of.blocks_available() as u64 * of.fragment_size() as u64)
}

#[cfg(not(unix))]
pub(super) fn free_bytes(_: &Path) -> Option<u64> {
    None
}

/// Links a snapshot's file to its blob.
pub(super) fn link(blob: &Path, to: &Path) -> io::Result<()> {
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
