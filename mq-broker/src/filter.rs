//! `Filter`: does a subscription want a message? Tags are decided on the hash in the consume queue
//! alone; conditions on the properties of the stored record. Not here: who subscribes; what a
//! condition means (`mq-filter`); the comparison of tag texts that removes hash collisions (the
//! consumer does it).
//!
//! Rules: protocol sections 2.5 and 5.5. Invariant: a filter by tags reads no record.

use std::sync::Arc;

use mq_core::properties::{java_hash, pairs};
use mq_core::protocol::body::SubscriptionData;
use mq_core::protocol::code::ResponseCode;
use mq_core::protocol::record::{Record, Verify};
use mq_filter::Sql;

use crate::config::BrokerConfig;
use crate::pull;
use crate::refusal::Refusal;
use crate::store::StoreError;
use crate::store::commit_log::CommitLog;
use crate::store::consume_queue::Entry;

/// A compiled subscription of one topic.
#[derive(Clone, Debug)]
pub(crate) enum Filter {
    All,
    /// Java hashes of the wanted tags, sorted.
    Tags(Vec<i32>),
    /// A condition on the message's properties.
    Sql(Arc<Sql>),
}

/// Bytes of records that [`Filter::sift`] reads at once, save that one record always fits.
const SIFTED_AT_ONCE: usize = 1 << 20;
/// Bytes of records that may be sifted for one answer.
pub(crate) const SIFTED_MAX: usize = 8 << 20;

impl Filter {
    /// Compiles what a heartbeat carries.
    ///
    /// # Errors
    /// A sentence on what is wrong with it.
    pub(crate) fn of(data: &SubscriptionData) -> Result<Self, String> {
        Self::parse(&data.sub_string, Some(&data.expression_type))
    }

    /// Compiles what a request carries.
    ///
    /// # Errors
    /// 23: it cannot be parsed; 1: it is no tag expression, and others are switched off.
    pub(crate) fn requested(
        config: &BrokerConfig,
        expression: &str,
        kind: Option<&str>,
    ) -> Result<Self, Refusal> {
        let filter = Self::parse(expression, kind)
            .map_err(|remark| Refusal::new(ResponseCode::SubscriptionParseFailed, remark));
        match &filter {
            Ok(filter) => filter.check_enabled(config)?,
            Err(_) if !is_tags(kind) && !config.enable_property_filter => {
                return Err(switched_off());
            }
            Err(_) => {}
        }
        filter
    }

    /// # Errors
    /// 1: conditions are switched off, and it is one.
    pub(crate) fn check_enabled(&self, config: &BrokerConfig) -> Result<(), Refusal> {
        match self {
            Self::Sql(_) if !config.enable_property_filter => Err(switched_off()),
            _ => Ok(()),
        }
    }

    fn parse(expression: &str, kind: Option<&str>) -> Result<Self, String> {
        match kind {
            kind if is_tags(kind) => {
                let tags = mq_filter::tags(expression).map_err(|error| error.to_string())?;
                Ok(Self::of_tags(&tags))
            }
            Some(SubscriptionData::SQL92) => {
                let sql = Sql::parse(expression).map_err(|error| error.to_string())?;
                Ok(Self::Sql(Arc::new(sql)))
            }
            kind => {
                let kind = kind.unwrap_or_default();
                Err(format!("there is no expression type {kind}: use TAG or SQL92"))
            }
        }
    }

    fn of_tags(tags: &[&str]) -> Self {
        if tags.is_empty() {
            return Self::All;
        }
        let mut hashes: Vec<i32> = tags.iter().map(|tag| java_hash(tag)).collect();
        hashes.sort_unstable();
        hashes.dedup();
        Self::Tags(hashes)
    }

    /// May a message with this consume queue tags code be wanted? [`Self::sift`] has to be asked
    /// before.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the match compares 32 bits, protocol 9.26"
    )]
    pub(crate) fn wants(&self, tags_code: i64) -> bool {
        match self {
            Self::All | Self::Sql(_) => true,
            Self::Tags(hashes) => hashes.binary_search(&(tags_code as i32)).is_ok(),
        }
    }

    /// Decides what tags codes cannot tell: entries whose records are not wanted become holes, and
    /// those that were not come to are cut off. Returns how many bytes of records were looked at.
    pub(crate) fn sift(
        &self,
        log: &CommitLog,
        entries: &mut Vec<Entry>,
    ) -> Result<usize, StoreError> {
        let Self::Sql(sql) = self else { return Ok(0) };
        cut_off(entries);
        let messages: Vec<Entry> =
            entries.iter().filter(|entry| !entry.is_hole()).copied().collect();
        let records = pull::records(log, &messages)?;
        let mut rest = &records[..];
        for entry in entries.iter_mut().filter(|entry| !entry.is_hole()) {
            let (record, behind) = rest.split_at_checked(size(entry)).unwrap_or((rest, &[]));
            rest = behind;
            // What cannot be decoded has no properties.
            let properties = Record::decode(record, Verify::None).map_or("", |r| r.0.properties);
            if !sql.matches(pairs(properties)) {
                *entry = Entry::HOLE;
            }
        }
        Ok(records.len())
    }
}

fn is_tags(kind: Option<&str>) -> bool {
    matches!(kind, None | Some("" | SubscriptionData::TAG))
}

fn switched_off() -> Refusal {
    // As Apache says it.
    let remark = "The broker does not support consumer to filter message by SQL92";
    Refusal::new(ResponseCode::SystemError, format!("{remark}: set enablePropertyFilter=true"))
}

fn size(entry: &Entry) -> usize {
    if entry.is_hole() { 0 } else { usize::try_from(entry.size).unwrap_or(0) }
}

fn cut_off(entries: &mut Vec<Entry>) {
    let mut bytes = 0;
    let fits = entries.iter().take_while(|entry| {
        bytes += size(entry);
        bytes <= SIFTED_AT_ONCE
    });
    let fitting = fits.count().max(1);
    entries.truncate(fitting);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_compile_to_hashes() {
        assert!(matches!(Filter::parse("*", Some("TAG")), Ok(Filter::All)));
        assert!(matches!(Filter::parse(" ", None), Ok(Filter::All)));
        let two = Filter::parse("TagA || TagB", None).expect("a tag expression");
        assert!(two.wants(2_598_919) && two.wants(2_598_920) && !two.wants(0));
        assert!(two.wants(i64::from(2_598_919_i32)));
        let tags = Filter::parse("a > 1", None).expect("a tag with blanks in it");
        assert!(matches!(tags, Filter::Tags(_)));
    }

    #[test]
    fn conditions_compile_where_they_are_enabled() {
        let mut config = BrokerConfig::default();
        let request = |config: &BrokerConfig, expression, kind| {
            Filter::requested(config, expression, Some(kind)).map_err(|refusal| refusal.code)
        };
        assert!(matches!(request(&config, "a > 1", "SQL92"), Ok(Filter::Sql(_))));
        let refused = request(&config, "a >", "SQL92").unwrap_err();
        assert_eq!(refused, ResponseCode::SubscriptionParseFailed);
        let refused = request(&config, "a > 1", "sql").unwrap_err();
        assert_eq!(refused, ResponseCode::SubscriptionParseFailed);
        config.enable_property_filter = false;
        for expression in ["a > 1", "a >"] {
            let refused = request(&config, expression, "SQL92").unwrap_err();
            assert_eq!(refused, ResponseCode::SystemError);
        }
        assert!(request(&config, "a", "TAG").is_ok());
    }

    #[test]
    fn no_more_is_sifted_at_once_than_fits() {
        let entry = |size| Entry { physical_offset: 1, size, tags_code: 0 };
        let mut entries = vec![entry(600_000), Entry::HOLE, entry(400_000), entry(600_000)];
        cut_off(&mut entries);
        assert_eq!(entries.len(), 3);
        let mut entries = vec![entry(4_000_000), entry(1)];
        cut_off(&mut entries);
        assert_eq!(entries.len(), 1);
    }
}
