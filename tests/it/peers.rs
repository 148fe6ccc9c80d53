//! Logits of hybrids against llama.cpp's, on the tiny random models that its own test program writes (tools/peer_archs.py tells
//! how to make both):
//!
//! ```text
//! PEER_LOGITS=PROGRAM PEER_MODELS="A.gguf B.gguf" cargo test --test it -- --ignored --nocapture peers::
//! ```

use std::{process::Command, thread};

use ferrum_wgpu::{Device, Engine, EngineOptions, Gguf, KvType, Model, low_level::engine::argmax};

use crate::common::device::gpu;

/// The bound of a logit's difference, relative to `max(10, max |logit|)` of its row.
const BOUND: f64 = 1e-4;
const LENGTHS: [u32; 5] = [1, 63, 64, 65, 200];
const GREEDY: usize = 8;

/// A prompt and llama.cpp's logits of it and of the tokens after it.
struct Peer {
    prompt: Vec<u32>,
    rows: Vec<Vec<f32>>,
    greedy: Vec<u32>,
}

impl Peer {
    fn new(program: &str, file: &str, prompt: Vec<u32>, vocab: u32) -> Self {
        let ids: Vec<_> = prompt.iter().map(u32::to_string).collect();
        let (greedy, top) = (GREEDY.to_string(), vocab.to_string());
        let output = Command::new(program).args([file, &ids.join(","), &greedy, &top]).output().expect("the peer");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let json: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let row = |row: &serde_json::Value| {
            let mut logits = vec![f32::NAN; vocab as usize];
            for pair in row.as_array().expect("pairs") {
                logits[pair[0].as_u64().expect("an id") as usize] = pair[1].as_f64().expect("a logit") as f32;
            }
            logits
        };
        Self {
            prompt,
            rows: json["top"].as_array().expect("rows").iter().map(row).collect(),
            greedy: json["greedy"]
                .as_array()
                .expect("ids")
                .iter()
                .map(|id| id.as_u64().expect("an id") as u32)
                .collect(),
        }
    }

    /// Returns the worst difference of `rows`, the first of which is the prompt's row `first`, relative to the row's scale.
    fn difference(&self, first: usize, rows: &[Vec<f32>]) -> f64 {
        let mut worst = 0.0_f64;
        for (own, peer) in rows.iter().zip(&self.rows[first..]) {
            let scale = peer.iter().fold(10.0_f32, |scale, logit| scale.max(logit.abs()));
            for (own, peer) in own.iter().zip(peer) {
                let difference = f64::from((own - peer).abs() / scale);
                assert!(difference <= BOUND, "{difference:e} of {} tokens", self.prompt.len());
                worst = worst.max(difference);
            }
        }
        worst
    }
}

/// Returns the logits of all rows of a prompt, then of tokens that are sampled greedily, and those tokens. A second session
/// begins from a snapshot where there is one: it has the logits of the last row only.
async fn rows(engine: &Engine, prompt: &[u32]) -> (Vec<Vec<f32>>, Vec<u32>, Vec<f32>) {
    let mut session = engine.session();
    let (mut rows, mut greedy) = (Vec::new(), Vec::new());
    session.forward_each(prompt, |row| rows.push(row.to_vec())).await.expect("logits");
    for _ in 0..GREEDY {
        greedy.push(argmax(rows.last().expect("a row")).expect("a token"));
        rows.push(session.decode(greedy[greedy.len() - 1]).await.expect("logits"));
    }
    let again = engine.session().forward(prompt).await.expect("logits");
    (rows, greedy, again)
}

#[test]
#[ignore = "needs llama.cpp and its test models"]
fn hybrids_agree_in_any_batch_and_chunking() {
    let variable = |name: &str| std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set"));
    let (program, files) = (variable("PEER_LOGITS"), variable("PEER_MODELS"));
    assert!(files.split_whitespace().count() > 0, "no models");
    pollster::block_on(async {
        for file in files.split_whitespace() {
            let gguf = Gguf::open(file).expect("a GGUF");
            for (on, device) in [("cpu", Device::cpu()), ("gpu", gpu().await)] {
                let model = Model::load(&device, &gguf, |_, _| ()).await.expect("a model");
                let vocab = model.config().vocab;
                let prompt = |len: u32| (0..len).map(|i| (len * 7919 + i * i * 31 + i * 17) % vocab).collect();
                let peers: Vec<_> = LENGTHS.map(|len| Peer::new(&program, file, prompt(len), vocab)).into();
                let mut first: Vec<Vec<Vec<f32>>> = Vec::new();
                let mut worst = [0.0_f64; 2];
                // Whole prompts, single rows, chunks of 7 and 64 rows; with and without snapshots; alone and in a batch.
                for (chunk, snapshots) in [(256, 0), (1, 0), (7, 8), (64, 8), (256, 8)] {
                    let options = EngineOptions::default()
                        .kv_type(KvType::F32)
                        .context(256)
                        .kv_tokens(2048)
                        .sequences(6)
                        .prefill_rows(chunk)
                        .snapshot_spacing(32)
                        .state_snapshots(snapshots);
                    let (mut alone, mut together) = (Vec::new(), Vec::new());
                    let engine = Engine::new(&model, &options).await.expect("an engine");
                    for peer in &peers {
                        alone.push(rows(&engine, &peer.prompt).await);
                    }
                    let engine = Engine::new(&model, &options).await.expect("an engine");
                    thread::scope(|scope| {
                        let run = |prompt| pollster::block_on(rows(&engine, prompt));
                        let threads: Vec<_> = peers.iter().map(|peer| scope.spawn(move || run(&peer.prompt))).collect();
                        together.extend(threads.into_iter().map(|thread| thread.join().expect("rows")));
                    });
                    for (way, found) in [alone, together].iter().enumerate() {
                        for (i, (peer, (rows, greedy, again))) in peers.iter().zip(found).enumerate() {
                            worst[way] = worst[way].max(peer.difference(0, rows));
                            peer.difference(peer.prompt.len() - 1, std::slice::from_ref(again));
                            assert_eq!(*greedy, peer.greedy, "{file} on {on}, {} tokens", peer.prompt.len());
                            match first.get(i) {
                                Some(first) => assert!(first == rows, "{file} on {on}: bits of {chunk} rows a pass"),
                                None => first.push(rows.clone()),
                            }
                        }
                    }
                }
                println!(
                    "{file} on {on}: {:.1e} alone, {:.1e} in a batch, greedy equal, bits equal",
                    worst[0], worst[1]
                );
            }
        }
    });
}
