//! What a listener can take out of a message: the payload in its forms, and cheap facts about the
//! message. Not here: components and the sender (`app/handler.rs`).

use std::ops::Deref;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::app::component::Scope;
use crate::app::handler::{FromDelivery, Part, Undecodable};
use crate::message::Delivery;

/// A payload type that owns its topic, and may own a tag and a key; its body is JSON.
///
/// Implemented by `#[derive(Message)]`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a message",
    label = "not a message",
    note = "derive it: `#[derive(Message, Serialize, Deserialize)]` with `#[message(topic = \"...\")]`"
)]
pub trait Message: Serialize + DeserializeOwned + Send + Sync + 'static {
    /// The topic of every message of this type.
    const TOPIC: &'static str;
    /// The tag of every message of this type.
    const TAG: Option<&'static str>;

    /// The message key, by which a message can be found.
    fn key(&self) -> Option<String> {
        None
    }
}

impl<T: Message> FromDelivery for T {
    const PART: Part = Part::Body { topic: Some(T::TOPIC), tag: T::TAG };

    fn from_delivery(delivery: &Delivery, _scope: &Scope) -> Result<Self, Undecodable> {
        decode(&delivery.body)
    }
}

/// A JSON body of any type, from any topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Json<T>(pub T);

impl<T> Deref for Json<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

/// A body without an owner of the topic.
const RAW: Part = Part::Body { topic: None, tag: None };

impl<T: DeserializeOwned> FromDelivery for Json<T> {
    const PART: Part = RAW;

    fn from_delivery(delivery: &Delivery, _scope: &Scope) -> Result<Self, Undecodable> {
        decode(&delivery.body).map(Json)
    }
}

fn decode<T: DeserializeOwned>(body: &[u8]) -> Result<T, Undecodable> {
    serde_json::from_slice(body).map_err(|error| {
        let name = std::any::type_name::<T>();
        Undecodable(format!("the body is no JSON of `{name}`: {error}"))
    })
}

impl FromDelivery for Bytes {
    const PART: Part = RAW;

    fn from_delivery(delivery: &Delivery, _scope: &Scope) -> Result<Self, Undecodable> {
        Ok(delivery.body.clone())
    }
}

/// A body of UTF-8 text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text(pub String);

impl Deref for Text {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl FromDelivery for Text {
    const PART: Part = RAW;

    fn from_delivery(delivery: &Delivery, _scope: &Scope) -> Result<Self, Undecodable> {
        let text = std::str::from_utf8(&delivery.body);
        let wrong = |error| Undecodable(format!("the body is no UTF-8 text: {error}"));
        text.map(|text| Text(text.to_owned())).map_err(wrong)
    }
}

/// The id that the sender gave the message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MsgId(pub String);

/// The message's keys, if it has any; several are separated by spaces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key(pub Option<String>);

/// The message's tag, if it has one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tag(pub Option<String>);

/// Which delivery of the message this is, from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Attempt(pub u32);

/// When the message was sent: ms since the epoch, by the sender's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BornAt(pub i64);

/// Facts about the message, by type: the way to take each.
macro_rules! facts {
    ($($fact:ident: $take:expr;)*) => {$(
        impl FromDelivery for $fact {
            const PART: Part = Part::Other;

            fn from_delivery(delivery: &Delivery, _scope: &Scope) -> Result<Self, Undecodable> {
                let take: fn(&Delivery) -> Self = $take;
                Ok(take(delivery))
            }
        }
    )*};
}

facts! {
    MsgId: |delivery| MsgId(delivery.msg_id());
    Key: |delivery| Key(delivery.property(crate::properties::key::KEYS).map(str::to_owned));
    Tag: |delivery| Tag(delivery.tags().map(str::to_owned));
    BornAt: |delivery| BornAt(delivery.born_timestamp_ms);
    Attempt: |delivery| {
        Attempt(u32::try_from(delivery.reconsume_times).unwrap_or(0).saturating_add(1))
    };
}
