//! The other commands of the program: tokenize, template, logits, info, conformance, plan, kernels.
#![cfg(feature = "cli")]

use std::io::Read;
use std::path::PathBuf;

use crate::common::program::{DEMO, Result, ferrum, file, program, refused, stderr, success, untuned};
use crate::common::tiny_model::TinyModel;
use ferrum_wgpu::Gguf;
use ferrum_wgpu::gguf::GgufWriter;

#[test]
fn tokenize_and_template_print_what_they_say() -> Result {
    let json = |args: &[&str]| -> Result<serde_json::Value> { Ok(serde_json::from_str(&success(&ferrum(args)?)?)?) };
    let plain = json(&["tokenize", DEMO, "-p", "<|im_start|>"])?;
    assert!(plain["ids"].as_array().is_some_and(|ids| ids.len() > 1 && !ids.contains(&1502.into())), "{plain}");
    let special = json(&["tokenize", DEMO, "-p", "<|im_start|>", "--special"])?;
    assert_eq!(special, serde_json::json!({ "ids": [1502], "pieces": ["<|im_start|>"] }));
    let messages = file("messages.json", br#"[{"role": "user", "content": "Hi"}, {"role": "tool", "content": "x"}]"#)?;
    let source = file(
        "dated.jinja",
        b"{{ bos_token }}{% for m in messages %}{{ m.role }}{% endfor %}\n{{ strftime_now('%F %H') }}",
    )?;
    // As in Jinja, the line break after a block is no text.
    let args = ["template", &source, "--messages", &messages, "--bos", "<s>", "--now", "2026-03-04T23:00:00+09:00"];
    assert_eq!(success(&ferrum(&args)?)?, "<s>usertool2026-03-04 23");
    let raising = file("raising.jinja", b"\n\n{{ raise_exception('no') }}")?;
    refused(&["template", &raising, "--messages", &messages], 3, &["no (in chat template:3)"])?;
    let object = file("object.json", br#"{"messages": []}"#)?;
    refused(&["template", &raising, "--messages", &object], 2, &["object.json: expected a list of messages"])
}

#[test]
fn logits_are_one_line_of_json() -> Result {
    let args = ["logits", DEMO, "--tokens", "1502, 279,198", "--greedy", "2", "--top", "3"];
    let on_device = success(&ferrum(&args)?)?;
    assert!(on_device.ends_with('\n') && on_device.lines().count() == 1, "{on_device}");
    let parsed: serde_json::Value = serde_json::from_str(&on_device)?;
    let object = parsed.as_object().ok_or("no object")?;
    let mut keys: Vec<_> = object.keys().map(String::as_str).collect();
    keys.sort_unstable();
    assert_eq!(keys, ["greedy", "tokens", "top"]);
    assert_eq!(parsed["tokens"], serde_json::json!([1502, 279, 198]));
    let greedy = parsed["greedy"].as_array().ok_or("no greedy tokens")?;
    let rows = parsed["top"].as_array().ok_or("no rows")?;
    assert_eq!((greedy.len(), rows.len()), (2, 5));
    // Each greedy token has the largest logit of the row before it.
    assert_eq!([&rows[2][0][0], &rows[3][0][0]], [&greedy[0], &greedy[1]]);
    for row in rows {
        let logits: Vec<f64> = row.as_array().into_iter().flatten().filter_map(|pair| pair[1].as_f64()).collect();
        assert!(logits.len() == 3 && logits.is_sorted_by(|a, b| a >= b), "{row}");
        assert!(logits.iter().all(|logit| format!("{logit:.6}").parse() == Ok(*logit)), "{row}");
    }
    let on_cpu: serde_json::Value =
        serde_json::from_str(&success(&ferrum(&[&args[..], &["--device", "cpu"]].concat())?)?)?;
    assert_eq!(on_cpu["greedy"], parsed["greedy"]);
    Ok(())
}

#[test]
fn devices_and_info_list_devices_and_tensors() -> Result {
    let table = success(&ferrum(&["devices"])?)?;
    assert!(
        table.contains("  *      0  ") && table.contains("discrete, integrated, virtual, other, software"),
        "{table}"
    );
    let json: serde_json::Value = serde_json::from_str(&success(&ferrum(&["devices", "--json"])?)?)?;
    let first = &json["devices"][0];
    assert_eq!((first["index"].as_u64(), first["default"].as_bool()), (Some(0), Some(true)), "{json}");
    // The default device can be selected by name.
    let name = first["name"].as_str().ok_or("no name")?;
    assert!(success(&ferrum(&["info", DEMO, "--device", name])?)?.contains(&format!("fits {name}")));

    let info = success(&ferrum(&["info", DEMO, "--ctx", "128", "--kv-type", "f32", "--device", "cpu"])?)?;
    for part in
        ["\"qwen3moe\"", "[1504 strings: ", "blk.3.ffn_up_exps.weight", "context of 128 tokens", "f32 KV", "fits cpu"]
    {
        assert!(info.contains(part), "{part:?} is missing in: {info}");
    }
    Ok(())
}

#[test]
fn conformance_reports_verdicts() -> Result {
    for options in [&[][..], &["--mask", "portable"], &["--device", "cpu"]] {
        let args = [&["conformance", "-k", "elementwise/"], options].concat();
        let table = success(&ferrum(&args)?)?;
        for part in ["KERNEL", "elementwise/gated_activation", "pass", " 0 failed; worst error "] {
            assert!(table.contains(part), "{part:?} is missing in: {table}");
        }
    }
    // The portable mask has no subgroups, nor have the CPU kernels.
    for options in [["--mask", "portable"], ["--device", "cpu"]] {
        let list =
            success(&ferrum(&[&["conformance", "--list", "-k", "linear/gemv_moe_combine"], &options[..]].concat())?)?;
        assert!(list.contains("split: K") && !list.contains("split: Rows"), "{list}");
    }
    let json: serde_json::Value =
        serde_json::from_str(&success(&ferrum(&["conformance", "--json", "--device", "cpu", "-k", "Q4K"])?)?)?;
    let kernels = json["kernels"].as_array().ok_or("no kernels")?;
    assert!(kernels.iter().all(|k| k["verdict"] == "pass" && k["cases"][0]["passed"] == true), "{json}");
    assert!(kernels.iter().all(|k| k["variant"].as_str().is_some_and(|v| v.contains("Q4K"))), "{json}");
    assert_eq!((json["totals"]["failed"].as_u64(), json["device"].as_str()), (Some(0), Some("cpu")));

    let listed = ferrum(&["conformance", "--list", "-k", "gemv"])?;
    assert!(success(&listed)?.lines().skip(1).all(|line| line.contains("linear/gemv")));
    assert!(!stderr(&listed).contains("device:"), "`--list` opens no device: {}", stderr(&listed));
    refused(&["conformance", "-k", "no such kernel"], 2, &["no such kernel"])?;
    refused(&["conformance", "--device", "no such device"], 4, &["no such device"])
}

#[test]
fn conformance_replays_a_model() -> Result {
    let model = file("replayed.gguf", &TinyModel::default().to_bytes()?)?;
    let table = success(&ferrum(&["conformance", "--model", &model])?)?;
    for part in ["moe/router_topk", "linear/embed", "linear/gemv", " steps; worst error "] {
        assert!(table.contains(part), "{part:?} is missing in: {table}");
    }
    let args = ["conformance", "--model", &model, "--tokens", "1,2", "--kv-type", "f32", "--device", "cpu", "--json"];
    let json: serde_json::Value = serde_json::from_str(&success(&ferrum(&args)?)?)?;
    let steps = json["steps"].as_array().ok_or("no steps")?;
    assert!(steps.iter().all(|step| step["passed"] == true) && json["failed"] == 0, "{json}");
    assert_eq!((&steps[0]["pass"], &steps[0]["part"]), (&"prompt".into(), &"embed".into()));
    assert_eq!(steps.last().map(|step| (&step["pass"], &step["part"])), Some((&"token".into(), &"head".into())));
    refused(&["conformance", "--model", &model, "--tokens", "1,999999"], 2, &["999999"])?;
    refused(&["conformance", "--model", "no such file"], 3, &["no such file"])
}

#[test]
fn a_step_outside_its_bound_has_its_exit_code() -> Result {
    // The norm's weights are so large that its output overflows f32. The kernel is right, but its output leaves the
    // bound on the f64 reference.
    let gguf = Gguf::from_bytes(TinyModel::default().to_bytes()?)?;
    let mut writer = GgufWriter::new();
    for (key, value) in gguf.metadata().iter() {
        writer.metadata(key, value.clone());
    }
    for tensor in gguf.tensors() {
        let mut data = gguf.data(tensor).to_vec();
        if tensor.name == "blk.0.attn_norm.weight" {
            data = f32::MAX.to_le_bytes().repeat(data.len() / 4);
        }
        writer.tensor(&tensor.name, tensor.ty, &tensor.shape, data);
    }
    let model = file("too-large.gguf", &writer.to_bytes()?)?;
    for options in [&[][..], &["--device", "cpu", "--json"]] {
        let output = ferrum(&[&["conformance", "--model", &model], options].concat())?;
        let (table, log) = (String::from_utf8_lossy(&output.stdout), stderr(&output));
        assert_eq!(output.status.code(), Some(7), "{log}");
        let line = log.lines().last().ok_or("empty standard error")?;
        for part in ["error: elementwise/rms_norm", "exceeds its bound in blk.0 attention, step 2 of ", "n: 256"] {
            assert!(line.contains(part), "{part:?} is missing in: {line}");
        }
        // The steps before it are reported nevertheless.
        assert!(table.contains("linear/embed") && table.contains("elementwise/rms_norm"), "{table}");
        assert!(!table.contains("linear/gemv"), "{table}");
    }
    Ok(())
}

#[test]
fn a_pass_is_planned_without_a_device() -> Result {
    let plan = ["kernels", "plan", "qwen3-30b-a3b", "--as", "7900", "--context", "256"];
    let decode = success(&ferrum(&plan)?)?;
    // The logits: all rows of Q6_K, of 2,048 weights each.
    let head = decode.lines().find(|line| line.contains(" head ") && line.contains("Q6K")).ok_or("no head")?;
    assert!(head.contains("243.4") && head.contains("311164928") && head.ends_with("bandwidth"), "{head}");
    assert!(decode.contains("Modelled"), "{decode}");
    let prompt = success(&ferrum(&[&plan[..], &["--prefill", "512"]].concat())?)?;
    assert!(prompt.contains("linear/gemm") && !decode.contains("linear/gemm"), "{prompt}");
    let out = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("plan");
    let _ = std::fs::remove_dir_all(&out);
    success(&ferrum(&[&plan[..], &["-o", out.to_str().ok_or("a path")?]].concat())?)?;
    let shaders = std::fs::read_dir(&out)?.collect::<std::io::Result<Vec<_>>>()?;
    assert!(shaders.len() > 5 && shaders.iter().all(|file| file.path().extension().is_some_and(|e| e == "wgsl")));
    refused(&["kernels", "plan", "Qwen3-8B", "--as", "RTX"], 2, &["\"RTX\"", "RTX 4090"])?;
    refused(&["kernels", "plan", "no-model", "--as", "browser"], 2, &["no-model", "Llama-3.1-8B"])
}

#[test]
fn kernels_are_listed_and_dumped() -> Result {
    let list = success(&ferrum(&["kernels", "list"])?)?;
    assert!(list.contains("moe/router_topk") && list.contains("subgroups") && list.contains("y*: f32"), "{list}");
    let few = success(&ferrum(&["kernels", "list", "gated"])?)?;
    assert!(few.lines().count() >= 2 && few.lines().skip(1).all(|line| line.contains("gated")), "{few}");
    let dump = success(&ferrum(&["kernels", "dump", "linear/gemv_moe_combine", "--variant", "ty: F32, split: Rows"])?)?;
    assert!(dump.starts_with("// linear/gemv_moe_combine Variant { ty: F32, split: Rows }\n"), "{dump}");
    assert!(dump.contains("subgroupShuffle"), "{dump}");
    refused(&["kernels", "dump", "rms"], 2, &["\"rms\"", "elementwise/rms_norm"])?;
    refused(&["kernels", "dump", "elementwise/rms_norm", "--variant", "Q4K"], 2, &["Q4K"])
}

#[test]
fn a_closed_pipe_is_no_error() -> Result {
    for args in [&["info", DEMO][..], &["run", DEMO, "-p", "Tell me a story about a mouse.", "--device", "cpu"]] {
        let mut child = program().args(untuned(args)).spawn()?;
        let mut out = child.stdout.take().ok_or("no stdout")?;
        out.read_exact(&mut [0])?;
        drop(out);
        success(&child.wait_with_output()?)?;
    }
    Ok(())
}
