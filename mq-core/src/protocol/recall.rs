//! The handle by which a sender takes a delayed message back (370): base64 of
//! `v1 TOPIC BROKER TIME UNIQUE_KEY`. Not here: who may, and whether it is too late.

use base64::Engine;
use base64::alphabet::URL_SAFE;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

const VERSION: &str = "v1";
/// A topic, a broker's name, a number and a key fit easily.
const LENGTH_MAX: usize = 4_096;

/// Java pads what it writes; others need not.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &URL_SAFE,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// What a handle says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecallHandle {
    /// The topic that the message was sent to.
    pub topic: String,
    /// The broker that holds it.
    pub broker_name: String,
    /// A millisecond behind the instant at which it is due.
    pub timestamp_ms: i64,
    /// The message's unique key.
    pub unique_key: String,
}

impl RecallHandle {
    /// The handle as it is sent.
    pub fn encode(&self) -> String {
        let Self { topic, broker_name, timestamp_ms, unique_key } = self;
        BASE64.encode(format!("{VERSION} {topic} {broker_name} {timestamp_ms} {unique_key}"))
    }

    /// Reads a handle; `None` when it is none.
    pub fn decode(handle: &str) -> Option<Self> {
        let short = Some(handle).filter(|handle| handle.len() <= LENGTH_MAX)?;
        let bytes = BASE64.decode(short).ok()?;
        let text = String::from_utf8(bytes).ok()?;
        // What separates properties has no place in the parts.
        let plain = Some(text.as_str()).filter(|text| !text.contains(char::is_control))?;
        let mut words = plain.split(' ');
        words.next().filter(|version| *version == VERSION)?;
        Some(Self {
            topic: words.next()?.to_owned(),
            broker_name: words.next()?.to_owned(),
            timestamp_ms: words.next()?.parse().ok()?,
            unique_key: words.next()?.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handle_is_javas() {
        let handle = RecallHandle {
            topic: "topic".to_owned(),
            broker_name: "broker-0".to_owned(),
            timestamp_ms: 1_707_111_111_111,
            unique_key: "AC1100017E1855EED5D00A4C2A580000".to_owned(),
        };
        let text = "djEgdG9waWMgYnJva2VyLTAgMTcwNzExMTExMTExMSBBQzExMDAwMTdFMTg1NUVFRDVEMDBBNEMyQTU4MDAwMA==";
        assert_eq!(handle.encode(), text);
        assert_eq!(RecallHandle::decode(text).as_ref(), Some(&handle));
        assert_eq!(RecallHandle::decode(text.trim_end_matches('=')), Some(handle));
        for bad in ["", "=", "v1 t b 1 k", &text[4..], "djIgdCBiIDEgaw==", "djEgdCBiIDEgawE="] {
            assert_eq!(RecallHandle::decode(bad), None, "{bad}");
        }
    }
}
