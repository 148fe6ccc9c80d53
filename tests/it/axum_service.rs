//! The example of an HTTP service: it streams replies, and frees those that are dropped midway.

use std::sync::Arc;

use ferrum_wgpu::gguf::Gguf;

use crate::common::engines::{demo_bytes, gpu};

#[allow(dead_code)]
#[path = "../../examples/axum_stream.rs"]
mod axum_stream;

#[test]
fn a_service_streams_replies_and_frees_dropped_ones() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let gguf = Gguf::from_bytes(demo_bytes()).expect("a GGUF");
        let service = axum_stream::Service::new(&gpu().await, &gguf).await.expect("a service");
        axum_stream::self_test(Arc::new(service)).await.expect("it answers");
    });
}
