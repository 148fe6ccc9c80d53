//! Memory budgets on the command line.

use std::process::Output;

use crate::common::{program::program, tiny_model::hybrid_models};

const DEMO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/models/demo-q4_k_m.gguf");

type Result<T = ()> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Runs a command without autotuning.
fn ferrum(args: &[&str]) -> Result<Output> {
    let tuned = matches!(args, ["run" | "bench", ..]);
    Ok(program().args(args).args(tuned.then_some("--no-tune")).output()?)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Runs a command that succeeds, and returns its standard output and standard error.
fn success(args: &[&str]) -> Result<(String, String)> {
    let output = ferrum(args)?;
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{args:?}: {err}");
    Ok((out, err))
}

#[test]
fn expert_offloading_does_not_change_output() -> Result {
    let logits = ["logits", DEMO, "--tokens", "9,8,7,6,5,4", "--greedy", "3"];
    let (all, _) = success(&logits)?;
    let (paged, log) = success(&[&logits[..], &["--vram", "5MiB"]].concat())?;
    assert_eq!(paged, all);
    assert!(log.contains("of 8 experts per layer on the device, the others loaded on demand"), "{log}");
    assert!(log.contains("% hits in ") && log.contains(" lookups"), "{log}");
    Ok(())
}

#[test]
fn fit_chooses_and_reports_a_plan() -> Result {
    let ask = ["run", DEMO, "-p", "What is the capital of France?", "--temp", "0", "--vram", "6MiB"];
    let (answer, log) = success(&[&ask[..], &["--fit"]].concat())?;
    assert_eq!(answer, "The capital of France is Paris.\n");
    assert!(log.contains("for a context of 512 tokens, q8_0 KV cache, 2 of 8 experts"), "{log}");
    Ok(())
}

#[test]
fn a_model_that_does_not_fit_is_refused_in_one_line() -> Result {
    let output = ferrum(&["run", DEMO, "-p", "a", "--vram", "1MiB", "--device", "cpu"])?;
    let error = text(&output.stderr);
    assert_eq!((output.status.code(), output.stdout.len()), (Some(5), 0), "{error}");
    assert!(error.lines().last().is_some_and(|line| line.starts_with("error: the model does not fit")), "{error}");
    for size in ["0", "much", "-1GiB", "1XiB"] {
        let output = ferrum(&["run", DEMO, "-p", "a", &format!("--vram={size}")])?;
        assert_eq!(output.status.code(), Some(2), "{size}");
    }
    Ok(())
}

#[test]
fn info_reports_what_is_missing() -> Result {
    let info = |vram: &str| success(&["info", DEMO, "--ctx", "128", "--vram", vram, "--device", "0"]).map(|log| log.0);
    let all = info("1GiB")?;
    assert!(all.contains("KV cache, all weights on the device:") && all.contains("fits in 1.00 GiB\n"), "{all}");
    let paged = info("6MiB")?;
    for part in [
        "all weights: does not fit in 6.00 MiB, ",
        " MiB too much\n",
        "fits with ",
        " of 8 experts per layer on the device",
    ] {
        assert!(paged.contains(part), "{part:?} is missing in: {paged}");
    }
    let never = info("1MiB")?;
    assert!(never.contains("does not fit in 1.00 MiB: at least ") && never.contains(" needed, "), "{never}");
    Ok(())
}

/// A hybrid's layers and states are described, and the tensors counted that predict further tokens.
#[test]
fn info_describes_hybrids() -> Result {
    let (_, tiny) = hybrid_models().into_iter().find(|(name, _)| *name == "qwen35moe").ok_or("no hybrid")?;
    let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("info_describes_hybrids.gguf");
    std::fs::write(&path, tiny.to_bytes()?)?;
    let file = path.to_str().ok_or("a path")?;
    let gguf = ferrum_wgpu::Gguf::open(&path)?;
    let unused = gguf.tensors().iter().filter(|tensor| tensor.name.starts_with("blk.4.")).count();
    for fit in [&["--fit"][..], &[]] {
        let (text, _) = success(&[&["info", file, "--ctx", "128", "--vram", "1GiB", "--device", "cpu"], fit].concat())?;
        for part in [
            "4 layers: 1 with attention (3), 3 with gated delta nets (0, 1, 2)\n",
            "a sequence has a state of 57.00 KiB: 4 value heads of 32 by 32 in each gated delta net\n",
            &format!("{unused} tensors are not used: "),
            ", of a layer that predicts further tokens\n",
            "\n  states ",
            "fits in 1.00 GiB\n",
        ] {
            assert!(text.contains(part), "{part:?} is missing in: {text}");
        }
    }
    std::fs::remove_file(path)?;
    Ok(())
}

#[test]
fn bench_reports_the_expert_cache() -> Result {
    let bench = ["bench", DEMO, "-p", "8", "-n", "4", "-r", "1", "-o", "json", "--vram", "5MiB"];
    let rows: serde_json::Value = serde_json::from_str(&success(&bench)?.0)?;
    let row = &rows[1];
    assert!(row["expert_slots"].as_u64().is_some_and(|slots| (2..8).contains(&slots)), "{row}");
    assert!(row["expert_hit_rate"].as_f64().is_some_and(|rate| rate > 0.0 && rate < 1.0), "{row}");
    Ok(())
}
