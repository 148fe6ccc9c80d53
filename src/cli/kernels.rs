//! The command `kernels`: lists the kernels, prints their shaders, and plans passes.

use clap::{Args, Subcommand};
use ferrum_wgpu::low_level::conformance::{KernelEntry, VariantEntry, catalog};
use ferrum_wgpu::low_level::gpu::{Access, workgroup_bytes};

use super::exit::{Code, Failure};
use super::output::{print, table};
use super::plan::{PlanArgs, plan};

/// Show the kernels.
#[derive(Debug, Args)]
pub struct KernelsArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List the supported variants of all kernels: bindings (written ones with a star), workgroup size, bytes of workgroup
    /// memory, needed features, and whether `conformance` covers the variant.
    List {
        /// Only kernels whose name contains this.
        #[arg(default_value = "")]
        name: String,
    },
    /// Print the WGSL of a kernel's first variant, or of the first that --variant matches.
    Dump {
        /// The kernel's name, as `list` shows it.
        name: String,
        /// A part of the variant's name.
        #[arg(long, value_name = "PART", default_value = "")]
        variant: String,
    },
    /// List the dispatches of a decode step or of a prompt, as a GPU that need not be there would be given them: kernel, variant,
    /// workgroups, invocations, bytes read and multiply-adds.
    Plan(PlanArgs),
}

/// Runs the command. Uses no device.
pub async fn kernels(args: &KernelsArgs) -> Result<Code, Failure> {
    print(&match &args.action {
        Action::List { name } => list(name)?,
        Action::Dump { name, variant } => dump(name, variant)?,
        Action::Plan(args) => return plan(args).await,
    })?;
    Ok(Code::Success)
}

fn no_kernel(name: &str) -> Failure {
    let names = catalog().iter().map(|kernel| kernel.name).collect::<Vec<_>>().join(", ");
    Failure::usage(format!("unknown kernel {name:?}; the kernels are {names}"))
}

/// Returns a variant's `Debug` form without the type's name.
pub fn short(variant: &str) -> &str {
    let fields = variant.strip_prefix("Variant { ").and_then(|rest| rest.strip_suffix(" }"));
    if variant == "()" { "-" } else { fields.unwrap_or(variant) }
}

fn list(name: &str) -> Result<String, Failure> {
    let kernels: Vec<KernelEntry> = catalog().into_iter().filter(|kernel| kernel.name.contains(name)).collect();
    if kernels.is_empty() {
        return Err(no_kernel(name));
    }
    let mut rows =
        vec![["KERNEL", "VARIANT", "BINDINGS", "WORKGROUP", "MEMORY", "NEEDS", "COVERED"].map(str::to_owned)];
    for kernel in &kernels {
        rows.extend(kernel.variants.iter().map(|variant| row(kernel.name, variant)));
    }
    Ok(table(&rows, &[3, 4]))
}

fn row(kernel: &str, variant: &VariantEntry) -> [String; 7] {
    let star = |access| if access == Access::Write { "*" } else { "" };
    let bindings = variant.bindings.iter().filter(|b| b.present);
    let bindings = bindings.map(|b| format!("{}{}: {}", b.name, star(b.access), b.element)).collect::<Vec<_>>();
    let needs = variant.needs.iter().map(|feature| feature.name()).collect::<Vec<_>>();
    [
        kernel.to_owned(),
        short(&variant.variant).to_owned(),
        bindings.join(", "),
        variant.workgroup.to_string(),
        workgroup_bytes(&variant.shader).map_or_else(|| "?".to_owned(), |bytes| bytes.to_string()),
        needs.join(", "),
        if variant.covered { "yes" } else { "no" }.to_owned(),
    ]
}

fn dump(name: &str, wanted: &str) -> Result<String, Failure> {
    let kernel = catalog().into_iter().find(|kernel| kernel.name == name).ok_or_else(|| no_kernel(name))?;
    let variant = kernel.variants.into_iter().find(|variant| variant.variant.contains(wanted));
    let variant = variant.ok_or_else(|| Failure::usage(format!("{name} has no variant {wanted:?}")))?;
    Ok(format!("// {name} {}\n{}", variant.variant, variant.shader.text))
}
