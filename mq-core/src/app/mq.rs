//! Sending from an application: [`Mq`] and the message being written. Not here: queues, retries and
//! everything else of the producer (`client/producer.rs`).

use bytes::Bytes;
use serde::Serialize;

use crate::app::payload::Message;
use crate::client::Producer;
use crate::error::Error;
use crate::message::{Outgoing, SendReceipt};

/// Sends messages. A listener takes it as a parameter, a component as a field.
#[derive(Clone, Debug)]
pub struct Mq(Producer);

impl Mq {
    pub(crate) fn new(producer: Producer) -> Self {
        Self(producer)
    }

    /// Sends a typed message to its topic, with its tag and key; done when the broker has stored
    /// it.
    ///
    /// # Errors
    /// The message was not stored, or (time-out) may not have been.
    pub async fn send<T: Message>(&self, message: &T) -> Result<SendReceipt, Error> {
        self.message(message).send().await
    }

    /// A typed message whose tag, key, delay or properties are still to be changed.
    pub fn message<T: Message>(&self, message: &T) -> Draft {
        let mut draft = self.to(T::TOPIC).json(message);
        if let Some(tag) = T::TAG {
            draft = draft.tag(tag);
        }
        match message.key() {
            Some(key) => draft.key(&key),
            None => draft,
        }
    }

    /// A message to any topic; it begins with an empty body.
    pub fn to(&self, topic: impl Into<String>) -> Draft {
        Draft { producer: self.0.clone(), outgoing: Ok(Outgoing::new(topic, Bytes::new())) }
    }
}

/// A message being written. A mistake in it is told by [`Draft::send`].
#[derive(Debug)]
#[must_use = "a draft does nothing until it is sent"]
pub struct Draft {
    producer: Producer,
    outgoing: Result<Outgoing, Error>,
}

impl Draft {
    /// The tag, by which subscriptions select.
    pub fn tag(self, tag: &str) -> Self {
        self.map(|outgoing| Ok(outgoing.tag(tag)))
    }

    /// The key, by which the message can be found.
    pub fn key(self, key: &str) -> Self {
        self.map(|outgoing| Ok(outgoing.key(key)))
    }

    /// A property of the application's own.
    pub fn property(self, name: &str, value: &str) -> Self {
        self.map(|outgoing| outgoing.property(name, value))
    }

    /// Holds the message back for one of the broker's delay levels (1 s, 5 s, 10 s, ...).
    pub fn delay_level(self, level: u8) -> Self {
        self.map(|outgoing| Ok(outgoing.delay_level(level)))
    }

    /// The body, as JSON.
    pub fn json<T: Serialize + ?Sized>(self, body: &T) -> Self {
        self.map(|outgoing| {
            let body = serde_json::to_vec(body);
            let wrong = |error| Error::Message(format!("the body is no JSON: {error}"));
            body.map(|body| Outgoing { body: body.into(), ..outgoing }).map_err(wrong)
        })
    }

    /// The body, as it is.
    pub fn bytes(self, body: impl Into<Bytes>) -> Self {
        self.map(|outgoing| Ok(Outgoing { body: body.into(), ..outgoing }))
    }

    /// The body, as text.
    pub fn text(self, body: impl Into<String>) -> Self {
        self.bytes(body.into())
    }

    /// Sends it; done when the broker has stored it.
    ///
    /// # Errors
    /// The draft is illegal, or the message was not stored, or (time-out) may not have been.
    pub async fn send(self) -> Result<SendReceipt, Error> {
        self.producer.send(self.outgoing?).await
    }

    fn map(self, change: impl FnOnce(Outgoing) -> Result<Outgoing, Error>) -> Self {
        Self { outgoing: self.outgoing.and_then(change), ..self }
    }
}
