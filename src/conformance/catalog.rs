//! What there is: every kernel, every variant, and docs/KERNELS.md.

use std::fmt::Write;

use super::{Feature, Judgement, STACKS};
use crate::{
    gpu::{Binding, Data, Host, Kernel, Shader, host_slots, shader},
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
    /// What a device cannot run it without.
    pub needs: Vec<Feature>,
    /// Of each of the [`STACKS`] whether it judges the variant.
    pub judged: Vec<bool>,
    /// Its shader.
    pub shader: Shader,
}

/// Every kernel with every variant that some device of WebGPU's default limits can run.
pub fn catalog() -> Vec<KernelEntry> {
    struct Collect(Vec<KernelEntry>);
    impl Visitor for Collect {
        fn visit<K: Kernel>(&mut self, _: K) {
            let without = |feature| Feature::ALL.into_iter().filter(|f| *f != feature).collect::<Vec<_>>();
            let lacking = Feature::ALL.map(|feature| (feature, K::supported(&Feature::caps(&without(feature)))));
            let of_stacks: Vec<_> = STACKS.iter().map(|stack| K::supported(&stack.caps())).collect();
            let variants = all::<K>().into_iter().map(|variant| VariantEntry {
                variant: format!("{variant:?}"),
                bindings: K::bindings(&variant),
                workgroup: K::source(variant).workgroup(),
                needs: lacking.iter().filter(|(_, has)| !has.contains(&variant)).map(|(feature, _)| *feature).collect(),
                judged: of_stacks.iter().map(|variants| variants.contains(&variant)).collect(),
                shader: shader::<K>(variant),
            });
            let count = || all::<K>().into_iter().map(|variant| K::cases(variant).len()).sum();
            let defines = || all::<K>().into_iter().next().is_some_and(defines::<K>);
            let variants = variants.collect();
            self.0.push(KernelEntry { name: K::NAME, doc: K::DOC, variants, count, defines });
        }
    }
    let mut collect = Collect(Vec::new());
    kernels::visit(&mut collect);
    collect.0
}

/// The variants that a device of WebGPU's default limits and every feature can run.
fn all<K: Kernel>() -> Vec<K::Variant> {
    K::supported(&Feature::caps(&Feature::ALL))
}

/// Whether a kernel says what its first case must give, without being told by the case.
fn defines<K: Kernel>(variant: K::Variant) -> bool {
    K::cases(variant).into_iter().next().is_some_and(|case| {
        let mut words = case.data.words();
        let before = K::Host::bind(host_slots(&K::bindings(&variant), &mut words));
        K::reference(variant, &case.params, before).is_some()
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

    /// Its variants in families that need the same, those that need the least first: what they need, by name, how many they
    /// are, and of each of the [`STACKS`] how many it judges.
    fn families(&self) -> Vec<(String, usize, Vec<usize>)> {
        let mut families: Vec<(String, usize, Vec<usize>)> = Vec::new();
        let mut variants: Vec<&VariantEntry> = self.variants.iter().collect();
        variants.sort_by_key(|variant| variant.needs.len());
        for variant in variants {
            let needs = variant.needs.iter().map(|feature| feature.name()).collect::<Vec<_>>().join(" + ");
            let place = families.iter().position(|(other, ..)| *other == needs).unwrap_or_else(|| {
                families.push((needs, 0, vec![0; STACKS.len()]));
                families.len() - 1
            });
            if let Some((_, count, judged)) = families.get_mut(place) {
                *count += 1;
                judged.iter_mut().zip(&variant.judged).for_each(|(judged, is)| *judged += usize::from(*is));
            }
        }
        families
    }
}

/// The text of docs/KERNELS.md: it follows from the kernels and the stacks alone.
pub fn coverage() -> String {
    let kernels = catalog();
    let mut text = "# Kernels\n\n\
        Made by `ferrum-wgpu kernels doc`; a test keeps it true. Each variant of each kernel is compared with its definition \
        in f64\nby `ferrum-wgpu conformance` and by `cargo test`, on a GPU and by its CPU kernel, on as many cases as are given \
        here.\n`conformance --model` compares the dispatches of a real forward pass, within the kernel's bound where it has a \
        definition for\nany inputs, and within 1e-3 of its CPU kernel where not.\n\n"
        .to_owned();
    kernel_table(&mut text, &kernels);
    stack_table(&mut text, &kernels);
    for kernel in &kernels {
        let _ = write!(text, "\n## {}\n\n", kernel.name);
        // Links to items are rustdoc's.
        for line in kernel.doc.lines().map(str::trim) {
            let _ = writeln!(text, "{}", line.replace("[`", "`").replace("`]", "`"));
        }
    }
    text
}

/// A link to a kernel's section.
fn link(kernel: &KernelEntry) -> String {
    format!("[{}](#{})", kernel.name, kernel.name.replace('/', ""))
}

fn kernel_table(text: &mut String, kernels: &[KernelEntry]) {
    text.push_str(
        "| kernel | variants | storage bindings | workgroup | cases | with --model |\n|---|--:|--:|--:|--:|---|\n",
    );
    let mut totals = (0, 0);
    for kernel in kernels {
        let (count, cases) = (kernel.variants.len(), kernel.cases());
        totals = (totals.0 + count, totals.1 + cases);
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
            "| {} | {count} | {} | {} | {cases} | {} |",
            link(kernel),
            most_least(&|v| v.bindings.iter().filter(|b| b.present).count() as u32),
            most_least(&|v| v.workgroup),
            if kernel.has_definition() { "its own bound" } else { "near its CPU kernel" },
        );
    }
    let _ = writeln!(text, "| all {} | {} | | | {} | |", kernels.len(), totals.0, totals.1);
}

fn stack_table(text: &mut String, kernels: &[KernelEntry]) {
    text.push_str(
        "\n## Stacks\n\n\
        Variants by what they need beyond WebGPU's default limits, and how many of them each stack judges: all of them (●), or \
        none (–)\nbecause it lacks that. Which variants these are follows from what a stack can do, as on any device; the runs \
        of\n`make test-stacks` refuse a driver that can do less than is said here.\n\n",
    );
    let names: Vec<_> = STACKS.iter().map(|stack| stack.name).collect();
    let _ = writeln!(text, "| kernel | needs | variants | {} |", names.join(" | "));
    let _ = writeln!(text, "|---|---|--:|{}", ":-:|".repeat(names.len()));
    for kernel in kernels {
        for (i, (needs, count, judged)) in kernel.families().into_iter().enumerate() {
            let name = if i == 0 { link(kernel) } else { String::new() };
            let cells = judged.into_iter().map(|judged| match judged {
                0 => "–".to_owned(),
                all if all == count => "●".to_owned(),
                some => some.to_string(),
            });
            let needs = if needs.is_empty() { "nothing" } else { &needs };
            let _ = writeln!(text, "| {name} | {needs} | {count} | {} |", cells.collect::<Vec<_>>().join(" | "));
        }
    }
    text.push('\n');
    for stack in STACKS {
        let how = match stack.judgement {
            Judgement::Runs => "runs the cases",
            Judgement::Compiles => "compiles every shader",
            Judgement::Translates => "every shader is translated to it",
        };
        let _ = write!(text, "- **{}**, {}: {how}", stack.name, stack.what);
        for (features, reason) in stack.lacks {
            let names = match *features {
                all if all == Feature::MATRICES => "cooperative matrices".to_owned(),
                some => some.iter().map(|feature| feature.name()).collect::<Vec<_>>().join(", "),
            };
            let _ = write!(text, "; no {names}: {reason}");
        }
        text.push_str(".\n");
    }
}
