//! Files that are truncated while mapped: an error, not SIGBUS.
#![cfg(unix)]

use std::{
    error::Error,
    fs::OpenOptions,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
};

use crate::common::tiny_model::{Arch, TinyModel};
use ferrum_wgpu::{Device, Gguf, GgufError, Model, ModelError};

type Result<T = ()> = std::result::Result<T, Box<dyn Error>>;

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(name)
}

/// Removes `bytes` bytes from the end of a file.
fn shorten(path: &Path, bytes: u64) -> Result {
    let file = OpenOptions::new().write(true).open(path)?;
    Ok(file.set_len(file.metadata()?.len() - bytes)?)
}

#[test]
fn loading_a_shortened_file_is_an_error() -> Result {
    let path = path("shortened.gguf");
    let bytes = TinyModel::default().to_bytes()?;
    for left in [0, 1, 4096, bytes.len() as u64 / 2, bytes.len() as u64 - 1] {
        std::fs::write(&path, &bytes)?;
        let (mapped, read) = (Gguf::open(&path)?, Gguf::read(&path)?);
        assert!(mapped.check_length().is_ok() && read.check_length().is_ok());
        shorten(&path, bytes.len() as u64 - left)?;
        let was = bytes.len() as u64;
        let Err(error) = mapped.check_length() else { panic!("{left} bytes are left") };
        assert_eq!(
            error.to_string(),
            format!("the file was truncated while in use: it had {was} bytes and now has {left}")
        );
        let load = |gguf| pollster::block_on(Model::load(&Device::cpu(), gguf, |_, _| ()));
        let error = load(&mapped).expect_err("a truncated file");
        let ModelError::Gguf(GgufError::Shortened { was: was_then, len }) = error else { panic!("{error:?}") };
        assert_eq!((was_then, len), (was, left));
        // A file in memory is not affected.
        assert!(read.check_length().is_ok() && load(&read).is_ok());
    }
    // Appended bytes do no harm.
    std::fs::write(&path, &bytes)?;
    let mapped = Gguf::open(&path)?;
    std::fs::write(&path, [&bytes[..], &[0; 100]].concat())?;
    assert!(mapped.check_length().is_ok());
    std::fs::remove_file(&path)?;
    Ok(())
}

/// Returns a model of about 100 MiB of zeros, so that loading takes a while. Its head is last in the file and is read
/// last.
#[cfg(feature = "cli")]
fn large() -> Result<Vec<u8>> {
    use ferrum_wgpu::gguf::{GgufWriter, Value};
    const INNER: u64 = 8192;
    let tiny = TinyModel { arch: Arch::Qwen3, layers: 4, ..TinyModel::default() };
    let small = Gguf::from_bytes(tiny.to_bytes()?)?;
    let mut writer = GgufWriter::new();
    for (key, value) in small.metadata().iter() {
        let inner = key.ends_with(".feed_forward_length");
        writer.metadata(key, if inner { Value::U32(INNER as u32) } else { value.clone() });
    }
    for tensor in small.tensors() {
        let mut shape = tensor.shape.clone();
        let axis = if tensor.name.contains("ffn_down") { 0 } else { 1 };
        if ["ffn_gate.", "ffn_up.", "ffn_down."].iter().any(|part| tensor.name.contains(part)) {
            shape[axis] = INNER;
            let ty = ferrum_wgpu::low_level::quant::WeightType::F32;
            writer.tensor(&tensor.name, ty, &shape, vec![0; 4 * shape.iter().product::<u64>() as usize]);
        } else {
            writer.tensor(&tensor.name, tensor.ty, &shape, small.data(tensor).to_vec());
        }
    }
    Ok(writer.to_bytes()?)
}

#[test]
#[cfg(feature = "cli")]
fn the_program_reports_a_shortened_file() -> Result {
    use std::process::{Command, Stdio};
    let path = path("shortened-in-use.gguf");
    for (options, code, error) in [(&[][..], 3, "error: "), (&["--no-mmap"][..], 0, "")] {
        std::fs::write(&path, large()?)?;
        let mut child = Command::new(env!("CARGO_BIN_EXE_ferrum-wgpu"))
            .args(["logits", "--tokens", "1", "--device", "cpu"])
            .arg(&path)
            .args(options)
            .env("RUST_LOG", "info")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        let mut log = Vec::new();
        let mut lines = BufReader::new(child.stderr.take().ok_or("no stderr")?).lines();
        for line in &mut lines {
            let line = line?;
            let opened = line.contains("model file");
            log.push(line);
            if opened {
                break;
            }
        }
        // Truncates the last tensor, which has not been read yet.
        shorten(&path, 100)?;
        for line in lines {
            log.push(line?);
        }
        assert_eq!(child.wait()?.code(), Some(code), "{options:?}: {log:?}");
        let errors: Vec<&String> = log.iter().filter(|line| line.starts_with("error")).collect();
        assert_eq!(errors.len(), usize::from(!error.is_empty()), "{log:?}");
        assert!(errors.iter().all(|line| line.contains("truncated while in use")), "{log:?}");
    }
    std::fs::remove_file(&path)?;
    Ok(())
}
