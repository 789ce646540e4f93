use std::collections::HashMap;

use common_mq::prelude::*;

#[component]
struct Ledger {
    entries: HashMap<u64, u64>,
    #[init]
    seen: HashMap<u64, u64>,
}

struct Section;

#[component]
struct Configured {
    section: Cfg<Section>,
}

fn main() {}
