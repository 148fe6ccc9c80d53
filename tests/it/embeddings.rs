//! Hidden states and embeddings.

use crate::common::{
    device::shared_gpu,
    engines::{bits, demo, demo_bytes, engine, greedy, prompt, replies, tiny},
    golden::Embeddings,
    tiny_model::{architecture_models, tiny_models},
};
use ferrum_wgpu::{
    Device, EmbedOptions, Engine, EngineError, EngineOptions, Gguf, KvType, Model, Pooling,
    gguf::{GgufWriter, Value},
};

fn options() -> EngineOptions {
    EngineOptions::default().sequences(3).context(128).kv_tokens(512).kv_type(KvType::F32).prefill_rows(24)
}

async fn all_states(engine: &Engine, tokens: &[u32]) -> Vec<Vec<f32>> {
    let mut states = Vec::new();
    engine.session().hidden_states(tokens, |state| states.push(state.to_vec())).await.expect("hidden states");
    states
}

/// Returns the largest difference from a golden vector, as a share of the bound on logits: `2e-5 · max(10, max|value|)`.
fn worst(vector: &[f32], golden: &[f64]) -> f64 {
    assert_eq!(vector.len(), golden.len());
    let largest = golden.iter().fold(10.0, |most: f64, value| most.max(value.abs()));
    let differences = vector.iter().zip(golden).map(|(value, golden)| (f64::from(*value) - golden).abs());
    differences.fold(0.0, f64::max) / (2e-5 * largest)
}

#[test]
fn they_agree_with_the_reference() {
    pollster::block_on(async {
        let goldens = Embeddings::read_all("embeddings.json").expect("goldens");
        assert!(goldens.len() >= 4);
        let models: Vec<_> = tiny_models().into_iter().chain(architecture_models()).collect();
        for golden in goldens {
            let bytes = match models.iter().find(|(name, _)| *name == golden.model) {
                Some((_, model)) => model.to_bytes().expect("a GGUF"),
                None => demo_bytes(),
            };
            golden.check_model(&bytes).expect("the golden of this model");
            let gguf = Gguf::from_bytes(bytes).expect("a GGUF");
            for device in [shared_gpu(), Device::cpu()] {
                let model = Model::load(&device, &gguf, |_, _| ()).await.expect("a model");
                let engine = engine(&model, &options()).await;
                for (pooling, wanted) in [(Pooling::Mean, &golden.mean), (Pooling::Last, &golden.last)] {
                    let plain = EmbedOptions::default().pooling(pooling).normalise(false);
                    let vector = engine.embed(&golden.tokens, &plain).await.expect("an embedding");
                    let worst = worst(&vector, wanted);
                    assert!(worst <= 1.0, "{} {pooling}: {worst} of the bound", golden.model);
                    let unit = engine.embed(&golden.tokens, &plain.normalise(true)).await.expect("an embedding");
                    let norm = vector.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt();
                    assert!(unit.iter().zip(&vector).all(|(a, b)| (f64::from(*a) - f64::from(*b) / norm).abs() < 1e-6));
                }
            }
        }
    });
}

#[test]
fn they_do_not_depend_on_neighbours_or_the_cache() {
    pollster::block_on(async {
        let device = shared_gpu();
        for model in [tiny(&device, "qwen3-q5_0-q4_1-biases").await, demo(&device).await] {
            let engine = engine(&model, &options()).await;
            let texts: Vec<Vec<u32>> = (0..5).map(|i| prompt(&model, 7 + 13 * i, u64::from(i))).collect();
            let mut alone = Vec::new();
            for tokens in &texts {
                alone.push(all_states(&engine, tokens).await.iter().map(|state| bits(state)).collect::<Vec<_>>());
                assert_eq!(alone.last().map(Vec::len), Some(tokens.len()));
            }
            let reply = replies(&engine, &[(texts[4].clone(), greedy(8))]).await;
            // Together with a reply, in chunks, with prefixes in the cache.
            let mut replying = engine.session();
            let mut beside = replying.generate(&texts[4], &greedy(8)).expect("a reply");
            let mean = EmbedOptions::default();
            let (last, mut tokens) = (mean.pooling(Pooling::Last), Vec::new());
            for (text, alone) in texts.iter().zip(&alone) {
                tokens.extend(beside.next().await.expect("a token"));
                let states = all_states(&engine, text).await;
                assert_eq!(states.iter().map(|state| bits(state)).collect::<Vec<_>>(), *alone);
                let state = engine.session().hidden_state(text).await.expect("a state");
                assert_eq!(&bits(&state), alone.last().expect("a state"));
                let embedding = engine.embed(text, &last.normalise(false)).await.expect("an embedding");
                assert_eq!(bits(&embedding), bits(&state));
                let first = engine.embed(text, &last.pooling(Pooling::First).normalise(false)).await.expect("a vector");
                assert!(first.iter().zip(&states[0]).all(|(a, b)| (a - b).abs() <= 1e-4 * b.abs().max(1.0)));
                let sum = states.iter().fold(vec![0.0; state.len()], |mut sum: Vec<f64>, state| {
                    sum.iter_mut().zip(state).for_each(|(sum, value)| *sum += f64::from(*value));
                    sum
                });
                let vector = engine.embed(text, &mean.normalise(false)).await.expect("an embedding");
                assert!(vector.iter().zip(&sum).all(|(a, b)| *a == (b / text.len() as f64) as f32));
            }
            while let Some(token) = beside.next().await.expect("a token") {
                tokens.push(token);
            }
            assert_eq!(vec![tokens], reply);
            // A session goes on behind its states.
            let mut session = engine.session();
            session.hidden_state(&texts[1]).await.expect("a state");
            let logits = session.forward(&texts[2]).await.expect("logits");
            let both = [&texts[1][..], &texts[2]].concat();
            assert_eq!(bits(&logits), bits(&engine.session().forward(&both).await.expect("logits")));
            drop((session, beside, replying));
            assert_eq!(engine.blocks().free, engine.blocks().total);
        }
    });
}

#[test]
fn what_cannot_be_embedded_is_refused() {
    pollster::block_on(async {
        let model = tiny(&Device::cpu(), "qwen3-q5_0-q4_1-biases").await;
        let engine = engine(&model, &options()).await;
        for pooling in Pooling::ALL {
            let options = EmbedOptions::default().pooling(pooling);
            assert!(matches!(engine.embed(&[], &options).await, Err(EngineError::NoTokens)));
            let unknown = engine.embed(&[u32::MAX], &options).await;
            assert!(matches!(unknown, Err(EngineError::TokenId { .. })));
        }
        let long = engine.embed(&[1; 129], &EmbedOptions::default()).await;
        assert!(matches!(long, Err(EngineError::ContextFull { .. })));
    });
}

#[test]
fn files_name_their_pooling() {
    let of = |value: Option<Value>| {
        let mut writer = GgufWriter::new();
        writer.metadata("general.architecture", "qwen3");
        if let Some(value) = value {
            writer.metadata("qwen3.pooling_type", value);
        }
        let gguf = Gguf::from_bytes(writer.to_bytes().expect("a file")).expect("a GGUF");
        Pooling::from_metadata(gguf.metadata())
    };
    assert_eq!(of(None).expect("none"), None);
    let known = [None, Some(Pooling::Mean), Some(Pooling::First), Some(Pooling::Last)];
    for (value, pooling) in (0..).zip(known) {
        assert_eq!(of(Some(Value::U32(value))).expect("a pooling"), pooling);
    }
    assert!(matches!(of(Some(Value::U32(4))), Err(EngineError::Option { .. })));
    assert!(matches!(of(Some(Value::String("mean".into()))), Err(EngineError::Model(_))));
}
