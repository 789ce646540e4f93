//! Small tables kept as JSON snapshots (`config/*.json`, as RocketMQ lays them out).
//!
//! A snapshot replaces the former in one step: temporary file, sync, rename, sync of the directory.
//! The former stays beside it as `.bak`. Not here: what is in a table, and when it is saved.
//!
//! Invariants: at every instant at least one of the two is whole; a table that exists but cannot be
//! read in either form refuses, it is never taken for an empty one.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mq_core::protocol::body::from_json;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tracing::warn;

use super::StoreError;
use super::disk::{Disk, OpenMode, parent_of, read_exact_at};

/// Where a table is kept.
#[derive(Debug)]
pub struct TableFile {
    disk: Arc<dyn Disk>,
    path: PathBuf,
}

impl TableFile {
    /// The table at `path`.
    pub fn new(disk: Arc<dyn Disk>, path: PathBuf) -> Self {
        Self { disk, path }
    }

    /// Reads a body of RocketMQ's; `None` when it was never saved. Java writes numbers as keys.
    pub fn load<T: DeserializeOwned>(&self) -> Result<Option<T>, StoreError> {
        load_with(&*self.disk, &self.path, |bytes| from_json(bytes).map_err(|e| e.to_string()))
    }

    /// Saves the table; when this returns, it is durable.
    pub fn save<T: Serialize>(&self, table: &T) -> Result<(), StoreError> {
        save(&*self.disk, &self.path, table)
    }
}

/// A table bigger than this is not one of ours.
const LIMIT_BYTES: u64 = 1 << 30;

/// Reads the table at `path`; `None` when it was never saved.
pub fn load<T: DeserializeOwned>(disk: &dyn Disk, path: &Path) -> Result<Option<T>, StoreError> {
    load_with(disk, path, |bytes| serde_json::from_slice(bytes).map_err(|error| error.to_string()))
}

/// As [`load`], with a reader of one's own: RocketMQ's files may have numbers as keys.
pub fn load_with<T>(
    disk: &dyn Disk,
    path: &Path,
    parse: impl Fn(&[u8]) -> Result<T, String>,
) -> Result<Option<T>, StoreError> {
    let main = match read(disk, path)?.map(|bytes| parse(&bytes)) {
        Some(Ok(table)) => return Ok(Some(table)),
        Some(Err(what)) => Some(what),
        None => None,
    };
    let backup = backup_of(path);
    match (main, read(disk, &backup)?.map(|bytes| parse(&bytes))) {
        (main, Some(Ok(table))) => {
            let what = main.unwrap_or_else(|| "it is missing".into());
            warn!(file = %path.display(), what, "table unreadable, its previous version is used");
            Ok(Some(table))
        }
        (Some(what), _) => Err(corrupt(path, what)),
        (None, Some(Err(what))) => Err(corrupt(&backup, what)),
        (None, None) => Ok(None),
    }
}

/// Saves the table; when this returns, it is durable.
pub fn save<T: Serialize>(disk: &dyn Disk, path: &Path, table: &T) -> Result<(), StoreError> {
    let mut bytes = serde_json::to_vec_pretty(table)
        .map_err(|error| StoreError::io(path, "encode", error.into()))?;
    bytes.push(b'\n');
    write(disk, path, &bytes).map_err(|error| StoreError::io(path, "save", error))
}

fn write(disk: &dyn Disk, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = with_suffix(path, ".tmp");
    let file = disk.open(&temporary, OpenMode::Create)?;
    file.set_len(0)?;
    file.write_at(bytes, 0)?;
    file.sync_data()?;
    if disk.exists(path)? {
        disk.rename(path, &backup_of(path))?;
    }
    disk.rename(&temporary, path)?;
    disk.sync_dir(&parent_of(path))
}

fn read(disk: &dyn Disk, path: &Path) -> Result<Option<Vec<u8>>, StoreError> {
    let failed = |error| StoreError::io(path, "read", error);
    let file = match disk.open(path, OpenMode::Read) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(failed)?,
    };
    let len = file.len().map_err(failed)?;
    if len > LIMIT_BYTES {
        return Err(corrupt(path, format!("{len} bytes are more than a table can have")));
    }
    let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
    read_exact_at(&*file, &mut bytes, 0).map_err(failed)?;
    Ok(Some(bytes))
}

fn corrupt(path: &Path, what: String) -> StoreError {
    StoreError::Corrupt { file: path.to_owned(), at: 0, what }
}

fn backup_of(path: &Path) -> PathBuf {
    with_suffix(path, ".bak")
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name: OsString = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::disk::make_dir;
    use crate::store::sim_disk::SimDisk;

    const PATH: &str = "/config/offsets.json";

    fn disk() -> SimDisk {
        let disk = SimDisk::new();
        make_dir(&disk, Path::new("/config")).unwrap();
        disk
    }

    fn loaded(disk: &SimDisk) -> Result<Option<Vec<u32>>, StoreError> {
        load(disk, Path::new(PATH))
    }

    #[test]
    fn the_last_saved_is_loaded_and_a_broken_one_falls_back() {
        let disk = disk();
        assert_eq!(loaded(&disk).unwrap(), None);
        save(&disk, Path::new(PATH), &[1]).unwrap();
        save(&disk, Path::new(PATH), &[2]).unwrap();
        assert_eq!(loaded(&disk).unwrap(), Some(vec![2]));
        disk.damage(Path::new(PATH), 0, b"{").unwrap();
        assert_eq!(loaded(&disk).unwrap(), Some(vec![1]));
        disk.damage(Path::new("/config/offsets.json.bak"), 0, b"{").unwrap();
        let error = loaded(&disk).unwrap_err();
        assert!(matches!(error, StoreError::Corrupt { .. }), "{error}");
    }

    #[test]
    fn a_crash_at_any_step_leaves_the_old_or_the_new() {
        for seed in 0..50 {
            for operations in 1..9 {
                let disk = disk();
                save(&disk, Path::new(PATH), &[1]).unwrap();
                disk.power_off_after(operations);
                let saved = save(&disk, Path::new(PATH), &[2, 2]).is_ok();
                disk.crash(seed);
                let found = loaded(&disk).unwrap().unwrap();
                assert!(found == [2, 2] || !saved && found == [1], "{operations} {seed} {found:?}");
            }
        }
    }
}
