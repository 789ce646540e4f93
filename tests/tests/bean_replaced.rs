//! What a test gives the application stands in the place of what the program would make: a value, a
//! factory, an implementation of a trait.

use std::sync::Arc;

use common_mq::prelude::*;
use support::application;

#[derive(Debug)]
struct Rate(u32);

#[bean]
async fn rate() -> Rate {
    panic!("the real one is not called")
}

mod stub {
    use super::*;

    #[bean(destroy = gone)]
    pub(super) fn rate() -> Rate {
        Rate(2)
    }

    async fn gone(rate: &Rate) -> Result<(), String> {
        Err(format!("{rate:?} is gone"))
    }
}

#[component]
trait Shelf: Send + Sync {
    fn price(&self) -> u32;
}

#[component(provides = dyn Shelf)]
struct Stored {
    rate: Ext<Rate>,
}

impl Shelf for Stored {
    fn price(&self) -> u32 {
        self.rate.0 * 10
    }
}

#[component]
struct Shop {
    shelf: Bean<dyn Shelf>,
}

async fn price(app: common_mq::App) -> u32 {
    let running = app.component::<Shop>().start().await.expect("it starts");
    let price = running.bean::<Shop>().expect("it is there").shelf.price();
    _ = running.stop().await;
    price
}

#[tokio::test]
async fn a_value_stands_in_for_a_factory() {
    let store = tempfile::tempdir().expect("a temporary directory");
    let app = application(store.path()).provide_ext(Ext::new(Rate(3)));
    assert_eq!(price(app).await, 30);
}

/// The registered factory of the same type would be a second maker, were it not for the rule.
#[tokio::test]
async fn a_factory_stands_in_for_another_with_its_own_end() {
    let store = tempfile::tempdir().expect("a temporary directory");
    let app = application(store.path()).bean(def!(stub::rate)).component::<Shop>();
    let running = app.start().await.expect("only one of the two makes it");
    assert_eq!(running.bean::<dyn Shelf>().map(|shelf| shelf.price()), Some(20));
    let end = running.stop().await.expect_err("its end fails");
    assert!(end.to_string().starts_with("rate::destroy failed: Rate(2) is gone"), "{end}");
}

struct Paper;

impl Shelf for Paper {
    fn price(&self) -> u32 {
        7
    }
}

#[tokio::test]
async fn a_value_stands_in_for_who_provides_a_trait() {
    let store = tempfile::tempdir().expect("a temporary directory");
    let paper = Ext::from(Arc::new(Paper) as Arc<dyn Shelf>);
    assert_eq!(price(application(store.path()).provide_ext(paper)).await, 7);
    let by_hand = Shop { shelf: Bean::from(Arc::new(Paper) as Arc<dyn Shelf>) };
    assert_eq!(by_hand.shelf.price(), 7);
}
