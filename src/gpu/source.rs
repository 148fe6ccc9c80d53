//! Composition of a kernel's WGSL from generated declarations, constants, fragments and a body.

use std::fmt::{self, Write};

use super::binding::{Access, Binding};

/// A WGSL file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment {
    /// Path below `wgsl/`.
    pub path: &'static str,
    /// The text.
    pub text: &'static str,
}

/// Includes a file below `wgsl/` as a [`Fragment`].
macro_rules! wgsl {
    ($path:literal) => {
        $crate::gpu::Fragment { path: $path, text: include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/wgsl/", $path)) }
    };
}
pub(crate) use wgsl;

/// A value of a WGSL `const`.
pub trait Constant {
    /// Returns the type and the value in WGSL.
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

/// The bytes behind a kernel's uniform parameters: the first workgroup, for a dispatch that is split.
pub(super) const FIRST_WORKGROUP_BYTES: usize = 8;

/// The parts of a kernel variant's shader.
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
    /// Creates a source with `body`, the fragment with `fn kernel(workgroup: vec3<u32>, invocation: u32)`, and workgroups of
    /// `workgroup` invocations (the constant `WG`).
    pub fn new(body: Fragment, workgroup: u32) -> Self {
        let fragments = vec![wgsl!("lib/grid.wgsl"), body];
        Self { workgroup, subgroups: false, f16: false, matrices: false, constants: Vec::new(), fragments }
            .constant("WG", workgroup)
    }

    /// Declares the variables `sg_count`, `sg_id` and `sg_lane` if `used`.
    pub fn subgroups(mut self, used: bool) -> Self {
        self.subgroups |= used;
        self
    }

    /// Enables the type `f16` if `used`.
    pub fn f16(mut self, used: bool) -> Self {
        self.f16 |= used;
        self
    }

    /// Enables cooperative matrices, and the variables of [`Source::subgroups`], if `used`.
    pub fn matrices(mut self, used: bool) -> Self {
        self.matrices |= used;
        self.subgroups(used)
    }

    /// Returns whether it has the variables of [`Source::subgroups`].
    pub fn has_subgroups(&self) -> bool {
        self.subgroups
    }

    /// Adds a fragment before the body.
    pub fn with(mut self, fragment: Fragment) -> Self {
        let body = self.fragments.len().saturating_sub(1);
        self.fragments.insert(body, fragment);
        self
    }

    /// Adds fragments before the body.
    pub fn with_all(self, fragments: impl IntoIterator<Item = Fragment>) -> Self {
        fragments.into_iter().fold(self, Self::with)
    }

    /// Adds a constant.
    pub fn constant(mut self, name: &'static str, value: impl Constant) -> Self {
        let (ty, value) = value.wgsl();
        self.constants.push((name, ty, value));
        self
    }

    /// Replaces a fragment by another one that has the same functions.
    pub(crate) fn replace(mut self, old: Fragment, new: Fragment) -> Self {
        self.fragments.iter_mut().filter(|fragment| **fragment == old).for_each(|fragment| *fragment = new);
        self
    }

    /// Returns the invocations of a workgroup.
    pub fn workgroup(&self) -> u32 {
        self.workgroup
    }

    /// Composes the module: directives, constants, `Params`, bindings, entry point, fragments in order.
    pub(super) fn compose(&self, params: &str, bindings: &[Binding]) -> Shader {
        let mut text = String::new();
        if self.f16 {
            text.push_str("enable f16;\n");
        }
        // Browsers require the directive, naga refuses it.
        if self.subgroups && cfg!(target_arch = "wasm32") {
            text.push_str("enable subgroups;\n");
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
    /// The number of lines before each fragment, and its path.
    origins: Vec<(usize, &'static str)>,
}

impl Shader {
    /// Replaces all occurrences of `from` with `to`.
    #[cfg(feature = "test-util")]
    pub(super) fn replace(&mut self, from: &str, to: &str) {
        self.text = self.text.replace(from, to);
    }

    /// Converts the positions in a compiler's message (`wgsl:LINE:COLUMN` of this text) to positions in the files.
    pub(super) fn locate(&self, message: &str) -> String {
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
