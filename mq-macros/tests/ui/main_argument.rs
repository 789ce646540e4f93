use common_mq::prelude::*;

#[common_mq::main(scam(orders))]
async fn main(app: App) -> common_mq::Result {
    app.run().await
}
