//! Writes every kernel variant's shader to a folder, a file each, for other compilers to judge:
//! `dump_shaders FOLDER [--subgroups]`.
//!
//! Variants are those of a device with WebGPU's default limits, with `--subgroups` those that need subgroups and no
//! others. `NAME.wgsl` is the module as a browser has to see it, `NAME.spv`, `NAME.hlsl` and `NAME.comp` are naga's
//! translations of it.

use std::{collections::HashMap, error::Error, fs, path::Path};

use ferrum_wgpu::{
    gpu::{Caps, Kernel, shader},
    kernels::{Visitor, visit},
};
use naga::{
    back::{glsl, hlsl, spv},
    proc::BoundsCheckPolicies,
    valid::{Capabilities, ShaderStages, SubgroupOperationSet, ValidationFlags, Validator},
};

/// Name and text of every variant.
fn variants(subgroups: bool) -> Vec<(String, String)> {
    struct Collect(Caps, Vec<(String, String)>);
    impl Visitor for Collect {
        fn visit<K: Kernel>(&mut self, _: K) {
            for variant in K::variants(&self.0) {
                self.1.push((format!("{} {variant:?}", K::NAME), shader::<K>(variant).text));
            }
        }
    }
    let mut collect = Collect(Caps { subgroups, ..Caps::portable() }, Vec::new());
    visit(&mut collect);
    collect.1
}

/// `linear/gemv Shape { rows: 4 }` as `linear-gemv-Shape-rows-4`.
fn file_name(name: &str) -> String {
    name.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|part| !part.is_empty()).collect::<Vec<_>>().join("-")
}

fn dump(folder: &Path, name: &str, text: &str, subgroups: bool) -> Result<(), Box<dyn Error>> {
    // Browsers want the directive, naga refuses it.
    let directive = if subgroups { "enable subgroups;\n" } else { "" };
    fs::write(folder.join(format!("{name}.wgsl")), format!("{directive}{text}"))?;

    let module = naga::front::wgsl::parse_str(text).map_err(|error| error.emit_to_string(text))?;
    let mut capabilities = Capabilities::SHADER_FLOAT16_IN_FLOAT32;
    capabilities.set(Capabilities::SUBGROUP, subgroups);
    let mut validator = Validator::new(ValidationFlags::all(), capabilities);
    if subgroups {
        validator.subgroup_stages(ShaderStages::COMPUTE).subgroup_operations(SubgroupOperationSet::all());
    }
    let info = validator.validate(&module).map_err(|error| error.emit_to_string(text))?;

    let options = spv::Options { lang_version: (1, if subgroups { 3 } else { 0 }), ..Default::default() };
    let words = spv::write_vec(&module, &info, &options, None)?;
    let bytes: Vec<u8> = words.into_iter().flat_map(u32::to_le_bytes).collect();
    fs::write(folder.join(format!("{name}.spv")), bytes)?;

    let mut out = String::new();
    let options = hlsl::Options { shader_model: hlsl::ShaderModel::V6_0, ..Default::default() };
    hlsl::Writer::new(&mut out, &options, &hlsl::PipelineOptions::default()).write(&module, &info, None)?;
    fs::write(folder.join(format!("{name}.hlsl")), out)?;

    let mut out = String::new();
    let options = glsl::Options {
        version: glsl::Version::Desktop(430),
        writer_flags: glsl::WriterFlags::empty(),
        ..Default::default()
    };
    let pipeline = glsl::PipelineOptions {
        shader_stage: naga::ShaderStage::Compute,
        entry_point: "main".to_owned(),
        multiview: None,
    };
    glsl::Writer::new(&mut out, &module, &info, &options, &pipeline, BoundsCheckPolicies::default())?.write()?;
    fs::write(folder.join(format!("{name}.comp")), out)?;
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments.next().ok_or("usage: dump_shaders FOLDER [--subgroups]")?;
    let subgroups = match arguments.next().as_deref() {
        None => false,
        Some("--subgroups") => true,
        Some(other) => return Err(format!("unknown argument {other}").into()),
    };
    let folder = Path::new(&folder);
    fs::create_dir_all(folder)?;
    let portable: HashMap<String, String> =
        if subgroups { variants(false).into_iter().collect() } else { HashMap::new() };
    let mut written = 0;
    for (name, text) in variants(subgroups) {
        if portable.get(&name) != Some(&text) {
            dump(folder, &file_name(&name), &text, subgroups).map_err(|error| format!("{name}: {error}"))?;
            written += 1;
        }
    }
    println!("{written} shaders");
    Ok(())
}
