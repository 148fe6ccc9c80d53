//! The command `devices`.

use clap::Args;
use ferrum_wgpu::{Adapter, GpuError};
use serde_json::json;

use super::device::with_hint;
use super::exit::{Code, Failure};
use super::output::{self, print, printable, size};

/// List the available devices with their limits and features.
#[derive(Debug, Args)]
pub struct DevicesArgs {
    /// Print JSON.
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

/// Formats two tables, as one would be too wide: identities and capabilities.
fn as_text(adapters: &[Adapter]) -> String {
    let mut identities = vec![["", "INDEX", "NAME", "BACKEND", "TYPE", "DRIVER"].map(str::to_owned)];
    let mut capabilities = vec![
        ["INDEX", "BUFFER", "BINDING", "WORKGROUP", "INVOCATIONS", "STORAGE BUFFERS", "SUBGROUP", "FEATURES"]
            .map(str::to_owned),
    ];
    for (i, adapter) in adapters.iter().enumerate() {
        let caps = adapter.caps();
        let (smallest, largest) = adapter.subgroup_sizes();
        identities.push([
            if i == 0 { "*" } else { "" }.to_owned(),
            i.to_string(),
            printable(adapter.name()),
            adapter.backend(),
            adapter.kind().to_string(),
            printable(&adapter.driver()),
        ]);
        capabilities.push([
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
        "{}* default: the first in the order discrete, integrated, virtual, other, software\n\n\
         Limits: buffer size, storage binding size, workgroup memory, invocations per workgroup, storage buffers per stage\n{}",
        output::table(&identities, &[1]),
        output::table(&capabilities, &[0, 1, 2, 3, 4, 5, 6]),
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
