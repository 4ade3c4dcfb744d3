//! Tells when what was written to a connection has been handed to the network: hyper itself does not say.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// A connection that calls back after each flush of something written.
pub(super) struct Tap<F> {
    stream: TcpStream,
    flushed: F,
    dirty: bool,
}

impl<F: FnMut() + Unpin> Tap<F> {
    pub(super) fn new(stream: TcpStream, flushed: F) -> Tap<F> {
        // Answers are small and waited for.
        let _ = stream.set_nodelay(true);
        Tap { stream, flushed, dirty: false }
    }

    fn wrote(&mut self, written: usize) -> Poll<io::Result<usize>> {
        self.dirty |= written > 0;
        Poll::Ready(Ok(written))
    }
}

impl<F: FnMut() + Unpin> AsyncRead for Tap<F> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<F: FnMut() + Unpin> AsyncWrite for Tap<F> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write(cx, buf))?;
        self.wrote(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write_vectored(cx, bufs))?;
        self.wrote(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// hyper flushes the connection only once its own buffer is empty.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
        if std::mem::take(&mut self.dirty) {
            (self.flushed)();
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
