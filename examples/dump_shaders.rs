//! Writes the shader of every kernel variant to a file, for validation by other compilers: `dump_shaders FOLDER`.
//!
//! `FOLDER/portable` has the variants that need WebGPU's defaults only, `FOLDER/subgroups` those that need subgroups,
//! and `FOLDER/f16` those that need `f16`, with or without subgroups. `NAME.wgsl` is the module for browsers.
//! `NAME.spv`, `NAME.hlsl` and, without `f16`, `NAME.comp` are naga's translations. `FOLDER/matrices` has `NAME.spv` of
//! the variants that need cooperative matrices, which only Vulkan and Metal offer.

use std::{error::Error, fs, path::Path};

use ferrum_wgpu::low_level::conformance::{Feature, catalog};
use naga::{
    back::{glsl, hlsl, spv},
    proc::BoundsCheckPolicies,
    valid::{Capabilities, ShaderStages, SubgroupOperationSet, ValidationFlags, Validator},
};

/// Converts `linear/gemv Shape { rows: 4 }` to `linear-gemv-Shape-rows-4`.
fn file_name(name: &str) -> String {
    name.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|part| !part.is_empty()).collect::<Vec<_>>().join("-")
}

fn dump(folder: &Path, name: &str, text: &str, needs: &[Feature]) -> Result<(), Box<dyn Error>> {
    let [subgroups, f16] = [Feature::Subgroups, Feature::F16].map(|feature| needs.contains(&feature));
    let matrices = needs.iter().any(|feature| Feature::MATRICES.contains(feature));
    if !matrices {
        // Browsers require the directive; naga rejects it.
        let directive = if subgroups { "enable subgroups;\n" } else { "" };
        fs::write(folder.join(format!("{name}.wgsl")), format!("{directive}{text}"))?;
    }

    let module = naga::front::wgsl::parse_str(text).map_err(|error| error.emit_to_string(text))?;
    let mut capabilities = Capabilities::SHADER_FLOAT16_IN_FLOAT32;
    capabilities.set(Capabilities::SUBGROUP, subgroups);
    capabilities.set(Capabilities::SHADER_FLOAT16, f16);
    capabilities.set(Capabilities::COOPERATIVE_MATRIX, matrices);
    let mut validator = Validator::new(ValidationFlags::all(), capabilities);
    if subgroups {
        validator.subgroup_stages(ShaderStages::COMPUTE).subgroup_operations(SubgroupOperationSet::all());
    }
    let info = validator.validate(&module).map_err(|error| error.emit_to_string(text))?;

    let options = spv::Options { lang_version: (1, if subgroups { 3 } else { 0 }), ..Default::default() };
    let words = spv::write_vec(&module, &info, &options, None)?;
    let bytes: Vec<u8> = words.into_iter().flat_map(u32::to_le_bytes).collect();
    fs::write(folder.join(format!("{name}.spv")), bytes)?;
    if matrices {
        return Ok(());
    }

    let mut out = String::new();
    let shader_model = if f16 { hlsl::ShaderModel::V6_2 } else { hlsl::ShaderModel::V6_0 };
    let options = hlsl::Options { shader_model, ..Default::default() };
    hlsl::Writer::new(&mut out, &options, &hlsl::PipelineOptions::default()).write(&module, &info, None)?;
    fs::write(folder.join(format!("{name}.hlsl")), out)?;
    if f16 {
        return Ok(());
    }

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
    let folder = std::env::args().nth(1).ok_or("usage: dump_shaders FOLDER")?;
    let folders = ["portable", "subgroups", "f16", "matrices"].map(|name| Path::new(&folder).join(name));
    for folder in &folders {
        fs::create_dir_all(folder)?;
    }
    let [portable, with_subgroups, with_f16, with_matrices] = &folders;
    let mut written = 0;
    for kernel in catalog() {
        for variant in kernel.covered() {
            let needs = |feature| variant.needs.contains(&feature);
            let folder = match [Feature::F16, Feature::Subgroups].map(needs) {
                _ if Feature::MATRICES.into_iter().any(needs) => with_matrices,
                [true, _] => with_f16,
                [false, true] => with_subgroups,
                [false, false] => portable,
            };
            let name = format!("{} {}", kernel.name, variant.variant);
            dump(folder, &file_name(&name), &variant.shader.text, &variant.needs)
                .map_err(|error| format!("{name}: {error}"))?;
            written += 1;
        }
    }
    println!("{written} shaders");
    Ok(())
}
