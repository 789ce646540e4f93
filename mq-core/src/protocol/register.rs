//! The body of request 103, a broker's table of topics, in the three forms that brokers send it:
//! JSON, JSON of the table alone (before 3.0.11), and compressed lines.

use super::body::{
    BodyError, DataVersion, RegisterBrokerBody, TopicConfig, TopicConfigSerializeWrapper,
    TopicFilterType, from_json,
};
use super::compression::{CompressionError, inflate};

/// Releases from this ordinal on send the whole body, not the table alone.
const VERSION_WHOLE_BODY: i32 = 37;
/// A hundred thousand topics take a tenth of this.
const TABLE_BYTES_MAX: usize = 128 * 1024 * 1024;

/// A registration that cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegisterError {
    /// A JSON part of it.
    #[error(transparent)]
    Json(#[from] BodyError),
    /// Its compression.
    #[error(transparent)]
    Compression(#[from] CompressionError),
    /// The layout of the compressed form.
    #[error("a compressed registration whose {0} cannot be read")]
    Layout(&'static str),
}

impl RegisterBrokerBody {
    /// Reads a registration of a broker of this version.
    pub fn decode(body: &[u8], compressed: bool, version: i32) -> Result<Self, RegisterError> {
        if compressed {
            return decode_lines(&inflate(body, TABLE_BYTES_MAX)?);
        }
        if version >= VERSION_WHOLE_BODY {
            return Ok(from_json(body)?);
        }
        let topic_config_serialize_wrapper = from_json(body)?;
        Ok(Self { topic_config_serialize_wrapper, ..Self::default() })
    }
}

fn decode_lines(mut bytes: &[u8]) -> Result<RegisterBrokerBody, RegisterError> {
    let data_version: DataVersion = from_json(part(&mut bytes, "data version")?)?;
    let count = number(&mut bytes, "number of topics")?;
    let mut table = TopicConfigSerializeWrapper { data_version, ..Default::default() };
    for _ in 0..count {
        let line = part(&mut bytes, "topic")?;
        let line = std::str::from_utf8(line).map_err(|_| RegisterError::Layout("topic"))?;
        let topic = topic(line).ok_or(RegisterError::Layout("topic"))?;
        table.topic_config_table.insert(topic.topic_name.clone(), topic);
    }
    let filter_server_list = from_json(part(&mut bytes, "list of filter servers")?)?;
    // Mappings of static topics may follow, which nobody here reads.
    Ok(RegisterBrokerBody { topic_config_serialize_wrapper: table, filter_server_list })
}

/// `name read write perm filterType`, from 5.0 on also attributes as JSON.
fn topic(line: &str) -> Option<TopicConfig> {
    let mut words = line.splitn(6, ' ');
    let number = |text: Option<&str>| text?.parse().ok();
    let topic_name = words.next()?.to_owned();
    let read_queue_nums = number(words.next())?;
    let write_queue_nums = number(words.next())?;
    let perm = number(words.next())?;
    let topic_filter_type = match words.next()? {
        "MULTI_TAG" => TopicFilterType::MultiTag,
        _ => TopicFilterType::SingleTag,
    };
    let attributes = words.next().and_then(|json| from_json(json.as_bytes()).ok());
    Some(TopicConfig {
        topic_name,
        read_queue_nums,
        write_queue_nums,
        perm,
        topic_filter_type,
        attributes: attributes.unwrap_or_default(),
        ..TopicConfig::default()
    })
}

fn part<'a>(bytes: &mut &'a [u8], what: &'static str) -> Result<&'a [u8], RegisterError> {
    let length = number(bytes, what)?;
    bytes.split_off(..length).ok_or(RegisterError::Layout(what))
}

fn number(bytes: &mut &[u8], what: &'static str) -> Result<usize, RegisterError> {
    let number = bytes.split_off(..4).and_then(|number| number.try_into().ok());
    let number = number.map(i32::from_be_bytes).and_then(|number| usize::try_from(number).ok());
    number.ok_or(RegisterError::Layout(what))
}

#[cfg(test)]
mod tests {
    use super::super::body::to_json;
    use super::super::compression::compress;
    use super::*;

    fn lines(topics: &[&str]) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut part = |text: &str| {
            bytes.extend_from_slice(&(text.len() as u32).to_be_bytes());
            bytes.extend_from_slice(text.as_bytes());
        };
        part(r#"{"counter":2,"timestamp":3}"#);
        topics.iter().for_each(|topic| part(topic));
        part("[]");
        let count = (topics.len() as u32).to_be_bytes();
        let after = 4 + 27;
        bytes.splice(after..after, count);
        bytes
    }

    #[test]
    fn lines_of_both_ages_are_read() {
        let body = lines(&["a 8 4 6 SINGLE_TAG", r#"b 1 1 2 MULTI_TAG {"+x":"y z"}"#]);
        let body = RegisterBrokerBody::decode(&compress(&body), true, 473).unwrap();
        let table = body.topic_config_serialize_wrapper;
        assert_eq!(table.data_version.counter, 2);
        assert_eq!(table.topic_config_table["a"].read_queue_nums, 8);
        assert_eq!(table.topic_config_table["b"].attributes["+x"], "y z");
    }

    #[test]
    fn a_table_alone_and_a_whole_body_are_read() {
        let mut table = TopicConfigSerializeWrapper::default();
        table.topic_config_table.insert("t".into(), TopicConfig::default());
        let old = RegisterBrokerBody::decode(&to_json(&table), false, 30).unwrap();
        let whole = RegisterBrokerBody::decode(&to_json(&old), false, 293).unwrap();
        assert_eq!(whole.topic_config_serialize_wrapper, table);
    }

    #[test]
    fn damage_is_an_error() {
        let body = lines(&["a 8 4 6 SINGLE_TAG"]);
        for end in 0..body.len() {
            assert!(RegisterBrokerBody::decode(&compress(&body[..end]), true, 0).is_err());
        }
        for line in ["", "a", "a x 4 6 SINGLE_TAG", "a 8 4 6"] {
            let body = lines(&[line]);
            assert!(RegisterBrokerBody::decode(&compress(&body), true, 0).is_err());
        }
    }
}
