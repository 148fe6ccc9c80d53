//! What is kept between runs, in the user's cache directory. Nothing hangs on it: what cannot be read is made anew, and
//! what cannot be written is made anew the next time.

use std::fs;
use std::io;
use std::path::PathBuf;

/// What is kept of a device: pipelines that its driver has compiled.
pub const PIPELINES: &str = "pipelines.bin";

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
    plain.truncate(100);
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
        assert!(plain(&"../é".repeat(100)).len() <= 100);
    }
}
