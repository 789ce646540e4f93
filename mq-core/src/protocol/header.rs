//! The headers of requests and responses: which ext fields each has, declared once for both ends.
//!
//! A header borrows its texts from the command it was read from. A field that is missing or
//! malformed is a [`HeaderError`], which is answered; the connection goes on. Fields without a
//! place in a header are ignored, since clients add some to any request. What a field makes
//! somebody do is not here.

use super::fields::Fields;

/// A field that a request must have and has not, or that cannot be read; says which.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct HeaderError(pub String);

impl HeaderError {
    #[cold]
    fn missing(key: &str) -> Self {
        Self(format!("the header field `{key}` is missing"))
    }

    #[cold]
    fn malformed(key: &str, text: &str, want: &str) -> Self {
        let shown: String = text.chars().take(64).collect();
        Self(format!("the header field `{key}` is not {want}: `{shown}`"))
    }
}

/// A typed view of a command's fields.
pub trait Header<'a>: Sized {
    /// Reads the header in one pass over the fields.
    fn read(fields: &'a Fields) -> Result<Self, HeaderError>;
    /// Adds the header's fields; absent ones are left out.
    fn write(&self, out: &mut Fields);
}

/// A value that stands in a header as text.
trait Value<'a>: Sized {
    fn read(key: &str, text: Option<&'a str>) -> Result<Self, HeaderError>;
    fn write(&self, key: &str, out: &mut Fields);
}

impl<'a> Value<'a> for &'a str {
    fn read(key: &str, text: Option<&'a str>) -> Result<Self, HeaderError> {
        text.ok_or_else(|| HeaderError::missing(key))
    }

    fn write(&self, key: &str, out: &mut Fields) {
        out.push(key, self);
    }
}

impl<'a> Value<'a> for bool {
    fn read(key: &str, text: Option<&'a str>) -> Result<Self, HeaderError> {
        // As in Java whatever is not true is false.
        text.map(|text| text.eq_ignore_ascii_case("true")).ok_or_else(|| HeaderError::missing(key))
    }

    fn write(&self, key: &str, out: &mut Fields) {
        out.push(key, if *self { "true" } else { "false" });
    }
}

macro_rules! numbers {
    ($($number:ty)*) => {$(
        impl<'a> Value<'a> for $number {
            fn read(key: &str, text: Option<&'a str>) -> Result<Self, HeaderError> {
                let text = text.ok_or_else(|| HeaderError::missing(key))?;
                text.parse().map_err(|_| HeaderError::malformed(key, text, "a number in range"))
            }

            fn write(&self, key: &str, out: &mut Fields) {
                out.push_number(key, i64::from(*self));
            }
        }
    )*};
}

numbers!(i32 i64);

/// An empty text is no value: RocketMQ 5 takes it for absent, and nothing can be read from it.
impl<'a, V: Value<'a>> Value<'a> for Option<V> {
    fn read(key: &str, text: Option<&'a str>) -> Result<Self, HeaderError> {
        let text = text.filter(|text| !text.is_empty());
        text.map(|text| V::read(key, Some(text))).transpose()
    }

    fn write(&self, key: &str, out: &mut Fields) {
        if let Some(value) = self {
            value.write(key, out);
        }
    }
}

/// Builds a header from fields: each key's text is remembered in one pass, then read.
macro_rules! read_header {
    ($fields:expr, $name:ident { $($field:ident = $key:literal,)* }) => {{
        $(let mut $field = None;)*
        for (key, value) in $fields.iter() {
            match key {
                $($key => $field = Some(value),)*
                _ => {}
            }
        }
        Ok($name { $($field: Value::read($key, $field)?,)* })
    }};
}

/// Declares headers. Each field has the key it stands under on the wire.
macro_rules! headers {
    ($(
        $(#[$doc:meta])*
        $name:ident $(<$life:lifetime>)? { $($field:ident: $kind:ty = $key:literal,)* }
    )*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct $name $(<$life>)? {
            $(#[doc = concat!("`", $key, "`")] pub $field: $kind,)*
        }

        impl<'a> Header<'a> for $name $(<$life>)? {
            fn read(fields: &'a Fields) -> Result<Self, HeaderError> {
                read_header!(fields, $name { $($field = $key,)* })
            }

            fn write(&self, out: &mut Fields) {
                $(self.$field.write($key, out);)*
            }
        }
    )*};
}

mod admin;
mod consumer;
mod message;

pub use admin::*;
pub use consumer::*;
pub use message::*;

/// A header without fields.
impl Header<'_> for () {
    fn read(_: &Fields) -> Result<Self, HeaderError> {
        Ok(())
    }

    fn write(&self, _: &mut Fields) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn back<'a, H: Header<'a>>(header: &H, fields: &'a mut Fields) -> H {
        header.write(fields);
        H::read(fields).unwrap()
    }

    #[test]
    fn fields_nobody_knows_and_empty_options_are_passed_over() {
        let fields = [("bname", "b"), ("topic", "t"), ("queueId", "3"), ("nsd", "true")];
        let queue_id = QueueRequest::read(&fields.into_iter().collect()).unwrap().queue_id;
        assert_eq!(queue_id, 3);
        let fields: Fields =
            [("offset", "1"), ("group", "g"), ("delayLevel", "0"), ("maxReconsumeTimes", "")]
                .into_iter()
                .collect();
        let header = ConsumerSendMsgBackRequest::read(&fields).unwrap();
        assert_eq!((header.max_reconsume_times, header.origin_topic), (None, None));
    }

    #[test]
    fn numbers_out_of_range_are_named_and_cut_short() {
        let long = "9".repeat(1_000);
        let fields = [("topic", "t"), ("queueId", long.as_str())].into_iter().collect();
        let error = QueueRequest::read(&fields).unwrap_err().to_string();
        assert!(error.contains("`queueId`") && error.len() < 200, "{error}");
    }

    proptest! {
        #[test]
        fn headers_come_back(
            texts in (any::<String>(), any::<String>(), prop::option::of("\\PC{1,9}")),
            numbers in (any::<i32>(), any::<i64>(), any::<i64>(), prop::option::of(any::<i32>())),
            yes in prop::option::of(any::<bool>()),
        ) {
            let (queue_id, offset, time, maximum) = numbers;
            let pull = PullRequest {
                consumer_group: &texts.0,
                topic: &texts.1,
                queue_id,
                queue_offset: offset,
                sub_version: time,
                subscription: texts.2.as_deref(),
                max_msg_bytes: maximum,
                ..PullRequest::default()
            };
            let mut fields = Fields::default();
            prop_assert_eq!(back(&pull, &mut fields), pull);
            let send = SendRequest {
                producer_group: &texts.0,
                topic: &texts.1,
                queue_id,
                born_timestamp: time,
                properties: texts.2.as_deref(),
                max_reconsume_times: maximum,
                unit_mode: yes,
                ..SendRequest::default()
            };
            let mut fields = Fields::default();
            prop_assert_eq!(back(&send, &mut fields), send);
            let short = SendRequestV2(send);
            let mut fields = Fields::default();
            prop_assert_eq!(back(&short, &mut fields), short);
        }
    }
}
