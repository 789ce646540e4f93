//! `Remote`: the client's side of one peer, over TCP or in process. Calls and their answers are
//! matched here; requests of the peer go to a channel. Not here: which peer to ask (`client`),
//! request codes, retries.
//!
//! How a call travels: the caller encodes its frame straight into the shared out-buffer; one writer
//! writes what has gathered; the reader takes every frame that one read brought and completes their
//! callers together. No task, no timer and no map entry per call.
//!
//! Invariants: a call ends, by its answer, its time-out or the end of the connection, which fails
//! all pending calls at once; an answer reaches the call it belongs to or nobody (late ones meet a
//! slot of another generation); calls under way and bytes waiting to be written are limited.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak};
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::connection::FrameReader;
use crate::embedded::{Call, LocalLink};
use crate::error::Error;
use crate::protocol::code::{RequestCode, ResponseCode};
use crate::protocol::command::{Command, Limits};

/// Callers wait while more than this is not yet written.
const OUT_BYTES_MAX: usize = 8 * 1024 * 1024;
/// The out-buffer keeps at most this much room when it is idle.
const OUT_BYTES_KEPT: usize = 1024 * 1024;
/// Calls under way on one connection; a consumer parks one for each of its queues.
const PENDING_MAX: usize = 1 << SLOT_BITS;
/// The lower bits of an opaque number are the slot, the upper ones, without the sign, its
/// generation.
const SLOT_BITS: u32 = 17;
const SLOT_MASK: u32 = (1 << SLOT_BITS) - 1;
const GENERATION_MASK: u32 = (1 << (31 - SLOT_BITS)) - 1;
/// Time-outs are exact to this.
const EXPIRY_GRAIN: Duration = Duration::from_millis(5);
/// A connection on which a call timed out is given up when nothing at all has come for this long.
const SILENCE_MAX: Duration = Duration::from_secs(10);
/// What a time-out beyond all bounds becomes.
const FOREVER: Duration = Duration::from_secs(365 * 24 * 3_600);

/// How to reach a peer over TCP.
#[derive(Clone, Debug)]
pub struct RemoteOptions {
    /// How large what the peer sends may be.
    pub limits: Limits,
    /// How long dialling may take.
    pub connect_timeout: Duration,
}

impl Default for RemoteOptions {
    fn default() -> Self {
        Self { limits: Limits::default(), connect_timeout: Duration::from_secs(3) }
    }
}

/// A request that the peer sent to us.
#[derive(Debug)]
pub struct Inbound {
    /// What it asks.
    pub command: Command,
    answer: Answer,
    from: Origin,
}

/// The connection that a request came by.
#[derive(Clone, Debug)]
enum Origin {
    Wire(Weak<Wire>),
    Local(mpsc::WeakSender<Call>),
}

#[derive(Debug)]
enum Answer {
    Unwanted,
    Wire,
    Local(oneshot::Sender<Command>),
}

impl Inbound {
    /// Sends the answer; a one-way request takes none, and a peer that is gone hears none.
    pub async fn answer(self, response: Command) {
        match self.answer {
            Answer::Unwanted => {}
            // The peer being gone is all that can go wrong, and then nobody waits.
            Answer::Wire => {
                let _gone = self.from.send(response).await;
            }
            Answer::Local(reply) => {
                let _gone = reply.send(response);
            }
        }
    }

    /// Sends a one-way request to the peer that asked.
    ///
    /// # Errors
    /// [`Error::Closed`] when it is gone.
    pub async fn tell(&self, command: Command) -> Result<(), Error> {
        self.from.send(command.oneway()).await
    }
}

impl Origin {
    async fn send(&self, command: Command) -> Result<(), Error> {
        let gone = || Error::Closed("the connection that a request came by".to_owned());
        match self {
            Self::Wire(wire) => wire.upgrade().ok_or_else(gone)?.enqueue(&command).await,
            Self::Local(calls) => {
                let calls = calls.upgrade().ok_or_else(gone)?;
                calls.send(Call { command, reply: None }).await.map_err(|_| gone())
            }
        }
    }
}

/// A handle on one peer. The connection ends when the last clone is dropped.
#[derive(Clone, Debug)]
pub struct Remote(Arc<Ends>);

#[derive(Debug)]
enum Ends {
    Wire { wire: Arc<Wire>, _tasks: JoinSet<()> },
    Local { link: RwLock<Option<mpsc::Sender<Call>>>, _tasks: JoinSet<()> },
}

impl Remote {
    /// Dials `address` (`host:port`). Requests of the peer go to `inbound` and are dropped, with a
    /// warning, while that is full.
    ///
    /// # Errors
    /// [`Error::Connect`].
    pub async fn connect(
        address: &str,
        options: &RemoteOptions,
        inbound: mpsc::Sender<Inbound>,
    ) -> Result<Self, Error> {
        let failed = |source| Error::Connect { address: address.to_owned(), source };
        let stream = tokio::time::timeout(options.connect_timeout, TcpStream::connect(address))
            .await
            .unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()))
            .map_err(failed)?;
        stream.set_nodelay(true).map_err(failed)?;
        let (reader, writer) = stream.into_split();
        Ok(Self::over(address, FrameReader::new(reader, options.limits), writer, inbound))
    }

    fn over<R, W>(
        address: &str,
        reader: FrameReader<R>,
        writer: W,
        inbound: mpsc::Sender<Inbound>,
    ) -> Self
    where
        R: AsyncRead + Unpin + Send + 'static,
        W: AsyncWrite + Unpin + Send + 'static,
    {
        let wire = Arc::new(Wire::new(address));
        let mut tasks = JoinSet::new();
        tasks.spawn(wire.clone().read_until_closed(reader, inbound));
        tasks.spawn(wire.clone().write_until_closed(writer));
        tasks.spawn(wire.clone().expire_until_closed());
        Self(Arc::new(Ends::Wire { wire, _tasks: tasks }))
    }

    /// The client's end of an embedded broker.
    pub fn local(link: LocalLink, inbound: mpsc::Sender<Inbound>) -> Self {
        let mut tasks = JoinSet::new();
        let from = Origin::Local(link.calls.downgrade());
        tasks.spawn(forward_local(link.inbound, inbound, from));
        Self(Arc::new(Ends::Local { link: RwLock::new(Some(link.calls)), _tasks: tasks }))
    }

    /// Sends a request and waits for its answer, whatever its code.
    ///
    /// # Errors
    /// [`Error::Timeout`], [`Error::Closed`], or [`Error::Refused`] with code 2 when too many calls
    /// are under way.
    pub async fn call(&self, command: Command, timeout: Duration) -> Result<Command, Error> {
        self.call_since(command, Instant::now(), timeout).await
    }

    /// As [`Self::call`]; the time-out began at `started`. Reading the clock is a part of what a
    /// send costs.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub async fn call_since(
        &self,
        command: Command,
        started: Instant,
        timeout: Duration,
    ) -> Result<Command, Error> {
        match &*self.0 {
            Ends::Wire { wire, .. } => wire.call(command, started, timeout).await,
            Ends::Local { link, .. } => {
                let what = Named(command.code);
                tokio::time::timeout_at(
                    started.checked_add(timeout).unwrap_or(started + FOREVER),
                    call_local(link, command),
                )
                .await
                .unwrap_or_else(|_| Err(what.timed_out(timeout, "the embedded broker")))
            }
        }
    }

    /// Sends a request that wants no answer. Returns once it is in the out-buffer.
    ///
    /// # Errors
    /// [`Error::Closed`].
    pub async fn oneway(&self, command: Command) -> Result<(), Error> {
        let command = command.oneway();
        match &*self.0 {
            Ends::Wire { wire, .. } => wire.enqueue(&command).await,
            Ends::Local { link, .. } => send_local(link, Call { command, reply: None }).await,
        }
    }

    /// Has the connection ended?
    #[must_use]
    pub fn is_closed(&self) -> bool {
        match &*self.0 {
            Ends::Wire { wire, .. } => wire.ended.load(Ordering::Acquire),
            Ends::Local { link, .. } => read(link).as_ref().is_none_or(mpsc::Sender::is_closed),
        }
    }

    /// Writes what is waiting, as far as `timeout` allows, and ends the connection. Pending calls
    /// fail.
    pub async fn close(&self, timeout: Duration) {
        match &*self.0 {
            Ends::Wire { wire, .. } => {
                // A peer that does not take the rest in time is left.
                let _rest = tokio::time::timeout(timeout, wire.flushed()).await;
                wire.close("closed by this side");
            }
            Ends::Local { link, .. } => {
                *link.write().unwrap_or_else(PoisonError::into_inner) = None;
            }
        }
    }
}

/// What a TCP connection's callers and tasks share.
#[derive(Debug)]
struct Wire {
    address: Arc<str>,
    out: Mutex<Out>,
    /// There is something to write, or the connection has ended.
    ready: Notify,
    /// The out-buffer was taken by the writer.
    taken: Notify,
    pending: Mutex<Pending>,
    /// A call came whose deadline is before all others, or the connection has ended.
    sooner: Notify,
    started: Instant,
    /// When the last burst came, in milliseconds after `started`.
    heard_ms: AtomicU64,
    ended: AtomicBool,
}

#[derive(Debug, Default)]
struct Out {
    buffer: BytesMut,
    /// The writer has taken a buffer and is not through with it.
    writing: bool,
    closed: bool,
}

impl Wire {
    fn new(address: &str) -> Self {
        Self {
            address: address.into(),
            out: Mutex::default(),
            ready: Notify::new(),
            taken: Notify::new(),
            pending: Mutex::default(),
            sooner: Notify::new(),
            started: Instant::now(),
            heard_ms: AtomicU64::new(0),
            ended: AtomicBool::new(false),
        }
    }

    /// Sections under these locks only move values; a panic cannot leave them half done.
    fn lock_out(&self) -> MutexGuard<'_, Out> {
        self.out.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn call(
        &self,
        mut command: Command,
        started: Instant,
        timeout: Duration,
    ) -> Result<Command, Error> {
        let what = Named(command.code);
        let (reply, mut answer) = oneshot::channel();
        command.opaque = self.register(reply, started, timeout)?;
        let parked = Parked { wire: self, opaque: command.opaque };
        tokio::select! {
            biased;
            sent = self.enqueue(&command) => sent?,
            // The call ended while it waited for room.
            _ = &mut answer => return Err(self.end_of(what, timeout)),
        }
        drop(command);
        let answer = answer.await;
        match answer {
            Ok(answer) => {
                std::mem::forget(parked);
                Ok(answer)
            }
            Err(_) => Err(self.end_of(what, timeout)),
        }
    }

    /// Enters a call in the table; returns its opaque number.
    fn register(
        &self,
        reply: oneshot::Sender<Command>,
        started: Instant,
        timeout: Duration,
    ) -> Result<i32, Error> {
        let deadline = started.checked_add(timeout).unwrap_or(started + FOREVER);
        let mut pending = self.lock_pending();
        if let Some(reason) = &pending.closed {
            return Err(self.closed_error(reason));
        }
        let opaque =
            pending.insert(Waiter { reply, started, deadline }).ok_or_else(|| Error::Refused {
                code: ResponseCode::SystemBusy.code(),
                remark: format!("{PENDING_MAX} calls to {} are under way already", self.address),
            })?;
        let sooner = pending.next_expiry.is_none_or(|at| deadline < at);
        if sooner {
            pending.next_expiry = Some(deadline);
        }
        drop(pending);
        if sooner {
            self.sooner.notify_one();
        }
        Ok(opaque)
    }

    /// Appends a frame to the out-buffer, once there is room in it.
    async fn enqueue(&self, command: &Command) -> Result<(), Error> {
        loop {
            let taken = {
                let mut out = self.lock_out();
                if out.closed {
                    drop(out);
                    return Err(self.end_of_connection());
                }
                if out.buffer.len() < OUT_BYTES_MAX {
                    let idle = out.buffer.is_empty() && !out.writing;
                    command.encode(&mut out.buffer);
                    drop(out);
                    if idle {
                        self.ready.notify_one();
                    }
                    return Ok(());
                }
                // Made under the lock: the writer cannot take the buffer unseen.
                self.taken.notified()
            };
            taken.await;
        }
    }

    /// Returns once all that was waiting has been written.
    async fn flushed(&self) {
        loop {
            let taken = {
                let out = self.lock_out();
                if out.closed || (out.buffer.is_empty() && !out.writing) {
                    return;
                }
                self.taken.notified()
            };
            taken.await;
        }
    }

    async fn write_until_closed<W: AsyncWrite + Unpin>(self: Arc<Self>, mut io: W) {
        if let Err(error) = self.write_bursts(&mut io).await {
            self.close(&format!("writing failed: {error}"));
        }
        // The reader's end of the socket may outlive this one; the peer shall see the end now.
        let _gone = io.shutdown().await;
    }

    async fn write_bursts<W: AsyncWrite + Unpin>(&self, io: &mut W) -> std::io::Result<()> {
        let mut burst = BytesMut::new();
        loop {
            self.ready.notified().await;
            if self.lock_pending().live > 1 {
                // Let the callers that became ready together encode before the first of them is
                // written alone.
                tokio::task::yield_now().await;
            }
            while self.take_burst(&mut burst)? {
                io.write_all(&burst).await?;
            }
        }
    }

    /// Swaps the out-buffer for the written one. False: there is nothing to write.
    fn take_burst(&self, burst: &mut BytesMut) -> std::io::Result<bool> {
        burst.clear();
        if burst.capacity() > OUT_BYTES_KEPT {
            *burst = BytesMut::new();
        }
        let mut out = self.lock_out();
        if out.closed {
            return Err(std::io::ErrorKind::NotConnected.into());
        }
        std::mem::swap(burst, &mut out.buffer);
        out.writing = !burst.is_empty();
        drop(out);
        self.taken.notify_waiters();
        Ok(!burst.is_empty())
    }

    async fn read_until_closed<R: AsyncRead + Unpin>(
        self: Arc<Self>,
        mut reader: FrameReader<R>,
        inbound: mpsc::Sender<Inbound>,
    ) {
        let mut burst = Vec::new();
        let mut completed = Vec::new();
        let reason = loop {
            let more = reader.read_burst(&mut burst).await;
            self.heard();
            self.complete(&mut burst, &mut completed, &inbound);
            match more {
                Ok(true) => {}
                Ok(false) => break "the peer hung up".to_owned(),
                Err(error) => break format!("reading failed: {error}"),
            }
        };
        self.close(&reason);
    }

    fn heard(&self) {
        self.heard_ms.store(millis(self.started.elapsed()), Ordering::Relaxed);
    }

    fn silence(&self) -> Duration {
        let heard = Duration::from_millis(self.heard_ms.load(Ordering::Relaxed));
        self.started.elapsed().saturating_sub(heard)
    }

    /// Gives every answer of a burst to its caller, every request to the channel.
    fn complete(
        self: &Arc<Self>,
        burst: &mut Vec<Command>,
        completed: &mut Vec<(oneshot::Sender<Command>, Command)>,
        inbound: &mpsc::Sender<Inbound>,
    ) {
        let mut requests = Vec::new();
        {
            let mut pending = self.lock_pending();
            for command in burst.drain(..) {
                if !command.is_response() {
                    requests.push(command);
                } else if let Some(waiter) = pending.remove(command.opaque) {
                    completed.push((waiter.reply, command));
                }
            }
        }
        for (reply, command) in completed.drain(..) {
            // A caller that went away between the lock and here needs no answer.
            let _gone = reply.send(command);
        }
        for command in requests {
            let answer = match command.is_oneway() {
                true => Answer::Unwanted,
                false => Answer::Wire,
            };
            let from = Origin::Wire(Arc::downgrade(self));
            hand_over(Inbound { command, answer, from }, inbound);
        }
    }

    async fn expire_until_closed(self: Arc<Self>) {
        loop {
            let next = {
                let mut pending = self.lock_pending();
                if pending.closed.is_some() {
                    return;
                }
                pending.expire(Instant::now())
            };
            if next.longest_expired.is_some_and(|waited| self.silence() >= waited.max(SILENCE_MAX))
            {
                return self.close("a call timed out and nothing has come for 10 s");
            }
            match next.at {
                Some(at) => {
                    let at = at.max(Instant::now() + EXPIRY_GRAIN);
                    tokio::select! {
                        () = tokio::time::sleep_until(at) => {}
                        () = self.sooner.notified() => {}
                    }
                }
                None => self.sooner.notified().await,
            }
        }
    }

    /// Ends the connection; the first reason stays.
    fn close(&self, reason: &str) {
        let waiters = {
            let mut pending = self.lock_pending();
            if pending.closed.is_some() {
                return;
            }
            pending.closed = Some(reason.into());
            self.ended.store(true, Ordering::Release);
            pending.drain()
        };
        {
            let mut out = self.lock_out();
            out.closed = true;
            out.buffer = BytesMut::new();
        }
        drop(waiters);
        tracing::debug!(address = &*self.address, reason, "connection ended");
        self.taken.notify_waiters();
        self.ready.notify_one();
        self.sooner.notify_one();
    }

    fn closed_error(&self, reason: &str) -> Error {
        Error::Closed(format!("the connection to {}: {reason}", self.address))
    }

    fn end_of_connection(&self) -> Error {
        let reason = self.lock_pending().closed.clone();
        self.closed_error(reason.as_deref().unwrap_or("ending"))
    }

    /// Why a call got no answer.
    fn end_of(&self, what: Named, timeout: Duration) -> Error {
        match &self.lock_pending().closed {
            Some(reason) => self.closed_error(reason),
            None => what.timed_out(timeout, &self.address),
        }
    }
}

/// Takes a call out of the table when its caller stops waiting.
struct Parked<'a> {
    wire: &'a Wire,
    opaque: i32,
}

impl Drop for Parked<'_> {
    fn drop(&mut self) {
        let waiter = self.wire.lock_pending().remove(self.opaque);
        drop(waiter);
    }
}

#[derive(Debug)]
struct Waiter {
    reply: oneshot::Sender<Command>,
    started: Instant,
    deadline: Instant,
}

/// The calls under way, found by their opaque number without hashing.
#[derive(Debug, Default)]
struct Pending {
    slots: Vec<Slot>,
    free: Vec<u32>,
    live: usize,
    /// When the expiry task will look again; `None` while nothing is under way that it knows of.
    next_expiry: Option<Instant>,
    closed: Option<Arc<str>>,
}

#[derive(Debug, Default)]
struct Slot {
    /// Of the call that is, or will be, in the slot.
    generation: u32,
    waiter: Option<Waiter>,
}

struct Expiry {
    at: Option<Instant>,
    /// How long the longest waiting of the calls that were ended had waited.
    longest_expired: Option<Duration>,
}

impl Pending {
    fn insert(&mut self, waiter: Waiter) -> Option<i32> {
        let index = match self.free.pop() {
            Some(index) => index,
            None if self.slots.len() < PENDING_MAX => {
                self.slots.push(Slot::default());
                u32::try_from(self.slots.len() - 1).ok()?
            }
            None => return None,
        };
        let slot = self.slots.get_mut(index as usize)?;
        slot.waiter = Some(waiter);
        self.live += 1;
        i32::try_from(slot.generation << SLOT_BITS | index).ok()
    }

    fn remove(&mut self, opaque: i32) -> Option<Waiter> {
        let opaque = u32::try_from(opaque).ok()?;
        let index = opaque & SLOT_MASK;
        let slot = self.slots.get_mut(index as usize)?;
        if slot.generation != opaque >> SLOT_BITS {
            return None;
        }
        let waiter = slot.waiter.take()?;
        slot.generation = (slot.generation + 1) & GENERATION_MASK;
        self.free.push(index);
        self.live -= 1;
        Some(waiter)
    }

    /// Ends the overdue calls: their callers see the reply dropped. Says when to look again.
    fn expire(&mut self, now: Instant) -> Expiry {
        let mut expiry = Expiry { at: None, longest_expired: None };
        for index in 0..self.slots.len() {
            let Some(slot) = self.slots.get_mut(index) else { break };
            let Some(waiter) = &slot.waiter else { continue };
            if waiter.deadline > now {
                expiry.at = Some(expiry.at.map_or(waiter.deadline, |at| at.min(waiter.deadline)));
                continue;
            }
            let waited = now.duration_since(waiter.started);
            expiry.longest_expired = expiry.longest_expired.max(Some(waited));
            slot.waiter = None;
            slot.generation = (slot.generation + 1) & GENERATION_MASK;
            self.free.extend(u32::try_from(index));
            self.live -= 1;
        }
        self.next_expiry = expiry.at;
        expiry
    }

    fn drain(&mut self) -> Vec<Waiter> {
        self.live = 0;
        self.free.clear();
        std::mem::take(&mut self.slots).into_iter().filter_map(|slot| slot.waiter).collect()
    }
}

fn hand_over(request: Inbound, inbound: &mpsc::Sender<Inbound>) {
    if let Err(refused) = inbound.try_send(request) {
        let request = match refused {
            mpsc::error::TrySendError::Full(request) => request,
            mpsc::error::TrySendError::Closed(_) => return,
        };
        tracing::warn!(
            code = request.command.code,
            "a request of the peer was dropped: too many are waiting already"
        );
    }
}

fn read(link: &RwLock<Option<mpsc::Sender<Call>>>) -> Option<mpsc::Sender<Call>> {
    link.read().unwrap_or_else(PoisonError::into_inner).clone()
}

fn local_closed() -> Error {
    Error::Closed("the embedded broker has stopped".to_owned())
}

async fn send_local(link: &RwLock<Option<mpsc::Sender<Call>>>, call: Call) -> Result<(), Error> {
    let calls = read(link).ok_or_else(local_closed)?;
    calls.send(call).await.map_err(|_| local_closed())
}

async fn call_local(
    link: &RwLock<Option<mpsc::Sender<Call>>>,
    command: Command,
) -> Result<Command, Error> {
    let (reply, answer) = oneshot::channel();
    send_local(link, Call { command, reply: Some(reply) }).await?;
    answer.await.map_err(|_| local_closed())
}

async fn forward_local(
    mut requests: mpsc::Receiver<Call>,
    inbound: mpsc::Sender<Inbound>,
    from: Origin,
) {
    while let Some(Call { command, reply }) = requests.recv().await {
        let answer = reply.map_or(Answer::Unwanted, Answer::Local);
        hand_over(Inbound { command, answer, from: from.clone() }, &inbound);
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// A request code, for error texts.
#[derive(Clone, Copy)]
struct Named(i32);

impl Named {
    fn timed_out(self, timeout: Duration, peer: &str) -> Error {
        let what = format!("{:?} to {peer}", RequestCode::from(self.0));
        Error::Timeout { what, after_ms: millis(timeout) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::embedded::local_link;
    use tokio::io::DuplexStream;

    const SECOND: Duration = Duration::from_secs(1);

    struct FarEnd {
        reader: FrameReader<tokio::io::ReadHalf<DuplexStream>>,
        writer: tokio::io::WriteHalf<DuplexStream>,
    }

    impl FarEnd {
        async fn requests(&mut self) -> Vec<Command> {
            let mut burst = Vec::new();
            self.reader.read_burst(&mut burst).await.unwrap();
            burst
        }

        async fn answer(&mut self, request: &Command) {
            let mut out = BytesMut::new();
            let answer = Command::success(request).body(request.body.clone());
            answer.encode(&mut out);
            self.writer.write_all(&out).await.unwrap();
        }
    }

    fn pair() -> (Remote, FarEnd, mpsc::Receiver<Inbound>) {
        let (near, far) = tokio::io::duplex(1024 * 1024);
        let (reader, writer) = tokio::io::split(near);
        let (inbound, requests) = mpsc::channel(1);
        let reader = FrameReader::new(reader, Limits::default());
        let remote = Remote::over("peer:1", reader, writer, inbound);
        let (reader, writer) = tokio::io::split(far);
        let reader = FrameReader::new(reader, Limits::default());
        (remote, FarEnd { reader, writer }, requests)
    }

    fn ping(body: &str) -> Command {
        Command::request(RequestCode::HeartBeat).body(body.as_bytes().to_vec())
    }

    #[tokio::test]
    async fn answers_in_any_order_find_their_calls() {
        let (remote, mut far, _requests) = pair();
        let answering = async {
            let mut all = Vec::new();
            while all.len() < 3 {
                all.extend(far.requests().await);
            }
            for request in all.iter().rev() {
                far.answer(request).await;
            }
        };
        let call = async |body| remote.call(ping(body), SECOND).await.unwrap().body;
        let (a, b, c, ()) = tokio::join!(call("a"), call("b"), call("c"), answering);
        assert_eq!((&a[..], &b[..], &c[..]), (&b"a"[..], &b"b"[..], &b"c"[..]));
    }

    #[tokio::test(start_paused = true)]
    async fn a_late_answer_meets_nobody() {
        let (remote, mut far, _requests) = pair();
        let late = remote.call(ping("late"), SECOND).await;
        assert!(matches!(late, Err(Error::Timeout { after_ms: 1000, .. })), "{late:?}");
        let late = far.requests().await.remove(0);
        let (next, ()) = tokio::join!(remote.call(ping("next"), SECOND), async {
            let next = far.requests().await.remove(0);
            far.answer(&late).await;
            far.answer(&next).await;
        });
        assert_eq!(&next.unwrap().body[..], b"next");
    }

    #[tokio::test]
    async fn the_end_of_the_connection_fails_what_is_pending() {
        let (remote, far, _requests) = pair();
        let calls = async {
            let (a, b) = tokio::join!(
                remote.call(ping("a"), Duration::MAX),
                remote.call(ping("b"), Duration::MAX)
            );
            assert!(matches!(a, Err(Error::Closed(_))), "{a:?}");
            assert!(matches!(b, Err(Error::Closed(_))), "{b:?}");
        };
        tokio::join!(calls, async { drop(far) });
        assert!(remote.is_closed());
        assert!(matches!(remote.call(ping("c"), SECOND).await, Err(Error::Closed(_))));
        assert!(matches!(remote.oneway(ping("d")).await, Err(Error::Closed(_))));
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_peer_is_given_up() {
        let (remote, _far, _requests) = pair();
        let short = remote.call(ping("a"), SECOND).await;
        assert!(matches!(short, Err(Error::Timeout { .. })));
        assert!(!remote.is_closed(), "one slow answer does not cost the connection");
        let long = remote.call(ping("b"), 11 * SECOND).await;
        assert!(long.is_err());
        tokio::time::sleep(SECOND).await;
        assert!(remote.is_closed());
    }

    #[tokio::test]
    async fn callers_wait_while_the_peer_does_not_read() {
        let (remote, mut far, _requests) = pair();
        let body = vec![0_u8; 1024 * 1024];
        let sending = async {
            for _ in 0..32 {
                let command = Command::request(RequestCode::HeartBeat).body(body.clone());
                remote.oneway(command).await.unwrap();
            }
        };
        let mut sending = Box::pin(sending);
        let stuck = tokio::time::timeout(Duration::from_millis(200), &mut sending).await;
        assert!(stuck.is_err(), "32 MiB do not fit");
        let reading = async {
            let mut count = 0;
            while count < 32 {
                count += far.requests().await.len();
            }
        };
        tokio::join!(sending, reading);
    }

    #[tokio::test]
    async fn requests_of_the_peer_are_handed_over_and_answered() {
        let (_remote, mut far, mut requests) = pair();
        let mut out = BytesMut::new();
        ping("from the peer").encode(&mut out);
        far.writer.write_all(&out).await.unwrap();
        let request = requests.recv().await.unwrap();
        let answer = Command::success(&request.command);
        request.answer(answer).await;
        assert!(far.requests().await[0].is_response());
    }

    #[tokio::test]
    async fn a_local_link_works_alike() {
        let (link, mut peer) = local_link();
        let (inbound, mut requests) = mpsc::channel(1);
        let remote = Remote::local(link, inbound);
        let (answer, ()) = tokio::join!(remote.call(ping("a"), SECOND), async {
            let call = peer.calls.recv().await.unwrap();
            call.reply.unwrap().send(Command::success(&call.command)).unwrap();
        });
        assert!(answer.unwrap().is_response());
        let call = Call { command: ping("b"), reply: None };
        peer.outbound.send(call).await.unwrap();
        assert_eq!(&requests.recv().await.unwrap().command.body[..], b"b");
        drop(peer);
        assert!(matches!(remote.call(ping("c"), SECOND).await, Err(Error::Closed(_))));
        assert!(remote.is_closed());
    }

    #[test]
    fn slots_are_used_again_under_another_number() {
        let mut pending = Pending::default();
        let waiter = || Waiter {
            reply: oneshot::channel().0,
            started: Instant::now(),
            deadline: Instant::now(),
        };
        let first = pending.insert(waiter()).unwrap();
        assert!(pending.remove(first).is_some());
        let second = pending.insert(waiter()).unwrap();
        assert_ne!(first, second);
        assert!(pending.remove(first).is_none());
        assert!(pending.remove(-1).is_none());
        assert!(pending.remove(i32::MAX).is_none());
        assert_eq!(pending.live, 1);
    }
}
