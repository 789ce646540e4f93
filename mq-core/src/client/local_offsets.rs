//! Progress of a broadcasting consumer, in a local file: every member goes its own way, so that no
//! broker can keep it. The one place of the client that touches files. Not here: when to save.
//!
//! Invariants: the file is `DIRECTORY/CLIENT-ID/GROUP/offsets.json`, in the form that Java's client
//! writes and reads; it is replaced whole, by renaming a synced file, and the one before stays
//! beside it as `.bak`, which is read when there is no other or it is damaged.

use std::collections::BTreeMap;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::error::Error;
use crate::names::MessageQueue;
use crate::protocol::body::{BroadcastOffsets, QueueMap, from_json, to_json};

/// Where a member stands in each queue.
#[derive(Debug)]
pub(super) struct LocalOffsets {
    table: Mutex<BTreeMap<MessageQueue, i64>>,
    /// Nothing survives without a file.
    file: Option<Arc<File>>,
}

#[derive(Debug)]
struct File {
    path: PathBuf,
    /// What is in the file. Held while it is written, so that it never goes back.
    saved: Mutex<BTreeMap<MessageQueue, i64>>,
}

impl LocalOffsets {
    /// Reads what was saved. A file that is there and cannot be read is an error: to begin anew
    /// would skip messages or repeat them.
    pub(super) async fn open(path: Option<PathBuf>) -> Result<Self, Error> {
        let Some(path) = path else { return Ok(Self { table: Mutex::default(), file: None }) };
        let reading = tokio::task::spawn_blocking(move || (load(&path), path)).await;
        let (loaded, path) = reading.map_err(|panic| Error::Closed(panic.to_string()))?;
        let table = loaded.map_err(|error| {
            let path = path.display();
            Error::Config(format!(
                "{path} keeps how far this broadcasting consumer is and cannot be used: {error}; \
                 mend the file or its folder, or remove it to begin anew"
            ))
        })?;
        let file = File { path, saved: Mutex::new(table.clone()) };
        Ok(Self { table: Mutex::new(table), file: Some(Arc::new(file)) })
    }

    pub(super) fn at(&self, queue: &MessageQueue) -> Option<i64> {
        lock(&self.table).get(queue).copied()
    }

    pub(super) fn put(&self, queue: &MessageQueue, offset: i64) {
        lock(&self.table).insert(queue.clone(), offset);
    }

    /// Writes the file, if there is one and it is not up to date.
    pub(super) async fn save(&self) -> io::Result<()> {
        let Some(file) = self.file.clone() else { return Ok(()) };
        let table = lock(&self.table).clone();
        if table == *lock(&file.saved) {
            return Ok(());
        }
        let writing = tokio::task::spawn_blocking(move || {
            let mut saved = lock(&file.saved);
            replace(&file.path, &table)?;
            *saved = table;
            Ok(())
        });
        writing.await.map_err(io::Error::other)?
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    name.into()
}

/// The saved table; empty when nothing was ever saved.
fn load(path: &Path) -> Result<BTreeMap<MessageQueue, i64>, String> {
    let mut damage = None;
    for path in [path.to_owned(), beside(path, ".bak")] {
        match std::fs::read(&path) {
            Ok(bytes) => match from_json::<BroadcastOffsets>(&bytes) {
                Ok(body) => return Ok(body.offset_table.0),
                Err(error) => damage = Some(error.to_string()),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error.to_string()),
        }
    }
    damage.map_or_else(|| Ok(BTreeMap::new()), Err)
}

#[expect(clippy::disallowed_methods, reason = "this is the client's file, not the broker's")]
fn replace(path: &Path, table: &BTreeMap<MessageQueue, i64>) -> io::Result<()> {
    let body = BroadcastOffsets { offset_table: QueueMap(table.clone()) };
    let new = beside(path, ".tmp");
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let mut file = std::fs::File::create(&new)?;
    file.write_all(&to_json(&body))?;
    file.sync_all()?;
    match std::fs::rename(path, beside(path, ".bak")) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => std::fs::rename(&new, path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue(id: i32) -> MessageQueue {
        MessageQueue::new("t", "b", id)
    }

    /// A folder that goes with the test.
    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let name = format!("mq-local-offsets-{}-{name}", std::process::id());
            Self(std::env::temp_dir().join(name))
        }

        fn file(&self) -> PathBuf {
            self.0.join("10.0.0.1@i").join("g").join("offsets.json")
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _gone = std::fs::remove_dir_all(&self.0);
        }
    }

    #[tokio::test]
    async fn what_is_saved_is_read_again_as_java_writes_it() {
        let scratch = Scratch::new("again");
        let path = scratch.file();
        let offsets = LocalOffsets::open(Some(path.clone())).await.unwrap();
        assert_eq!(offsets.at(&queue(0)), None);
        for offset in [5, 7] {
            offsets.put(&queue(0), offset);
            offsets.save().await.unwrap();
        }
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text, r#"{"offsetTable":{{"brokerName":"b","queueId":0,"topic":"t"}:7}}"#);
        let again = LocalOffsets::open(Some(path.clone())).await.unwrap();
        assert_eq!((again.at(&queue(0)), again.at(&queue(1))), (Some(7), None));
    }

    #[tokio::test]
    #[expect(clippy::disallowed_methods, reason = "the test damages the file")]
    async fn a_damaged_file_is_mended_by_the_one_before_or_told() {
        let scratch = Scratch::new("damaged");
        let path = scratch.file();
        let offsets = LocalOffsets::open(Some(path.clone())).await.unwrap();
        for offset in [5, 7] {
            offsets.put(&queue(0), offset);
            offsets.save().await.unwrap();
        }
        std::fs::write(&path, "{\"offsetTa").unwrap();
        let again = LocalOffsets::open(Some(path.clone())).await.unwrap();
        assert_eq!(again.at(&queue(0)), Some(5));
        std::fs::write(beside(&path, ".bak"), "").unwrap();
        let told = LocalOffsets::open(Some(path.clone())).await.unwrap_err().to_string();
        assert!(told.contains("offsets.json") && told.contains("remove it"), "{told}");
    }

    #[tokio::test]
    async fn without_a_file_progress_is_remembered_and_not_kept() {
        let offsets = LocalOffsets::open(None).await.unwrap();
        offsets.put(&queue(0), 5);
        offsets.save().await.unwrap();
        assert_eq!(offsets.at(&queue(0)), Some(5));
    }
}
