//! What the program refuses: files, models, arguments; and with which exit code.
#![cfg(feature = "cli")]

use crate::common::program::{DEMO, Result, demo_with, ferrum, file, refused, stderr, success};
use ferrum_wgpu::gguf::{Array, Value};

#[test]
fn invalid_files_are_refused() -> Result {
    let demo = std::fs::read(DEMO)?;
    for command in [&["run", "-p", "a"][..], &["logits", "--tokens", "1"], &["info"]] {
        let check = |path: &str, words: &[&str]| refused(&[command, &[path]].concat(), 3, words);
        check("no_such_file.gguf", &["cannot read no_such_file.gguf"])?;
        check(env!("CARGO_MANIFEST_DIR"), &["directory"])?;
        check(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"), &["not a GGUF file"])?;
        check(&file("empty.gguf", b"")?, &["not a GGUF file"])?;
        for len in [3, 4, 23, 24, 1000, 20_000, demo.len() / 2, demo.len() - 1] {
            check(&file(&format!("cut_{len}.gguf"), &demo[..len])?, &[])?;
        }
    }
    Ok(())
}

#[test]
fn unsupported_models_are_refused_and_info_shows_them() -> Result {
    let model =
        demo_with(|key, value| Some(if key == "general.architecture" { "mamba\n2".into() } else { value.clone() }))?;
    let path = file("architecture.gguf", &model.to_bytes()?)?;
    refused(&["run", &path, "-p", "a"], 3, &["mamba", "not supported"])?;
    refused(&["logits", &path, "--tokens", "1"], 3, &["mamba"])?;
    let output = ferrum(&["info", &path])?;
    assert_eq!(output.status.code(), Some(3));
    let shown = String::from_utf8(output.stdout.clone())?;
    assert!(shown.contains("qwen3moe.block_count") && shown.contains("blk.3.ffn_up_exps.weight"), "{shown}");
    assert_eq!(stderr(&output).lines().count(), 1, "{}", stderr(&output));

    // Every reason, not the first alone.
    let model = demo_with(|key, value| {
        Some(match key {
            "qwen3moe.expert_count" => 0_u32.into(),
            "qwen3moe.context_length" => "long".into(),
            _ => value.clone(),
        })
    })?;
    let output = ferrum(&["info", &file("reasons.gguf", &model.to_bytes()?)?])?;
    let shown = String::from_utf8(output.stdout.clone())?;
    for reason in
        ["this file cannot run:", "qwen3moe.expert_count has the invalid value 0", "qwen3moe.context_length should"]
    {
        assert!(shown.contains(reason), "{shown}");
    }
    assert!(output.status.code() == Some(3) && stderr(&output).contains("2 more reasons"), "{}", stderr(&output));

    // The tensor type follows the name, the number of dimensions and the dimensions.
    let mut bytes = std::fs::read(DEMO)?;
    let name = b"blk.0.attn_q.weight";
    let at =
        bytes.windows(name.len()).position(|window| window == name).ok_or("no such tensor")? + name.len() + 4 + 2 * 8;
    for (id, shown_type) in [(36_u32, "IQ4_NL_4_4"), (9999, "number 9999")] {
        bytes[at..at + 4].copy_from_slice(&id.to_le_bytes());
        let path = file("type.gguf", &bytes)?;
        refused(&["run", &path, "-p", "a"], 3, &["blk.0.attn_q.weight", shown_type])?;
        let output = ferrum(&["info", &path])?;
        let shown = String::from_utf8(output.stdout.clone())?;
        for part in ["qwen3moe.block_count", "blk.3.ffn_up_exps.weight", "unknown", "this file cannot run:"] {
            assert!(shown.contains(part), "{shown}");
        }
        let reason = format!("tensor blk.0.attn_q.weight has type {shown_type}, which is not supported");
        assert!(output.status.code() == Some(3) && stderr(&output).contains(&reason), "{}", stderr(&output));
        assert_eq!(shown.matches(&reason).count(), 1, "{shown}");
    }

    let model = demo_with(|key, value| match value {
        Value::Array(Array::String(merges)) if key == "tokenizer.ggml.merges" => {
            let mut merges = merges.clone();
            // Both halves are tokens, but their concatenation is longer than any token.
            let longest = "<|im_start|>";
            merges.push(format!("{longest} {longest}"));
            Some(merges.into())
        }
        _ => Some(value.clone()),
    })?;
    let path = file("merge.gguf", &model.to_bytes()?)?;
    refused(&["run", &path, "-p", "a"], 3, &["merge 1245", "not in the vocabulary"])?;
    // `logits` needs no tokenizer.
    success(&ferrum(&["logits", &path, "--tokens", "1", "--device", "cpu"])?)?;
    Ok(())
}

#[test]
fn invalid_arguments_are_refused() -> Result {
    let run = |more: &[&str], code, words: &[&str]| refused(&[&["run", DEMO, "-p", "a"], more].concat(), code, words);
    run(&["--temp", "-1"], 2, &["temperature", "-1"])?;
    run(&["--temp", "nan"], 2, &["temperature"])?;
    run(&["--top-p", "0"], 2, &["top_p"])?;
    run(&["--top-p", "1.5"], 2, &["top_p"])?;
    run(&["--min-p", "2"], 2, &["min_p"])?;
    run(&["--xtc-probability", "-1"], 2, &["xtc_probability"])?;
    run(&["--chat-template", "nosuch"], 3, &["the file has no chat template 'nosuch'\n"])?;
    run(&["--mirostat", "3"], 2, &["mirostat", "3"])?;
    run(&["--mirostat-lr", "-1"], 2, &["mirostat_eta", "-1"])?;
    run(&["--mirostat-tau", "inf"], 2, &["mirostat_tau", "inf"])?;
    run(&["--repeat-penalty", "0"], 2, &["repetition_penalty", "0"])?;
    run(&["--presence-penalty", "nan"], 2, &["presence_penalty", "NaN"])?;
    run(&["--frequency-penalty", "inf"], 2, &["frequency_penalty", "inf"])?;
    run(&["--logit-bias", "5=inf"], 2, &["logit_bias", "inf"])?;
    run(&["--logit-bias", "1504=1"], 2, &["1504", "vocabulary"])?;
    run(&["--device", "no such device"], 4, &[])?;
    run(&["--device", "99"], 4, &[])?;
    refused(&["run", DEMO, "-p", ""], 2, &["empty"])?;
    let logits = |more: &[&str], code, words: &[&str]| refused(&[&["logits", DEMO], more].concat(), code, words);
    logits(&["--tokens", "1,1504"], 2, &["1504"])?;
    logits(&["--tokens", "1", "--greedy", "2048"], 2, &["2049", "2048"])?;
    logits(&["--tokens", "1,2", "--ctx", "1"], 2, &["context of 1"])?;
    logits(&["--tokens", "1", "--device", "no such device"], 4, &[])?;
    Ok(())
}

#[test]
fn a_context_beyond_memory_is_refused() -> Result {
    // The longest supported context: 32 GiB per layer.
    let longest = 1 << 24;
    let model = demo_with(|key, value| {
        Some(if key == "qwen3moe.context_length" { Value::U32(longest) } else { value.clone() })
    })?;
    let path = file("long.gguf", &model.to_bytes()?)?;
    let output =
        ferrum(&["run", &path, "-p", "a", "--ctx", &longest.to_string(), "--kv-type", "f32", "--device", "0"])?;
    assert_eq!((output.status.code(), output.stdout.len()), (Some(5), 0), "{}", stderr(&output));
    assert!(stderr(&output).lines().last().is_some_and(|line| line.starts_with("error: ")), "{}", stderr(&output));
    // `info` predicts the failure.
    let info = success(&ferrum(&["info", &path, "--ctx", &longest.to_string()])?)?;
    assert!(info.contains("does not fit: the KV cache of a layer needs "), "{info}");
    Ok(())
}

#[test]
fn malformed_arguments_are_refused() -> Result {
    for args in [
        &["run"][..],
        &[],
        &["walk"],
        &["run", DEMO, "-p", "a", "-n", "-2"],
        &["run", DEMO, "-p", "a", "-f", "file"],
        &["run", DEMO, "-p", "a", "--seed", "-2"],
        &["run", DEMO, "-p", "a", "--top-k", "x"],
        &["run", DEMO, "-p", "a", "--kv-type", "q8"],
        &["run", DEMO, "-p", "a", "--logit-bias", "5"],
        &["run", DEMO, "-p", "a", "--logit-bias", "x=1"],
        &["run", DEMO, "-p", "a", "--logit-bias", "5=x"],
        &["run", DEMO, "-p", "a", "--repeat-penalty", "x"],
        &["run", DEMO, "-p", "a", "--stop"],
        &["run", DEMO, "-p", "a", "--think", "--no-think"],
        &["logits", DEMO, "--tokens", ""],
        &["logits", DEMO, "--tokens", "1,,2"],
        &["logits", DEMO, "--tokens", "1,-2"],
        &["logits", DEMO],
        // CVE-2026-21869: a negative number of tokens.
        &["run", DEMO, "-p", "a", "--ctx", "-1"],
        &["run", DEMO, "-p", "a", "--ctx", "4294967296"],
        &["logits", DEMO, "--tokens", "1", "--greedy", "-1"],
        &["bench", DEMO, "-n", "-1"],
    ] {
        let output = ferrum(args)?;
        assert_eq!(output.status.code(), Some(2), "{args:?}: {}", stderr(&output));
        assert!(output.stdout.is_empty() && !stderr(&output).contains("panic"), "{args:?}: {}", stderr(&output));
    }
    let help = success(&ferrum(&["--help"])?)?;
    assert!(["Exit codes:", "    7  a self-test failed", "  130  "].iter().all(|part| help.contains(part)), "{help}");
    Ok(())
}
