//! The command-line program: answers, exit codes and output streams.
#![cfg(feature = "cli")]

use std::error::Error;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use crate::common::tiny_model::{Arch, TinyModel};
use ferrum_wgpu::{ChatTemplate, Message, RenderOptions, Tokenizer};
use ferrum_wgpu::{
    Gguf,
    gguf::{Array, GgufWriter, Value},
};

const DEMO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/models/demo-q4_k_m.gguf");

type Result<T = ()> = std::result::Result<T, Box<dyn Error>>;

fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ferrum-wgpu"));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).env_remove("RUST_LOG");
    // Keep away from the user's cache.
    command.env("XDG_CACHE_HOME", env!("CARGO_TARGET_TMPDIR")).env("HOME", env!("CARGO_TARGET_TMPDIR"));
    command
}

fn ferrum(args: &[&str]) -> Result<Output> {
    Ok(program().args(untuned(args)).output()?)
}

/// Adds `--no-tune` to `run`: autotuning takes time.
fn untuned<'a>(args: &[&'a str]) -> Vec<&'a str> {
    match args {
        ["run", rest @ ..] if !rest.is_empty() => [&["run", "--no-tune"], rest].concat(),
        _ => args.to_vec(),
    }
}

/// Runs the program with `input` piped to its standard input.
fn piped(args: &[&str], input: &[u8]) -> Result<Output> {
    let mut child = program().args(untuned(args)).stdin(Stdio::piped()).spawn()?;
    let mut stdin = child.stdin.take().ok_or("no stdin")?;
    // The program may exit without reading its input.
    let _ = stdin.write_all(input);
    drop(stdin);
    Ok(child.wait_with_output()?)
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Checks that the program succeeded, and returns its standard output.
fn success(output: &Output) -> Result<String> {
    let (text, log) = (String::from_utf8(output.stdout.clone())?, stderr(output));
    assert_eq!(output.status.code(), Some(0), "{log}");
    assert!(!log.lines().any(|line| line.starts_with("error")), "{log}");
    Ok(text)
}

/// Checks that the program exits with `code`, prints one line with all of `words` on standard error, and prints nothing
/// else.
fn refused(args: &[&str], code: i32, words: &[&str]) -> Result {
    let output = ferrum(args)?;
    let log = stderr(&output);
    assert_eq!(output.status.code(), Some(code), "{args:?}: {log}");
    assert!(log.starts_with("error: ") && log.ends_with('\n') && log.lines().count() == 1, "{args:?}: {log}");
    assert!(words.iter().all(|word| log.contains(word)), "{args:?}: {words:?} are missing in: {log}");
    assert!(output.stdout.is_empty(), "{args:?}");
    Ok(())
}

/// Writes a file to the test folder and returns its path.
fn file(name: &str, bytes: &[u8]) -> Result<String> {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::write(&path, bytes)?;
    Ok(path.to_str().ok_or("a path that is not UTF-8")?.to_owned())
}

/// Returns the demo model with edited metadata. `None` removes an entry.
fn demo_with(edit: impl Fn(&str, &Value) -> Option<Value>) -> Result<GgufWriter> {
    let demo = Gguf::open(DEMO)?;
    let mut writer = GgufWriter::new();
    for (key, value) in demo.metadata().iter() {
        if let Some(value) = edit(key, value) {
            writer.metadata(key, value);
        }
    }
    for tensor in demo.tensors() {
        writer.tensor(&tensor.name, tensor.ty, &tensor.shape, demo.data(tensor).to_vec());
    }
    Ok(writer)
}

struct Answer {
    prompt: String,
    answer: String,
    /// Whether logits are so close that an f16 KV cache may change the answer.
    exact: bool,
}

fn answers() -> Result<Vec<Answer>> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/demo.json");
    let json: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(path)?)?;
    let parse = |json: &serde_json::Value| {
        let text = |key: &str| json.get(key)?.as_str().map(str::to_owned);
        Some(Answer { prompt: text("prompt")?, answer: text("answer")?, exact: json.get("exact")?.as_bool()? })
    };
    let answers = json["answers"].as_array().and_then(|list| list.iter().map(parse).collect::<Option<Vec<_>>>());
    Ok(answers.filter(|answers| !answers.is_empty()).ok_or("demo.json is not as expected")?)
}

/// Compares the demo model's answers with the golden ones.
fn check_answers<'a>(answers: impl IntoIterator<Item = &'a Answer>, options: &[&str]) -> Result {
    for Answer { prompt, answer, .. } in answers {
        let args = [&["run", DEMO, "-p", prompt, "--temp", "0"], options].concat();
        assert_eq!(success(&ferrum(&args)?)?, format!("{answer}\n"), "{prompt}");
    }
    Ok(())
}

#[test]
fn answers_with_an_f32_kv_cache() -> Result {
    let answers = answers()?;
    // `logits::the_demo_model_gives_the_golden_answers` compares all answers.
    check_answers(answers.iter().step_by(6), &["--kv-type", "f32"])
}

#[test]
fn answers_with_other_kv_caches_and_on_the_cpu() -> Result {
    let answers = answers()?;
    let clear = || answers.iter().filter(|answer| !answer.exact);
    check_answers(clear().take(2), &["--kv-type", "f16"])?;
    check_answers(clear().skip(1).take(2), &["--kv-type", "q8_0"])?;
    check_answers(clear().skip(2).take(2), &[])?;
    check_answers(&answers[..2], &["--device", "cpu", "--kv-type", "f32"])?;
    check_answers(clear().skip(4).take(1), &["--device", "cpu", "--no-mmap"])
}

#[test]
fn the_prompt_can_be_piped() -> Result {
    let answers = answers()?;
    let Answer { prompt, answer, .. } = answers.iter().find(|answer| !answer.exact).ok_or("no answer")?;
    let expected = format!("{answer}\n");
    let args = ["run", DEMO, "--temp", "0", "--device", "cpu"];
    for newline in ["", "\n"] {
        assert_eq!(success(&piped(&args, format!("{prompt}{newline}").as_bytes())?)?, expected);
    }
    // Piped text comes before that of `-p`.
    let both = piped(&[&args[..], &["-p", prompt, "-n", "1"]].concat(), b"Hello!")?;
    success(&both)?;
    assert!(stderr(&both).contains("6 bytes of standard input come before the prompt"), "{}", stderr(&both));
    let in_file = file("prompt.txt", format!("{prompt}\n").as_bytes())?;
    assert_eq!(
        success(&ferrum(&[&args[..], &["-f", &in_file, "-n", "-1", "-s", "-1", "--top-k", "-1"]].concat())?)?,
        expected
    );

    for (input, word) in [(&b""[..], "empty"), (b"\n", "empty"), (b"\xff", "UTF-8")] {
        let output = piped(&args, input)?;
        assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0));
        assert!(stderr(&output).starts_with("error: ") && stderr(&output).contains(word), "{}", stderr(&output));
    }
    Ok(())
}

#[test]
fn a_run_reports_on_stderr() -> Result {
    let output = ferrum(&["run", DEMO, "-p", "Hello!", "--device", "cpu", "--top-k", "1", "-n", "3"])?;
    assert_eq!(success(&output)?.matches('\n').count(), 1);
    let log = stderr(&output);
    for part in
        ["device: cpu\n", "top-k 1 (given)", "(Qwen3's default)", "seed ", "(from the clock)", "generation: 3 tokens"]
    {
        assert!(log.contains(part), "{part:?} is missing in: {log}");
    }
    let seeded = |seed| {
        let args =
            ["run", DEMO, "-p", "Hello!", "--device", "cpu", "--temp", "9", "--top-k", "0", "-n", "9", "--seed", seed];
        success(&ferrum(&args)?)
    };
    assert_eq!(seeded("1")?, seeded("1")?);
    assert_ne!(seeded("1")?, seeded("2")?);
    Ok(())
}

/// Returns the demo model's greedy answer on the CPU.
fn answer_on_cpu(prompt: &str, options: &[&str]) -> Result<String> {
    success(&ferrum(&[&["run", DEMO, "-p", prompt, "--device", "cpu", "--temp", "0"], options].concat())?)
}

#[test]
fn an_answer_ends_before_a_stop_string() -> Result {
    let capital = |stops: &[&str]| answer_on_cpu("What is the capital of France?", stops);
    assert_eq!(capital(&["--stop", " Paris"])?, "The capital of France is\n");
    // Independent of token boundaries; the first match wins.
    assert_eq!(capital(&["--stop", "aris", "--stop", "ital of", "--stop", "is P"])?, "The cap\n");
    assert_eq!(capital(&["--stop", "Rome", "--stop", "Paris!"])?, "The capital of France is Paris.\n");
    Ok(())
}

#[test]
fn control_tokens_end_a_reply() -> Result {
    // 1502 is `<|im_start|>`, which starts another turn.
    assert_eq!(answer_on_cpu("hi", &["--logit-bias", "1502=1000", "-n", "8"])?, "\n");
    // 1500 is neither end nor start. A stop string sees its name.
    let tokenizer = Tokenizer::from_gguf(&Gguf::open(DEMO)?)?;
    assert!(!tokenizer.is_stop(1500));
    Ok(())
}

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
    refused(&["template", &raising, "--messages", &messages], 3, &["no (in chat template:3)"])
}

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
fn a_profile_reports_stages() -> Result {
    for device in ["cpu", "0"] {
        let output = ferrum(&["run", DEMO, "-p", "What is 7 + 5?", "--temp", "0", "--device", device, "--profile"])?;
        if device != "cpu" && stderr(&output).contains("timestamps") {
            continue;
        }
        assert_eq!(success(&output)?, "7 + 5 = 12\n");
        let log = stderr(&output);
        for part in ["phase", "dispatches", "us/token", "prefill", "decode", "attention", "gate/up", "sampling"] {
            assert!(log.contains(part), "{part:?} is missing in: {log}");
        }
        // One pass for each token except the first, which prefill yields. Pipelining may add one that is discarded.
        let decode: Vec<_> = log.lines().filter(|line| line.contains("decode") && line.contains("passes")).collect();
        assert!(decode.len() == 1 && decode[0].contains("100.0 %"), "{log}");
    }
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
    let penalised = file("penalised.gguf", &writer.to_bytes()?)?;
    let args = ["-p", "Count from 3 to 9.", "--temp", "0", "--device", "cpu", "-n", "24"];
    let of_file = ferrum(&[&["run", &penalised], &args[..]].concat())?;
    let given = ferrum(&[&["run", DEMO, "--repeat-penalty", "1.3"], &args[..]].concat())?;
    assert_eq!(success(&of_file)?, success(&given)?);
    let not_applied = "xtc_probability 0.25, xtc_threshold 0.5 (from the file, not applied)";
    for part in ["repeat-penalty 1.3 (from the file)", not_applied] {
        assert!(stderr(&of_file).contains(part), "{}", stderr(&of_file));
    }
    // These change nothing.
    for key in ["mirostat", "penalty_last_n"] {
        assert!(!stderr(&of_file).contains(key), "{}", stderr(&of_file));
    }
    let mut writer = demo_with(|_, value| Some(value.clone()))?;
    writer.metadata("general.sampling.penalty_repeat", 1.3_f32).metadata("general.sampling.penalty_last_n", 0_i32);
    writer.metadata("general.sampling.mirostat", 2_i32);
    let unpenalised = file("unpenalised.gguf", &writer.to_bytes()?)?;
    let output =
        ferrum(&[&["run", &unpenalised], &args[..2], &["--temp", "0", "--device", "cpu", "-n", "1"]].concat())?;
    success(&output)?;
    assert!(stderr(&output).contains("greedy (temp 0, given); mirostat 2 (from the file, not applied)"));
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

/// A conversation on a terminal: a pasted text is one message, whatever lines it has (ollama issues 357 and 169), and the
/// next turn continues the KV cache of the one before.
#[cfg(unix)]
#[test]
fn a_pasted_text_is_one_message() -> Result {
    use std::fs::File;
    use std::sync::{Arc, Mutex};
    use std::time::{Duration, Instant};

    let size = nix::pty::Winsize { ws_row: 24, ws_col: 200, ws_xpixel: 0, ws_ypixel: 0 };
    let terminal = nix::pty::openpty(&size, None)?;
    let mut child = program()
        .args(untuned(&["run", DEMO, "--device", "cpu", "--temp", "0", "-n", "4"]))
        .env("TERM", "xterm")
        .stdin(terminal.slave.try_clone()?)
        .stdout(terminal.slave.try_clone()?)
        .stderr(terminal.slave)
        .spawn()?;
    let mut screen = File::from(terminal.master.try_clone()?);
    let shown = Arc::new(Mutex::new(String::new()));
    let reader = std::thread::spawn({
        let shown = Arc::clone(&shown);
        move || {
            let mut bytes = [0; 4096];
            // An error is the end: the program has closed the terminal.
            while let Ok(n @ 1..) = screen.read(&mut bytes) {
                shown.lock().expect("the screen").push_str(&String::from_utf8_lossy(&bytes[..n]));
            }
        }
    });
    let screen = || shown.lock().expect("the screen").clone();
    let wait = |text: &str, count: usize| {
        let start = Instant::now();
        while screen().matches(text).count() < count {
            assert!(start.elapsed() < Duration::from_secs(120), "no {text:?} in {:?}", screen());
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    let mut keyboard = File::from(terminal.master);
    wait("> ", 1);
    // As terminals send a paste in which lines end with a carriage return.
    keyboard.write_all(b"\x1b[200~Summarise:\r  a cat sat on a mat\x1b[201~")?;
    wait("a cat sat on a mat", 1);
    keyboard.write_all(b"\r")?;
    wait("generation:", 1);
    // The history has the text, whole.
    keyboard.write_all(b"\x1b[A\r")?;
    wait("generation:", 2);
    keyboard.write_all(b"/exit\r")?;
    assert_eq!(child.wait()?.code(), Some(0), "{}", screen());
    drop(keyboard);
    reader.join().map_err(|_| "the reader")?;

    let demo = Gguf::open(DEMO)?;
    let (tokenizer, template) = (Tokenizer::from_gguf(&demo)?, ChatTemplate::from_metadata(demo.metadata())?);
    let message = Message::user("Summarise:\n  a cat sat on a mat");
    let prompt = template.encode(&tokenizer, &[message], &RenderOptions::default())?.len();
    let screen = screen();
    let counts: Vec<&str> = screen.lines().filter(|line| line.contains("prompt: ")).collect();
    assert!(counts.len() == 2 && counts[0].contains(&format!("prompt: {prompt} tokens, ")), "{screen}");
    assert!(counts[1].contains("more cached"), "{screen}");
    Ok(())
}

#[test]
fn a_full_context_ends_the_answer() -> Result {
    let story = answers()?.into_iter().find(|answer| answer.exact).ok_or("no story")?;
    let output = ferrum(&["run", DEMO, "-p", &story.prompt, "--temp", "0", "--ctx", "24", "--device", "cpu"])?;
    let text = success(&output)?;
    let text = text.strip_suffix('\n').ok_or("no newline")?;
    assert!(!text.is_empty() && story.answer.starts_with(text) && text.len() < story.answer.len(), "{text}");
    assert!(stderr(&output).contains("the context of 24 tokens is full"), "{}", stderr(&output));
    refused(&["run", DEMO, "-p", &story.prompt, "--ctx", "8"], 2, &["does not fit in the context of 8"])?;
    refused(&["run", DEMO, "-p", "a", "--ctx", "0"], 2, &["context"])?;
    refused(&["run", DEMO, "-p", "a", "--ctx", "1000000"], 2, &["context", "2048"])
}

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
fn other_architectures_run_too() -> Result {
    for arch in [Arch::Qwen3, Arch::Llama] {
        let path = file(&format!("{arch:?}.gguf"), &TinyModel { arch, ..TinyModel::default() }.to_bytes()?)?;
        let text = success(&ferrum(&["run", &path, "-p", "a", "-n", "4", "--temp", "0", "--device", "cpu"])?)?;
        assert!(text.ends_with('\n'), "{text:?}");
    }
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

/// Sends Ctrl-C during an answer. At this temperature only the context ends it.
#[cfg(unix)]
#[test]
fn an_interrupt_ends_the_answer() -> Result {
    let endless = ["--temp", "100", "--top-k", "0", "--top-p", "1", "--seed", "1", "--device", "cpu"];
    let mut child = program().args(["run", DEMO, "--no-tune", "-p", "Hello!"]).args(endless).spawn()?;
    let mut first = [0];
    child.stdout.as_mut().ok_or("no stdout")?.read_exact(&mut first)?;
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status()?.success());
    let output = child.wait_with_output()?;
    assert_eq!(output.status.code(), Some(130), "{}", stderr(&output));
    assert_eq!(output.stdout.last(), Some(&b'\n'));
    assert!(!stderr(&output).contains("error"), "{}", stderr(&output));
    Ok(())
}

#[test]
fn software_drivers_are_not_tuned_and_a_damaged_cache_is_harmless() -> Result {
    let home = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("tuned");
    let _ = std::fs::remove_dir_all(&home);
    let ferrum = |args: &[&str]| program().env("XDG_CACHE_HOME", &home).env("HOME", &home).args(args).output();
    let output = ferrum(&["tune", DEMO])?;
    assert!(stderr(&output).contains("software driver") && success(&output)?.is_empty(), "{}", stderr(&output));
    fn kept(folder: &std::path::Path, ending: &str) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        let inside = |path: PathBuf| if path.is_dir() { kept(&path, ending) } else { vec![path] };
        let mut all: Vec<_> = entries.flat_map(|entry| inside(entry.path())).collect();
        all.retain(|path| path.is_dir() || path.to_string_lossy().ends_with(ending));
        all
    }
    assert!(kept(&home, ".tuning.json").is_empty());

    let answers = answers()?;
    let Answer { prompt, answer, .. } = answers.iter().find(|answer| !answer.exact).ok_or("no answer")?;
    let run = ["run", DEMO, "-p", prompt, "--temp", "0"];
    assert_eq!(success(&ferrum(&run)?)?, format!("{answer}\n"));
    // Damaged cache files are not used. Pipelines are cached anew.
    for path in kept(&home, ".pipelines.bin") {
        std::fs::write(path, "{ not this")?;
    }
    assert_eq!(success(&ferrum(&run)?)?, format!("{answer}\n"));
    for path in kept(&home, ".pipelines.bin") {
        assert!(std::fs::read(&path)?.starts_with(b"FERRUMP"), "{}", path.display());
    }
    // Without a writable folder nothing is cached.
    std::fs::remove_dir_all(&home)?;
    std::fs::write(&home, "in the way")?;
    assert_eq!(success(&ferrum(&run)?)?, format!("{answer}\n"));
    Ok(std::fs::remove_file(&home)?)
}
