use common_mq::prelude::*;

#[common_mq::main]
async fn main() -> common_mq::Result {
    App::new().run().await
}
