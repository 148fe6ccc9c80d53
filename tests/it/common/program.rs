//! The command-line program as tests run it.

use std::error::Error;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use ferrum_wgpu::Gguf;
use ferrum_wgpu::gguf::{GgufWriter, Value};

pub const DEMO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/models/demo-q4_k_m.gguf");

pub type Result<T = ()> = std::result::Result<T, Box<dyn Error>>;

/// Returns the program, away from the user's files. Mesa's cache of compiled shaders is that of the tests' own process.
pub fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ferrum-wgpu"));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).env_remove("RUST_LOG");
    let folder = |variable: &str| std::env::var_os(variable).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = || folder("XDG_CACHE_HOME").or_else(|| Some(folder("HOME")?.join(".cache")));
    if let Some(shaders) = folder("MESA_SHADER_CACHE_DIR").or_else(cache) {
        command.env("MESA_SHADER_CACHE_DIR", shaders);
    }
    command.env("XDG_CACHE_HOME", env!("CARGO_TARGET_TMPDIR")).env("HOME", env!("CARGO_TARGET_TMPDIR"));
    command
}

pub fn ferrum(args: &[&str]) -> Result<Output> {
    Ok(program().args(untuned(args)).output()?)
}

/// Adds `--no-tune` to `run`: autotuning takes time.
pub fn untuned<'a>(args: &[&'a str]) -> Vec<&'a str> {
    match args {
        ["run", rest @ ..] if !rest.is_empty() => [&["run", "--no-tune"], rest].concat(),
        _ => args.to_vec(),
    }
}

/// Runs the program with `input` piped to its standard input.
pub fn piped(args: &[&str], input: &[u8]) -> Result<Output> {
    let mut child = program().args(untuned(args)).stdin(Stdio::piped()).spawn()?;
    let mut stdin = child.stdin.take().ok_or("no stdin")?;
    // The program may exit without reading its input.
    let _ = stdin.write_all(input);
    drop(stdin);
    Ok(child.wait_with_output()?)
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Checks that the program succeeded, and returns its standard output.
pub fn success(output: &Output) -> Result<String> {
    let (text, log) = (String::from_utf8(output.stdout.clone())?, stderr(output));
    assert_eq!(output.status.code(), Some(0), "{log}");
    assert!(!log.lines().any(|line| line.starts_with("error")), "{log}");
    Ok(text)
}

/// Checks that the program exits with `code`, prints one line with all of `words` on standard error, and prints nothing
/// else.
pub fn refused(args: &[&str], code: i32, words: &[&str]) -> Result {
    let output = ferrum(args)?;
    let log = stderr(&output);
    assert_eq!(output.status.code(), Some(code), "{args:?}: {log}");
    assert!(log.starts_with("error: ") && log.ends_with('\n') && log.lines().count() == 1, "{args:?}: {log}");
    assert!(words.iter().all(|word| log.contains(word)), "{args:?}: {words:?} are missing in: {log}");
    assert!(output.stdout.is_empty(), "{args:?}");
    Ok(())
}

/// Writes a file to the test folder and returns its path.
pub fn file(name: &str, bytes: &[u8]) -> Result<String> {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::write(&path, bytes)?;
    Ok(path.to_str().ok_or("a path that is not UTF-8")?.to_owned())
}

/// Returns the demo model with edited metadata. `None` removes an entry.
pub fn demo_with(edit: impl Fn(&str, &Value) -> Option<Value>) -> Result<GgufWriter> {
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

/// Returns the demo model's greedy answer on the CPU.
pub fn answer_on_cpu(prompt: &str, options: &[&str]) -> Result<String> {
    success(&ferrum(&[&["run", DEMO, "-p", prompt, "--device", "cpu", "--temp", "0"], options].concat())?)
}
