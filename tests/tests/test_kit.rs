//! The test kit: an application on a broker, a store and a clock of its own; time passes when the
//! test says so, and what is due is waited for by counting.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use common_mq::prelude::*;
use common_mq::test::TestMq;

const MINUTE: Duration = Duration::from_secs(60);

#[derive(Message, Serialize, Deserialize)]
#[message(topic = "orders", tag = "made")]
struct OrderMade {
    id: u32,
}

/// What the shop knows; a test puts another in its place.
#[component(provided)]
struct Till {
    paid: AtomicU32,
}

#[component]
struct Orders {
    till: Bean<Till>,
    mq: Mq,
    #[init]
    cancelled: AtomicU32,
}

#[component]
impl Orders {
    #[mq_listener(group = "orders")]
    async fn on_made(&self, order: OrderMade) -> common_mq::Result {
        let OrderMade { id } = order;
        self.mq.to("time-outs").text(id.to_string()).delay_level(14).send().await?;
        Ok(())
    }

    #[mq_listener(topic = "time-outs", group = "time-outs")]
    async fn on_time_out(&self, _id: Text) {
        if self.till.paid.load(Ordering::Relaxed) == 0 {
            self.cancelled.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn till(paid: u32) -> Till {
    Till { paid: AtomicU32::new(paid) }
}

#[common_mq::test(components = [Orders], provide = [till(0)])]
async fn an_unpaid_order_is_cancelled_after_ten_minutes(test: TestMq) {
    let began_ms = test.now_ms();
    test.send(&OrderMade { id: 7 }).await;
    test.advance(9 * MINUTE).await;
    let time_outs = def!(Orders::on_time_out);
    assert_eq!(test.calls(time_outs).len(), 0);
    test.advance(2 * MINUTE).await;
    let calls = test.calls(time_outs);
    assert!(calls.len() == 1 && calls[0].is_acked());
    assert_eq!(calls[0].at_ms - began_ms, 600_000, "the clock stood still at the moment");
    assert_eq!(test.bean::<Orders>().cancelled.load(Ordering::Relaxed), 1);
}

#[common_mq::test(components = [Orders], provide = [till(1)])]
async fn a_stand_in_takes_the_place_of_a_component(test: TestMq) {
    test.send(&OrderMade { id: 7 }).await;
    test.advance(11 * MINUTE).await;
    assert_eq!(test.calls(def!(Orders::on_time_out)).len(), 1);
    assert_eq!(test.bean::<Orders>().cancelled.load(Ordering::Relaxed), 0);
}

#[common_mq::test(listeners = [Orders::on_made], provide = [till(0)])]
async fn only_what_is_named_listens_and_failures_are_retried_in_their_intervals(test: TestMq) {
    test.fail_next(3);
    test.send(&OrderMade { id: 7 }).await;
    // Another tag: nobody waits for it, and nobody is waited for.
    test.mq().to("orders").tag("other").text("x").send().await.expect("it is stored");
    test.advance(5 * MINUTE).await;
    let calls = test.calls(def!(Orders::on_made));
    let waited: Vec<i64> =
        calls.windows(2).map(|pair| (pair[1].at_ms - pair[0].at_ms) / 1_000).collect();
    assert_eq!(waited, [10, 30, 60]);
    assert_eq!(calls.iter().filter(|call| call.is_acked()).count(), 1);
    assert!(test.calls(def!(Orders::on_time_out)).is_empty());
}

#[common_mq::test(components = [Orders], provide = [till(0)])]
async fn what_was_sent_outlives_a_crash_and_a_restart(mut test: TestMq) {
    test.send(&OrderMade { id: 7 }).await;
    test.settled().await;
    test.crash().await;
    test.send(&OrderMade { id: 8 }).await;
    test.settled().await;
    test.restart().await;
    test.advance(11 * MINUTE).await;
    // At least once each: the crash came before the offset was told.
    let calls = test.calls(def!(Orders::on_time_out));
    let timed_out: BTreeSet<&[u8]> = calls.iter().map(|call| &call.delivery.body[..]).collect();
    assert_eq!(timed_out, BTreeSet::from([&b"7"[..], b"8"]));
    test.stop().await;
}
