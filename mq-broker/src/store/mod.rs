//! The store: a commit log, and what is derived from it. Synchronous; its background work is exposed
//! as steps that somebody else drives.

pub mod disk;
pub mod segment;
#[cfg(any(test, feature = "sim"))]
pub mod sim_disk;
pub mod table_file;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Why the store did not do something.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The operating system failed.
    #[error("{action} {}: {source}", file.display())]
    Io {
        /// The file or directory.
        file: PathBuf,
        /// What was tried.
        action: &'static str,
        /// What it said.
        source: io::Error,
    },
    /// Bytes on the disk are not what was written, or a file is missing.
    #[error("{} is damaged at {at}: {what}", file.display())]
    Corrupt {
        /// The file.
        file: PathBuf,
        /// The offset: in the file, or in the log for a part of the log.
        at: u64,
        /// What is wrong, and the mend if there is one.
        what: String,
    },
    /// No room. Nothing was written; it works again when there is room.
    #[error("the disk is full")]
    Full,
    /// A write or sync failed before; nothing is written any more.
    #[error("the store has stopped: {0}")]
    Poisoned(Arc<str>),
    /// The position is not in the log or queue.
    #[error("{at} is outside {from}..{to}")]
    OutOfRange {
        /// The position asked for.
        at: u64,
        /// The first there is.
        from: u64,
        /// The first there is not.
        to: u64,
    },
    /// Another process has the store.
    #[error("{} is locked: another broker uses this store", file.display())]
    Locked {
        /// The lock file.
        file: PathBuf,
    },
    /// The caller's record or name cannot be stored.
    #[error("{0}")]
    Illegal(String),
}

impl StoreError {
    pub(crate) fn io(file: &Path, action: &'static str, source: io::Error) -> Self {
        Self::Io { file: file.to_owned(), action, source }
    }
}
