//! The integration tests: one program, so that the linker runs once.

// wgpu's types are deeply nested, which matters for the `Send` check of futures.
#![recursion_limit = "256"]

mod common;
#[path = "../../examples/kernels_doc/markdown.rs"]
mod markdown;
#[path = "../../examples/suite/stacks.rs"]
mod stacks;

mod batch;
mod budgets;
mod chat;
mod cli;
mod cli_bench;
mod cli_memory;
mod cli_refusals;
mod cli_run;
mod cli_sampling;
mod conformance;
mod constraint;
mod coverage;
mod delta_net;
mod device_check;
mod embeddings;
mod engine_batches;
mod engine_faults;
mod engine_prefixes;
mod engine_schedules;
mod engine_soak;
mod engine_steps;
mod engine_stress;
mod engine_switches;
mod engine_threads;
mod faults;
mod fit;
mod fused;
mod gguf;
mod gguf_mutations;
mod gguf_refusals;
mod goldens;
mod host_device;
mod hybrids;
mod hygiene;
mod kv;
mod loading;
mod logits;
mod lookup;
mod model_refusals;
mod order;
mod paging;
mod peers;
mod precision;
mod programs;
mod pull;
mod quant;
mod readback;
mod reads;
mod replay;
mod sampling;
mod selection;
mod serve;
mod serve_soak;
mod shaders;
mod shortened;
mod sources;
mod start;
mod text;
mod text_templates;
mod text_vocabularies;
mod tuning;
mod upstream;
mod windows;
