use common_mq::prelude::*;

struct Pool;

#[bean]
async fn pool(url: String, other: Bean<Pool>) -> Pool {
    drop((url, other));
    Pool
}

fn main() {}
