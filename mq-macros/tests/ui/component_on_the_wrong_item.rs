use common_mq::prelude::*;

#[component]
enum Ledger {
    Empty,
}

struct Book;

#[component]
impl Clone for Book {
    fn clone(&self) -> Self {
        Book
    }
}

#[component(provide)]
struct Page;

fn main() {}
