//! Files cached between runs in the user's cache directory. The cache is optional: unreadable entries are recreated,
//! and write errors are only logged.

use std::fs;
use std::io;
use std::path::PathBuf;

use ferrum_wgpu::Tuning;

/// Extension of a device's pipeline cache.
pub const PIPELINES: &str = "pipelines.bin";
/// Extension of tuning results.
const TUNING: &str = "tuning.json";

/// Larger files are not read.
const MAX_BYTES: u64 = 256 << 20;

/// Reads the entry `what` of a device and, if `of` is not empty, a model. Callers validate the content.
pub fn read(what: &str, fingerprint: &str, of: &str) -> Option<Vec<u8>> {
    let path = path(what, fingerprint, of)?;
    let len = fs::metadata(&path).ok()?.len();
    if len > MAX_BYTES { None } else { fs::read(path).ok() }
}

/// Writes an entry atomically.
pub fn write(what: &str, fingerprint: &str, of: &str, bytes: &[u8]) {
    let Some(path) = path(what, fingerprint, of) else { return };
    if let Err(error) = replace(&path, bytes) {
        tracing::info!(path = %path.display(), %error, "cannot write the cache");
    }
}

/// Reads the cached tuning for the device and model of `of`. Files of another version or with unknown choices are ignored.
pub fn read_tuning(of: &Tuning) -> Tuning {
    let cached = read(TUNING, &of.device, &of.model).and_then(|bytes| serde_json::from_slice::<Tuning>(&bytes).ok());
    cached.filter(|cached| cached.has_same_key(of)).unwrap_or_else(|| of.clone())
}

/// Caches tuning results.
pub fn write_tuning(tuning: &Tuning) {
    match serde_json::to_vec_pretty(tuning) {
        Ok(json) => write(TUNING, &tuning.device, &tuning.model, &json),
        Err(error) => tracing::info!(%error, "cannot write the tuning"),
    }
}

/// Writes a temporary file and renames it to `path`.
fn replace(path: &PathBuf, bytes: &[u8]) -> io::Result<()> {
    if let Some(directory) = path.parent() {
        create(directory)?;
    }
    let mut temporary = path.clone().into_os_string();
    temporary.push(format!(".{}", std::process::id()));
    let written = fs::write(&temporary, bytes).and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written
}

/// Creates a directory that only the user can access.
fn create(directory: &std::path::Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(directory)
}

/// Returns the path of the history of conversations' messages, whose directory exists.
pub fn history() -> Option<PathBuf> {
    let directory = dirs::cache_dir()?.join("ferrum-wgpu");
    create(&directory).ok()?;
    Some(directory.join("history.txt"))
}

fn path(what: &str, fingerprint: &str, of: &str) -> Option<PathBuf> {
    let separator = if of.is_empty() { "" } else { "-" };
    let name = format!("{}{separator}{}.{what}", plain(fingerprint), plain(of));
    Some(dirs::cache_dir()?.join("ferrum-wgpu").join(name))
}

/// Converts text to a part of a file name.
fn plain(text: &str) -> String {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '.').filter(|word| !word.is_empty());
    let mut plain = words.collect::<Vec<_>>().join("-").to_lowercase();
    plain.truncate(110);
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tunings_are_read_back_and_unknown_ones_are_not() {
        use ferrum_wgpu::low_level::model::TuningChoice;
        let mut tuning = Tuning { device: "a GPU".to_owned(), model: "a model".to_owned(), ..Tuning::default() };
        tuning.set(TuningChoice::FourRowsFrom(256));
        let json = serde_json::to_string(&tuning).expect("JSON");
        assert_eq!(serde_json::from_str::<Tuning>(&json).ok(), Some(tuning.clone()));
        for other in
            [json.replace("four_rows_from", "by_magic"), json.replace("\"version\"", "\"number\""), "{}".to_owned()]
        {
            assert!(serde_json::from_str::<Tuning>(&other).is_err(), "{other}");
        }
        assert!(!tuning.has_same_key(&Tuning { version: Tuning::VERSION + 1, ..tuning.clone() }));
    }

    #[test]
    fn names_are_plain() {
        assert_eq!(
            plain("ferrum-wgpu 0.1.0; vulkan; a/b (LLVM 15, 256 bits)"),
            "ferrum-wgpu-0.1.0-vulkan-a-b-llvm-15-256-bits"
        );
        assert!(plain(&"../é".repeat(100)).len() <= 110);
    }
}
