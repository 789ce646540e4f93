use common_mq::prelude::*;

#[mq_listener(topic = "t", group = "a", sql = "region == 'eu'")]
async fn equality() {}

#[mq_listener(topic = "t", group = "b", sql = "region = \"eu\" AND size > 3")]
async fn quotes() {}

#[mq_listener(topic = "t", group = "c", sql = "NOT region = 'eu'")]
async fn not() {}

#[mq_listener(topic = "t", group = "d", sql = "size > 3 AND")]
async fn end() {}

#[mq_listener(topic = "t", group = "e", sql = "size > 3", tags = "a")]
async fn both() {}

#[mq_listener(topic = "t", group = "f", sql = "size > ${shop.size:3}")]
async fn resolved_at_the_start() {}

#[mq_listener(topic = "t", group = "g", sql = "size BETWEEN 3 AND 5 OR region IN ('eu', 'us')")]
async fn good() {}

fn main() {}
