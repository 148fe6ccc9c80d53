//! The conformance suite and a generation test for a browser page. Cases and table are those of native runs.

mod generation;
#[path = "../../../../examples/suite/share.rs"]
mod share;
#[path = "../../../../examples/suite/stacks.rs"]
#[allow(dead_code, reason = "other programs use the rest")]
mod stacks;
#[path = "../../../../examples/suite/table.rs"]
mod table;

use ferrum_wgpu::{Adapter, Device, GpuError, low_level::conformance::Suite};
use stacks::Stack;
use wasm_bindgen::prelude::*;

#[wasm_bindgen]
extern "C" {
    #[wasm_bindgen(js_namespace = console)]
    fn error(text: &str);
}

/// Runs the cases of the kernels whose names contain `pattern` on the browser's adapter, or a share of their variants.
/// Returns the table, or throws it if a case failed or none ran.
#[wasm_bindgen]
pub async fn suite(pattern: String, share: Option<String>) -> Result<String, String> {
    std::panic::set_hook(Box::new(|info| error(&info.to_string())));
    verdict(run(&pattern, share.as_deref()).await)
}

/// Generates text with a small model on the browser's adapter. Returns a summary, or throws it if the CPU kernels
/// generate other tokens.
#[wasm_bindgen]
pub async fn generation() -> Result<String, String> {
    verdict(generation::generation().await.map_err(|error| error.to_string()))
}

fn verdict(made: Result<(String, bool), String>) -> Result<String, String> {
    let (text, passed) = made?;
    if passed { Ok(text) } else { Err(text) }
}

async fn run(pattern: &str, share: Option<&str>) -> Result<(String, bool), String> {
    let failed = |error: GpuError| error.to_string();
    let adapter = Adapter::find(None).await.map_err(failed)?;
    let device = Device::new(&adapter).await.map_err(failed)?;
    table::check_stack(Stack::named("browser"), device.caps())?;
    let mut suite = Suite::new(device.caps(), pattern);
    if let Some(share) = share {
        share::keep(&mut suite, share)?;
    }
    let (table, passed) = table::table(&suite.run(&device, |_| ()).await.map_err(failed)?);
    Ok((format!("{}, {}\n{table}", adapter.backend(), adapter.features().join(" ")), passed))
}
