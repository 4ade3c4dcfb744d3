//! A TCP proxy in front of PostgreSQL or Redis that can fail like a network, and stop at a given step of the protocol.
//!
//! A test that kills a process at a step boundary sets a trap, waits until it has sprung (from then on nothing passes
//! the proxy, on any connection), kills the process, and cuts what it left behind:
//!
//! ```ignore
//! let trap = proxy.at("take", 1, Where::AfterReply);
//! trap.sprung().await;
//! postbell.sigkill().await;
//! trap.cut();
//! ```

#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::servers::free_port;
use super::wire::{Protocol, Step, Wire};
use super::{SOON, eventually};

/// Most bytes that are read at once.
const PIECE: usize = 64 * 1024;

/// On which side of a step a trap lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Where {
    /// The server has not seen the request.
    BeforeRequest,
    /// The server has done it, and the client does not know. A reply that is an error does not count, nor a read of a
    /// stream that found no entries.
    AfterReply,
}

/// A running proxy; it ends with the test's runtime.
pub(crate) struct Proxy {
    port: u16,
    shared: Arc<Shared>,
    doorman: mpsc::Sender<(bool, oneshot::Sender<()>)>,
}

struct Shared {
    protocol: Protocol,
    upstream: String,
    gate: watch::Sender<Gate>,
    delay: Mutex<Duration>,
    traps: Mutex<Vec<Arc<Armed>>>,
    /// Ends the connections of today; replaced by [`Shared::cut`].
    connections: Mutex<CancellationToken>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Gate {
    Open,
    /// Nothing passes, not even the end of a connection.
    Stalled,
    /// Nothing passes, but a client that dies takes its held requests with it.
    Trapped,
}

struct Armed {
    step: String,
    side: Where,
    /// Occurrences still to come; it springs when this reaches zero.
    left: watch::Sender<usize>,
}

/// A place in the protocol at which everything stops, once.
pub(crate) struct Trap {
    armed: Arc<Armed>,
    shared: Arc<Shared>,
}

impl Proxy {
    /// Starts one in front of a server (`host:port`).
    pub(crate) async fn start(protocol: Protocol, upstream: String) -> Proxy {
        let shared = Arc::new(Shared {
            protocol,
            upstream,
            gate: watch::Sender::new(Gate::Open),
            delay: Mutex::default(),
            traps: Mutex::default(),
            connections: Mutex::default(),
        });
        let (doorman, orders) = mpsc::channel(1);
        let port = free_port();
        let listener = listen(port).await;
        tokio::spawn(keep_door(shared.clone(), port, listener, orders));
        Proxy { port, shared, doorman }
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Closes all connections of this moment.
    pub(crate) fn cut(&self) {
        self.shared.cut();
    }

    /// From now on new connections are refused; those that are open stay.
    pub(crate) async fn refuse(&self) {
        self.open_door(false).await;
    }

    /// Ends [`Self::refuse`].
    pub(crate) async fn accept(&self) {
        self.open_door(true).await;
    }

    /// Nothing passes any more, and nobody is told: a network that swallows packets.
    pub(crate) fn stall(&self) {
        self.shared.gate.send_replace(Gate::Stalled);
    }

    /// Ends [`Self::stall`]; what was held back passes now.
    pub(crate) fn resume(&self) {
        self.shared.gate.send_replace(Gate::Open);
    }

    /// Each piece that passes, in either direction, waits that long first.
    pub(crate) fn delay(&self, delay: Duration) {
        *self.shared.delay.lock().unwrap() = delay;
    }

    /// Sets a trap at the `nth` occurrence of a step from now on; 1 is the next. Steps of PostgreSQL are the names that
    /// statements begin with (`take`), those of Redis are commands, with an argument where it matters (`XADD some:key`).
    pub(crate) fn at(&self, step: &str, nth: usize, side: Where) -> Trap {
        assert!(nth > 0, "occurrences are counted from 1");
        let armed = Arc::new(Armed { step: step.to_owned(), side, left: watch::Sender::new(nth) });
        self.shared.traps.lock().unwrap().push(armed.clone());
        Trap { armed, shared: self.shared.clone() }
    }

    async fn open_door(&self, open: bool) {
        let (done, is_done) = oneshot::channel();
        self.doorman.send((open, done)).await.unwrap();
        is_done.await.unwrap();
    }
}

impl Trap {
    /// Whether the step has come.
    pub(crate) fn has_sprung(&self) -> bool {
        *self.armed.left.borrow() == 0
    }

    /// Waits until the step has come; panics if it does not come soon.
    pub(crate) async fn sprung(&self) {
        let Armed { step, side, left } = &*self.armed;
        let mut left = left.subscribe();
        let waited = tokio::time::timeout(SOON, left.wait_for(|left| *left == 0)).await;
        assert!(waited.is_ok(), "waited {SOON:?} in vain for {step}, {side:?}; occurrences still to come: {}", {
            *self.armed.left.borrow()
        });
    }

    /// What was held back passes now.
    pub(crate) fn release(self) {
        self.shared.gate.send_replace(Gate::Open);
    }

    /// What was held back is lost with its connections; new connections pass.
    pub(crate) fn cut(self) {
        self.shared.cut();
        self.shared.gate.send_replace(Gate::Open);
    }
}

impl Drop for Trap {
    fn drop(&mut self) {
        self.shared.traps.lock().unwrap().retain(|armed| !Arc::ptr_eq(armed, &self.armed));
    }
}

impl Shared {
    fn cut(&self) {
        std::mem::take(&mut *self.connections.lock().unwrap()).cancel();
    }

    async fn wait_at_gate(&self) {
        let _ = self.gate.subscribe().wait_for(|gate| *gate == Gate::Open).await;
    }

    async fn linger(&self) {
        let delay = *self.delay.lock().unwrap();
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
    }

    fn wants_reply(&self, steps: &[Step]) -> bool {
        let traps = self.traps.lock().unwrap();
        traps.iter().any(|trap| trap.side == Where::AfterReply && steps.iter().any(|step| step.matches(&trap.step)))
    }

    /// Counts a step down for each trap it is meant by, and shuts the gate where one springs.
    fn pass(&self, step: &Step, side: Where) {
        let traps = self.traps.lock().unwrap();
        for trap in traps.iter().filter(|trap| trap.side == side && step.matches(&trap.step)) {
            let springs = *trap.left.borrow() == 1;
            if springs {
                self.gate.send_replace(Gate::Trapped);
            }
            trap.left.send_modify(|left| *left = left.saturating_sub(1));
        }
    }
}

async fn listen(port: u16) -> TcpListener {
    eventually(SOON, "the proxy's port to be free", async || TcpListener::bind(("127.0.0.1", port)).await.ok()).await
}

/// Accepts connections, or does not.
async fn keep_door(
    shared: Arc<Shared>,
    port: u16,
    listener: TcpListener,
    mut orders: mpsc::Receiver<(bool, oneshot::Sender<()>)>,
) {
    let mut door = Some(listener);
    loop {
        let knock = async {
            match &door {
                Some(listener) => listener.accept().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            Ok((client, _)) = knock => {
                let cut = shared.connections.lock().unwrap().clone();
                tokio::spawn(serve(shared.clone(), client, cut));
            }
            order = orders.recv() => {
                let Some((open, done)) = order else { return };
                door = match door.take() {
                    Some(listener) if open => Some(listener),
                    None if open => Some(listen(port).await),
                    _ => None,
                };
                let _ = done.send(());
            }
        }
    }
}

/// One connection, until either side ends it or it is cut.
async fn serve(shared: Arc<Shared>, client: TcpStream, cut: CancellationToken) {
    let work = async {
        // A stalled network does not connect either.
        shared.wait_at_gate().await;
        let Ok(server) = TcpStream::connect(&shared.upstream).await else { return };
        for socket in [&client, &server] {
            let _ = socket.set_nodelay(true);
        }
        let wire = Mutex::new(Wire::new(shared.protocol));
        let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
        tokio::select! {
            () = pump_requests(&shared, &wire, from_client, to_server) => {}
            () = pump_replies(&shared, &wire, from_server, to_client) => {}
        }
    };
    tokio::select! {
        biased;
        () = cut.cancelled() => {}
        () = work => {}
    }
}

async fn pump_requests(shared: &Shared, wire: &Mutex<Wire>, mut from: OwnedReadHalf, mut to: OwnedWriteHalf) {
    let mut bytes = BytesMut::new();
    while read_piece(&mut from, &mut bytes).await {
        shared.linger().await;
        loop {
            let Some(frame) = wire.lock().unwrap().request(&bytes) else { break };
            if let Some(step) = &frame.begins {
                shared.pass(step, Where::BeforeRequest);
            }
            tokio::select! {
                biased;
                () = shared.wait_at_gate() => {}
                () = dies_in_trap(shared, &mut from, &mut bytes) => return,
            }
            if to.write_all(&bytes[..frame.length]).await.is_err() {
                return;
            }
            bytes.advance(frame.length);
        }
    }
    // The server hears that the client hung up, unless the network is stalled.
    let _ = shared.gate.subscribe().wait_for(|gate| *gate != Gate::Stalled).await;
}

async fn pump_replies(shared: &Shared, wire: &Mutex<Wire>, mut from: OwnedReadHalf, mut to: OwnedWriteHalf) {
    let (mut bytes, mut held) = (BytesMut::new(), BytesMut::new());
    while read_piece(&mut from, &mut bytes).await {
        shared.linger().await;
        loop {
            let (frame, is_wanted) = {
                let mut wire = wire.lock().unwrap();
                let is_wanted = shared.wants_reply(wire.answering());
                (wire.reply(&bytes), is_wanted)
            };
            let Some(frame) = frame else { break };
            held.unsplit(bytes.split_to(frame.length));
            for step in &frame.completes {
                shared.pass(step, Where::AfterReply);
            }
            // Part of a reply that a trap may be about stays here until it is whole.
            if is_wanted && !frame.ends_reply {
                continue;
            }
            shared.wait_at_gate().await;
            if to.write_all(&held.split()).await.is_err() {
                return;
            }
        }
    }
    shared.wait_at_gate().await;
    let _ = to.write_all(&held).await;
}

/// What has come, as much as there is: a delay is to cost time, and no bandwidth.
async fn read_piece(from: &mut OwnedReadHalf, bytes: &mut BytesMut) -> bool {
    bytes.reserve(PIECE);
    from.read_buf(bytes).await.is_ok_and(|read| read > 0)
}

/// Reads on while the gate is shut, and returns if the client dies while a trap holds its request.
async fn dies_in_trap(shared: &Shared, from: &mut OwnedReadHalf, bytes: &mut BytesMut) {
    while read_piece(from, bytes).await {}
    let _ = shared.gate.subscribe().wait_for(|gate| *gate == Gate::Trapped).await;
}
