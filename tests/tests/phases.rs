//! Beans are made by phase and destroyed in reverse, listeners start by phase and the last one
//! drains first; what a bean needs comes before it in any case.

use std::time::Duration;

use common_mq::prelude::*;
use support::{Notes, application};
use tokio::sync::Semaphore;

macro_rules! noting {
    ($($component:ident;)*) => {$(
        #[component]
        impl $component {
            #[post_construct]
            async fn open(&self) {
                self.notes.take(concat!(stringify!($component), " opens"));
            }

            #[pre_destroy]
            async fn close(&self) {
                self.notes.take(concat!(stringify!($component), " closes"));
            }
        }
    )*};
}

#[component]
struct Middle {
    notes: Bean<Notes>,
}

#[component(phase = 10)]
struct Late {
    notes: Bean<Notes>,
}

#[component(phase = -10)]
struct Early {
    notes: Bean<Notes>,
    _needed: Bean<Needed>,
}

#[component(phase = 20)]
struct Needed {
    notes: Bean<Notes>,
}

noting! { Middle; Late; Early; Needed; }

#[tokio::test]
async fn beans_come_and_go_by_phase() {
    let store = tempfile::tempdir().expect("a temporary directory");
    let (notes, mut taken) = Notes::new();
    let app = application(store.path()).component::<Late>().component::<Middle>();
    let running = app.component::<Early>().provide(notes).start().await.expect("it starts");
    running.stop().await.expect("it stops");
    let up = ["Needed opens", "Early opens", "Middle opens", "Late opens"];
    let down = ["Late closes", "Middle closes", "Early closes", "Needed closes"];
    assert_eq!(taken.rest(), [up, down].concat());
}

/// Opened when the source may come to its end.
#[component]
struct Gate {
    #[init(Semaphore::new(0))]
    open: Semaphore,
}

#[mq_listener(topic = "source", group = "source", phase = 1)]
async fn on_source(mq: Mq, gate: Bean<Gate>, notes: Bean<Notes>) -> common_mq::Result {
    notes.take("source begins");
    gate.open.acquire().await.expect("it is never closed").forget();
    mq.to("sink").text("last").send().await?;
    // What was sent reaches the sink, which still listens.
    gate.open.acquire().await.expect("it is never closed").forget();
    notes.take("source ends");
    Ok(())
}

#[mq_listener(topic = "sink", group = "sink")]
async fn on_sink(gate: Bean<Gate>, notes: Bean<Notes>) {
    notes.take("sink has it");
    gate.open.add_permits(1);
}

#[tokio::test]
async fn the_last_phase_of_listeners_drains_while_the_others_work() {
    let store = tempfile::tempdir().expect("a temporary directory");
    let (notes, mut taken) = Notes::new();
    let app = application(store.path()).listener(def!(on_source)).listener(def!(on_sink));
    let running = app.provide(notes).start().await.expect("it starts");
    let gate = running.bean::<Gate>().expect("it is there");
    running.mq().to("source").text("first").send().await.expect("it is stored");
    assert_eq!(taken.next().await, "source begins");
    let opened = async {
        // By then the stop has begun: nothing else could make the two take turns.
        tokio::time::sleep(Duration::from_millis(300)).await;
        gate.open.add_permits(1);
    };
    let (stopped, ()) = tokio::join!(running.stop(), opened);
    stopped.expect("it stops");
    assert_eq!(taken.rest(), ["sink has it", "source ends"]);
}
