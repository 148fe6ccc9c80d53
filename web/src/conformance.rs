//! The conformance suite on the browser's GPU.

use std::collections::BTreeSet;

use ferrum_wgpu::{
    Adapter, Device,
    low_level::conformance::{Report, Suite},
};
use js_sys::Function;
use serde_json::json;
use wasm_bindgen::prelude::*;

use crate::error;

/// Runs the suite's cases of the kernels whose names contain `pattern`: one variant of each kernel, or all with `whole`. Calls
/// `told` with each variant's report and returns the counts, as JSON objects.
///
/// # Errors
/// An error of the device.
#[wasm_bindgen]
pub async fn conformance(pattern: &str, whole: bool, told: Function) -> Result<String, JsValue> {
    let adapter = Adapter::find(None).await.map_err(error::of)?;
    let device = Device::new(&adapter).await.map_err(error::of)?;
    let mut suite = Suite::new(device.caps(), pattern);
    let mut seen = BTreeSet::new();
    suite.retain(|kernel, _| whole || seen.insert(kernel));
    let tell = |report: &Report| {
        let text = json!({
            "kernel": report.kernel, "variant": report.variant, "cases": report.outcomes.len(),
            "passed": report.passed(), "worst": report.worst(),
            "failures": report.failures().map(|outcome| format!("{outcome:?}")).collect::<Vec<_>>(),
        });
        // A callback that fails does not stop the work.
        let _ = told.call1(&JsValue::NULL, &text.to_string().into());
    };
    let reports = suite.run(&device, tell).await.map_err(error::of)?;
    let passed = reports.iter().filter(|report| report.passed()).count();
    Ok(json!({"passed": passed, "failed": reports.len() - passed, "device": device.fingerprint()}).to_string())
}
