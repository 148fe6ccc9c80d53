//! What loading takes: bytes under way, and the process's memory.

use std::{error::Error, process::Command};

use crate::common::{
    engines::gpu,
    smallest::lent_without,
    tiny_model::{Arch, TinyModel},
};
use ferrum_wgpu::{
    engine::{Engine, EngineOptions},
    gguf::{Gguf, GgufWriter, Value},
    kernels::KvType,
    model::Model,
};

type Result<T = ()> = std::result::Result<T, Box<dyn Error>>;

const MIB: u64 = 1 << 20;
/// The inner size of the large model's experts.
const INNER: u64 = 24576;
/// How the child is told of its file.
const FILE: &str = "FERRUM_TEST_FILE";
/// How it is told that the device cannot map what kernels use.
const STAGED: &str = "FERRUM_TEST_STAGED";

/// A model of some 340 MiB, mostly zeros: experts that are as wide as [`INNER`].
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

/// The most memory that this process has had, in bytes.
fn high_water() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).ok_or("no VmHWM")?;
    Ok(1024 * line.trim().trim_end_matches(" kB").parse::<u64>()?)
}

/// Loads the file that the other test has written, in a process of its own.
#[test]
#[ignore = "run by loading_takes_the_file_and_the_cache_and_little_more"]
fn load_alone() -> Result {
    let gguf = Gguf::open(std::env::var(FILE)?)?;
    let options = EngineOptions::default();
    let kv = Engine::memory(&gguf, &options, KvType::F16)?.kv;
    pollster::block_on(async {
        let staged = std::env::var_os(STAGED).is_some();
        let device = match staged {
            true => lent_without(wgpu::Features::MAPPABLE_PRIMARY_BUFFERS).await,
            false => gpu().await,
        };
        let model = Model::load(&device, &gguf, |_, _| ()).await?;
        Engine::new(&model, &options).await?;
        let (most, limit) = (high_water()?, gguf.file_len() + kv + 256 * MIB);
        assert!(most <= limit, "{} MiB of {} MiB", most / MIB, limit / MIB);
        let under_way = device.most_uploading();
        if staged {
            assert!(under_way > 16 * MIB && under_way <= 64 * MIB, "{under_way} bytes under way");
        } else if device.fingerprint().contains("vulkan; llvmpipe") {
            assert_eq!(under_way, 0);
        }
        println!("{} MiB of {} MiB, {} MiB under way", most / MIB, limit / MIB, under_way / MIB);
        Ok(())
    })
}

#[test]
#[cfg(target_os = "linux")]
fn loading_takes_the_file_and_the_cache_and_little_more() -> Result {
    let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("loading.gguf");
    std::fs::write(&path, large()?)?;
    for staged in [false, true] {
        let mut child = Command::new(std::env::current_exe()?);
        child.args(["--exact", "loading::load_alone", "--ignored", "--nocapture"]).env(FILE, &path);
        if staged {
            child.env(STAGED, "1");
        }
        let output = child.output()?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.contains("1 passed"), "{said}");
        println!("{said}");
    }
    std::fs::remove_file(&path)?;
    Ok(())
}

#[test]
fn bytes_under_way_are_counted() -> Result {
    pollster::block_on(async {
        let device = gpu().await;
        let buffer = device.alloc::<u32>("words", 24 * MIB).await?;
        assert_eq!(device.most_uploading(), 0);
        device.write(&buffer, 0, &vec![1; 3 << 20]).await?;
        device.write(&buffer, 0, &vec![2; 2 << 20]).await?;
        assert_eq!(device.most_uploading(), 20 * MIB);
        // Slices of 16 MiB, of which no more go once 32 MiB are under way: 20, 36, then 16 and 32 again and again.
        device.write(&buffer, 0, &vec![3; 24 << 20]).await?;
        assert_eq!(device.most_uploading(), 36 * MIB);
        assert_eq!(ferrum_wgpu::gpu::Device::cpu().most_uploading(), 0);
        Ok(())
    })
}
