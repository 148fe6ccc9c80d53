//! Runs the conformance suite on the first adapter and prints a table: `suite [--stack NAME] [--share TEXT/N] [PART...]`.
//!
//! Each PART must occur in the adapter's backend, name or driver, case-insensitively. This detects a stack that
//! silently falls back to another one. NAME is an entry of `stacks.rs`; the device must have all
//! features of that entry. `--share` runs each kernel's first variant and an N-th of the others, which TEXT chooses.

mod share;
#[allow(dead_code, reason = "other programs use the rest")]
mod stacks;
mod table;

use std::error::Error;

use ferrum_wgpu::{Adapter, Device, low_level::conformance::Suite};
use stacks::Stack;

fn main() -> Result<(), Box<dyn Error>> {
    let (mut parts, mut listed, mut share) = (Vec::<String>::new(), None, None);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--stack" => {
                let name = arguments.next().ok_or("--stack needs a name")?;
                listed = Some(Stack::named(&name).ok_or_else(|| format!("unknown stack {name}"))?);
            }
            "--share" => share = Some(arguments.next().ok_or("--share needs TEXT/N")?),
            _ => parts.push(argument),
        }
    }
    pollster::block_on(async {
        let adapter = Adapter::find(None).await?;
        let device = Device::new(&adapter).await?;
        let (smallest, largest) = adapter.subgroup_sizes();
        let stack = format!("{}: {} ({})", adapter.backend(), adapter.name(), adapter.driver());
        println!("{stack}, {}, subgroups of {smallest} to {largest}", adapter.features().join(" "));
        if let Some(part) = parts.iter().find(|part| !stack.to_lowercase().contains(&part.to_lowercase())) {
            return Err(format!("wrong adapter, expected {part}").into());
        }
        table::check_stack(listed, device.caps())?;
        let mut suite = Suite::new(device.caps(), "");
        let all = suite.len();
        if let Some(share) = &share {
            share::keep(&mut suite, share)?;
            println!("share {share}: {} of {all} variants", suite.len());
        }
        let (table, passed) = table::table(&suite.run(&device, |_| ()).await?);
        print!("{table}");
        if passed { Ok(()) } else { Err("the suite failed".into()) }
    })
}
