//! A connection whose client must read.

use std::{
    future::Future,
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Instant, Sleep, sleep},
};

/// A stream whose writes fail when the client has not read for too long.
#[derive(Debug)]
pub(super) struct StallTimeout {
    stream: TcpStream,
    limit: Duration,
    sleep: Pin<Box<Sleep>>,
    stalled: bool,
}

impl StallTimeout {
    pub(super) fn new(stream: TcpStream, limit: Duration) -> Self {
        Self { stream, limit, sleep: Box::pin(sleep(limit)), stalled: false }
    }

    /// Returns what a write has come to, unless it has been pending for too long.
    fn check<T>(&mut self, context: &mut Context<'_>, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if polled.is_ready() {
            self.stalled = false;
            return polled;
        }
        if !self.stalled {
            self.stalled = true;
            self.sleep.as_mut().reset(Instant::now() + self.limit);
        }
        match self.sleep.as_mut().poll(context) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl AsyncRead for StallTimeout {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for StallTimeout {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(context, data);
        self.check(context, polled)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_flush(context);
        self.check(context, polled)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_shutdown(context);
        self.check(context, polled)
    }
}

#[cfg(test)]
mod tests {
    use tokio::{io::AsyncWriteExt, net::TcpListener};

    use super::*;

    #[test]
    fn a_client_that_does_not_read_is_left() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            let client = TcpStream::connect(listener.local_addr().expect("an address")).await.expect("a client");
            let (stream, _) = listener.accept().await.expect("a connection");
            let limit = Duration::from_millis(100);
            let mut stream = StallTimeout::new(stream, limit);
            let begun = Instant::now();
            // More than the system's buffers hold.
            let written = stream.write_all(&vec![0; 64 << 20]).await;
            assert_eq!(written.expect_err("it stalls").kind(), io::ErrorKind::TimedOut);
            assert!(begun.elapsed() >= limit);
            drop(client);
        });
    }
}
