//! The accepting side of the transport: listener, connection limit, one task a connection, drain.
//! Not here: request codes, what a command means, the dialling side (`remote`).
//!
//! Invariants:
//! - Everything that is already in a connection's buffer is one burst: decoded together, handed
//!   over together, answered with one write. Nothing waits in order to batch.
//! - A request costs no spawned task: what cannot be answered at once is a future polled by its
//!   connection's own task.
//! - A frame that cannot be decoded costs its connection and nothing else. Nothing is allocated for
//!   bytes that have not arrived.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::BytesMut;
use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::io::AsyncWriteExt;
use tokio::net::tcp::OwnedWriteHalf;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, timeout};
use tracing::{debug, warn};

use crate::connection::FrameReader;
use crate::embedded::{Call, LocalPeer};
use crate::error::Error;
use crate::protocol::command::{Command, Limits};

/// What a server serves.
pub trait Service: Send + Sync + 'static {
    /// Handles everything one peer has sent so far. Takes all of `burst`; every request that is not
    /// one-way gets exactly one answer through `replies`, in any order.
    fn burst(this: &Arc<Self>, peer: &Arc<Peer>, burst: &mut Vec<Command>, replies: &mut Replies);

    /// The peer's connection has ended.
    fn closed(this: &Arc<Self>, peer: &Arc<Peer>);
}

/// The other end of one connection.
#[derive(Debug)]
pub struct Peer {
    /// Unique in this process.
    pub id: u64,
    /// The peer's address; loopback with port 0 in process.
    pub remote: SocketAddr,
    /// The address at which the peer reached this server.
    pub local: SocketAddr,
    outbound: mpsc::Sender<Call>,
}

impl Peer {
    /// Sends a one-way request to the peer. A peer that does not read loses it: it is a hint, never
    /// a promise. False: the peer is gone or does not read.
    pub fn notify(&self, command: Command) -> bool {
        let taken = self.outbound.try_send(Call { command: command.oneway(), reply: None }).is_ok();
        if !taken {
            debug!(peer = %self.remote, "a notice was dropped: the peer is gone or does not read");
        }
        taken
    }

    /// Asks the peer and waits for its answer, whatever its code. Some clients never answer
    /// (protocol section 9.47).
    ///
    /// # Errors
    /// [`Error::Timeout`]; [`Error::Closed`] when the peer is gone, does not read, or has not
    /// answered very many calls before.
    pub async fn call(&self, command: Command, timeout: Duration) -> Result<Command, Error> {
        let what = command.request_code();
        let (reply, answer) = oneshot::channel();
        let gone = || Error::Closed(format!("the connection from {}", self.remote));
        self.outbound.try_send(Call { command, reply: Some(reply) }).map_err(|_| gone())?;
        match tokio::time::timeout(timeout, answer).await {
            Ok(answer) => answer.map_err(|_| gone()),
            Err(_) => Err(Error::Timeout {
                what: format!("{what:?} to the client at {}", self.remote),
                after_ms: u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX),
            }),
        }
    }
}

/// Answers of one burst.
#[derive(Default)]
pub struct Replies {
    now: Vec<Command>,
    later: Vec<BoxFuture<'static, Vec<Command>>>,
}

impl std::fmt::Debug for Replies {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Replies").field("now", &self.now).field("later", &self.later.len()).finish()
    }
}

impl Replies {
    /// An answer that is ready.
    pub fn now(&mut self, answer: Command) {
        self.now.push(answer);
    }

    /// Answers that have to wait for something. The future is dropped when the connection ends.
    pub fn later(&mut self, answers: impl Future<Output = Vec<Command>> + Send + 'static) {
        self.later.push(Box::pin(answers));
    }
}

/// Limits of a server.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// Frame and header limits.
    pub limits: Limits,
    /// Connections at once; further ones are closed at once.
    pub connections: usize,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self { limits: Limits::default(), connections: 10_000 }
    }
}

/// Futures that may wait on one connection before it is no longer read.
const WAITING_MAX: usize = 4_096;
/// An answer buffer larger than this is given back after its write.
const KEPT_BYTES: usize = 1 << 20;
/// A peer that takes nothing for this long is gone.
const WRITE_TIMEOUT: Duration = Duration::from_secs(15);
/// How often silence is looked at.
const TICK: Duration = Duration::from_secs(5);
/// Ticks without a byte in either direction: 120 s, as RocketMQ (protocol 1.6).
const IDLE_TICKS: u32 = 24;
/// Ticks in which a begun frame must make progress: 15 s.
const FRAME_TICKS: u32 = 3;
/// How long a stopping server lets answers that wait come out.
const DRAIN: Duration = Duration::from_secs(3);
/// Rest after a failed accept: descriptors may be used up, and spinning frees none.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Requests of this side that may wait for a peer that does not read, or does not answer.
const OUTBOUND_MAX: usize = 1_024;

static NEXT_PEER: AtomicU64 = AtomicU64::new(1);

/// Listeners and connections of one service.
#[derive(Debug)]
pub struct Server {
    stop: watch::Sender<bool>,
    tasks: JoinSet<()>,
    permits: Arc<Semaphore>,
    options: ServerOptions,
}

impl Server {
    /// A server without listeners.
    #[must_use]
    pub fn new(options: ServerOptions) -> Self {
        let permits = Arc::new(Semaphore::new(options.connections));
        Self { stop: watch::channel(false).0, tasks: JoinSet::new(), permits, options }
    }

    /// Accepts connections of `listener` for `service`.
    pub fn accept<S: Service>(&mut self, listener: TcpListener, service: &Arc<S>) {
        let acceptor = Acceptor {
            listener,
            service: Arc::clone(service),
            permits: Arc::clone(&self.permits),
            limits: self.options.limits,
            stop: self.stop.subscribe(),
        };
        self.tasks.spawn(acceptor.run());
    }

    /// Serves a connection in this process.
    pub fn serve_local<S: Service>(
        &self,
        link: LocalPeer,
        service: &Arc<S>,
    ) -> BoxFuture<'static, ()> {
        Box::pin(serve_local(link, Arc::clone(service), self.stop.subscribe()))
    }

    /// Accepts no more, stops reading, lets answers that wait come out for a moment, and closes all
    /// connections.
    pub async fn stop(mut self) {
        self.stop.send_replace(true);
        while self.tasks.join_next().await.is_some() {}
    }
}

struct Acceptor<S> {
    listener: TcpListener,
    service: Arc<S>,
    permits: Arc<Semaphore>,
    limits: Limits,
    stop: watch::Receiver<bool>,
}

impl<S: Service> Acceptor<S> {
    async fn run(self) {
        let mut connections = JoinSet::new();
        let mut stop = self.stop.clone();
        loop {
            tokio::select! {
                _ = stop.changed() => break,
                Some(_) = connections.join_next() => {}
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, remote)) => self.admit(&mut connections, stream, remote),
                    Err(error) => {
                        warn!(%error, "accept failed");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                }
            }
        }
        drop(self.listener);
        while connections.join_next().await.is_some() {}
    }

    fn admit(&self, connections: &mut JoinSet<()>, stream: TcpStream, remote: SocketAddr) {
        let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() else {
            warn!(%remote, "connection refused: the limit of connections is reached");
            return;
        };
        let (service, limits, stop) = (Arc::clone(&self.service), self.limits, self.stop.clone());
        connections.spawn(async move {
            if let Err(error) = serve_socket(stream, remote, service, limits, stop).await {
                debug!(%remote, %error, "connection ended");
            }
            drop(permit);
        });
    }
}

/// Tells the service when the connection ends, however it ends.
struct Guest<S: Service> {
    service: Arc<S>,
    peer: Arc<Peer>,
}

impl<S: Service> Guest<S> {
    fn new(service: Arc<S>, remote: SocketAddr, local: SocketAddr) -> (Self, mpsc::Receiver<Call>) {
        let (outbound, requests) = mpsc::channel(OUTBOUND_MAX);
        let id = NEXT_PEER.fetch_add(1, Ordering::Relaxed);
        (Self { service, peer: Arc::new(Peer { id, remote, local, outbound }) }, requests)
    }

    fn burst(&self, burst: &mut Vec<Command>, replies: &mut Replies) {
        S::burst(&self.service, &self.peer, burst, replies);
        burst.clear();
    }
}

impl<S: Service> Drop for Guest<S> {
    fn drop(&mut self) {
        S::closed(&self.service, &self.peer);
    }
}

type Waiting = FuturesUnordered<BoxFuture<'static, Vec<Command>>>;

async fn serve_socket<S: Service>(
    stream: TcpStream,
    remote: SocketAddr,
    service: Arc<S>,
    limits: Limits,
    mut stop: watch::Receiver<bool>,
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let (guest, mut requests) = Guest::new(service, remote, stream.local_addr()?);
    let (reader, writer) = stream.into_split();
    let mut reader = FrameReader::new(reader, limits);
    let mut answers = Answers { socket: writer, buffer: BytesMut::new() };
    let mut asked = Asked::default();
    let mut waiting = Waiting::new();
    let mut replies = Replies::default();
    let mut burst = Vec::new();
    let mut silence = Silence::default();
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            Some(ready) = waiting.next(), if !waiting.is_empty() => answers.add(ready),
            read = reader.read_burst(&mut burst), if waiting.len() < WAITING_MAX => {
                if !read.map_err(io::Error::other)? {
                    return Ok(());
                }
                silence = Silence::default();
                asked.take_answers(&mut burst);
                guest.burst(&mut burst, &mut replies);
                answers.add(replies.now.drain(..));
                waiting.extend(replies.later.drain(..));
            }
            Some(call) = requests.recv() => answers.add(asked.admit(call)),
            _ = tick.tick() => silence.tick(reader.buffered(), !waiting.is_empty())?,
            _ = stop.changed() => break,
        }
        if answers.write().await? {
            silence.ticks = 0;
        }
    }
    // Answers that wait are acknowledgements of stored messages: give them their moment.
    while let Ok(Some(ready)) = timeout(DRAIN, waiting.next()).await {
        answers.add(ready);
    }
    answers.write().await?;
    answers.socket.shutdown().await
}

/// Requests of this side that the peer has not answered yet, by their opaque numbers.
#[derive(Default)]
struct Asked {
    last: i32,
    callers: HashMap<i32, oneshot::Sender<Command>>,
}

impl Asked {
    /// Numbers a call that wants an answer; returns what is to be written. A caller beyond the
    /// limit hears at once that there will be none.
    fn admit(&mut self, Call { mut command, reply }: Call) -> Option<Command> {
        let Some(reply) = reply else { return Some(command) };
        if self.callers.len() >= OUTBOUND_MAX {
            self.callers.retain(|_, caller| !caller.is_closed());
        }
        if self.callers.len() >= OUTBOUND_MAX {
            return None;
        }
        self.last = self.last.wrapping_add(1);
        command.opaque = self.last;
        self.callers.insert(self.last, reply);
        Some(command)
    }

    /// Takes the peer's answers out of a burst. Those that nobody waits for are dropped.
    fn take_answers(&mut self, burst: &mut Vec<Command>) {
        for answer in burst.extract_if(.., |command| command.is_response()) {
            if let Some(caller) = self.callers.remove(&answer.opaque) {
                let _gone = caller.send(answer);
            }
        }
    }
}

/// What is to be written to a socket.
struct Answers {
    socket: OwnedWriteHalf,
    buffer: BytesMut,
}

impl Answers {
    fn add(&mut self, answers: impl IntoIterator<Item = Command>) {
        for answer in answers {
            answer.encode(&mut self.buffer);
        }
    }

    /// Writes all of it; false when there was nothing.
    async fn write(&mut self) -> io::Result<bool> {
        if self.buffer.is_empty() {
            return Ok(false);
        }
        timeout(WRITE_TIMEOUT, self.socket.write_all(&self.buffer))
            .await
            .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "the peer does not read"))??;
        self.buffer.clear();
        if self.buffer.capacity() > KEPT_BYTES {
            self.buffer = BytesMut::new();
        }
        Ok(true)
    }
}

/// How long a connection has been silent.
#[derive(Default)]
struct Silence {
    /// Ticks without a burst or a write.
    ticks: u32,
    /// Ticks in which a begun frame got no further than `buffered` bytes.
    stalled_ticks: u32,
    buffered: usize,
}

impl Silence {
    fn tick(&mut self, buffered: usize, waiting: bool) -> io::Result<()> {
        let ended = |why| Err(io::Error::new(io::ErrorKind::TimedOut, why));
        self.ticks += 1;
        let stalled = buffered > 0 && buffered == self.buffered;
        self.stalled_ticks = if stalled { self.stalled_ticks + 1 } else { 0 };
        self.buffered = buffered;
        match () {
            () if self.stalled_ticks >= FRAME_TICKS => ended("a begun frame does not go on"),
            () if self.ticks > IDLE_TICKS && !waiting => ended("idle"),
            () => Ok(()),
        }
    }
}

/// Where answers of a connection in the process go, by the opaque number given to the request.
#[derive(Default)]
struct Callers {
    slots: Vec<Option<oneshot::Sender<Command>>>,
    free: Vec<usize>,
}

impl Callers {
    /// Takes the calls in as commands.
    fn admit(&mut self, calls: &mut Vec<Call>, burst: &mut Vec<Command>) {
        for Call { mut command, reply } in calls.drain(..) {
            if let Some(reply) = reply {
                let slot = self.free.pop().unwrap_or(self.slots.len());
                match self.slots.get_mut(slot) {
                    Some(free) => *free = Some(reply),
                    None => self.slots.push(Some(reply)),
                }
                command.opaque = i32::try_from(slot).unwrap_or(i32::MAX);
            } else {
                command = command.oneway();
            }
            burst.push(command);
        }
    }

    fn answer(&mut self, answers: impl IntoIterator<Item = Command>) {
        for answer in answers {
            let Ok(slot) = usize::try_from(answer.opaque) else { continue };
            if let Some(reply) = self.slots.get_mut(slot).and_then(Option::take) {
                self.free.push(slot);
                // A caller that went away does not need its answer.
                let _gone = reply.send(answer);
            }
        }
    }
}

/// Calls of one process that are taken as one burst.
const LOCAL_BURST_MAX: usize = 512;

async fn serve_local<S: Service>(
    mut link: LocalPeer,
    service: Arc<S>,
    mut stop: watch::Receiver<bool>,
) {
    let here = SocketAddr::from(([127, 0, 0, 1], 0));
    let (guest, mut requests) = Guest::new(service, here, here);
    let mut callers = Callers::default();
    let mut waiting = Waiting::new();
    let mut replies = Replies::default();
    let (mut calls, mut burst) = (Vec::new(), Vec::new());
    loop {
        tokio::select! {
            biased;
            Some(answers) = waiting.next(), if !waiting.is_empty() => callers.answer(answers),
            taken = link.calls.recv_many(&mut calls, LOCAL_BURST_MAX), if waiting.len() < WAITING_MAX => {
                if taken == 0 {
                    return;
                }
                callers.admit(&mut calls, &mut burst);
                guest.burst(&mut burst, &mut replies);
                callers.answer(replies.now.drain(..));
                waiting.extend(replies.later.drain(..));
            }
            Some(call) = requests.recv() => {
                let _gone = link.outbound.try_send(call);
            }
            _ = stop.changed() => break,
        }
    }
    while let Ok(Some(answers)) = timeout(DRAIN, waiting.next()).await {
        callers.answer(answers);
    }
}
