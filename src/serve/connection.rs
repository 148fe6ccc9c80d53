//! Connections: accepted, limited, and drained at the end.

use std::{
    future::Future,
    io,
    pin::pin,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::TcpListener,
    sync::{Semaphore, watch},
    time::{sleep, timeout},
};

use super::{Shared, handlers, stall::StallTimeout};

/// The most headers of a request, and bytes of them.
const MAX_HEADERS: usize = 100;
const MAX_HEADER_BYTES: usize = 64 << 10;

/// Serves connections until `shutdown` is ready, and drains them.
pub(super) async fn accept(
    shared: &Arc<Shared>,
    listener: TcpListener,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()> {
    let options = &shared.options;
    let connections = Arc::new(Semaphore::new(options.max_connections.max(1) as usize));
    let router = handlers::router(Arc::clone(shared));
    let (end, ends) = watch::channel(false);
    let mut shutdown = pin!(shutdown);
    loop {
        let permit = tokio::select! {
            permit = Arc::clone(&connections).acquire_owned() => permit,
            () = &mut shutdown => break,
        };
        let Ok(permit) = permit else { break };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut shutdown => break,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                // A connection that ended at once, or too many open files: others may come.
                tracing::warn!(%error, "a connection was not accepted");
                sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let _ = stream.set_nodelay(true);
        let io = TokioIo::new(StallTimeout::new(stream, options.stall_timeout));
        let mut builder = http1::Builder::new();
        builder
            .timer(TokioTimer::new())
            .header_read_timeout(options.header_timeout)
            .max_headers(MAX_HEADERS)
            .max_buf_size(MAX_HEADER_BYTES);
        let service = TowerToHyperService::new(router.clone());
        let mut ends = ends.clone();
        tokio::spawn(async move {
            let mut connection = pin!(builder.serve_connection(io, service));
            let result = tokio::select! {
                result = &mut connection => result,
                () = async { drop(ends.wait_for(|end| *end).await) } => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            };
            if let Err(error) = result {
                tracing::debug!(%error, "a connection failed");
            }
            drop(permit);
        });
    }
    drop(listener);
    shared.draining.store(true, Ordering::SeqCst);
    let _ = end.send(true);
    let all = options.max_connections.max(1);
    if timeout(options.drain_timeout, connections.acquire_many(all)).await.is_err() {
        tracing::warn!("connections are left at the end of the drain timeout");
    }
    Ok(())
}
