use common_mq::prelude::*;

#[common_mq::main]
fn main(app: App) -> common_mq::Result {
    drop(app);
    Ok(())
}
