//! The goldens match the models that the tests build, and the comparison with goldens can fail.

use crate::common::golden::{Expected, Golden, Tolerance, fnv1a};
use crate::common::tiny_model::{architecture_models, format_models, preset_models, tiny_models};
use ferrum_wgpu::Gguf;
use ferrum_wgpu::low_level::quant::WeightType;
use std::collections::HashSet;

#[test]
fn each_tiny_model_has_its_golden() -> Result<(), Box<dyn std::error::Error>> {
    let files = [
        ("tiny.json", tiny_models()),
        ("architectures.json", architecture_models()),
        ("formats.json", format_models()),
        ("presets.json", preset_models()),
    ];
    for (file, models) in files {
        let goldens = Golden::read_all(file)?;
        assert_eq!(goldens.len(), models.len());
        for (name, model) in models {
            let golden = goldens.iter().find(|golden| golden.model == name).ok_or(name)?;
            golden.check_model(&model.to_bytes()?)?;
            assert!(golden.tokens.iter().chain(&golden.f32.greedy).all(|&token| token < model.vocab), "{name}");
        }
    }
    Ok(())
}

#[test]
fn the_demo_model_has_its_golden() -> Result<(), Box<dyn std::error::Error>> {
    let goldens = Golden::read_all("demo_logits.json")?;
    let bytes = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/models/demo-q4_k_m.gguf"))?;
    let [golden] = goldens.as_slice() else { return Err("not one golden".into()) };
    Ok(golden.check_model(&bytes)?)
}

#[test]
fn tiny_models_have_every_weight_type_in_experts_and_elsewhere() -> Result<(), Box<dyn std::error::Error>> {
    let (mut in_experts, mut elsewhere) = (HashSet::new(), HashSet::new());
    for (_, model) in tiny_models().into_iter().chain(format_models()) {
        for tensor in Gguf::from_bytes(model.to_bytes()?)?.tensors() {
            match tensor.shape.len() {
                3 => in_experts.insert(tensor.ty),
                2 if !tensor.name.contains("ffn_gate_inp") => elsewhere.insert(tensor.ty),
                _ => false,
            };
        }
    }
    let expected = HashSet::from(WeightType::ALL);
    assert_eq!(in_experts, expected);
    assert_eq!(elsewhere, expected);
    Ok(())
}

/// Returns two rows: a prompt of one token, then token 1.
fn expected() -> Expected {
    Expected {
        greedy: vec![1],
        top: vec![vec![(1, 4.0), (0, 3.0)], vec![(2, 20.0), (0, 1.0)]],
        max_abs: vec![4.0, 20.0],
        margin: vec![Some(1e-3), Some(1e-4)],
    }
}

const TOLERANCE: Tolerance = Tolerance { factor: 1e-2, margin_min: 1e-4 };

#[test]
fn near_logits_pass() {
    let rows = [vec![3.05, 4.0, -1.0], vec![1.0, 0.0, 20.1]];
    // 0.05 of 10 · 1e-2, and 0.1 of 20 · 1e-2.
    assert!((expected().check(&rows, TOLERANCE).unwrap() - 0.5).abs() < 1e-5);
    assert!(expected().check(&rows[..1], TOLERANCE).is_ok());
}

#[test]
fn far_logits_and_nan_fail() {
    for wrong in [3.11, 2.89, f32::NAN, f32::INFINITY] {
        let error = expected().check(&[vec![wrong, 4.0, -1.0]], TOLERANCE).unwrap_err();
        assert!(error.starts_with("row 0, token 0:"), "{error}");
    }
    assert!(expected().check(&[vec![3.0, 4.0, -1.0], vec![1.0, 0.0, 20.3]], TOLERANCE).is_err());
}

#[test]
fn another_token_fails() {
    let error = expected().check(&[vec![3.0, 4.0, 5.0]], TOLERANCE).unwrap_err();
    assert_eq!(error, "row 0: the argmax is token Some(2), expected 1");
}

#[test]
fn rows_of_small_margin_are_skipped_but_not_all_rows() {
    let strict = |margin_min| Tolerance { margin_min, ..TOLERANCE };
    let rows = [vec![3.0, 4.0, -1.0], vec![9.0, 9.0, 9.0]];
    assert!(expected().check(&rows, strict(1e-4)).is_err());
    assert!(expected().check(&rows, strict(1e-3)).is_ok());
    assert!(expected().check(&rows, strict(1e-2)).is_err());
    assert!(expected().check(&[], TOLERANCE).is_err());
}

#[test]
fn short_and_surplus_rows_fail() {
    assert!(expected().check(&[vec![3.0]], TOLERANCE).is_err());
    let row = vec![3.0, 4.0, -1.0];
    assert!(expected().check(&[row.clone(), vec![1.0, 0.0, 20.0], row], TOLERANCE).is_err());
}

#[test]
fn hash_is_fnv1a() {
    assert_eq!(fnv1a(b""), 0xCBF2_9CE4_8422_2325);
    assert_eq!(fnv1a(b"a"), 0xAF63_DC4C_8601_EC8C);
    assert_eq!(fnv1a(b"foobar"), 0x8594_4171_F739_67E8);
}
