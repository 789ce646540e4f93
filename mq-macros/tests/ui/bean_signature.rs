use common_mq::prelude::*;

struct Pool;

#[bean]
async fn generic<T: Default>() -> T {
    T::default()
}

#[bean]
fn borrows(name: &str) -> Pool {
    drop(name);
    Pool
}

#[bean]
async fn nothing() {}

#[bean]
fn hidden() -> impl Send + Sync {
    Pool
}

#[bean]
struct Owned;

#[component]
struct Shop {}

impl Shop {
    #[bean]
    fn pool(&self) -> Pool {
        Pool
    }
}

fn main() {}
