//! A trait is injected: one component provides it, others under a qualifier, a factory makes one.

use std::sync::Arc;

use common_mq::prelude::*;
use support::application;

#[component]
trait Greeting: Send + Sync {
    fn text(&self) -> String;
}

#[component(provides = dyn Greeting)]
struct Plain {
    #[init("good day")]
    words: &'static str,
}

impl Greeting for Plain {
    fn text(&self) -> String {
        self.words.to_owned()
    }
}

struct Loud;

#[component(provides = dyn Greeting, qualifier = Loud)]
struct Louder {
    plain: Bean<dyn Greeting>,
}

impl Greeting for Louder {
    fn text(&self) -> String {
        self.plain.text().to_uppercase()
    }
}

struct Twice(Ext<dyn Greeting, Loud>);

impl Greeting for Twice {
    fn text(&self) -> String {
        format!("{0} {0}", self.0.text())
    }
}

struct Doubled;

#[bean(qualifier = Doubled)]
fn twice(loud: Ext<dyn Greeting, Loud>) -> Arc<dyn Greeting> {
    Arc::new(Twice(loud))
}

#[component]
struct Host {
    plain: Bean<dyn Greeting>,
    same: Bean<Plain>,
    doubled: Ext<dyn Greeting, Doubled>,
}

#[tokio::test]
async fn a_trait_is_injected_as_what_provides_it() {
    let store = tempfile::tempdir().expect("a temporary directory");
    let app = application(store.path()).component::<Host>();
    let running = app.start().await.expect("it starts");
    let host = running.bean::<Host>().expect("it is there");
    assert_eq!(host.plain.text(), "good day");
    assert_eq!(host.doubled.text(), "GOOD DAY GOOD DAY");
    let (plain, same) = (std::ptr::from_ref(&*host.plain).addr(), std::ptr::from_ref(&*host.same));
    assert_eq!(plain, same.addr(), "there is one instance");
    running.stop().await.expect("it stops");
}
