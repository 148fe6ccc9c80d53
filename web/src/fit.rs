//! Whether a model can run here, from the header of its file.

use ferrum_wgpu::{
    Adapter, Config, Engine, EngineError, EngineOptions, Gguf, Model,
    low_level::{gpu::Caps, kernels::KvType},
};
use serde_json::json;
use wasm_bindgen::prelude::*;

use crate::{
    model::LoadOptions,
    source::{Files, Source},
};

/// Returns what a model needs and why it cannot run here, as a JSON object. Reads the headers of its files.
///
/// # Errors
/// An error of the files or of the options.
#[wasm_bindgen]
pub async fn fits(sources: Vec<Source>, options: &str) -> Result<String, JsValue> {
    let options = LoadOptions::parse(options)?;
    let gguf = Files::open(sources).await?.gguf;
    let mut reasons: Vec<String> = Model::unsupported(&gguf).iter().map(ToString::to_string).collect();
    let adapter = Adapter::find(None).await;
    let caps = match &adapter {
        Ok(adapter) => adapter.caps(),
        Err(error) => {
            reasons.push(error.to_string());
            Caps::portable()
        }
    };
    let mut memory = json!(null);
    let mut model = json!(null);
    if let Ok(config) = Config::from_gguf(&gguf) {
        model = json!({
            "architecture": config.architecture.name(), "layers": config.layers, "context": config.context_length,
        });
        match needs(&gguf, &options.engine, &caps) {
            Ok((plan, problem)) => {
                reasons.extend(problem);
                memory = plan;
            }
            Err(error) => reasons.push(error.to_string()),
        }
    }
    let device = adapter.ok().map(|adapter| {
        json!({
            "name": adapter.name(), "features": adapter.features(), "largestBinding": caps.max_binding_bytes,
            "largestBuffer": caps.max_buffer_bytes,
        })
    });
    let found = json!({
        "fits": reasons.is_empty(), "reasons": reasons, "fileBytes": gguf.file_len(), "memory": memory, "model": model,
        "device": device,
    });
    Ok(found.to_string())
}

/// Returns the memory of an engine, and why the device cannot have it.
fn needs(
    gguf: &Gguf,
    options: &EngineOptions,
    caps: &Caps,
) -> Result<(serde_json::Value, Option<String>), EngineError> {
    let plan = Engine::memory(gguf, options, if caps.pack_f16 { KvType::F16 } else { KvType::F32 })?;
    let (name, bytes) = &plan.largest;
    let limit = caps.max_binding_bytes.min(caps.max_buffer_bytes);
    let problem = (*bytes > limit)
        .then(|| format!("{name} needs {bytes} bytes in one piece, and this device binds at most {limit}"));
    let memory = json!({
        "weights": plan.weights, "kv": plan.kv, "states": plan.states, "activations": plan.activations,
        "total": plan.total(), "largest": {"name": name, "bytes": bytes},
    });
    Ok((memory, problem))
}
