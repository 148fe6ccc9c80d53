//! What there is: every kernel, every variant, and docs/KERNELS.md.

use std::fmt::Write;

use crate::{
    gpu::{Binding, Caps, Data, Host, Kernel, Shader, host_slots, shader},
    kernels::{self, Visitor},
};

/// A kernel and its variants.
#[derive(Clone, Debug)]
pub struct KernelEntry {
    /// Its name: the path of its body below `wgsl/`.
    pub name: &'static str,
    /// Its doc comment.
    pub doc: &'static str,
    /// Its variants.
    pub variants: Vec<VariantEntry>,
    /// Counts the test cases of all variants.
    count: fn() -> usize,
    /// Tells whether it defines what comes out of any inputs.
    defines: fn() -> bool,
}

/// A kernel variant.
#[derive(Clone, Debug)]
pub struct VariantEntry {
    /// Its `Debug` form.
    pub variant: String,
    /// Its bindings, those that it does not have too.
    pub bindings: Vec<Binding>,
    /// Invocations of a workgroup.
    pub workgroup: u32,
    /// A device without subgroups cannot run it.
    pub needs_subgroups: bool,
    /// A device without an f16 KV cache cannot run it.
    pub needs_pack_f16: bool,
    /// Its shader.
    pub shader: Shader,
}

/// What a device of WebGPU's default limits and every optional feature can do.
fn everything() -> Caps {
    Caps { subgroups: true, ..Caps::portable() }
}

/// Every kernel with every variant that some device of WebGPU's default limits can run.
pub fn catalog() -> Vec<KernelEntry> {
    struct Collect(Vec<KernelEntry>);
    impl Visitor for Collect {
        fn visit<K: Kernel>(&mut self, _: K) {
            let all = everything();
            let plain = K::variants(&Caps { subgroups: false, ..all.clone() });
            let whole = K::variants(&Caps { pack_f16: false, ..all.clone() });
            let variants = K::variants(&all).into_iter().map(|variant| VariantEntry {
                variant: format!("{variant:?}"),
                bindings: K::bindings(&variant),
                workgroup: K::source(variant).workgroup(),
                needs_subgroups: !plain.contains(&variant),
                needs_pack_f16: !whole.contains(&variant),
                shader: shader::<K>(variant),
            });
            let count = || K::variants(&everything()).into_iter().map(|variant| K::cases(variant).len()).sum();
            let defines = || K::variants(&everything()).into_iter().next().is_some_and(defines::<K>);
            let variants = variants.collect();
            self.0.push(KernelEntry { name: K::NAME, doc: K::DOC, variants, count, defines });
        }
    }
    let mut collect = Collect(Vec::new());
    kernels::visit(&mut collect);
    collect.0
}

/// Whether a kernel says what its first case must give, without being told by the case.
fn defines<K: Kernel>(variant: K::Variant) -> bool {
    K::cases(variant).into_iter().next().is_some_and(|case| {
        let mut words = case.data.words();
        let before = K::Host::bind(host_slots(&K::bindings(&variant), &mut words));
        K::expected(variant, &case.params, before).is_some()
    })
}

impl KernelEntry {
    /// Test cases of all its variants. They are made to be counted.
    pub fn cases(&self) -> usize {
        (self.count)()
    }

    /// Whether it defines, with a bound, what comes out of any inputs, and not only of its cases: [`Kernel::expected`].
    pub fn has_definition(&self) -> bool {
        (self.defines)()
    }
}

/// The text of docs/KERNELS.md: it follows from the kernels alone.
pub fn coverage() -> String {
    let kernels = catalog();
    let mut text = "# Kernels\n\n\
        Made by `ferrum-wgpu kernels doc`; a test keeps it true. Each variant of each kernel is compared with its definition \
        in f64\nby `ferrum-wgpu conformance` and by `cargo test`, on a GPU and by its twin, on as many cases as are given \
        here.\n`conformance --model` compares the dispatches of a real forward pass, within the kernel's bound where it has a \
        definition for\nany inputs, and within 1e-3 of its twin where not.\n\n\
        | kernel | variants | of them with subgroups | with an f16 cache | storage bindings | workgroup | cases | with --model |\n\
        |---|--:|--:|--:|--:|--:|--:|---|\n"
        .to_owned();
    let mut totals = (0, 0);
    for kernel in &kernels {
        let (count, cases) = (kernel.variants.len(), kernel.cases());
        totals = (totals.0 + count, totals.1 + cases);
        let with = |has: fn(&VariantEntry) -> bool| kernel.variants.iter().filter(|v| has(v)).count();
        let most_least = |of: &dyn Fn(&VariantEntry) -> u32| {
            let of: Vec<u32> = kernel.variants.iter().map(of).collect();
            match (of.iter().min(), of.iter().max()) {
                (Some(least), Some(most)) if least != most => format!("{least} to {most}"),
                (Some(least), _) => least.to_string(),
                (None, _) => String::new(),
            }
        };
        let _ = writeln!(
            text,
            "| [{name}](#{anchor}) | {count} | {} | {} | {} | {} | {cases} | {} |",
            with(|v| v.needs_subgroups),
            with(|v| v.needs_pack_f16),
            most_least(&|v| v.bindings.iter().filter(|b| b.present).count() as u32),
            most_least(&|v| v.workgroup),
            if kernel.has_definition() { "its own bound" } else { "near its twin" },
            name = kernel.name,
            anchor = kernel.name.replace('/', ""),
        );
    }
    let _ = writeln!(text, "| all {} | {} | | | | | {} | |", kernels.len(), totals.0, totals.1);
    for kernel in &kernels {
        let _ = write!(text, "\n## {}\n\n", kernel.name);
        // Links to items are rustdoc's.
        for line in kernel.doc.lines().map(str::trim) {
            let _ = writeln!(text, "{}", line.replace("[`", "`").replace("`]", "`"));
        }
    }
    text
}
