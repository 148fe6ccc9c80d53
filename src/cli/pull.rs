//! The commands `pull`, `list` and `rm`.

use clap::Args;

use super::exit::{Code, Failure};
use super::hub::{self, Name};
use super::memory::bytes;
use super::output::{note, print, size, table};

/// Download a model from the Hugging Face Hub into its cache, which other tools share.
///
/// A download that broke off is resumed, and checked by its SHA-256. HF_HOME, HF_HUB_CACHE, HF_TOKEN, HF_ENDPOINT and
/// HF_HUB_OFFLINE are honoured.
#[derive(Debug, Args)]
pub struct PullArgs {
    /// The model: ORG/REPO[:QUANT] or ORG/REPO/FILE.gguf [default quantization: Q4_K_M].
    #[arg(value_name = "NAME", value_parser = name)]
    model: Name,
    #[command(flatten)]
    memory: MemoryArg,
}

/// The memory for which quantizations are proposed.
#[derive(Clone, Copy, Debug, Args)]
struct MemoryArg {
    /// Device memory, such as 8GiB, for which quantizations are proposed [default: what the first device reports].
    #[arg(long, value_name = "SIZE", value_parser = bytes)]
    vram: Option<u64>,
}

/// List the models in the cache, or those of a repository on the Hub with what fits the device.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// A repository on the Hub: ORG/REPO[:QUANT].
    #[arg(value_name = "NAME", value_parser = name)]
    repository: Option<Name>,
    #[command(flatten)]
    memory: MemoryArg,
}

/// Delete a model from the cache.
#[derive(Debug, Args)]
pub struct RmArgs {
    /// The model, as `list` names it.
    #[arg(value_name = "NAME", value_parser = name)]
    model: Name,
}

fn name(text: &str) -> Result<Name, String> {
    Name::parse(text).ok_or_else(|| "a name is ORG/REPO[:QUANT] or ORG/REPO/FILE.gguf".to_owned())
}

/// Runs `pull`.
pub fn pull(args: &PullArgs) -> Result<Code, Failure> {
    let path = hub::pull(&args.model, args.memory.vram)?;
    print(&format!("{}\n", path.display()))?;
    Ok(Code::Success)
}

/// Runs `list`.
pub fn list(args: &ListArgs) -> Result<Code, Failure> {
    if let Some(repository) = &args.repository {
        let offers = hub::offers(repository)?;
        print(&hub::listing(&offers, args.memory.vram.or_else(hub::device_memory)))?;
        return Ok(Code::Success);
    }
    let mut rows = vec![["name", "size"].map(str::to_owned)];
    rows.extend(hub::cached()?.into_iter().map(|model| [model.name, size(model.bytes)]));
    print(&table(&rows, &[1]))?;
    Ok(Code::Success)
}

/// Runs `rm`.
pub fn rm(args: &RmArgs) -> Result<Code, Failure> {
    let found: Vec<_> = hub::cached()?.into_iter().filter(|model| hub::matches(&args.model, model)).collect();
    match &found[..] {
        [] => Err(Failure::usage(format!("{} is not in the cache", args.model))),
        [model] => {
            model.remove()?;
            note(format_args!("deleted {}: {}", model.name, size(model.bytes)));
            Ok(Code::Success)
        }
        several => {
            let names = several.iter().map(|model| model.name.as_str()).collect::<Vec<_>>().join(", ");
            Err(Failure::usage(format!("{} is several models: {names}", args.model)))
        }
    }
}
