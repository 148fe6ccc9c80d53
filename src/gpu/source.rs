//! Composing a kernel's WGSL: generated declarations, injected constants, chosen fragments, body.

use std::fmt::{self, Write};

use super::kernel::{Access, Binding};

/// A piece of WGSL and the file it is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment {
    /// Path below `wgsl/`.
    pub path: &'static str,
    /// The text.
    pub text: &'static str,
}

/// The fragment in a file below `wgsl/`.
macro_rules! wgsl {
    ($path:literal) => {
        $crate::gpu::Fragment { path: $path, text: include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/wgsl/", $path)) }
    };
}
pub(crate) use wgsl;

/// A value that becomes a WGSL `const`.
pub trait Constant {
    /// The constant's type and value as WGSL writes them.
    fn wgsl(&self) -> (&'static str, String);
}

impl Constant for u32 {
    fn wgsl(&self) -> (&'static str, String) {
        ("u32", format!("{self}u"))
    }
}

impl Constant for bool {
    fn wgsl(&self) -> (&'static str, String) {
        ("bool", self.to_string())
    }
}

/// Bytes that the uniform parameters have behind a kernel's own: the first workgroup, of a grid that is sent in pieces.
pub(crate) const FIRST_BYTES: usize = 8;

/// What a kernel variant is made of.
#[derive(Clone, Debug)]
pub struct Source {
    /// Invocations of a workgroup.
    workgroup: u32,
    subgroups: bool,
    f16: bool,
    matrices: bool,
    constants: Vec<(&'static str, &'static str, String)>,
    fragments: Vec<Fragment>,
}

impl Source {
    /// A source with `body`, the fragment that has `fn kernel(workgroup: vec3<u32>, invocation: u32)`, for workgroups of
    /// `workgroup` invocations, which is the constant `WG` too.
    pub fn new(body: Fragment, workgroup: u32) -> Self {
        let fragments = vec![wgsl!("lib/grid.wgsl"), body];
        Self { workgroup, subgroups: false, f16: false, matrices: false, constants: Vec::new(), fragments }
            .constant("WG", workgroup)
    }

    /// Gives fragments an invocation's place among its workgroup's subgroups: `sg_count`, `sg_id`, and `sg_lane` in its own.
    pub fn subgroups(mut self, used: bool) -> Self {
        self.subgroups |= used;
        self
    }

    /// Lets fragments have the type `f16`.
    pub fn f16(mut self, used: bool) -> Self {
        self.f16 |= used;
        self
    }

    /// Lets fragments have cooperative matrices, and an invocation's place among subgroups.
    pub fn matrices(mut self, used: bool) -> Self {
        self.matrices |= used;
        self.subgroups(used)
    }

    /// Whether fragments know their place among subgroups.
    pub fn has_subgroups(&self) -> bool {
        self.subgroups
    }

    /// Adds a library fragment, or the one that fills a slot.
    pub fn with(mut self, fragment: Fragment) -> Self {
        let body = self.fragments.len().saturating_sub(1);
        self.fragments.insert(body, fragment);
        self
    }

    /// Adds several fragments.
    pub fn with_all(self, fragments: impl IntoIterator<Item = Fragment>) -> Self {
        fragments.into_iter().fold(self, Self::with)
    }

    /// Adds a constant.
    pub fn constant(mut self, name: &'static str, value: impl Constant) -> Self {
        let (ty, value) = value.wgsl();
        self.constants.push((name, ty, value));
        self
    }

    /// Invocations of a workgroup.
    pub fn workgroup(&self) -> u32 {
        self.workgroup
    }

    /// The whole module: directives, constants, `Params`, bindings, entry point, fragments in order.
    pub(crate) fn compose(&self, params: &str, bindings: &[Binding]) -> Shader {
        let mut text = String::new();
        if self.f16 {
            text.push_str("enable f16;\n");
        }
        if self.matrices {
            text.push_str("enable wgpu_cooperative_matrix;\n");
        }
        for (name, ty, value) in &self.constants {
            let _ = writeln!(text, "const {name}: {ty} = {value};");
        }
        let _ = writeln!(
            text,
            "struct Params {{\n{params}    grid_x: u32,\n    grid_y: u32,\n}}\n@group(0) @binding(0) var<uniform> p: Params;"
        );
        for (binding, number) in bindings.iter().filter(|b| b.present).zip(1u32..) {
            let access = match binding.access {
                Access::Read => "read",
                Access::Write => "read_write",
            };
            let Binding { name, element, .. } = binding;
            let _ = writeln!(text, "@group(0) @binding({number}) var<storage, {access}> {name}: array<{element}>;");
        }
        text.push_str(&self.entry_point());
        let mut origins = Vec::new();
        for fragment in &self.fragments {
            let _ = writeln!(text, "// {}", fragment.path);
            origins.push((text.lines().count(), fragment.path));
            text.push_str(fragment.text);
        }
        Shader { text, origins }
    }

    fn entry_point(&self) -> String {
        let (mut variables, mut arguments, mut assignments) = (String::new(), String::new(), String::new());
        if self.subgroups {
            for (name, builtin) in
                [("sg_count", "num_subgroups"), ("sg_id", "subgroup_id"), ("sg_lane", "subgroup_invocation_id")]
            {
                let _ = writeln!(variables, "var<private> {name}: u32;");
                let _ = write!(arguments, ", @builtin({builtin}) {builtin}: u32");
                let _ = writeln!(assignments, "    {name} = {builtin};");
            }
        }
        format!(
            "{variables}@compute @workgroup_size({})\nfn main(@builtin(workgroup_id) workgroup: vec3<u32>, \
             @builtin(local_invocation_index) invocation: u32{arguments}) {{\n{assignments}    \
             kernel(workgroup + vec3<u32>(p.grid_x, p.grid_y, 0u), invocation);\n}}\n",
            self.workgroup
        )
    }
}

/// A composed WGSL module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shader {
    /// The text.
    pub text: String,
    /// Lines before each fragment, in order, with the fragment's path.
    origins: Vec<(usize, &'static str)>,
}

impl Shader {
    /// Replaces `from` by `to` wherever it occurs.
    pub(crate) fn replace(&mut self, from: &str, to: &str) {
        self.text = self.text.replace(from, to);
    }

    /// A compiler's message with its positions in this text (`wgsl:LINE:COLUMN`) as positions in the files.
    pub(crate) fn locate(&self, message: &str) -> String {
        let mut out = String::new();
        let mut rest = message;
        while let Some(at) = rest.find("wgsl:") {
            let (before, after) = rest.split_at(at + "wgsl:".len());
            let digits = after.len() - after.trim_start_matches(|c: char| c.is_ascii_digit()).len();
            let (line, tail) = after.split_at(digits);
            out.push_str(before);
            match line.parse::<usize>() {
                Ok(line) => {
                    let _ = write!(out, "{}", self.origin(line));
                }
                Err(_) => out.push_str(line),
            }
            rest = tail;
        }
        out + rest
    }

    fn origin(&self, line: usize) -> impl fmt::Display {
        match self.origins.iter().rev().find(|(before, _)| line > *before) {
            Some((before, path)) => format!("{path}:{}", line - before),
            None => format!("generated declarations:{line}"),
        }
    }
}
