use common_mq::prelude::*;

#[component]
trait Repo: Send + Sync {}

#[component(provides = Repo)]
struct Bare {}

impl Repo for Bare {}

#[component(qualifier = Fast)]
struct Fast {}

#[component(provides = dyn Repo)]
struct Stranger {}

fn main() {}
