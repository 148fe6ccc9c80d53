//! Runs the conformance suite on the first adapter and prints a table: `suite [--stack NAME] [PART...]`.
//!
//! Each PART must occur in the adapter's backend, name or driver, whatever its case: a stack that silently turns into
//! another one is an error. So is one that lacks what the library's list of stacks says that NAME has.

mod table;

use std::error::Error;

use ferrum_wgpu::{
    conformance::{Stack, Suite, Target},
    gpu::{Adapter, Device},
};

fn main() -> Result<(), Box<dyn Error>> {
    let mut parts: Vec<String> = std::env::args().skip(1).collect();
    let mut listed = None;
    if parts.first().is_some_and(|part| part == "--stack") {
        let name = parts.drain(..2.min(parts.len())).nth(1).ok_or("--stack of what name?")?;
        listed = Some(Stack::named(&name).ok_or_else(|| format!("no stack {name} is listed"))?);
    }
    pollster::block_on(async {
        let adapter = Adapter::find(None).await?;
        let device = Device::new(&adapter).await?;
        let (smallest, largest) = adapter.subgroup_sizes();
        let stack = format!("{}: {} ({})", adapter.backend(), adapter.name(), adapter.driver());
        println!("{stack}, {}, subgroups of {smallest} to {largest}", adapter.features().join(" "));
        if let Some(part) = parts.iter().find(|part| !stack.to_lowercase().contains(&part.to_lowercase())) {
            return Err(format!("this is not {part}").into());
        }
        table::check_stack(listed, device.caps())?;
        let suite = Suite::new(device.caps(), "");
        let (table, passed) = table::table(&suite.run(&device, &Target::from(&adapter), |_| ()).await?);
        print!("{table}");
        if passed { Ok(()) } else { Err("the suite failed".into()) }
    })
}
