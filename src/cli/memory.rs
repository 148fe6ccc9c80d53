//! How much device memory may be used, and what of a model is there.

use clap::Args;
use ferrum_wgpu::engine::{Engine, EngineOptions, Fit};
use ferrum_wgpu::gguf::Gguf;
use ferrum_wgpu::gpu::{Adapter, AdapterKind};
use ferrum_wgpu::kernels::KvType;
use ferrum_wgpu::model::{ExpertCacheStats, MemoryPlan};

use super::device::Place;
use super::exit::Failure;
use super::output::{note, size};

/// How much memory to use.
#[derive(Clone, Copy, Debug, Args)]
pub struct MemoryArgs {
    /// Device memory to use at most, as 8GiB or 6500MiB; without it what a discrete GPU or Metal says there is. Experts that do
    /// not fit are brought from the file when they are chosen.
    #[arg(long, value_name = "SIZE", value_parser = bytes)]
    vram: Option<u64>,
    /// Choose the context and the KV cache's type so that the model fits, unless they are given: a shorter context first, then a
    /// KV cache in q8_0, then fewer experts on the device.
    #[arg(long)]
    fit: bool,
}

/// The part of a device's memory that is left to its driver and to others: one of so many.
const LEFT: u64 = 16;

impl MemoryArgs {
    /// Bytes that may be used; `None` where there is no bound.
    pub fn budget(&self, place: &Place) -> Option<u64> {
        let told = match place {
            Place::Cpu => None,
            Place::Adapter(adapter) if self.fit || knows(adapter) => adapter.memory_bytes(),
            Place::Adapter(_) => None,
        };
        self.vram.or(told.map(|bytes| bytes - bytes / LEFT))
    }

    /// Whether options are to be chosen by the memory there is.
    pub fn fits(&self) -> bool {
        self.fit
    }

    /// The engine that fits into the memory of `place`. With `--fit` what the options leave open is chosen.
    pub fn plan(&self, place: &Place, gguf: &Gguf, options: EngineOptions) -> Result<Fit, Failure> {
        let kv_type = place.kv_type();
        let Some(budget) = self.budget(place) else {
            if self.fit {
                return Err(Failure::usage("this device does not say how much memory it has: --fit needs --vram"));
            }
            let memory = Engine::memory(gguf, &options, options.kv_type.unwrap_or(kv_type))?;
            return Ok(Fit { options, memory });
        };
        Ok(match self.fit {
            true => Engine::fit(gguf, &options, kv_type, budget)?,
            false => Engine::within(gguf, &options, kv_type, budget)?,
        })
    }

    /// Says on standard error what was chosen, if something was.
    pub fn tell(&self, fit: &Fit, kv_type: KvType) {
        let slots = fit.memory.slots();
        if self.fit || slots.is_some() {
            let (context, ty) = (fit.options.context, fit.options.kv_type.unwrap_or(kv_type).name());
            let context = context.map_or_else(String::new, |context| format!(" for a context of {context} tokens"));
            let of = experts(&fit.memory);
            note(format_args!("memory: {}{context}, {ty} KV cache, {of}", size(fit.memory.total())));
        }
    }
}

/// Whether what it says is what there is. Others that share the processor's memory name a part of it that binds nobody.
fn knows(adapter: &Adapter) -> bool {
    adapter.kind() == AdapterKind::Discrete || adapter.backend() == "metal"
}

/// How many experts are on the device.
pub fn experts(memory: &MemoryPlan) -> String {
    match memory.slots() {
        Some(slots) => format!("{slots} of {} experts of each layer, the others from the file", memory.experts),
        None => "all weights".to_owned(),
    }
}

/// What was paged.
pub fn paged(paging: &ExpertCacheStats) -> String {
    format!(
        "experts: {:.1} % of {} choices were on the device, {} from the file",
        100.0 * paging.hit_rate(),
        paging.hits + paging.misses,
        size(paging.bytes)
    )
}

/// A number of bytes, with a unit or without.
fn bytes(text: &str) -> Result<u64, String> {
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
        _ => return Err("a size is a number with a unit, as 8GiB, 6500MiB or 8GB".to_owned()),
    };
    match number.parse::<f64>() {
        Ok(number) if number > 0.0 && number * (factor as f64) < 1e18 => Ok((number * factor as f64) as u64),
        _ => Err("a size is a positive number with a unit, as 8GiB, 6500MiB or 8GB".to_owned()),
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
