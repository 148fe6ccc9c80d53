//! The command `info`.

use std::path::PathBuf;

use clap::Args;
use ferrum_wgpu::Gguf;
use ferrum_wgpu::GpuError;
use ferrum_wgpu::KvType;
use ferrum_wgpu::{
    Config, MemoryPlan, Model, ModelError,
    low_level::{model::SplitMatrix, quant::ggml_type_name, text::Vocabulary},
};
use ferrum_wgpu::{Engine, EngineOptions};

use super::args::{DeviceArg, kv_type};
use super::chat::ASSUMED_PRE_TOKENIZER;
use super::device::{DeviceChoice, with_hint};
use super::exit::{Code, Failure};
use super::load;
use super::memory::{MemoryArgs, placement};
use super::output::{print, printable, size, table};

/// Show a model file's metadata, tensors and memory requirements, and check that it fits the device.
#[derive(Debug, Args)]
pub struct InfoArgs {
    /// The GGUF file.
    model: PathBuf,
    /// Context size in tokens [default: the model's, at most 4096].
    #[arg(short, long, visible_alias = "ctx-size", value_name = "TOKENS")]
    ctx: Option<u32>,
    /// Data type of the KV cache [default: f16 if the device supports it, else f32].
    #[arg(long, value_name = "TYPE", value_parser = kv_type())]
    kv_type: Option<KvType>,
    /// Read the whole file into memory instead of memory-mapping it; safe if the file may be truncated while in use.
    #[arg(long)]
    no_mmap: bool,
    #[command(flatten)]
    memory: MemoryArgs,
    #[command(flatten)]
    device: DeviceArg,
}

/// Runs the command.
pub async fn info(args: &InfoArgs) -> Result<Code, Failure> {
    let gguf = load::inspect(&args.model, !args.no_mmap)?;
    print(&contents(&gguf))?;
    if Vocabulary::assumes_pre_tokenizer(gguf.metadata()) {
        print(&format!("\nnote: {ASSUMED_PRE_TOKENIZER}\n"))?;
    }

    // Without a tensor's data its model's other reasons would be wrong.
    let mut reasons: Vec<ModelError> = Vec::new();
    for (i, tensor) in gguf.unread_tensors().iter().enumerate() {
        // One for each type.
        if gguf.unread_tensors()[..i].iter().all(|other| other.type_id != tensor.type_id) {
            reasons.push(tensor.reason().into());
        }
    }
    if reasons.is_empty() {
        reasons = Model::unsupported(&gguf);
    }
    if let [first, others @ ..] = &reasons[..] {
        let list: String = reasons.iter().map(|reason| format!("  {}\n", printable(&reason.to_string()))).collect();
        print(&format!("\nthis file cannot run:\n{list}"))?;
        let more = if others.is_empty() { String::new() } else { format!(" ({} more reasons)", others.len()) };
        return Err(Failure::model(format!("{first}{more}")));
    }
    let config = Config::from_gguf(&gguf)?;
    print(&layers(&config, &gguf))?;
    let mut options = EngineOptions::default().context(args.ctx).kv_type(args.kv_type);
    options.context_for(config.context_length)?;
    let device_choice = choose_device(args.device.device.as_deref()).await?;
    let budget = args.memory.budget(device_choice.as_ref().unwrap_or(&DeviceChoice::Cpu));
    if args.memory.fit() {
        let fit = args.memory.plan(device_choice.as_ref().unwrap_or(&DeviceChoice::Cpu), &gguf, options);
        options = match fit {
            Ok(fit) => fit.options,
            // Without a device the memory is unknown.
            Err(_) if device_choice.is_none() && budget.is_none() => return Err(with_hint(GpuError::NoAdapter)),
            Err(failure) => return Err(failure),
        };
    }
    let context = options.context_for(config.context_length)?;
    let kv_type = options.kv_type.unwrap_or(device_choice.as_ref().map_or(KvType::F16, DeviceChoice::kv_type));
    let mut plan = Engine::memory(&gguf, &options, kv_type)?;
    let within = budget.map(|budget| {
        let (text, paged) = within(&plan, budget);
        plan = paged;
        text
    });
    let fits = match &device_choice {
        Some(device_choice) => fits(device_choice, &plan),
        None => "no GPU adapter was found to check the buffers against\n".to_owned(),
    };
    print(&format!(
        "\nmemory for a context of {context} tokens (model's maximum: {}), {} KV cache, {}:\n{}{}{fits}",
        config.context_length,
        kv_type.name(),
        placement(&plan),
        memory(&plan),
        within.unwrap_or_default(),
    ))?;
    Ok(Code::Success)
}

/// Formats the file's header, metadata and tensors.
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
    tensors.extend(gguf.unread_tensors().iter().map(|tensor| {
        let shape = tensor.shape.iter().map(u64::to_string).collect::<Vec<_>>().join(" x ");
        let ty = ggml_type_name(tensor.type_id).map_or_else(|| format!("number {}", tensor.type_id), str::to_owned);
        [printable(&tensor.name), ty, shape, "unknown".to_owned()]
    }));
    format!(
        "GGUF version {}, {}, tensors aligned to {} bytes\n\nmetadata ({}):\n{}\ntensors ({}):\n{}",
        gguf.version(),
        size(gguf.file_len()),
        gguf.alignment(),
        metadata.len(),
        table(&metadata, &[]),
        gguf.tensors().len() + gguf.unread_tensors().len(),
        table(&tensors, &[3]),
    )
}

/// Describes the layers of a model that has several kinds, and the tensors that are not used.
fn layers(config: &Config, gguf: &Gguf) -> String {
    let mut text = String::new();
    if let Some(net) = &config.delta_net {
        let (nets, attention, state) =
            (config.delta_net_layers(), config.attention_layers(), size(config.state_bytes()));
        let numbers = |wanted: bool| {
            let all = (0..config.layers).filter(|layer| config.layer_delta_net(*layer).is_some() == wanted);
            all.map(|layer| layer.to_string()).collect::<Vec<_>>().join(", ")
        };
        text += &format!(
            "\n{} layers: {attention} with attention ({}), {nets} with gated delta nets ({})\n\
             a sequence has a state of {state}: {} value heads of {} by {} in each gated delta net\n",
            config.layers,
            numbers(false),
            numbers(true),
            net.value_heads,
            net.head_dim,
            net.head_dim,
        );
    }
    let unused = Model::unused_tensors(gguf);
    if !unused.is_empty() {
        let bytes =
            gguf.tensors().iter().filter(|tensor| unused.contains(&tensor.name)).map(|tensor| tensor.bytes).sum();
        let of = match config.prediction_layers {
            0 => String::new(),
            1 => ", of a layer that predicts further tokens".to_owned(),
            layers => format!(", of {layers} layers that predict further tokens"),
        };
        text += &format!("{} tensors are not used: {}{of}\n", unused.len(), size(bytes));
    }
    text
}

fn memory(plan: &MemoryPlan) -> String {
    let (name, largest) = &plan.largest;
    let rows = [
        ("weights", plan.weights, ""),
        ("KV cache", plan.kv, ""),
        ("of it windows", plan.kv_windows, ""),
        ("states", plan.states, ""),
        ("activations", plan.activations, ""),
        ("total", plan.total(), ""),
        ("largest buffer", *largest, name),
    ];
    let rows = rows.into_iter().filter(|(what, bytes, _)| !["states", "of it windows"].contains(what) || *bytes > 0);
    let rows: Vec<_> = rows.map(|(what, bytes, name)| [what.to_owned(), size(bytes), printable(name)]).collect();
    table(&rows, &[1])
}

/// Returns the requested device, which must exist, or the default one if there is one.
async fn choose_device(wanted: Option<&str>) -> Result<Option<DeviceChoice>, Failure> {
    match DeviceChoice::choose(wanted).await {
        Ok(device_choice) => Ok(Some(device_choice)),
        Err(Failure::Error(Code::Device, _)) if wanted.is_none() => Ok(None),
        Err(failure) => Err(failure),
    }
}

/// Describes whether `budget` bytes suffice; returns the plan that fits, with expert offloading if needed.
fn within(plan: &MemoryPlan, budget: u64) -> (String, MemoryPlan) {
    let (given, over) = (size(budget), |bytes: u64| size(bytes.saturating_sub(budget)));
    let total = plan.total();
    if total <= budget {
        return (format!("fits in {given}\n"), plan.clone());
    }
    let too_much = format!("all weights: does not fit in {given}, {} too much\n", over(total));
    match plan.within(budget) {
        Some(paged) => (format!("{too_much}fits with {}\n", placement(&paged)), paged),
        None => {
            let least = plan.least();
            (
                format!("does not fit in {given}: at least {} needed, {} too much\n", size(least), over(least)),
                plan.clone(),
            )
        }
    }
}

/// Describes whether the device's limits allow the plan's buffers, and which matrices are split.
fn fits(device_choice: &DeviceChoice, plan: &MemoryPlan) -> String {
    let device = match device_choice {
        DeviceChoice::Cpu => "cpu".to_owned(),
        DeviceChoice::Adapter(adapter) => printable(adapter.name()),
    };
    let limit = device_choice.caps(None).buffer_limit();
    let (name, bytes) = (printable(&plan.largest.0), plan.largest.1);
    if bytes > limit {
        let (needed, most, over) = (size(bytes), size(limit), size(bytes - limit));
        return format!(
            "does not fit: {name} needs {needed} ({bytes} bytes), but the largest storage binding of {device} is {most} \
             ({limit} bytes): {over} too much\n"
        );
    }
    if limit == u64::MAX {
        return format!("each buffer fits {device}, which has no limit\n");
    }
    let states = plan.states_within(limit).map_or_else(String::new, |(states, most)| {
        format!("{states} states, of sequences and snapshots; the device has room for {most} in a binding\n")
    });
    format!(
        "{}each buffer fits {device}, whose largest storage binding is {}\n{states}",
        in_several(plan.splits(limit)),
        size(limit)
    )
}

/// Lists matrices split over several buffers, one line per kind and size.
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
    if rows.is_empty() { String::new() } else { format!("split over several buffers:\n{}", table(&rows, &[0, 2])) }
}
