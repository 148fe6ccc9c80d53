//! Prints docs/KERNELS.md: `cargo run --example kernels_doc > docs/KERNELS.md`.

mod markdown;
#[path = "../suite/stacks.rs"]
#[allow(dead_code, reason = "other programs use the rest")]
mod stacks;

fn main() {
    print!("{}", markdown::kernels());
}
