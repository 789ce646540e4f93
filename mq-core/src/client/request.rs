//! Requests and replies: a message that waits for an answer, and the answer. Not here: sending
//! either (`producer.rs`), what a handler does to find its answer.
//!
//! Invariants: a reply reaches the request of its correlation id or nobody; a request that has
//! ended, in whatever way, is not waited for any more; brokers know this client before the first
//! request of a topic is sent, so that replies can be pushed to it.

use std::collections::{HashMap, HashSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::oneshot;

use super::{Client, Producer};
use crate::error::Error;
use crate::message::{Delivery, Outgoing, SendReceipt};
use crate::names::{self, MessageQueue};
use crate::properties::{Properties, key};
use crate::protocol::code::ResponseCode;
use crate::protocol::command::Command;
use crate::protocol::compression;
use crate::protocol::header::PushReplyRequest;
use crate::protocol::record::sys_flag;

/// Requests that wait at once.
const WAITING_MAX: usize = 10_000;

/// The requests of a client that wait for replies.
#[derive(Debug, Default)]
pub(super) struct Requests {
    /// By correlation id.
    waiting: Mutex<HashMap<String, oneshot::Sender<Delivery>>>,
    /// Topics whose brokers have been told of this client.
    introduced: Mutex<HashSet<String>>,
}

impl Requests {
    fn waiting(&self) -> MutexGuard<'_, HashMap<String, oneshot::Sender<Delivery>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn introduced(&self) -> MutexGuard<'_, HashSet<String>> {
        self.introduced.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(
        &self,
        correlation: &str,
    ) -> Result<(Waiting<'_>, oneshot::Receiver<Delivery>), Error> {
        let mut waiting = self.waiting();
        if waiting.len() >= WAITING_MAX {
            let remark = format!("{WAITING_MAX} requests wait for replies already");
            return Err(Error::Refused { code: ResponseCode::SystemBusy.code(), remark });
        }
        let (reply, replied) = oneshot::channel();
        waiting.insert(correlation.to_owned(), reply);
        Ok((Waiting { requests: self, correlation: correlation.to_owned() }, replied))
    }
}

/// A request that waits, until it is dropped.
struct Waiting<'a> {
    requests: &'a Requests,
    correlation: String,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.requests.waiting().remove(&self.correlation);
    }
}

impl Producer {
    /// Sends a message and waits for the reply of the consumer that handles it, see
    /// [`Self::reply`].
    ///
    /// # Errors
    /// As [`Self::send`]. [`Error::Timeout`] also when no reply came in time: the request may have
    /// been handled, or may yet be.
    pub async fn request(
        &self,
        mut message: Outgoing,
        timeout: Duration,
    ) -> Result<Delivery, Error> {
        let client = &self.client;
        let timeout_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
        let correlation = client.0.keys.next();
        message.properties.set(key::CORRELATION_ID, correlation.as_str());
        message.properties.set(key::REPLY_TO_CLIENT, client.id());
        message.properties.set(key::TTL, &timeout_ms.to_string());
        let topic = message.topic.clone();
        let (_waiting, replied) = client.0.requests.enter(correlation.as_str())?;
        let answered = async {
            client.introduce(&topic).await?;
            self.send(message).await?;
            replied.await.map_err(|_| Error::Closed("the client was shut down".to_owned()))
        };
        tokio::time::timeout(timeout, answered).await.unwrap_or_else(|_| {
            let what = format!("a reply to a request of topic `{topic}`");
            Err(Error::Timeout { what, after_ms: timeout_ms })
        })
    }

    /// Answers a request, from its handler or later. The client that asked gets it, if it still
    /// waits.
    ///
    /// # Errors
    /// As [`Self::send_to`]; [`Error::Message`] when the message is no request; [`Error::Refused`]
    /// when the client that asked is gone.
    pub async fn reply(
        &self,
        request: &Delivery,
        body: impl Into<Bytes>,
    ) -> Result<SendReceipt, Error> {
        let property = |name| {
            request.property(name).ok_or_else(|| {
                let id = request.msg_id();
                Error::Message(format!("message {id} waits for no reply: it has no {name}"))
            })
        };
        let topic = names::reply_topic(property(key::CLUSTER)?);
        let mut reply = Outgoing::new(topic.as_str(), body);
        reply.properties.set(key::MSG_TYPE, "reply");
        for name in [key::CORRELATION_ID, key::REPLY_TO_CLIENT] {
            reply.properties.set(name, property(name)?);
        }
        if let Some(time_to_live) = request.property(key::TTL) {
            reply.properties.set(key::TTL, time_to_live);
        }
        // To the broker that has the request: the client that asked is known there.
        let queue = MessageQueue::new(topic, request.queue.broker_name.clone(), 0);
        self.send_reply(reply, &queue).await
    }
}

impl Client {
    /// Brokers push replies to clients they have heard of.
    async fn introduce(&self, topic: &str) -> Result<(), Error> {
        if self.0.requests.introduced().contains(topic) {
            return Ok(());
        }
        self.queues(topic).await?;
        self.heartbeat_all().await;
        self.0.requests.introduced().insert(topic.to_owned());
        Ok(())
    }
}

/// 326: a broker brings a reply. Gives what the broker is told.
pub(super) fn replied(client: &Client, push: &Command) -> Command {
    let reply = match delivery(push) {
        Ok(reply) => reply,
        Err(why) => return Command::response_to(push, ResponseCode::SystemError).remark(why),
    };
    let correlation = reply.property(key::CORRELATION_ID).unwrap_or_default();
    let waiting = client.0.requests.waiting().remove(correlation);
    // A request that has ended in this moment does not take it either.
    let taken = match waiting {
        Some(request) => request.send(reply).map_err(|reply| reply.msg_id()),
        None => Err(reply.msg_id()),
    };
    if let Err(id) = taken {
        tracing::debug!(id, "a reply came that nobody waits for");
    }
    Command::success(push)
}

fn delivery(push: &Command) -> Result<Delivery, String> {
    let header: PushReplyRequest<'_> = push.decode_header().map_err(|error| error.to_string())?;
    let body = match header.sys_flag & sys_flag::COMPRESSED {
        0 => push.body.clone(),
        _ => compression::decompress(header.sys_flag, &push.body, compression::BODY_BYTES_MAX)
            .map_err(|error| error.to_string())?
            .into(),
    };
    let broker = header.store_host.trim_start_matches('/');
    Ok(Delivery {
        queue: MessageQueue::new(header.topic, broker, header.queue_id),
        // A reply is brought before it is stored, if it is stored at all.
        queue_offset: 0,
        commit_log_offset: 0,
        flag: header.flag,
        sys_flag: header.sys_flag,
        born_timestamp_ms: header.born_timestamp,
        born_host: host(header.born_host),
        store_timestamp_ms: header.store_timestamp,
        store_host: host(header.store_host),
        reconsume_times: header.reconsume_times.unwrap_or(0),
        body,
        properties: Properties::from_wire(header.properties.unwrap_or_default().to_owned()),
    })
}

/// Java writes some addresses as `/ip:port`.
fn host(text: &str) -> SocketAddr {
    let unknown = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
    text.trim_start_matches('/').parse().unwrap_or(unknown)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::code::RequestCode;

    fn push(sys_flag: i32, body: Vec<u8>) -> Command {
        let header = PushReplyRequest {
            topic: "c_REPLY_TOPIC",
            properties: Some("CORRELATION_ID\u{1}c1\u{2}"),
            sys_flag,
            born_host: "/10.0.0.1:77",
            store_host: "10.0.0.2:10911",
            ..PushReplyRequest::default()
        };
        Command::with(RequestCode::PushReplyMessageToClient, &header).body(body)
    }

    #[test]
    fn a_reply_is_read_compressed_or_not() {
        let plain = delivery(&push(0, b"yes".to_vec())).unwrap();
        let packed = delivery(&push(sys_flag::COMPRESSED, compression::compress(b"yes"))).unwrap();
        assert_eq!((&plain.body[..], &packed.body[..]), (&b"yes"[..], &b"yes"[..]));
        assert_eq!(plain.born_host.to_string(), "10.0.0.1:77");
        assert_eq!(plain.property(key::CORRELATION_ID), Some("c1"));
        assert!(delivery(&push(sys_flag::COMPRESSED, b"yes".to_vec())).is_err());
    }

    #[test]
    fn a_request_that_ended_is_forgotten() {
        let requests = Requests::default();
        let (waiting, replied) = requests.enter("c1").unwrap();
        assert_eq!(requests.waiting().len(), 1);
        drop((waiting, replied));
        assert!(requests.waiting().is_empty());
    }
}
