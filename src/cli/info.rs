//! `info`: what is in a model file, how much memory it takes, and whether it can be run.

use std::path::PathBuf;

use clap::Args;
use ferrum_wgpu::engine::{Engine, EngineOptions};
use ferrum_wgpu::gguf::Gguf;
use ferrum_wgpu::gpu::GpuError;
use ferrum_wgpu::kernels::KvType;
use ferrum_wgpu::model::{Config, MemoryPlan, SplitMatrix};

use super::args::{DeviceArg, kv_type};
use super::device::{Place, with_hint};
use super::exit::{Code, Failure};
use super::load;
use super::memory::{MemoryArgs, experts};
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
    memory: MemoryArgs,
    #[command(flatten)]
    device: DeviceArg,
}

/// Prints what there is to know about the file.
pub async fn info(args: &InfoArgs) -> Result<Code, Failure> {
    let gguf = load::open(&args.model, !args.no_mmap)?;
    print(&contents(&gguf))?;

    let config = Config::from_gguf(&gguf)?;
    let mut options = EngineOptions { context: args.ctx, kv_type: args.kv_type, ..Default::default() };
    options.context_for(config.context_length)?;
    let place = place(args.device.device.as_deref()).await?;
    let budget = args.memory.budget(place.as_ref().unwrap_or(&Place::Cpu));
    if args.memory.fits() {
        let fit = args.memory.plan(place.as_ref().unwrap_or(&Place::Cpu), &gguf, options);
        options = match fit {
            Ok(fit) => fit.options,
            // There is no device to ask.
            Err(_) if place.is_none() && budget.is_none() => return Err(with_hint(GpuError::NoAdapter)),
            Err(failure) => return Err(failure),
        };
    }
    let context = options.context_for(config.context_length)?;
    let kv_type = options.kv_type.unwrap_or(place.as_ref().map_or(KvType::F16, Place::kv_type));
    let mut plan = Engine::memory(&gguf, &options, kv_type)?;
    // That of a discrete device, or what was asked for.
    let within = budget.map(|budget| {
        let (text, paged) = within(&plan, budget);
        plan = paged;
        text
    });
    let fits = match &place {
        Some(place) => fits(place, &plan),
        None => "there is no GPU adapter here to check it against\n".to_owned(),
    };
    print(&format!(
        "\nmemory for a context of {context} tokens (the model's own: {}), {} KV cache, {}:\n{}{}{fits}",
        config.context_length,
        kv_type.name(),
        experts(&plan),
        memory(&plan),
        within.unwrap_or_default(),
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

/// The device that the model would be run on: the one asked for, which must exist, or the default if there is one.
async fn place(wanted: Option<&str>) -> Result<Option<Place>, Failure> {
    match Place::choose(wanted).await {
        Ok(place) => Ok(Some(place)),
        Err(Failure::Error(Code::Device, _)) if wanted.is_none() => Ok(None),
        Err(failure) => Err(failure),
    }
}

/// Whether `budget` bytes are enough, and the plan that they are enough for, if there is one.
fn within(plan: &MemoryPlan, budget: u64) -> (String, MemoryPlan) {
    let (given, over) = (size(budget), |bytes: u64| size(bytes.saturating_sub(budget)));
    let total = plan.total();
    if total <= budget {
        return (format!("fits into {given}\n"), plan.clone());
    }
    let too_much = format!("all weights do not fit into {given}: {} too much\n", over(total));
    match plan.within(budget) {
        Some(paged) => (format!("{too_much}with {} it fits\n", experts(&paged)), paged),
        None => {
            let least = plan.least();
            (
                format!("does not fit into {given}: it needs {} at least, {} too much\n", size(least), over(least)),
                plan.clone(),
            )
        }
    }
}

/// Whether a device's limits allow the plan's buffers, and what it has in several.
fn fits(place: &Place, plan: &MemoryPlan) -> String {
    let device = match place {
        Place::Cpu => "cpu".to_owned(),
        Place::Adapter(adapter) => printable(adapter.name()),
    };
    let limit = place.caps(None).buffer_limit();
    let (name, bytes) = (printable(&plan.largest.0), plan.largest.1);
    if bytes > limit {
        let (needed, most, over) = (size(bytes), size(limit), size(bytes - limit));
        return format!(
            "does not fit: {name} needs {needed} ({bytes} bytes), {device} binds at most {most} ({limit} bytes): {over} too much\n"
        );
    }
    if limit == u64::MAX {
        return format!("each buffer fits {device}, which limits none\n");
    }
    format!("{}each buffer fits {device}, which binds at most {}\n", in_several(plan.splits(limit)), size(limit))
}

/// Matrices in several buffers, those of one kind and size in a row.
fn in_several(splits: Vec<SplitMatrix>) -> String {
    let mut kinds: Vec<(String, Vec<u64>, u32)> = Vec::new();
    for SplitMatrix { name, parts } in splits {
        let in_layer = name.strip_prefix("blk.").and_then(|rest| rest.split_once('.'));
        let kind = in_layer.map_or(name.clone(), |(_, tensor)| format!("blk.*.{tensor}"));
        match kinds.iter_mut().find(|known| known.0 == kind && known.1 == parts) {
            Some((_, _, count)) => *count += 1,
            None => kinds.push((kind, parts, 1)),
        }
    }
    let row = |(kind, parts, count): &(String, Vec<u64>, u32)| {
        let sizes: Vec<_> = parts.iter().map(|bytes| size(*bytes)).collect();
        [format!("{count} x"), printable(kind), size(parts.iter().sum()), sizes.join(" + ")]
    };
    let rows: Vec<_> = kinds.iter().map(row).collect();
    if rows.is_empty() { String::new() } else { format!("in several buffers:\n{}", table(&rows, &[0, 2])) }
}
