//! `Tracer`: notes what happens to messages and sends the notes, in batches, to the trace topic.
//! Not here: the form of a note (`protocol/trace.rs`), reading them back.
//!
//! Invariants: nobody waits for a note to be sent; a note for which there is no room is lost, and
//! that is told; notes about notes are not made.

use std::collections::BTreeSet;
use std::sync::Weak;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use super::{Client, Producer, Shared};
use crate::message::{Delivery, Outgoing, SendReceipt};
use crate::names::TRACE_PRODUCER_GROUP;
use crate::properties::key;
use crate::protocol::command::Command;
use crate::protocol::header::SendResponse;
use crate::protocol::record::parse_offset_msg_id;
use crate::protocol::trace::{Begun, Decided, Ended, Published, TraceRecord};

/// Notes that may wait to be sent.
const WAITING_MAX: usize = 4_096;
/// Notes of one message.
const TOGETHER_MAX: usize = 100;
/// Bytes of a message from which on another one is begun.
const TEXT_BYTES_MAX: usize = 128 * 1024;
/// Bytes of a message's keys; properties fit 32,767.
const KEY_BYTES_MAX: usize = 16 * 1024;
/// How long a note waits for others to be sent with it.
const LINGER: Duration = Duration::from_millis(200);
/// How long a client that shuts down waits for its notes to be stored.
const FLUSH_MAX: Duration = Duration::from_secs(3);
/// Of a message's type: nothing special, the half of a transaction, its end, to come later.
mod msg_type {
    pub(super) const NORMAL: i32 = 0;
    pub(super) const HALF: i32 = 1;
    pub(super) const COMMIT: i32 = 2;
    pub(super) const DELAY: i32 = 3;
}

#[derive(Debug)]
enum Note {
    Record(Box<TraceRecord>),
    /// Answered once what was noted before is sent.
    Flush(oneshot::Sender<()>),
}

/// Where notes go.
#[derive(Debug)]
pub(super) struct Tracer {
    topic: String,
    notes: mpsc::Sender<Note>,
    lost: AtomicU64,
}

/// What a consumer began with.
pub(super) struct Traced<'a> {
    tracer: &'a Tracer,
    begun: Begun,
}

impl Tracer {
    /// The tracer, and what [`write_down`] takes.
    pub(super) fn new(topic: &str) -> (Self, Notes) {
        let (notes, waiting) = mpsc::channel(WAITING_MAX);
        let tracer = Self { topic: topic.to_owned(), notes, lost: AtomicU64::new(0) };
        (tracer, Notes(waiting))
    }

    fn note(&self, record: TraceRecord) {
        if self.notes.try_send(Note::Record(Box::new(record))).is_err() {
            let lost = self.lost.fetch_add(1, Ordering::Relaxed) + 1;
            if lost.is_power_of_two() {
                tracing::warn!(lost, topic = self.topic, "traces come faster than they are sent");
            }
        }
    }

    /// What can be said of a message before it is sent; nothing of the traces themselves.
    pub(super) fn before_send(
        &self,
        message: &Outgoing,
        group: &str,
        now_ms: i64,
    ) -> Option<Published> {
        let properties = &message.properties;
        (message.topic != self.topic).then(|| Published {
            timestamp_ms: now_ms,
            group: group.to_owned(),
            topic: message.topic.clone(),
            tags: properties.tags().unwrap_or_default().to_owned(),
            keys: properties.get(key::KEYS).unwrap_or_default().to_owned(),
            body_length: i32::try_from(message.body.len()).unwrap_or(i32::MAX),
            msg_type: match properties.delay_level() {
                _ if properties.get(key::TRAN_MSG).is_some() => msg_type::HALF,
                0 => msg_type::NORMAL,
                _ => msg_type::DELAY,
            },
            ..Published::default()
        })
    }

    /// The message is stored. The broker may wish that it is not traced.
    pub(super) fn sent(
        &self,
        begun: Published,
        answer: &Command,
        receipt: &SendReceipt,
        now_ms: i64,
    ) {
        let header: Option<SendResponse<'_>> = answer.decode_header().ok();
        if header.as_ref().is_some_and(|header| header.trace_on == Some(false)) {
            return;
        }
        let region = header.and_then(|header| header.region).unwrap_or_default();
        self.note(TraceRecord::Pub(Published {
            region_id: region.to_owned(),
            msg_id: receipt.msg_id.clone(),
            store_host: host_of(receipt),
            cost_ms: took(begun.timestamp_ms, now_ms),
            offset_msg_id: receipt.offset_msg_id.clone(),
            success: true,
            ..begun
        }));
    }

    /// A transaction was committed, or rolled back.
    pub(super) fn ended(&self, receipt: &SendReceipt, group: &str, commit: bool, now_ms: i64) {
        self.note(TraceRecord::EndTransaction(Decided {
            timestamp_ms: now_ms,
            group: group.to_owned(),
            topic: receipt.queue.topic.to_string(),
            msg_id: receipt.msg_id.clone(),
            store_host: host_of(receipt),
            msg_type: msg_type::COMMIT,
            transaction_id: receipt.msg_id.clone(),
            state: if commit { "COMMIT_MESSAGE" } else { "ROLLBACK_MESSAGE" }.to_owned(),
            ..Decided::default()
        }));
    }

    /// A handler is about to be called.
    pub(super) fn begin(
        &self,
        delivery: &Delivery,
        group: &str,
        request_id: &str,
        now_ms: i64,
    ) -> Option<Traced<'_>> {
        let off = delivery.property(key::TRACE_ON).is_some_and(|on| on == "false");
        if off || delivery.topic() == self.topic {
            return None;
        }
        let begun = Begun {
            timestamp_ms: now_ms,
            region_id: delivery.property(key::MSG_REGION).unwrap_or_default().to_owned(),
            group: group.to_owned(),
            request_id: request_id.to_owned(),
            msg_id: delivery.msg_id(),
            retry_times: delivery.reconsume_times,
            keys: delivery.property(key::KEYS).unwrap_or_default().to_owned(),
        };
        self.note(TraceRecord::SubBefore(begun.clone()));
        Some(Traced { tracer: self, begun })
    }

    /// Waits until what was noted is sent, though not for ever.
    pub(super) async fn flush(&self) {
        let (done, sent) = oneshot::channel();
        let flushed = async {
            if self.notes.send(Note::Flush(done)).await.is_ok() {
                // Dropped without an answer: the writer is gone, and nothing is sent any more.
                let _gone = sent.await;
            }
        };
        if tokio::time::timeout(FLUSH_MAX, flushed).await.is_err() {
            tracing::warn!(topic = self.topic, "the last traces were not stored in time");
        }
    }
}

impl Traced<'_> {
    /// The handler is through.
    pub(super) fn end(self, success: bool, now_ms: i64) {
        const FAILED: i32 = 4;
        let Begun { timestamp_ms, group, request_id, msg_id, keys, .. } = self.begun;
        self.tracer.note(TraceRecord::SubAfter(Ended {
            request_id,
            msg_id,
            cost_ms: took(timestamp_ms, now_ms),
            success,
            keys,
            context_code: if success { 0 } else { FAILED },
            timestamp_ms: now_ms,
            group,
        }));
    }
}

fn took(from_ms: i64, to_ms: i64) -> i32 {
    i32::try_from(to_ms.saturating_sub(from_ms)).unwrap_or(i32::MAX)
}

fn host_of(receipt: &SendReceipt) -> String {
    parse_offset_msg_id(&receipt.offset_msg_id)
        .map_or_else(String::new, |(host, _)| host.to_string())
}

/// The notes that are to be sent.
#[derive(Debug)]
pub(super) struct Notes(mpsc::Receiver<Note>);

/// Sends notes for as long as the client lives.
pub(super) async fn write_down(client: Weak<Shared>, mut notes: Notes, topic: String) {
    let mut together = Vec::with_capacity(TOGETHER_MAX);
    while notes.0.recv_many(&mut together, TOGETHER_MAX).await > 0 {
        let is_flush = |note: &Note| matches!(note, Note::Flush(_));
        if together.len() < TOGETHER_MAX && !together.iter().any(is_flush) {
            tokio::time::sleep(LINGER).await;
            while together.len() < TOGETHER_MAX
                && let Ok(note) = notes.0.try_recv()
            {
                together.push(note);
            }
        }
        let Some(client) = client.upgrade().map(Client) else { return };
        send(&client, &topic, &mut together).await;
    }
}

async fn send(client: &Client, topic: &str, together: &mut Vec<Note>) {
    let (mut piece, mut waiting) = (Piece::default(), Vec::new());
    for note in together.drain(..) {
        match note {
            Note::Record(record) => {
                if !piece.takes(&record) {
                    std::mem::take(&mut piece).send(client, topic).await;
                    piece.takes(&record);
                }
            }
            Note::Flush(done) => waiting.push(done),
        }
    }
    piece.send(client, topic).await;
    for done in waiting {
        // Whoever asked may have gone.
        let _gone = done.send(());
    }
}

/// What goes into one message.
#[derive(Default)]
struct Piece {
    text: String,
    /// By which its records are found; those for which there is no room are left out.
    keys: BTreeSet<String>,
    key_bytes: usize,
}

impl Piece {
    /// False: it is full, which it never is at first.
    fn takes(&mut self, record: &TraceRecord) -> bool {
        if self.text.len() > TEXT_BYTES_MAX || self.key_bytes > KEY_BYTES_MAX / 2 {
            return false;
        }
        record.write(&mut self.text);
        for key in std::iter::once(record.msg_id()).chain(record.keys()) {
            let bytes = self.key_bytes + key.len() + 1;
            if bytes <= KEY_BYTES_MAX && self.keys.insert(key.to_owned()) {
                self.key_bytes = bytes;
            }
        }
        true
    }

    async fn send(self, client: &Client, topic: &str) {
        if self.text.is_empty() {
            return;
        }
        let message = Outgoing::new(topic, self.text);
        let message = self.keys.iter().fold(message, |message, key| message.key(key));
        let sent = Producer::new(client.clone(), TRACE_PRODUCER_GROUP).send(message).await;
        if let Err(failed) = sent {
            tracing::warn!(%failed, topic, "traces were not stored and are lost");
        }
    }
}
