//! From a delivery to the user's function and back: what a parameter may be, what a return value
//! means, and the erased handler that the client calls. Not here: the extractors themselves
//! (`app/payload.rs`); panics, time-outs and the log of failures (`client/handling.rs`); the retry
//! policy (the broker's).
//!
//! Invariant: a body that does not decode goes to the dead letters at once, with the cause; an
//! error asks for another attempt.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use futures_util::future::BoxFuture;

use crate::app::component::{Bean, BeanNeed, Component, Ext, Key, Scope};
use crate::app::listener::ListenerDef;
use crate::app::mq::Mq;
use crate::client::{Handler, Outcome};
use crate::message::Delivery;

/// A type that a listener may have as a parameter.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be a parameter of a listener",
    label = "not a parameter of a listener",
    note = "a payload type needs `#[derive(Message)]`, or is taken as `Json<T>`, `Bytes` or `Text`",
    note = "otherwise a listener takes `Bean<T>` of a `#[component]`, `Ext<T>` of a `#[bean]`, `Mq`, \
            `MsgId`, `Key`, `Tag`, `Attempt` or `BornAt`"
)]
pub trait FromDelivery: Sized {
    /// What the parameter is to the listener.
    const PART: Part;

    /// Takes the parameter out of a delivery.
    ///
    /// # Errors
    /// The body is not what the type says; the message becomes a dead letter.
    fn from_delivery(delivery: &Delivery, scope: &Scope) -> Result<Self, Undecodable>;
}

/// What a parameter is to its listener.
#[derive(Clone, Copy, Debug)]
pub enum Part {
    /// The payload, whose type may own a topic and a tag. A listener has at most one.
    Body {
        /// The topic, for a type with `#[derive(Message)]`.
        topic: Option<&'static str>,
        /// The tag, if the type has one.
        tag: Option<&'static str>,
    },
    /// A bean that must be part of the application.
    Bean(BeanNeed),
    /// Something else about the message or the application.
    Other,
}

/// A body that is not what the listener's payload type says: the cause, for the dead letter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Undecodable(pub String);

/// A call of a listener on its way.
pub type Handling<'a> = BoxFuture<'a, Result<Outcome, Undecodable>>;

/// How many payloads the parameters ask for.
#[must_use]
pub const fn bodies(parts: &[Part]) -> usize {
    let (mut count, mut at) = (0, 0);
    while at < parts.len() {
        if let Part::Body { .. } = parts[at] {
            count += 1;
        }
        at += 1;
    }
    count
}

/// The topic of the payload's type.
#[must_use]
pub(crate) const fn payload_topic(parts: &[Part]) -> Option<&'static str> {
    let mut at = 0;
    while at < parts.len() {
        if let Part::Body { topic: Some(topic), .. } = parts[at] {
            return Some(topic);
        }
        at += 1;
    }
    None
}

/// Whether the parameters tell the topic.
#[must_use]
pub const fn names_topic(parts: &[Part]) -> bool {
    payload_topic(parts).is_some()
}

/// Whether the payload's type, if it owns a topic, owns this one. Retry and dead letter topics hold
/// payloads of any topic.
#[must_use]
pub const fn agrees(parts: &[Part], topic: &str) -> bool {
    match payload_topic(parts) {
        Some(own) if !is_reserved(topic) => same(own.as_bytes(), topic.as_bytes()),
        _ => true,
    }
}

const fn is_reserved(topic: &str) -> bool {
    matches!(topic.as_bytes().first(), Some(b'%'))
}

const fn same(a: &[u8], b: &[u8]) -> bool {
    if a.len() != b.len() {
        return false;
    }
    let mut at = 0;
    while at < a.len() {
        if a[at] != b[at] {
            return false;
        }
        at += 1;
    }
    true
}

impl<T: Component + ?Sized> FromDelivery for Bean<T> {
    const PART: Part =
        Part::Bean(BeanNeed { key: Key::of::<T, ()>(), component: Some(T::definition) });

    fn from_delivery(_delivery: &Delivery, scope: &Scope) -> Result<Self, Undecodable> {
        Ok(scope.bean().expect("start-up refuses a listener whose component is missing"))
    }
}

impl<T: Send + Sync + ?Sized + 'static, Q: 'static> FromDelivery for Ext<T, Q> {
    const PART: Part = Part::Bean(BeanNeed { key: Key::of::<T, Q>(), component: None });

    fn from_delivery(_delivery: &Delivery, scope: &Scope) -> Result<Self, Undecodable> {
        Ok(scope.ext().expect("start-up refuses a listener whose bean is missing"))
    }
}

impl FromDelivery for Mq {
    const PART: Part = Part::Other;

    fn from_delivery(_delivery: &Delivery, scope: &Scope) -> Result<Self, Undecodable> {
        Ok(scope.mq.clone())
    }
}

/// What a listener may return.
#[diagnostic::on_unimplemented(
    message = "a listener cannot return `{Self}`",
    label = "not an outcome",
    note = "a listener returns nothing, `Outcome`, or a `Result` of one of them whose error can be \
            displayed"
)]
pub trait IntoOutcome {
    /// What becomes of the message.
    fn into_outcome(self) -> Outcome;
}

impl IntoOutcome for () {
    fn into_outcome(self) -> Outcome {
        Outcome::Ack
    }
}

impl IntoOutcome for Outcome {
    fn into_outcome(self) -> Outcome {
        self
    }
}

impl<T: IntoOutcome, E: fmt::Display> IntoOutcome for Result<T, E> {
    fn into_outcome(self) -> Outcome {
        match self {
            Ok(value) => value.into_outcome(),
            // Level 0: the broker lets each attempt wait longer than the one before.
            Err(error) => Outcome::Retry { delay_level: 0, cause: format!("{error:#}") },
        }
    }
}

/// A listener as the client's consumer calls it.
pub(crate) struct Erased {
    pub(crate) listener: &'static ListenerDef,
    pub(crate) scope: Arc<Scope>,
}

#[async_trait]
impl Handler for Erased {
    async fn handle(&self, delivery: Delivery) -> Outcome {
        match (self.listener.call)(&self.scope, &delivery).await {
            Ok(outcome) => outcome,
            Err(Undecodable(cause)) => Outcome::DeadLetter { cause },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ON_A: Part = Part::Body { topic: Some("a"), tag: None };
    const RAW: Part = Part::Body { topic: None, tag: None };

    #[test]
    fn the_payload_is_counted_and_its_topic_compared() {
        assert_eq!(bodies(&[Part::Other, ON_A, RAW]), 2);
        assert!(names_topic(&[Part::Other, ON_A]) && !names_topic(&[RAW]));
        assert!(agrees(&[ON_A], "a") && agrees(&[RAW], "b") && agrees(&[ON_A], "%DLQ%g"));
        assert!(!agrees(&[ON_A], "b") && !agrees(&[ON_A], "ab"));
    }

    #[test]
    fn an_error_asks_for_another_attempt_and_keeps_its_text() {
        let outcome = Err::<(), _>("no stock").into_outcome();
        assert!(matches!(outcome, Outcome::Retry { delay_level: 0, cause } if cause == "no stock"));
        let chosen = Ok::<_, String>(Outcome::DeadLetter { cause: "old".to_owned() });
        assert!(matches!(chosen.into_outcome(), Outcome::DeadLetter { .. }));
    }
}
