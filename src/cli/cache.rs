//! Files cached between runs in the user's cache directory. The cache is optional: unreadable entries are recreated,
//! and write errors are only logged.

use std::fs;
use std::io;
use std::path::PathBuf;

use ferrum_wgpu::model::Tuning;
use serde_json::{Value, json};

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

/// Reads the cached tuning for the device and model of `of`; empty if there is none.
pub fn read_tuning(of: &Tuning) -> Tuning {
    let parse = |bytes: Vec<u8>| {
        let json: Value = serde_json::from_slice(&bytes).ok()?;
        let text = |key: &str| json.get(key)?.as_str().map(str::to_owned);
        let choice = |(site, choice): (&String, &Value)| Some((site.clone(), choice.as_str()?.to_owned()));
        let choices = json.get("choices")?.as_object()?.iter().map(choice).collect::<Option<_>>()?;
        Some(Tuning { device: text("device")?, model: text("model")?, choices })
    };
    let kept = read(TUNING, &of.device, &of.model).and_then(parse);
    kept.filter(|kept| kept.device == of.device && kept.model == of.model).unwrap_or_else(|| of.clone())
}

/// Caches tuning results.
pub fn write_tuning(tuning: &Tuning) {
    let Tuning { device, model, choices } = tuning;
    let json = json!({ "device": device, "model": model, "choices": choices });
    write(TUNING, device, model, format!("{json:#}\n").as_bytes());
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
    fn names_are_plain() {
        assert_eq!(
            plain("ferrum-wgpu 0.1.0; vulkan; a/b (LLVM 15, 256 bits)"),
            "ferrum-wgpu-0.1.0-vulkan-a-b-llvm-15-256-bits"
        );
        assert!(plain(&"../é".repeat(100)).len() <= 110);
    }
}
