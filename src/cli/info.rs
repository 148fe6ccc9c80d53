//! `info`: what is in a model file, how much memory it takes, and whether it can be run.

use std::path::PathBuf;

use clap::Args;
use ferrum_wgpu::engine::{Engine, EngineOptions};
use ferrum_wgpu::gguf::Gguf;
use ferrum_wgpu::gpu::{Caps, Device};
use ferrum_wgpu::kernels::KvType;
use ferrum_wgpu::model::{Config, MemoryPlan};

use super::args::{DeviceArg, kv_type};
use super::device::Place;
use super::exit::{Code, Failure};
use super::load;
use super::output::{print, printable, size, table};

/// Show a model file's metadata and tensors, the memory it takes, and whether it can be run.
#[derive(Debug, Args)]
pub struct InfoArgs {
    /// The GGUF file.
    model: PathBuf,
    /// Context in tokens to plan for; without it the model's own, 4096 at most.
    #[arg(long, value_name = "TOKENS")]
    ctx: Option<u32>,
    /// How the KV cache is stored; without it f16 where the device can.
    #[arg(long, value_name = "TYPE", value_parser = kv_type())]
    kv_type: Option<KvType>,
    /// Read the whole file into memory instead of mapping it: for one that may be shortened meanwhile.
    #[arg(long)]
    no_mmap: bool,
    #[command(flatten)]
    device: DeviceArg,
}

/// Prints what there is to know about the file.
pub async fn info(args: &InfoArgs) -> Result<Code, Failure> {
    let gguf = load::open(&args.model, !args.no_mmap)?;
    print(&contents(&gguf))?;

    let config = Config::from_gguf(&gguf)?;
    let options = EngineOptions { context: args.ctx, kv_type: args.kv_type, ..Default::default() };
    let context = options.context_for(config.context_length)?;
    let target = Target::find(args.device.device.as_deref()).await?;
    let can_f16 = target.as_ref().is_none_or(|target| target.caps.pack_f16);
    let kv_type = args.kv_type.unwrap_or(if can_f16 { KvType::F16 } else { KvType::F32 });
    let plan = Engine::memory(&gguf, &options, kv_type)?;
    let fits = match &target {
        Some(target) => target.fits(&plan),
        None => "there is no GPU adapter here to check it against".to_owned(),
    };
    print(&format!(
        "\nmemory for a context of {context} tokens (the model's own: {}), {} KV cache:\n{}{fits}\n",
        config.context_length,
        kv_type.name(),
        memory(&plan),
    ))?;
    Ok(Code::Success)
}

/// File, metadata and tensors.
fn contents(gguf: &Gguf) -> String {
    let metadata: Vec<_> = gguf
        .metadata()
        .iter()
        .map(|(key, value)| [printable(key), value.type_name().to_owned(), value.to_string()])
        .collect();
    let mut tensors = vec![["name", "type", "shape", "bytes"].map(str::to_owned)];
    tensors.extend(gguf.tensors().iter().map(|tensor| {
        let shape = tensor.shape.iter().map(u64::to_string).collect::<Vec<_>>().join(" x ");
        [printable(&tensor.name), tensor.ty.to_string(), shape, tensor.bytes.to_string()]
    }));
    format!(
        "GGUF version {}, {}, tensors aligned to {} bytes\n\nmetadata ({}):\n{}\ntensors ({}):\n{}",
        gguf.version(),
        size(gguf.file_len()),
        gguf.alignment(),
        metadata.len(),
        table(&metadata, &[]),
        gguf.tensors().len(),
        table(&tensors, &[3]),
    )
}

fn memory(plan: &MemoryPlan) -> String {
    let (name, largest) = &plan.largest;
    let rows = [
        ("weights", plan.weights, ""),
        ("KV cache", plan.kv, ""),
        ("activations", plan.activations, ""),
        ("total", plan.total(), ""),
        ("largest piece", *largest, name),
    ];
    table(&rows.map(|(what, bytes, name)| [what.to_owned(), size(bytes), printable(name)]), &[1])
}

/// The device that the model would be run on.
struct Target {
    name: String,
    caps: Caps,
}

impl Target {
    /// The one asked for, which must exist, or the default if there is one.
    async fn find(wanted: Option<&str>) -> Result<Option<Self>, Failure> {
        Ok(match Place::choose(wanted).await {
            Ok(Place::Adapter(adapter)) => Some(Self { name: adapter.name().to_owned(), caps: adapter.caps() }),
            Ok(Place::Cpu) => Some(Self { name: "cpu".to_owned(), caps: Device::cpu().caps().clone() }),
            Err(Failure::Error(Code::Device, _)) if wanted.is_none() => None,
            Err(failure) => return Err(failure),
        })
    }

    /// Whether its limits allow the plan's buffers.
    fn fits(&self, plan: &MemoryPlan) -> String {
        let (device, limit) = (printable(&self.name), self.caps.buffer_limit());
        let (name, bytes) = (printable(&plan.largest.0), plan.largest.1);
        if bytes > limit {
            let (needed, most) = (size(bytes), size(limit));
            format!(
                "does not fit: {name} needs {needed} ({bytes} bytes), {device} binds at most {most} ({limit} bytes)"
            )
        } else if limit == u64::MAX {
            format!("fits {device}, which limits no buffer")
        } else {
            format!("fits {device}, which binds at most {}", size(limit))
        }
    }
}
