use common_mq::prelude::*;

#[component]
trait Repo<T> {
    fn find(&self) -> T;
}

#[component(provided)]
trait Index: Send + Sync {}

#[component]
trait Local {}

trait Forgotten: Send + Sync {}

#[component]
struct Shop {
    forgotten: Bean<dyn Forgotten>,
}

fn main() {}
