use common_mq::prelude::*;

#[mq_listener(topic = "orders", group = "billing")]
async fn yes_or_no(body: Bytes) -> bool {
    body.is_empty()
}

struct NoText;

#[mq_listener(topic = "orders", group = "billing")]
async fn error_without_text(body: Bytes) -> Result<(), NoText> {
    drop(body);
    Err(NoText)
}

fn main() {}
