//! `post_construct` runs after injection and before any listener starts, and may send and fail;
//! `pre_destroy` runs after listeners have drained, in reverse.

use common_mq::Error;
use common_mq::prelude::*;
use support::{Notes, application};

#[component]
struct Stock {
    notes: Bean<Notes>,
    mq: Mq,
}

#[component]
impl Stock {
    #[post_construct]
    async fn load(&self) -> common_mq::Result {
        self.mq.to("loaded").text("stock").send().await?;
        // Time enough for a listener that has started too early.
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
        self.notes.take("stock is loaded");
        Ok(())
    }

    #[pre_destroy]
    async fn save(&self) {
        self.notes.take("stock is saved");
    }
}

#[component]
struct Shop {
    stock: Bean<Stock>,
}

#[component]
impl Shop {
    #[post_construct]
    async fn open(&self) {
        self.stock.notes.take("shop is open");
    }

    #[mq_listener(topic = "loaded", group = "shop")]
    async fn on_loaded(&self, Text(what): Text) {
        self.stock.notes.take(format!("{what} is heard"));
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        self.stock.notes.take(format!("{what} is handled"));
    }

    #[pre_destroy]
    async fn close(&self) {
        self.stock.notes.take("shop is closed");
    }
}

#[tokio::test]
async fn hooks_stand_around_the_listeners() {
    let store = tempfile::tempdir().expect("a temporary directory");
    let (notes, mut taken) = Notes::new();
    let app = application(store.path()).component::<Shop>().provide(notes);
    let running = app.start().await.expect("it starts");
    for expected in ["stock is loaded", "shop is open", "stock is heard"] {
        assert_eq!(taken.next().await, expected);
    }
    running.stop().await.expect("it stops");
    assert_eq!(taken.rest(), ["stock is handled", "shop is closed", "stock is saved"]);
}

#[component]
struct Broken {
    stock: Bean<Stock>,
}

#[component]
impl Broken {
    #[post_construct]
    async fn open(&self) -> Result<(), String> {
        self.stock.notes.take("broken is tried");
        Err("the door is stuck".to_owned())
    }

    #[pre_destroy]
    async fn close(&self) {
        self.stock.notes.take("broken is closed");
    }
}

#[tokio::test]
async fn a_hook_that_fails_stops_the_start_and_what_had_started() {
    let store = tempfile::tempdir().expect("a temporary directory");
    let (notes, mut taken) = Notes::new();
    let app = application(store.path()).component::<Broken>().provide(notes.clone());
    let error = app.start().await.expect_err("the hook fails");
    assert!(matches!(error, Error::Start(_)), "{error:?}");
    let text = error.to_string();
    assert!(text.starts_with("Broken::open failed: the door is stuck"), "{text}");
    assert!(text.contains("tests/hooks.rs:"), "{text}");
    assert_eq!(taken.rest(), ["stock is loaded", "broken is tried", "stock is saved"]);

    let app = application(store.path()).component::<Stock>().provide(notes);
    let again = app.start().await.expect("the broker has let go of its store");
    again.stop().await.expect("it stops");
}
