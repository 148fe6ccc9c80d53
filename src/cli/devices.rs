//! `devices`: what there is to compute on.

use clap::Args;
use ferrum_wgpu::gpu::{Adapter, GpuError};
use serde_json::json;

use super::device::with_hint;
use super::exit::{Code, Failure};
use super::output::{self, print, printable, size};

/// List the devices that can be computed on.
#[derive(Debug, Args)]
pub struct DevicesArgs {
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// Prints the table of adapters.
pub async fn devices(args: &DevicesArgs) -> Result<Code, Failure> {
    let adapters = Adapter::enumerate().await;
    if adapters.is_empty() {
        return Err(with_hint(GpuError::NoAdapter));
    }
    print(&if args.json { as_json(&adapters) } else { as_text(&adapters) })?;
    Ok(Code::Success)
}

/// Two tables, as one would be too wide: who the devices are, and what they can do.
fn as_text(adapters: &[Adapter]) -> String {
    let mut who = vec![["", "INDEX", "NAME", "BACKEND", "TYPE", "DRIVER"].map(str::to_owned)];
    let mut what = vec![
        ["INDEX", "BUFFER", "BINDING", "WORKGROUP", "INVOCATIONS", "STORAGE BUFFERS", "SUBGROUP", "FEATURES"]
            .map(str::to_owned),
    ];
    for (i, adapter) in adapters.iter().enumerate() {
        let caps = adapter.caps();
        let (smallest, largest) = adapter.subgroup_sizes();
        who.push([
            if i == 0 { "*" } else { "" }.to_owned(),
            i.to_string(),
            printable(adapter.name()),
            adapter.backend(),
            adapter.kind().to_string(),
            printable(&adapter.driver()),
        ]);
        what.push([
            i.to_string(),
            size(caps.max_buffer_bytes),
            size(caps.max_binding_bytes),
            size(caps.max_workgroup_bytes.into()),
            caps.max_workgroup_invocations.to_string(),
            caps.max_storage_buffers.to_string(),
            if smallest == largest { smallest.to_string() } else { format!("{smallest} to {largest}") },
            adapter.features().join(" "),
        ]);
    }
    format!(
        "{}* is the default: first of the order discrete, integrated, virtual, other, software\n\n\
         Largest buffer, storage binding, workgroup memory, invocations of a workgroup; storage buffers of a shader:\n{}",
        output::table(&who, &[1]),
        output::table(&what, &[0, 1, 2, 3, 4, 5, 6]),
    )
}

fn as_json(adapters: &[Adapter]) -> String {
    let devices = adapters.iter().enumerate().map(|(index, adapter)| {
        let caps = adapter.caps();
        let (smallest, largest) = adapter.subgroup_sizes();
        json!({
            "index": index,
            "default": index == 0,
            "name": adapter.name(),
            "backend": adapter.backend(),
            "type": adapter.kind().to_string(),
            "driver": adapter.driver(),
            "limits": {
                "max_buffer_bytes": caps.max_buffer_bytes,
                "max_binding_bytes": caps.max_binding_bytes,
                "max_workgroup_bytes": caps.max_workgroup_bytes,
                "max_workgroup_invocations": caps.max_workgroup_invocations,
                "max_storage_buffers": caps.max_storage_buffers,
            },
            "features": adapter.features(),
            "subgroup_sizes": [smallest, largest],
        })
    });
    format!("{}\n", json!({ "devices": devices.collect::<Vec<_>>() }))
}
