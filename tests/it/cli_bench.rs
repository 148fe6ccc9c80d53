//! The command `bench`: formats, invalid arguments and token hashes.
#![cfg(feature = "cli")]

use std::error::Error;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use crate::common::{program::program, tiny_model::TinyModel};
use ferrum_wgpu::Gguf;
use serde_json::Value;

type Result<T = ()> = std::result::Result<T, Box<dyn Error>>;

fn model(name: &str) -> Result<String> {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    let tiny = TinyModel { context: 128, ..TinyModel::default() };
    std::fs::write(&path, tiny.to_bytes()?)?;
    Ok(path.to_str().ok_or("a path that is not UTF-8")?.to_owned())
}

fn bench(args: &[&str]) -> Result<Output> {
    Ok(program().args(["bench", "--no-tune"]).args(args).output()?)
}

fn success(args: &[&str]) -> Result<String> {
    let output = bench(args)?;
    assert_eq!(output.status.code(), Some(0), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

/// Checks that the program exits with code 2, prints all of `words` on standard error and nothing on standard output.
fn refused(args: &[&str], words: &[&str]) -> Result {
    let output = bench(args)?;
    let log = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{args:?}: {log}");
    assert!(words.iter().all(|word| log.contains(word)), "{args:?}: {words:?} are missing in: {log}");
    assert!(output.stdout.is_empty(), "{args:?}");
    Ok(())
}

fn rows(args: &[&str]) -> Result<Vec<Value>> {
    let json: Value = serde_json::from_str(&success(args)?)?;
    Ok(json.as_array().ok_or("no array")?.clone())
}

fn text<'a>(row: &'a Value, key: &str) -> &'a str {
    row[key].as_str().unwrap_or_default()
}

fn number(row: &Value, key: &str) -> f64 {
    row[key].as_f64().unwrap_or(f64::NAN)
}

#[test]
fn json_has_a_row_for_every_test_depth_and_batch() -> Result {
    let model = model("bench-json.gguf")?;
    let args = [&model[..], "-p", "8,40", "-n", "6", "-d", "0,16", "--npl", "1,3", "-r", "2", "-o", "json"];
    let rows = rows(&args)?;
    let named: Vec<_> = rows.iter().map(|row| text(row, "test")).collect();
    let of_batch = |suffix: &str| {
        ["", " @ d16"].map(|depth| ["pp8", "pp40", "tg6"].map(|test| format!("{test}{suffix}{depth}"))).concat()
    };
    assert_eq!(named, [of_batch(""), of_batch(" x 3")].concat());

    let bytes = Gguf::open(&model)?.tensors().iter().map(|tensor| tensor.bytes).sum::<u64>() as f64;
    for row in &rows {
        assert_eq!(text(row, "model_filename"), model);
        assert_eq!(number(row, "model_size"), bytes);
        assert!(number(row, "model_n_params") > 0.0 && !text(row, "backends").is_empty());
        let samples = row["samples_ts"].as_array().ok_or("no samples")?;
        let mean = samples.iter().filter_map(Value::as_f64).sum::<f64>() / 2.0;
        assert_eq!(samples.len(), 2);
        assert!((number(row, "avg_ts") - mean).abs() < 1e-6 * mean && number(row, "stddev_ts") >= 0.0);
        let (prompt, generated) = (number(row, "n_prompt"), number(row, "n_gen"));
        assert!((prompt > 0.0) != (generated > 0.0));
        // The rate counts the tokens of all sequences.
        let tokens = (prompt + generated) * number(row, "batch");
        let nanoseconds = row["samples_ns"][0].as_f64().unwrap_or(f64::NAN);
        let first = samples[0].as_f64().unwrap_or(f64::NAN);
        assert!((first * nanoseconds / 1e9 - tokens).abs() < 1e-3 * tokens, "{row}");
        assert_eq!(row["gb_per_s"].is_null(), generated == 0.0);
        assert!(number(row, "copy_gb_per_s") > 0.0 && number(row, "first_token_s") > 0.0);
    }

    // The tokens do not depend on the number of sequences.
    let (alone, together) = rows.split_at(6);
    for (a, b) in alone.iter().zip(together) {
        assert_eq!(text(a, "tokens_hash"), text(b, "tokens_hash"), "{}", text(a, "test"));
        assert_eq!(text(a, "tokens_hash").len(), 16);
    }
    assert_ne!(text(&alone[2], "tokens_hash"), text(&alone[5], "tokens_hash"));

    let (one, three) = (&alone[2], &together[2]);
    assert!((number(one, "dispatches_per_token") - 3.0 * number(three, "dispatches_per_token")).abs() < 30.0);
    for row in [one, three] {
        // Kernels read each weight once, up to the alignment of weights in device memory.
        let share = number(row, "bytes_per_token") / number(row, "ideal_bytes_per_token");
        assert!((0.99..1.02).contains(&share), "{share}");
        // One wait per step, after the next one was submitted.
        let waits = number(row, "waits_per_token") * number(row, "batch");
        assert!((0.8..=1.5).contains(&waits), "{waits}");
        assert!(number(row, "dispatches_per_layer") > 3.0);
    }
    Ok(())
}

#[test]
fn tables_and_csv_have_the_same_hashes_as_json() -> Result {
    let model = model("bench-formats.gguf")?;
    let common = [&model[..], "-p", "0", "-n", "4", "-r", "1", "--device", "cpu"];
    let json = rows(&[&common[..], &["-o", "json"]].concat())?;
    let hash = text(&json[0], "tokens_hash");
    assert_eq!((json.len(), text(&json[0], "test"), number(&json[0], "stddev_ts")), (1, "tg4", 0.0));

    let table = success(&common)?;
    let lines: Vec<_> = table.lines().collect();
    assert!(lines[0].starts_with("| model | size | params | backend | test | t/s | GB/s |"), "{table}");
    assert!(lines[1].starts_with("| --- | ---: |"), "{table}");
    assert!(lines[2].contains("| tg4 | ") && lines[2].contains(" ± 0.00 |"), "{table}");
    assert!(lines[2].ends_with(&format!("| {hash} |")), "{table}");
    let cells = |line: &str| line.matches(" | ").count();
    assert!(cells(lines[0]) == cells(lines[1]) && cells(lines[0]) == cells(lines[2]), "{table}");
    assert!(table.contains(text(&json[0], "gpu_info")) && table.contains("1 run after"), "{table}");

    let csv = success(&[&common[..], &["-o", "csv", "--kv-type", "f32"]].concat())?;
    let lines: Vec<_> = csv.lines().collect();
    assert_eq!(lines.len(), 2);
    let cells = |line: &str| line.trim_matches('"').split("\",\"").map(str::to_owned).collect::<Vec<_>>();
    let (names, values) = (cells(lines[0]), cells(lines[1]));
    assert_eq!(names.len(), values.len());
    let value = |name: &str| names.iter().zip(&values).find(|(n, _)| *n == name).map(|(_, v)| v.as_str());
    assert_eq!((value("n_gen"), value("n_prompt"), value("type_k")), (Some("4"), Some("0"), Some("f32")));
    assert!(value("tokens_hash").is_some_and(|hash| hash.len() == 16) && value("samples_ts").is_none());
    Ok(())
}

#[test]
fn invalid_arguments_are_refused() -> Result {
    let model = model("bench-refused.gguf")?;
    refused(&[&model, "-p", "0", "-n", "0"], &["nothing"])?;
    refused(&[&model], &["640", "128"])?;
    refused(&[&model, "-p", "8", "-n", "8", "-d", "0,113"], &["129 tokens do not fit in the context of 128"])?;
    refused(&[&model, "-p", "8", "-n", "8", "-d", "4294967295"], &["do not fit"])?;
    refused(&[&model, "--npl", "0"], &["--npl"])?;
    refused(&[&model, "-r", "0"], &["--repetitions"])?;
    refused(&[&model, "-p", "8,,4"], &["--n-prompt"])?;
    refused(&[&model, "-n", "-1"], &["-1"])?;
    refused(&[&model, "-o", "sql"], &["sql"])?;
    assert_eq!(bench(&["missing.gguf"])?.status.code(), Some(3));
    Ok(())
}

#[test]
#[cfg(unix)]
fn ctrl_c_ends_a_benchmark() -> Result {
    let model = model("bench-interrupted.gguf")?;
    let mut command = program();
    command.args(["bench", &model, "--no-tune", "--device", "cpu", "-p", "0", "-n", "100", "-r", "1000000"]);
    let mut child = command.stderr(Stdio::null()).spawn()?;
    // Measurements begin after the table's header.
    let mut head = String::new();
    BufReader::new(child.stdout.take().ok_or("no stdout")?).read_line(&mut head)?;
    assert!(head.starts_with("| model |"), "{head}");
    let status = Command::new("kill").args(["-INT", &child.id().to_string()]).status()?;
    assert!(status.success());
    assert_eq!(child.wait()?.code(), Some(130));
    Ok(())
}
