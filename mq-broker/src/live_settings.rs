//! Settings that an administrator changes while the server runs: verbs 25 and 26, the rules of 318,
//! and the file of the broker's changes. Not here: which settings may change (`config.rs`), the
//! name server's file (`namesrv.rs`).
//!
//! Invariants: nothing of a request is applied unless all of it is good; what is applied is on disk
//! first; a setting that names a path, a program or an address cannot be changed here, because only
//! numbers and switches are hot; every change leaves a line in the log.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use mq_core::protocol::body::{DataVersion, to_json};
use mq_core::protocol::code::ResponseCode;
use mq_core::protocol::command::Command;
use mq_core::protocol::header::BrokerConfigResponse;
use serde::{Deserialize, Serialize};
use tracing::{info, warn};

use crate::broker::Broker;
use crate::config::{BrokerConfig, Settings, Sources};
use crate::dispatch::{Answer, Handled};
use crate::java_properties;
use crate::refusal::Refusal;
use crate::store::StoreError;
use crate::store::disk::Disk;
use crate::store::table_file::TableFile;

/// Keys and values.
pub(crate) type Changes = BTreeMap<String, String>;

/// Settings that tools read of every broker, as they are here, where nothing can be set.
const FACTS: [(&str, &str); 6] = [
    ("fileReservedTime", "2147483647"),
    ("filterServerNums", "0"),
    ("msgTraceTopicName", mq_core::names::TRACE_TOPIC),
    ("slaveReadEnable", "false"),
    ("traceTopicEnable", "false"),
    ("useTLS", "false"),
];

/// What was changed since the broker's configuration was written.
#[derive(Debug)]
pub(crate) struct LiveSettings {
    saved: Mutex<Saved>,
    file: TableFile,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Saved {
    settings: Changes,
    data_version: DataVersion,
}

impl LiveSettings {
    /// Reads what was changed before, and applies it: it wins over the configuration file.
    pub(crate) fn open(
        disk: &Arc<dyn Disk>,
        folder: &Path,
        config: &BrokerConfig,
    ) -> Result<Self, StoreError> {
        let path = folder.join("liveSettings.json");
        let file = TableFile::new(Arc::clone(disk), path.clone());
        let saved: Saved = file.load()?.unwrap_or_default();
        restore(config, &saved.settings, &path.display().to_string());
        Ok(Self { saved: Mutex::new(saved), file })
    }
}

/// Applies changes that were saved. One that is not good any more is told and left out.
pub(crate) fn restore<C: Settings>(config: &C, saved: &Changes, file: &str) {
    for (key, value) in saved {
        match check(config, &Changes::from([(key.clone(), value.clone())])) {
            Ok(()) => apply(config, &Changes::from([(key.clone(), value.clone())])),
            Err(refusal) => warn!(file, key, value, refusal.remark, "a change is not taken over"),
        }
    }
}

/// Reads the properties text of a request.
pub(crate) fn parse(body: &[u8]) -> Result<Changes, Refusal> {
    let illegal = |remark: &str| Refusal::new(ResponseCode::SystemError, remark);
    let text = std::str::from_utf8(body).map_err(|_| illegal("the settings are not UTF-8"))?;
    let entries = java_properties::parse(text).into_iter();
    let pairs = entries.map(|entry| entry.map(|entry| (entry.key, entry.value)));
    let changes = pairs.collect::<Result<Changes, _>>();
    let changes = changes.map_err(|_| illegal("the settings have a malformed \\uXXXX escape"))?;
    match changes.is_empty() {
        true => Err(illegal("no setting is given: give lines of key=value")),
        false => Ok(changes),
    }
}

/// Whether `changes` may be made: all keys are hot, and the configuration is good with them.
pub(crate) fn check<C: Settings>(config: &C, changes: &Changes) -> Result<(), Refusal> {
    let cold: Vec<&str> =
        changes.keys().map(String::as_str).filter(|key| !config.is_hot(key)).collect();
    if !cold.is_empty() {
        let hot: Vec<&str> = C::KEYS.iter().copied().filter(|key| config.is_hot(key)).collect();
        let remark = format!(
            "{} cannot be changed while the server runs: change the configuration file and \
             restart; what can be changed is {}",
            cold.join(", ").escape_debug(),
            hot.join(", ")
        );
        return Err(Refusal::new(ResponseCode::NoPermission, remark));
    }
    let entries = config.entries();
    let mut pairs: Vec<(&str, &str)> = entries.iter().map(|(k, v)| (*k, v.as_str())).collect();
    pairs.extend(changes.iter().map(|(key, value)| (key.as_str(), value.as_str())));
    match C::load(&Sources { file: None, pairs }) {
        Ok(_) => Ok(()),
        Err(error) => Err(Refusal::new(ResponseCode::SystemError, error.to_string())),
    }
}

/// Makes changes that were checked.
pub(crate) fn apply<C: Settings>(config: &C, changes: &Changes) {
    let before: BTreeMap<&str, String> = config.entries().into_iter().collect();
    for (key, value) in changes {
        let was = before.get(key.as_str()).map_or("", String::as_str);
        match config.change(key, value) {
            Ok(_) => info!(key, was, is = value, "a setting was changed"),
            Err(why) => warn!(key, value, why, "a setting was not changed"),
        }
    }
}

/// 25: changes settings.
pub(crate) fn update(broker: &Arc<Broker>, request: &Command) -> Handled {
    let changes = parse(&request.body)?;
    let mut saved = broker.live_settings.saved.lock().unwrap_or_else(PoisonError::into_inner);
    check(&broker.config, &changes)?;
    let mut next = saved.clone();
    next.settings.extend(changes.clone());
    next.data_version.counter += 1;
    next.data_version.timestamp = broker.clock.now_ms();
    broker.live_settings.file.save(&next)?;
    *saved = next;
    apply(&broker.config, &changes);
    // Routes tell of some of them.
    broker.catalog.touch();
    Ok(Answer::Now(with_version(request, &saved.data_version)))
}

/// 26: all settings as they are now.
pub(crate) fn all(broker: &Arc<Broker>, request: &Command) -> Handled {
    let saved = broker.live_settings.saved.lock().unwrap_or_else(PoisonError::into_inner);
    let mut text = broker.config.to_properties();
    let unknown = FACTS.into_iter().filter(|(key, _)| !BrokerConfig::KEYS.contains(key));
    text.push_str(&java_properties::write(unknown));
    Ok(Answer::Now(with_version(request, &saved.data_version).body(text)))
}

fn with_version(request: &Command, version: &DataVersion) -> Command {
    let json = to_json(version);
    let version = std::str::from_utf8(&json).unwrap_or_default();
    Command::success(request).header(&BrokerConfigResponse { version })
}
