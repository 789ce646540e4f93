//! What a start must know and cannot find out: how far the log was synced, and from where on queues
//! and keys are built again. Kept in the side file `recovery-mark`, which RocketMQ does not know;
//! beside it RocketMQ's own `checkpoint`.
//!
//! ```text
//! recovery-mark: slot 0 at 0, slot 1 at 4096; a save takes them in turns
//! slot: magic 4 | generation 8 | fields 8 each, in the order of `Mark` | CRC-32 of these 4
//! checkpoint:    store timestamps, 8 each: log | queues | keys synced | zeros to 4096
//! ```
//!
//! Invariants: a save never touches the slot that counts; a damaged record before `synced` is
//! damage, at or behind it the torn tail of a crash. What was synced after the last save and before
//! a crash is not told apart: a save follows a sync after the interval of the checkpoint loop.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::StoreError;
use super::disk::{Disk, DiskFile, OpenMode, parent_of};

const MAGIC: u32 = 0x4D51_524D;
const SLOT_BYTES: u64 = 4096;
const FIELDS: usize = 7;
const ENCODED: usize = 4 + 8 + FIELDS * 8 + 4;
const CHECKPOINT_BYTES: usize = 4096;

/// A durable statement about the store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Mark {
    /// The log is durable up to here.
    pub(super) synced: u64,
    /// Queues and keys are durable for the log up to here.
    pub(super) indexed: u64,
    /// Sum of the lengths of all queues at `indexed`.
    pub(super) entries: u64,
    /// The log started here; segments from here on must exist.
    pub(super) start: u64,
    /// Store timestamp of the record before `indexed`.
    pub(super) store_timestamp_ms: i64,
    /// Bytes of a segment.
    pub(super) segment_bytes: u64,
    /// Every record from here on is ours and has a checksum of all its bytes. RocketMQ's have none,
    /// and without knowing whose it is, a record torn within its checksum would pass for theirs.
    pub(super) sealed_from: u64,
}

impl Mark {
    fn to_bytes(self, generation: u64) -> [u8; ENCODED] {
        let mut bytes = [0; ENCODED];
        let words = [
            generation,
            self.synced,
            self.indexed,
            self.entries,
            self.start,
            self.store_timestamp_ms.cast_unsigned(),
            self.segment_bytes,
            self.sealed_from,
        ];
        bytes[..4].copy_from_slice(&MAGIC.to_be_bytes());
        for (place, word) in bytes[4..ENCODED - 4].as_chunks_mut::<8>().0.iter_mut().zip(words) {
            *place = word.to_be_bytes();
        }
        let crc = crc32fast::hash(&bytes[..ENCODED - 4]);
        bytes[ENCODED - 4..].copy_from_slice(&crc.to_be_bytes());
        bytes
    }

    fn from_bytes(bytes: &[u8; ENCODED]) -> Option<(u64, Self)> {
        let (covered, crc) = bytes.split_last_chunk::<4>()?;
        let (magic, words) = covered.split_first_chunk::<4>()?;
        if *magic != MAGIC.to_be_bytes() || *crc != crc32fast::hash(covered).to_be_bytes() {
            return None;
        }
        let mut words = words.as_chunks::<8>().0.iter().map(|word| u64::from_be_bytes(*word));
        let mut word = || words.next().unwrap_or_default();
        let generation = word();
        let mark = Self {
            synced: word(),
            indexed: word(),
            entries: word(),
            start: word(),
            store_timestamp_ms: word().cast_signed(),
            segment_bytes: word(),
            sealed_from: word(),
        };
        Some((generation, mark))
    }
}

/// The side file.
#[derive(Debug)]
pub(super) struct MarkFile {
    path: PathBuf,
    generation: u64,
    file: Option<Arc<dyn DiskFile>>,
    /// What was saved last.
    pub(super) last: Option<Mark>,
}

impl MarkFile {
    /// Reads the newer slot. A file that was never filled is as good as none; one that has lost
    /// both slots is refused, because damage could no longer be told from a torn tail.
    pub(super) fn load(disk: &dyn Disk, path: PathBuf) -> Result<Self, StoreError> {
        let none = Self { path, generation: 0, file: None, last: None };
        let file = match disk.open(&none.path, OpenMode::Write) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(none),
            other => other.map_err(|error| none.failed("open", error))?,
        };
        let mut slots = Vec::new();
        let mut blank = true;
        for at in [0, SLOT_BYTES] {
            let mut bytes = [0; ENCODED];
            let _short =
                file.read_at(&mut bytes, at).map_err(|error| none.failed("read", error))?;
            blank &= bytes == [0; ENCODED];
            slots.extend(Mark::from_bytes(&bytes));
        }
        let newest = slots.into_iter().max_by_key(|slot| slot.0);
        if newest.is_none() && !blank {
            let what = "neither of its slots is whole; without the file the whole log is scanned, \
                        and damage at its end is taken for a torn write"
                .into();
            return Err(StoreError::Corrupt { file: none.path, at: 0, what });
        }
        let (generation, last) = newest.map_or((0, None), |(number, mark)| (number, Some(mark)));
        Ok(Self { generation, last, file: Some(file), ..none })
    }

    /// Saves durably.
    pub(super) fn save(&mut self, disk: &dyn Disk, mark: Mark) -> Result<(), StoreError> {
        self.write(disk, mark).map_err(|error| self.failed("save", error))?;
        self.last = Some(mark);
        Ok(())
    }

    fn write(&mut self, disk: &dyn Disk, mark: Mark) -> io::Result<()> {
        let file = match &self.file {
            Some(file) => file.clone(),
            None => {
                let file = disk.open(&self.path, OpenMode::Create)?;
                file.reserve(2 * SLOT_BYTES)?;
                file.sync_data()?;
                disk.sync_dir(&parent_of(&self.path))?;
                self.file.insert(file).clone()
            }
        };
        self.generation += 1;
        file.write_at(&mark.to_bytes(self.generation), self.generation % 2 * SLOT_BYTES)?;
        file.sync_data()
    }

    fn failed(&self, action: &'static str, source: io::Error) -> StoreError {
        StoreError::io(&self.path, action, source)
    }
}

/// RocketMQ's checkpoint: it scans the log from where all three times were reached.
#[derive(Debug)]
pub(super) struct Checkpoint {
    path: PathBuf,
    /// Up to this store timestamp the log was synced; 0 when nothing is known.
    pub(super) store_timestamp_ms: i64,
}

impl Checkpoint {
    pub(super) fn load(disk: &dyn Disk, path: PathBuf) -> Result<Self, StoreError> {
        let mut bytes = [0; 8];
        match disk.open(&path, OpenMode::Read) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            file => {
                let read = file.and_then(|file| file.read_at(&mut bytes, 0));
                let _short = read.map_err(|error| StoreError::io(&path, "read", error))?;
            }
        }
        Ok(Self { path, store_timestamp_ms: i64::from_be_bytes(bytes) })
    }

    pub(super) fn save(&mut self, disk: &dyn Disk, timestamp_ms: i64) -> Result<(), StoreError> {
        write_checkpoint(disk, &self.path, timestamp_ms)
            .map_err(|error| StoreError::io(&self.path, "save", error))?;
        self.store_timestamp_ms = timestamp_ms;
        Ok(())
    }
}

fn write_checkpoint(disk: &dyn Disk, path: &Path, timestamp_ms: i64) -> io::Result<()> {
    let file = disk.open(path, OpenMode::Create)?;
    if file.len()? < CHECKPOINT_BYTES as u64 {
        file.write_at(&[0; CHECKPOINT_BYTES], 0)?;
        disk.sync_dir(&parent_of(path))?;
    }
    let word = timestamp_ms.to_be_bytes();
    file.write_at([word; 3].as_flattened(), 0)?;
    file.sync_data()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::sim_disk::SimDisk;

    fn mark(n: u64) -> Mark {
        Mark {
            synced: n,
            indexed: n / 2,
            entries: 3,
            start: 0,
            store_timestamp_ms: -1,
            segment_bytes: 9,
            sealed_from: 1,
        }
    }

    fn file() -> PathBuf {
        "/recovery-mark".into()
    }

    #[test]
    fn a_crash_while_saving_leaves_the_one_before() {
        for seed in 0..100 {
            let disk = SimDisk::new();
            let mut marks = MarkFile::load(&disk, file()).unwrap();
            assert_eq!(marks.last, None);
            marks.save(&disk, mark(10)).unwrap();
            marks.save(&disk, mark(20)).unwrap();
            disk.power_off_after(2);
            assert!(marks.save(&disk, mark(30)).is_err());
            disk.crash(seed);
            let found = MarkFile::load(&disk, file()).unwrap().last.unwrap();
            assert!(found == mark(20) || found == mark(30), "{found:?}");
        }
    }

    #[test]
    fn one_damaged_slot_is_survived_and_two_are_refused() {
        let disk = SimDisk::new();
        let mut marks = MarkFile::load(&disk, file()).unwrap();
        marks.save(&disk, mark(10)).unwrap();
        marks.save(&disk, mark(20)).unwrap();
        disk.damage(&file(), 9, b"x").unwrap();
        assert_eq!(MarkFile::load(&disk, file()).unwrap().last, Some(mark(10)));
        disk.damage(&file(), SLOT_BYTES + 9, b"x").unwrap();
        assert!(matches!(MarkFile::load(&disk, file()), Err(StoreError::Corrupt { .. })));
    }
}
