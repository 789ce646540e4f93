use common_mq::prelude::*;

#[common_mq::main(scan(common_mq))]
async fn main(app: App) -> common_mq::Result {
    app.run().await
}
