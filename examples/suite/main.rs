//! Runs the conformance suite on the first adapter and prints a table: `suite [PART...]`.
//!
//! Each PART must occur in the adapter's backend, name or driver, whatever its case: a stack that silently turns into
//! another one is an error.

mod table;

use std::error::Error;

use ferrum_wgpu::{
    conformance::{Suite, Target},
    gpu::{Adapter, Device},
};

fn main() -> Result<(), Box<dyn Error>> {
    pollster::block_on(async {
        let adapter = Adapter::find(None).await?;
        let device = Device::new(&adapter).await?;
        let (smallest, largest) = adapter.subgroup_sizes();
        let stack = format!("{}: {} ({})", adapter.backend(), adapter.name(), adapter.driver());
        println!("{stack}, {}, subgroups of {smallest} to {largest}", adapter.features().join(" "));
        for part in std::env::args().skip(1) {
            if !stack.to_lowercase().contains(&part.to_lowercase()) {
                return Err(format!("this is not {part}").into());
            }
        }
        let suite = Suite::new(device.caps(), "");
        let (table, passed) = table::table(&suite.run(&device, &Target::from(&adapter), |_| ()).await?);
        print!("{table}");
        if passed { Ok(()) } else { Err("the suite failed".into()) }
    })
}
