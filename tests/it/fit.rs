//! Memory plans within a budget. Nothing is allocated here.

use crate::common::tiny_model::{Arch, TinyModel, hybrid_models};
use ferrum_wgpu::{Config, Engine, EngineError, EngineOptions, Gguf, KvType, MemoryPlan};

/// Returns a mixture of 16 experts, two per token, with a long context.
fn file() -> Gguf {
    let tiny = TinyModel { arch: Arch::Qwen3Moe, experts: 16, top_k: 2, context: 32_768, ..TinyModel::default() };
    Gguf::from_bytes(tiny.to_bytes().expect("a file")).expect("a file")
}

/// Returns the memory plan for a context length and KV type, with all experts resident.
fn memory(context: u32, ty: KvType) -> MemoryPlan {
    let options = EngineOptions::default().context(context);
    Engine::memory(&file(), &options, ty).expect("a plan")
}

fn fit(budget: u64) -> Result<(u32, KvType, Option<u32>), EngineError> {
    let fit = Engine::plan_best(&file(), &EngineOptions::default(), KvType::F16, budget)?;
    assert!(fit.memory.total() <= budget);
    let (context, ty) = (fit.options.context.expect("a context"), fit.options.kv_type.expect("a type"));
    Ok((context, ty, fit.memory.slots()))
}

#[test]
fn the_context_shrinks_first_then_the_cache_then_the_experts() {
    assert_eq!(fit(1 << 40).expect("it fits"), (32_768, KvType::F16, None));
    let exactly = |context, ty| fit(memory(context, ty).total()).expect("it fits");
    assert_eq!(exactly(32_768, KvType::F16), (32_768, KvType::F16, None));
    assert_eq!(exactly(8192, KvType::F16), (8192, KvType::F16, None));
    assert_eq!(exactly(4096, KvType::F16), (4096, KvType::F16, None));
    assert_eq!(exactly(4096, KvType::Q8_0), (4096, KvType::Q8_0, None));
    let least = memory(4096, KvType::Q8_0);
    assert_eq!(fit(least.total() - 1).expect("it fits"), (4096, KvType::Q8_0, Some(15)));
    assert_eq!(fit(least.least()).expect("it fits"), (4096, KvType::Q8_0, Some(2)));
    assert_eq!(fit(least.least() - 1).expect("it fits").0, 2048);
}

#[test]
fn a_budget_below_the_minimum_is_refused_with_the_minimum() {
    let least = memory(512, KvType::Q8_0).least();
    let error = fit(least - 1).expect_err("too little");
    assert!(matches!(error, EngineError::DoesNotFit { needed, budget } if needed == least && budget == least - 1));
    assert!(error.to_string().ends_with("1 bytes short"), "{error}");
}

#[test]
fn requested_options_are_kept() {
    let asked = EngineOptions::default().context(1000).kv_type(KvType::F32);
    let whole = Engine::memory(&file(), &asked, KvType::F32).expect("a plan");
    let budget = whole.total() - whole.expert - 1;
    let fit = Engine::plan_best(&file(), &asked, KvType::F16, budget).expect("it fits");
    assert_eq!((fit.options.context, fit.options.kv_type), (Some(1000), Some(KvType::F32)));
    assert_eq!((fit.memory.slots(), fit.memory.experts), (Some(14), 16));
    assert!(fit.memory.total() <= budget && whole.offloaded(15).total() > budget);
    // `within` keeps the options and offloads experts only.
    assert_eq!(Engine::plan_within(&file(), &asked, KvType::F16, budget).expect("it fits"), fit);
}

/// Two states a running sequence, one for each draft token of its steps and one a snapshot, in f32.
#[test]
fn states_are_planned_and_kept() {
    for (name, tiny) in hybrid_models() {
        let file = Gguf::from_bytes(tiny.to_bytes().expect("a file")).expect("a file");
        let asked = EngineOptions::default().context(512).sequences(3).lookup(4).state_snapshots(5);
        let plan = Engine::memory(&file, &asked, KvType::F16).expect("a plan");
        let [keys, values, dim] = tiny.delta.map(u64::from);
        let state = 4 * 3 * (values * dim * dim + 3 * (2 * keys + values) * dim);
        assert_eq!(
            (plan.states, Config::from_gguf(&file).expect("a model").state_bytes()),
            (state * 23, state),
            "{name}"
        );
        let fit = Engine::plan_best(&file, &asked, KvType::F16, plan.total()).expect("it fits");
        assert_eq!((fit.memory.slots(), fit.memory.states, &fit.memory), (None, plan.states, &plan));
        let less = Engine::plan_best(&file, &asked, KvType::F16, plan.total() - 1);
        match less {
            Ok(fit) => assert!(fit.memory.total() < plan.total() && fit.memory.states == plan.states, "{name}"),
            Err(error) => panic!("{name}: {error}"),
        }
    }
}

#[test]
fn dense_models_cannot_be_offloaded() {
    let tiny = TinyModel { arch: Arch::Qwen3, ..TinyModel::default() };
    let file = Gguf::from_bytes(tiny.to_bytes().expect("a file")).expect("a file");
    let options = EngineOptions::default().context(64);
    let total = Engine::memory(&file, &options, KvType::F16).expect("a plan").total();
    assert_eq!(Engine::plan_within(&file, &options, KvType::F16, total).expect("it fits").memory.slots(), None);
    let error = Engine::plan_within(&file, &options, KvType::F16, total - 1).expect_err("too little");
    assert!(matches!(error, EngineError::DoesNotFit { needed, .. } if needed == total), "{error}");
}
