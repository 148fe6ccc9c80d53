//! Opening model files and loading their weights.

use std::io::{self, IsTerminal};
use std::path::Path;

use ferrum_wgpu::Device;
use ferrum_wgpu::Gguf;
use ferrum_wgpu::Model;
use indicatif::{ProgressBar, ProgressStyle};

use super::exit::Failure;
use super::hub;

/// Opens a GGUF file, or a model of the Hugging Face Hub by its name: memory-mapped or read as a whole.
pub fn open(path: &Path, map: bool) -> Result<Gguf, Failure> {
    let gguf = inspect(path, map)?;
    match gguf.unread_tensors() {
        [] => Ok(gguf),
        [tensor, ..] => Err(tensor.reason().into()),
    }
}

/// Opens a GGUF file, also one with tensors of types that are not read.
pub fn inspect(path: &Path, map: bool) -> Result<Gguf, Failure> {
    let path = &hub::resolve(path)?;
    if path.is_dir() {
        // The error of mapping a directory is unclear.
        return Err(Failure::model(format!("cannot read {}: it is a directory", path.display())));
    }
    let gguf = Gguf::inspect(path, map)?;
    tracing::info!(bytes = gguf.file_len(), tensors = gguf.tensors().len(), mapped = map, "model file");
    Ok(gguf)
}

/// Loads the weights to the device, with a progress bar on a terminal. With `slots`, only that many experts per layer
/// are on the device.
pub async fn load(device: &Device, gguf: &Gguf, slots: Option<u32>) -> Result<Model, Failure> {
    let bar = if io::stderr().is_terminal() { ProgressBar::new(0) } else { ProgressBar::hidden() };
    let style = "loading {wide_bar} {bytes}/{total_bytes} {eta}";
    bar.set_style(ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar()));
    let progress = |sent, total| {
        if bar.length() != Some(total) {
            bar.set_length(total);
        }
        bar.set_position(sent);
    };
    let model = match slots {
        Some(slots) => Model::load_offloaded(device, gguf, slots, progress).await,
        None => Model::load(device, gguf, progress).await,
    };
    bar.finish_and_clear();
    Ok(model?)
}
