//! `Filter`: does a subscription want a message? Decided on the tag hash in the consume queue
//! alone. Not here: who subscribes; the comparison of tag texts that removes hash collisions (the
//! consumer does it).
//!
//! Rules: protocol sections 2.5 and 5.5.

use mq_core::properties::java_hash;
use mq_core::protocol::body::SubscriptionData;

/// A compiled subscription of one topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Filter {
    All,
    /// Java hashes of the wanted tags, sorted.
    Tags(Vec<i32>),
}

/// Tags in one expression.
const TAGS_MAX: usize = 1_024;

impl Filter {
    /// Compiles what a heartbeat carries.
    ///
    /// # Errors
    /// A sentence on what this broker cannot evaluate.
    pub(crate) fn of(data: &SubscriptionData) -> Result<Self, String> {
        Self::parse(&data.sub_string, Some(&data.expression_type))
    }

    /// Compiles `a || b`, `*` or nothing.
    ///
    /// # Errors
    /// As [`Self::of`].
    pub(crate) fn parse(expression: &str, kind: Option<&str>) -> Result<Self, String> {
        match kind {
            None | Some("TAG" | "") => {}
            Some(kind) => {
                return Err(format!(
                    "The broker does not support consumer to filter message by {kind}: use tags"
                ));
            }
        }
        let tags: Vec<&str> =
            expression.split("||").map(str::trim).filter(|tag| !tag.is_empty()).collect();
        if tags.len() > TAGS_MAX {
            return Err(format!("{} tags; at most {TAGS_MAX} are allowed", tags.len()));
        }
        if tags.is_empty() || tags == ["*"] {
            return Ok(Self::All);
        }
        let mut hashes: Vec<i32> = tags.into_iter().map(java_hash).collect();
        hashes.sort_unstable();
        hashes.dedup();
        Ok(Self::Tags(hashes))
    }

    /// May a message with this consume queue tags code be wanted?
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the match compares 32 bits, protocol 9.26"
    )]
    pub(crate) fn wants(&self, tags_code: i64) -> bool {
        match self {
            Self::All => true,
            Self::Tags(hashes) => hashes.binary_search(&(tags_code as i32)).is_ok(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_compile_to_hashes() {
        assert_eq!(Filter::parse("*", Some("TAG")), Ok(Filter::All));
        assert_eq!(Filter::parse(" ", None), Ok(Filter::All));
        let two = Filter::parse("TagA || TagB", None).expect("a tag expression");
        assert!(two.wants(2_598_919) && two.wants(2_598_920) && !two.wants(0));
        assert!(two.wants(i64::from(2_598_919_i32)));
        assert!(Filter::parse("a > 1", Some("SQL92")).is_err());
    }
}
