//! The command line; see `ferrum-wgpu --help`.
// wgpu's types are deeply nested, which matters for the `Send` check of futures.
#![recursion_limit = "256"]
#![deny(unsafe_code)]

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    silence_device_select();
    cli::main()
}

/// Disables Mesa's device selection layer for Vulkan without a desktop session, where it prints an error.
#[cfg(target_os = "linux")]
#[allow(unsafe_code)]
fn silence_device_select() {
    const SWITCH: &str = "NODEVICE_SELECT";
    let set = |name: &str| std::env::var_os(name).is_some();
    if !set("WAYLAND_DISPLAY") && !set("DISPLAY") && !set(SWITCH) {
        // SAFETY: this runs first in `main`; no other thread exists that could access the environment.
        unsafe { std::env::set_var(SWITCH, "1") };
    }
}

#[cfg(not(target_os = "linux"))]
fn silence_device_select() {}
