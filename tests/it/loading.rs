//! The memory that loading needs: staged bytes and resident memory.

use std::{error::Error, process::Command};

use crate::common::{
    engines::gpu,
    micro_model::borrowed_device_without,
    tiny_model::{Arch, TinyModel},
};
use ferrum_wgpu::{
    Engine, EngineOptions, Gguf, KvType, Model,
    gguf::{GgufWriter, Value},
};

type Result<T = ()> = std::result::Result<T, Box<dyn Error>>;

const MIB: u64 = 1 << 20;
/// The intermediate size of the large model's experts.
const INNER: u64 = 24576;
/// The environment variable with the child's file.
const FILE: &str = "FERRUM_TEST_FILE";
/// The environment variable that selects a device whose storage buffers cannot be mapped.
const STAGED: &str = "FERRUM_TEST_STAGED";

/// Returns a model of about 340 MiB, mostly zeros, whose experts have [`INNER`] intermediate values.
fn large() -> Result<Vec<u8>> {
    let tiny = TinyModel { arch: Arch::Qwen3Moe, experts: 16, ..TinyModel::default() };
    let small = Gguf::from_bytes(tiny.to_bytes()?)?;
    let mut writer = GgufWriter::new();
    for (key, value) in small.metadata().iter() {
        let inner = key.ends_with(".expert_feed_forward_length");
        writer.metadata(key, if inner { Value::U32(INNER as u32) } else { value.clone() });
    }
    for tensor in small.tensors() {
        let mut shape = tensor.shape.clone();
        let axis = match &tensor.name {
            name if name.contains("ffn_down_exps") => Some(0),
            name if name.contains("_exps") => Some(1),
            _ => None,
        };
        let data = match axis {
            Some(axis) => {
                let times = INNER / shape[axis];
                shape[axis] = INNER;
                vec![0; (tensor.bytes * times) as usize]
            }
            None => small.data(tensor).to_vec(),
        };
        writer.tensor(&tensor.name, tensor.ty, &shape, data);
    }
    Ok(writer.to_bytes()?)
}

/// Returns the peak resident memory of this process in bytes.
fn high_water() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).ok_or("no VmHWM")?;
    Ok(1024 * line.trim().trim_end_matches(" kB").parse::<u64>()?)
}

/// Loads the file that the other test has written, in a child process.
#[test]
#[ignore = "run by loading_stays_in_its_memory_bound"]
fn load_alone() -> Result {
    let gguf = Gguf::open(std::env::var(FILE)?)?;
    let options = EngineOptions::default();
    let kv = Engine::memory(&gguf, &options, KvType::F16)?.kv;
    pollster::block_on(async {
        let staged = std::env::var_os(STAGED).is_some();
        let device = match staged {
            true => borrowed_device_without(wgpu::Features::MAPPABLE_PRIMARY_BUFFERS).await,
            false => gpu().await,
        };
        let model = Model::load(&device, &gguf, |_, _| ()).await?;
        Engine::new(&model, &options).await?;
        let (most, limit) = (high_water()?, gguf.file_len() + kv + 256 * MIB);
        assert!(most <= limit, "{} MiB of {} MiB", most / MIB, limit / MIB);
        let in_flight = device.most_uploading();
        if staged {
            assert!(in_flight > 16 * MIB && in_flight <= 64 * MIB, "{in_flight} bytes in flight");
        } else if device.fingerprint().contains("vulkan; llvmpipe") {
            assert_eq!(in_flight, 0);
        }
        println!("{} MiB of {} MiB, {} MiB in flight", most / MIB, limit / MIB, in_flight / MIB);
        Ok(())
    })
}

#[test]
#[cfg(target_os = "linux")]
fn loading_stays_in_its_memory_bound() -> Result {
    let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("loading.gguf");
    std::fs::write(&path, large()?)?;
    for staged in [false, true] {
        let mut child = Command::new(std::env::current_exe()?);
        child.args(["--exact", "loading::load_alone", "--ignored", "--nocapture"]).env(FILE, &path);
        if staged {
            child.env(STAGED, "1");
        }
        let output = child.output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && text.contains("1 passed"), "{text}");
        println!("{text}");
    }
    std::fs::remove_file(&path)?;
    Ok(())
}

#[test]
fn bytes_in_flight_are_counted() -> Result {
    pollster::block_on(async {
        let device = gpu().await;
        let buffer = device.alloc::<u32>("words", 24 * MIB).await?;
        assert_eq!(device.most_uploading(), 0);
        device.write(&buffer, 0, &vec![1; 3 << 20]).await?;
        device.write(&buffer, 0, &vec![2; 2 << 20]).await?;
        assert_eq!(device.most_uploading(), 20 * MIB);
        // Slices of 16 MiB, submitted until 32 MiB are in flight: 20, 36, then alternately 16 and 32.
        device.write(&buffer, 0, &vec![3; 24 << 20]).await?;
        assert_eq!(device.most_uploading(), 36 * MIB);
        assert_eq!(ferrum_wgpu::low_level::gpu::Device::cpu().most_uploading(), 0);
        Ok(())
    })
}
