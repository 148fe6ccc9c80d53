//! What is kept between runs, in the user's cache directory. Nothing hangs on it: what cannot be read is made anew, and
//! what cannot be written is made anew the next time.

use std::fs;
use std::io;
use std::path::PathBuf;

use ferrum_wgpu::model::Tuning;
use serde_json::{Value, json};

/// What is kept of a device: pipelines that its driver has compiled.
pub const PIPELINES: &str = "pipelines.bin";
/// And what was measured to be quickest there.
const TUNING: &str = "tuning.json";

/// More than that is not read.
const MOST_BYTES: u64 = 256 << 20;

/// What is kept as `what` of the device that `fingerprint` identifies, and of `of` where that is not empty. Those who read it
/// check that it is.
pub fn read(what: &str, fingerprint: &str, of: &str) -> Option<Vec<u8>> {
    let path = path(what, fingerprint, of)?;
    let len = fs::metadata(&path).ok()?.len();
    if len > MOST_BYTES { None } else { fs::read(path).ok() }
}

/// Keeps `bytes`, all of them or none.
pub fn write(what: &str, fingerprint: &str, of: &str, bytes: &[u8]) {
    let Some(path) = path(what, fingerprint, of) else { return };
    if let Err(error) = replace(&path, bytes) {
        tracing::info!(path = %path.display(), %error, "not kept");
    }
}

/// The choices that are kept for `of`'s device and model, or none.
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

/// Keeps choices.
pub fn write_tuning(tuning: &Tuning) {
    let Tuning { device, model, choices } = tuning;
    let json = json!({ "device": device, "model": model, "choices": choices });
    write(TUNING, device, model, format!("{json:#}\n").as_bytes());
}

/// Writes another file, and gives it the name.
fn replace(path: &PathBuf, bytes: &[u8]) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        create(folder)?;
    }
    let mut other = path.clone().into_os_string();
    other.push(format!(".{}", std::process::id()));
    let written = fs::write(&other, bytes).and_then(|()| fs::rename(&other, path));
    if written.is_err() {
        let _ = fs::remove_file(&other);
    }
    written
}

/// Makes a folder that nobody else can write to.
fn create(folder: &std::path::Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(folder)
}

fn path(what: &str, fingerprint: &str, of: &str) -> Option<PathBuf> {
    let separator = if of.is_empty() { "" } else { "-" };
    let name = format!("{}{separator}{}.{what}", plain(fingerprint), plain(of));
    Some(dirs::cache_dir()?.join("ferrum-wgpu").join(name))
}

/// Text as a part of a file's name.
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
