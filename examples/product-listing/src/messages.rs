//! What the two services say to each other, and all that they share. A message carries the whole
//! product, so the search service never asks back, and a version, so that one which comes late or
//! twice does no harm.

use common_mq::prelude::{Deserialize, Message, Serialize};

/// The product can be bought: find it.
#[derive(Debug, Clone, Message, Serialize, Deserialize)]
#[message(topic = "product-shelf", tag = "on", key = "sku")]
pub(crate) struct OnShelf {
    pub(crate) sku: u64,
    /// Counts the changes of this product; the highest one is right.
    pub(crate) version: u64,
    pub(crate) category: String,
    pub(crate) price_cents: u64,
    pub(crate) title: Text,
    pub(crate) description: Text,
}

/// The product can no longer be bought: do not find it.
#[derive(Debug, Clone, Message, Serialize, Deserialize)]
#[message(topic = "product-shelf", tag = "off", key = "sku")]
pub(crate) struct OffShelf {
    pub(crate) sku: u64,
    pub(crate) version: u64,
}

/// A text in the two languages of the shop.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Text {
    pub(crate) en: String,
    pub(crate) zh: String,
}
