//! The device memory budget, and fitting a model into it.

use clap::Args;
use ferrum_wgpu::Gguf;
use ferrum_wgpu::KvType;
use ferrum_wgpu::{Engine, EngineOptions, Fit};
use ferrum_wgpu::{MemoryPlan, low_level::model::ExpertCacheStats};

use super::device::DeviceChoice;
use super::exit::Failure;
use super::output::{note, size};

/// The memory options.
#[derive(Clone, Copy, Debug, Args)]
pub struct MemoryArgs {
    /// Device memory budget, such as 8GiB or 6500MiB [default: the memory reported by a discrete GPU or by Metal].
    /// Experts that do not fit are loaded from the file on demand.
    #[arg(long, value_name = "SIZE", value_parser = bytes)]
    vram: Option<u64>,
    /// Choose context size and KV cache type so that the model fits, unless given: first a smaller context, then a q8_0
    /// KV cache, then fewer experts on the device.
    #[arg(long)]
    fit: bool,
}

impl MemoryArgs {
    /// Returns the budget in bytes; `None` if unlimited or unknown.
    pub fn budget(&self, device_choice: &DeviceChoice) -> Option<u64> {
        let reported = match device_choice {
            DeviceChoice::Cpu => None,
            // The user asked to rely on it.
            DeviceChoice::Adapter(adapter) if self.fit => adapter.memory_bytes().map(|bytes| bytes - bytes / 16),
            DeviceChoice::Adapter(adapter) => adapter.memory_budget(),
        };
        self.vram.or(reported)
    }

    /// Returns whether `--fit` was given.
    pub fn fit(&self) -> bool {
        self.fit
    }

    /// Plans an engine within the device's memory. With `--fit`, options that were not given are chosen.
    pub fn plan(&self, device_choice: &DeviceChoice, gguf: &Gguf, options: EngineOptions) -> Result<Fit, Failure> {
        let kv_type = device_choice.kv_type();
        let Some(budget) = self.budget(device_choice) else {
            if self.fit {
                return Err(Failure::usage("--fit needs --vram: this device does not report its memory"));
            }
            let memory = Engine::memory(gguf, &options, options.kv_type.unwrap_or(kv_type))?;
            return Ok(Fit::new(options, memory));
        };
        Ok(match self.fit {
            true => Engine::plan_best(gguf, &options, kv_type, budget)?,
            false => Engine::plan_within(gguf, &options, kv_type, budget)?,
        })
    }

    /// Reports on standard error what was chosen, if anything was.
    pub fn report(&self, fit: &Fit, kv_type: KvType) {
        let slots = fit.memory.slots();
        if self.fit || slots.is_some() {
            let (context, ty) = (fit.options.context, fit.options.kv_type.unwrap_or(kv_type).name());
            let context = context.map_or_else(String::new, |context| format!(" for a context of {context} tokens"));
            let weights = placement(&fit.memory);
            note(format_args!("memory: {}{context}, {ty} KV cache, {weights}", size(fit.memory.total())));
        }
    }
}

/// Describes which weights are on the device.
pub fn placement(memory: &MemoryPlan) -> String {
    match memory.slots() {
        Some(slots) => {
            format!("{slots} of {} experts per layer on the device, the others loaded on demand", memory.experts)
        }
        None => "all weights on the device".to_owned(),
    }
}

/// Describes the use of the expert cache.
pub fn expert_cache(paging: &ExpertCacheStats) -> String {
    format!(
        "expert cache: {:.1} % hits in {} lookups, {} loaded from the file",
        100.0 * paging.hit_rate(),
        paging.hits + paging.misses,
        size(paging.bytes)
    )
}

/// Parses a number of bytes with an optional unit.
pub fn bytes(text: &str) -> Result<u64, String> {
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len()));
    let factor: u64 = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        "t" | "tib" => 1 << 40,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        _ => return Err("a size is a number with a unit, such as 8GiB, 6500MiB or 8GB".to_owned()),
    };
    match number.parse::<f64>() {
        Ok(number) if number > 0.0 && number * (factor as f64) < 1e18 => Ok((number * factor as f64) as u64),
        _ => Err("a size is a positive number with a unit, such as 8GiB, 6500MiB or 8GB".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        let sizes = [("8GiB", 8 << 30), ("8g", 8 << 30), ("1.5 MiB", 3 << 19), ("2GB", 2_000_000_000), ("77", 77)];
        for (text, expected) in sizes {
            assert_eq!(bytes(text), Ok(expected), "{text}");
        }
        for text in ["", "-1GiB", "GiB", "8 parsecs", "0", "1e99", "9999999999TiB", "1.2.3GiB"] {
            assert!(bytes(text).is_err(), "{text}");
        }
    }
}
