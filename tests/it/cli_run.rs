//! The command `run`: answers, where they end, and what it reports.
#![cfg(feature = "cli")]

use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::Command;

use crate::common::program::{
    DEMO, Result, answer_on_cpu, ferrum, file, piped, program, refused, stderr, success, untuned,
};
use crate::common::tiny_model::{Arch, TinyModel};
use ferrum_wgpu::{ChatTemplate, Gguf, Message, RenderOptions, Tokenizer};

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
fn other_architectures_run_too() -> Result {
    for arch in [Arch::Qwen3, Arch::Llama] {
        let path = file(&format!("{arch:?}.gguf"), &TinyModel { arch, ..TinyModel::default() }.to_bytes()?)?;
        let text = success(&ferrum(&["run", &path, "-p", "a", "-n", "4", "--temp", "0", "--device", "cpu"])?)?;
        assert!(text.ends_with('\n'), "{text:?}");
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
