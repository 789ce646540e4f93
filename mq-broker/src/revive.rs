//! Popped messages that nobody acknowledged in time: each goes to its group's pop retry topic, or
//! after the last attempt to the dead letter topic. Not here: when (`flights`), handing out
//! (`pop`).
//!
//! Invariants: the copy is stored as safely as a send before the original is done with; so a crash
//! hands a message out once more, and never loses it. A message acknowledged while its copy is
//! written may come twice.

use std::sync::Arc;

use mq_core::names;
use mq_core::properties::{Properties, key};
use mq_core::protocol::record::{NewRecord, Record, Verify};
use tracing::warn;

use crate::broker::{Broker, FULL_PAUSE};
use crate::config::FlushDiskType;
use crate::flights::{Due, lock};
use crate::refusal::Refusal;
use crate::store::StoreError;

/// Brings back what was not acknowledged in time, until the broker stops.
pub(crate) async fn run(broker: Arc<Broker>) {
    let flights = &broker.flights;
    loop {
        let known = flights.sooner.get();
        let first = flights.first_end_ms();
        let ended = async {
            match first {
                Some(at_ms) => broker.clock.sleep_until(at_ms).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            sooner = flights.sooner.reached(known + 1) => if sooner.is_err() { return },
            () = ended => {}
        }
        while let Some(due) = flights.next_ended(broker.clock.now_ms()) {
            match bring_back(&broker, &due).await {
                Ok(()) => {}
                Err(StoreError::Full) => {
                    flights.end_at(broker.clock.now_ms(), due);
                    tokio::time::sleep(FULL_PAUSE).await;
                }
                Err(error) => return broker.fail("revive", &error),
            }
        }
    }
}

async fn bring_back(broker: &Broker, due: &Due) -> Result<(), StoreError> {
    let window = broker.flights.window(&due.lane);
    let offsets = lock(&window).of_pop(due);
    let mut end = 0;
    for offset in &offsets {
        end = put_back(broker, due, *offset)?.unwrap_or(end);
    }
    if broker.config.flush_disk_type == FlushDiskType::Sync
        && let Err(closed) = broker.store.log.flushed.reached(end).await
    {
        return Err(StoreError::Poisoned(closed.to_string().into()));
    }
    let mut window = lock(&window);
    for offset in offsets {
        window.land(offset, due.pop_time_ms);
    }
    if let Some(offset) = window.commit() {
        let lane = &due.lane;
        broker.offsets.commit(&lane.group, &lane.topic, lane.queue_id, offset);
    }
    Ok(())
}

/// Stores the copy; gives the end of its record. A message that cannot be read is passed over and
/// told.
fn put_back(broker: &Broker, due: &Due, offset: i64) -> Result<Option<u64>, StoreError> {
    let lane = &due.lane;
    let Some(queue) = broker.store.queues.queue(&lane.topic, lane.queue_id) else {
        return Ok(None);
    };
    let entries = if offset >= queue.min_offset() { queue.read(offset, 1)? } else { Vec::new() };
    let Some(at) = entries.first().and_then(|entry| u64::try_from(entry.physical_offset).ok())
    else {
        return Ok(None);
    };
    let copied = match broker.store.log.read_record_at(at) {
        Ok(bytes) => match Record::decode(&bytes, Verify::None) {
            Ok((record, _)) => return copy(broker, due, &record).map(Some),
            Err(error) => error.to_string(),
        },
        Err(StoreError::Corrupt { what, .. }) => what,
        Err(error) => return Err(error),
    };
    warn!(topic = &*lane.topic, offset, copied, "a message that was not acknowledged is damaged");
    Ok(None)
}

fn copy(broker: &Broker, due: &Due, record: &Record<'_>) -> Result<u64, StoreError> {
    let lane = &due.lane;
    let mut properties = Properties::from_wire(record.properties.to_owned());
    if properties.get(key::FIRST_POP_TIME).is_none() {
        properties.set(key::FIRST_POP_TIME, &due.pop_time_ms.to_string());
    }
    let retried = lane.topic.starts_with(names::RETRY_PREFIX);
    let spent = broker
        .catalog
        .group(&lane.group)
        .is_ok_and(|group| record.reconsume_times >= group.retry_max_times);
    let topic = match (spent, retried) {
        (true, _) => names::dlq_topic(&lane.group),
        (false, true) => lane.topic.to_string(),
        (false, false) => names::pop_retry_topic(&lane.group, &lane.topic),
    };
    if properties.get(key::RETRY_TOPIC).is_none() && !retried {
        properties.set(key::RETRY_TOPIC, &lane.topic);
    }
    if properties.get(key::ORIGIN_MESSAGE_ID).is_none() {
        properties.set(key::ORIGIN_MESSAGE_ID, &record.offset_msg_id());
    }
    properties.remove(key::DELAY);
    let made = broker.catalog.ensure_topic(&topic, 1);
    if let Err(Refusal { remark, .. }) = made {
        warn!(topic, remark, "a topic for messages that were not acknowledged cannot be made");
    }
    let copy = NewRecord {
        topic: &topic,
        queue_id: 0,
        properties: properties.as_str(),
        reconsume_times: record.reconsume_times.saturating_add(u16::from(!spent).into()),
        ..record.copy()
    };
    let appended = broker.store.log.append(&[copy])?;
    Ok(appended.last().map_or(0, |one| one.end()))
}
