//! What files recommend and options change: sampling, templates, pre-tokenizers.
#![cfg(feature = "cli")]

use crate::common::program::{DEMO, Result, answer_on_cpu, demo_with, ferrum, file, refused, stderr, success};
use ferrum_wgpu::gguf::Value;
use ferrum_wgpu::{Gguf, Tokenizer};

#[test]
fn penalties_and_biases_change_the_choice() -> Result {
    let count = |options: &[&str]| answer_on_cpu("Count from 3 to 9.", &[options, &["-n", "24"]].concat());
    let plain = "3, 4, 5, 6, 7, 8, 9.\n";
    let neutral = ["--repeat-penalty", "1", "--presence-penalty", "0", "--frequency-penalty", "0"];
    assert_eq!(count(&neutral)?, plain);
    for penalty in [["--repeat-penalty", "9"], ["--presence-penalty", "30"], ["--frequency-penalty", "30"]] {
        assert_ne!(count(&penalty)?, plain, "{penalty:?}");
    }
    // Negative penalties favour repetition.
    assert!(count(&["--presence-penalty", "-100"])?.starts_with("333"));

    let tokenizer = Tokenizer::from_gguf(&Gguf::open(DEMO)?)?;
    let id = *tokenizer.encode(" Rome", false)?.last().ok_or("no token")?;
    let forced = answer_on_cpu("Hello!", &["-n", "3", "--logit-bias", &format!("{id}=1000")])?;
    assert_eq!(forced, format!("{}\n", tokenizer.decode(&[id; 3])?));
    // Large negative biases ban tokens.
    let hello = *tokenizer.encode("Hello", false)?.first().ok_or("no token")?;
    let biases = ["--logit-bias", &format!("{hello}=-1000"), "--logit-bias", "5=-1000", "-n", "4"];
    assert!(!answer_on_cpu("Hello!", &biases)?.starts_with("Hello"));
    Ok(())
}

#[test]
fn files_that_recommend_sampling_or_have_no_template() -> Result {
    let model = demo_with(|key, value| (key != "tokenizer.chat_template").then(|| value.clone()))?;
    let path = file("no_template.gguf", &model.to_bytes()?)?;
    let output = ferrum(&["run", &path, "-p", "Hello!", "--device", "cpu", "--temp", "0"])?;
    assert_eq!(success(&output)?, "Hello! How can I help you today?\n");
    assert!(stderr(&output).contains("ChatML"), "{}", stderr(&output));

    let sampling = |temp: f32| -> Result<String> {
        let mut writer = demo_with(|_, value| Some(value.clone()))?;
        writer.metadata("general.sampling.temp", temp);
        file(&format!("temp_{temp}.gguf"), &writer.to_bytes()?)
    };
    let output = ferrum(&["run", &sampling(0.0)?, "-p", "a", "--device", "cpu", "-n", "1"])?;
    success(&output)?;
    assert!(stderr(&output).contains("greedy (temp 0, from the file)"), "{}", stderr(&output));
    let mut writer = demo_with(|_, value| Some(value.clone()))?;
    writer.metadata("general.sampling.penalty_repeat", 1.3_f32).metadata("general.sampling.top_k", -1_i32);
    writer.metadata("general.sampling.xtc_probability", 0.25_f32).metadata("general.sampling.xtc_threshold", 0.5_f32);
    writer.metadata("general.sampling.mirostat", 0_i32).metadata("general.sampling.mirostat_tau", 5_f32);
    writer.metadata("general.sampling.penalty_last_n", -1_i32);
    writer.metadata("general.sampling.sequence", "penalties;temperature;top_k;min_p;xtc".to_owned());
    let penalised = file("penalised.gguf", &writer.to_bytes()?)?;
    let args = ["-p", "Count from 3 to 9.", "--temp", "0", "--device", "cpu", "-n", "24"];
    let of_file = ferrum(&[&["run", &penalised], &args[..]].concat())?;
    let given = ferrum(&[&["run", DEMO, "--repeat-penalty", "1.3"], &args[..]].concat())?;
    assert_eq!(success(&of_file)?, success(&given)?);
    assert!(stderr(&of_file).contains("repeat-penalty 1.3 (from the file)"), "{}", stderr(&of_file));
    // These change nothing; XTC is a part of sampling, which greedy decoding is not.
    for key in ["mirostat", "penalty_last_n", "sequence", "xtc"] {
        assert!(!stderr(&of_file).contains(key), "{}", stderr(&of_file));
    }
    let sampled = ["-p", "Count from 3 to 9.", "--temp", "2", "--seed", "5", "--device", "cpu", "-n", "24"];
    let of_file = ferrum(&[&["run", &penalised], &sampled[..]].concat())?;
    let xtc = "xtc-probability 0.25, xtc-threshold 0.5, repeat-penalty 1.3 (from the file)";
    assert!(stderr(&of_file).contains(xtc), "{}", stderr(&of_file));
    let xtc = ["--repeat-penalty", "1.3", "--top-k", "-1", "--xtc-probability", "0.25", "--xtc-threshold", "0.5"];
    let given = ferrum(&[&["run", DEMO], &xtc[..], &sampled[..]].concat())?;
    assert_eq!(success(&of_file)?, success(&given)?);
    let mut writer = demo_with(|_, value| Some(value.clone()))?;
    writer.metadata("general.sampling.penalty_repeat", 1.3_f32).metadata("general.sampling.penalty_last_n", 0_i32);
    writer.metadata("general.sampling.mirostat", 2_i32).metadata("general.sampling.typical_p", 0.5_f32);
    let unpenalised = file("unpenalised.gguf", &writer.to_bytes()?)?;
    let output =
        ferrum(&[&["run", &unpenalised], &args[..2], &["--temp", "0", "--device", "cpu", "-n", "1"]].concat())?;
    success(&output)?;
    assert!(stderr(&output).contains("greedy (temp 0, given); typical_p 0.5 (from the file, not applied)"));
    let hot = ["-p", "Count from 3 to 9.", "--temp", "2", "--seed", "5", "--device", "cpu", "-n", "24"];
    let of_file = ferrum(&[&["run", &unpenalised], &hot[..], &["--mirostat-lr", "0.3"]].concat())?;
    let given = ferrum(&[&["run", DEMO, "--mirostat", "2", "--mirostat-eta", "0.3"], &hot[..]].concat())?;
    assert_eq!(success(&of_file)?, success(&given)?);
    let line = "temp 2 (given); mirostat 2 (from the file); mirostat-ent 5 (default); mirostat-lr 0.3, seed 5 (given)";
    assert!(stderr(&of_file).contains(line), "{}", stderr(&of_file));
    // A window of the penalties, from the file and given (llama.cpp's penalty_last_n).
    let mut writer = demo_with(|_, value| Some(value.clone()))?;
    writer.metadata("general.sampling.penalty_repeat", 1.3_f32).metadata("general.sampling.penalty_last_n", 4_i32);
    let windowed = file("windowed.gguf", &writer.to_bytes()?)?;
    let of_file = ferrum(&[&["run", &windowed], &args[..]].concat())?;
    let given = ferrum(&[&["run", DEMO, "--repeat-penalty", "1.3", "--repeat-last-n", "4"], &args[..]].concat())?;
    assert!(stderr(&of_file).contains("repeat-penalty 1.3, repeat-last-n 4 (from the file)"), "{}", stderr(&of_file));
    assert_eq!(success(&of_file)?, success(&given)?);
    refused(&["run", &sampling(-1.0)?, "-p", "a", "--device", "cpu"], 3, &["general.sampling", "temperature", "-1"])
}

/// A template that does not read the switch renders the same with and without it (Helldez/BigMoeOnEdge issue 82).
#[test]
fn a_thinking_switch_without_effect_is_noted() -> Result {
    let note = "the chat template has no choice of thinking";
    for (switch, noted) in [(Some("--no-think"), true), (Some("--think"), true), (None, false)] {
        let args = ["run", DEMO, "-p", "hi", "--device", "cpu", "-n", "1"].into_iter().chain(switch);
        let output = ferrum(&args.collect::<Vec<_>>())?;
        success(&output)?;
        assert_eq!(stderr(&output).contains(note), noted, "{switch:?}: {}", stderr(&output));
    }
    let template = "{% if enable_thinking %}<think>{% endif %}{% for m in messages %}{{ m.content }}{% endfor %}";
    let template = file("thinking.jinja", template.as_bytes())?;
    let args = ["run", DEMO, "-p", "hi", "--device", "cpu", "-n", "1", "--think", "--chat-template", &template];
    let output = ferrum(&args)?;
    success(&output)?;
    assert!(!stderr(&output).contains(note), "{}", stderr(&output));
    Ok(())
}

/// An empty template counts as none (SillyTavern issue 3111).
#[test]
fn an_empty_template_is_replaced_by_chatml() -> Result {
    let empty = |key: &str, value: &Value| {
        let is_template = key == "tokenizer.chat_template";
        Some(if is_template { Value::String(String::new()) } else { value.clone() })
    };
    let path = file("empty_template.gguf", &demo_with(empty)?.to_bytes()?)?;
    let output = ferrum(&["run", &path, "-p", "Hello!", "--device", "cpu", "--temp", "0"])?;
    assert_eq!(success(&output)?, "Hello! How can I help you today?\n");
    assert!(stderr(&output).contains("note: the file has no chat template; using ChatML"), "{}", stderr(&output));
    Ok(())
}

/// Files of byte-level BPE that do not name their pre-tokenizer (llama.cpp issue 7476).
#[test]
fn a_missing_pre_tokenizer_is_noted() -> Result {
    let model = demo_with(|key, value| (key != "tokenizer.ggml.pre").then(|| value.clone()))?;
    let path = file("no_pre_tokenizer.gguf", &model.to_bytes()?)?;
    let note = "the file does not name its pre-tokenizer";
    for args in [&["run", &path, "-p", "3333+777", "--device", "cpu", "-n", "1"][..], &["info", &path]] {
        let output = ferrum(args)?;
        let shown = success(&output)? + &stderr(&output);
        assert!(shown.contains(note), "{args:?}: {shown}");
    }
    let output = ferrum(&["run", DEMO, "-p", "3333+777", "--device", "cpu", "-n", "1"])?;
    assert!(!stderr(&output).contains(note), "{}", stderr(&output));
    Ok(())
}
