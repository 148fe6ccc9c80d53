//! Writes every kernel variant's shader to folders, a file each, for other compilers to judge: `dump_shaders FOLDER`.
//!
//! `FOLDER/portable` has the variants of WebGPU's default limits, `FOLDER/subgroups` those that need subgroups, and
//! `FOLDER/f16` those that need the type f16, with subgroups or without. `NAME.wgsl` is the module as a browser has to see
//! it, `NAME.spv`, `NAME.hlsl` and, where there is no f16, `NAME.comp` are naga's translations of it. `FOLDER/matrices` has
//! `NAME.spv` of those that need cooperative matrices, which are Vulkan's and Metal's alone.

use std::{error::Error, fs, path::Path};

use ferrum_wgpu::conformance::{Feature, catalog};
use naga::{
    back::{glsl, hlsl, spv},
    proc::BoundsCheckPolicies,
    valid::{Capabilities, ShaderStages, SubgroupOperationSet, ValidationFlags, Validator},
};

/// `linear/gemv Shape { rows: 4 }` as `linear-gemv-Shape-rows-4`.
fn file_name(name: &str) -> String {
    name.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|part| !part.is_empty()).collect::<Vec<_>>().join("-")
}

fn dump(folder: &Path, name: &str, text: &str, needs: &[Feature]) -> Result<(), Box<dyn Error>> {
    let [subgroups, f16] = [Feature::Subgroups, Feature::F16].map(|feature| needs.contains(&feature));
    let matrices = needs.iter().any(|feature| Feature::MATRICES.contains(feature));
    if !matrices {
        // Browsers want the directive, naga refuses it.
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
        for variant in kernel.variants {
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
