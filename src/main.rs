//! The command line; `ferrum-wgpu --help` says what it does.
#![deny(unsafe_code)]

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    silence_device_select();
    cli::main()
}

/// Mesa's Vulkan layer for the choice of a GPU prints an error line of its own where there is no desktop session, which
/// it needs for that choice: there it is told not to run.
#[cfg(target_os = "linux")]
#[allow(unsafe_code)]
fn silence_device_select() {
    const SWITCH: &str = "NODEVICE_SELECT";
    let set = |name: &str| std::env::var_os(name).is_some();
    if !set("WAYLAND_DISPLAY") && !set("DISPLAY") && !set(SWITCH) {
        // SAFETY: no other thread exists yet that could read or write the environment meanwhile: this is the first thing
        // that `main` does.
        unsafe { std::env::set_var(SWITCH, "1") };
    }
}

#[cfg(not(target_os = "linux"))]
fn silence_device_select() {}
