//! The seam to the file system: [`Disk`], [`DiskFile`], [`DiskLock`], and [`OsDisk`], the real one.
//!
//! This is the only place of the broker that names `std::fs`. Not here: file formats, caching,
//! policy.
//!
//! Invariants:
//! - A write that returned `Ok` is complete and in the page cache; only a sync makes it durable.
//! - An entry of a directory (a created, renamed or removed name) is durable only after
//!   [`Disk::sync_dir`] of that directory.
//! - Nothing here retries a failed write or sync: the kernel may have dropped the data, and a
//!   second sync would report success for bytes that are gone.
#![expect(clippy::disallowed_methods, reason = "this file is the seam to the file system")]

use std::fmt::Debug;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{FallocateFlags, FlockOperation};
use rustix::io::Errno;

/// How [`Disk::open`] treats a file that exists or does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenMode {
    /// Must exist; reading only.
    Read,
    /// Must exist; reading and writing.
    Write,
    /// Made when it does not exist; reading and writing.
    Create,
}

/// Room on the file system below a path, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// What an unprivileged writer may still take.
    pub free: u64,
    /// The size of the file system.
    pub total: u64,
}

/// A file system, or what a test puts in its place.
pub trait Disk: Send + Sync + Debug {
    /// Opens one file.
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>>;
    /// The names in a directory, sorted. Fails with `NotFound` when there is no such directory.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;
    /// Makes a directory and its parents. Their entries are not durable yet: see [`make_dir`].
    fn create_dir_all(&self, dir: &Path) -> io::Result<()>;
    /// Gives a file another name in the same directory, replacing what has it.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file or an empty directory.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Makes the entries of a directory durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    /// Whether there is a file or directory of that name.
    fn exists(&self, path: &Path) -> io::Result<bool>;
    /// Makes the file if need be and locks it for this process; `WouldBlock` when another has it.
    fn lock(&self, path: &Path) -> io::Result<Box<dyn DiskLock>>;
    /// Room below a path.
    fn space(&self, path: &Path) -> io::Result<Space>;
}

/// An open file. Reads and writes name their position; there is no cursor.
#[expect(clippy::len_without_is_empty, reason = "no file of a store is empty by intent")]
pub trait DiskFile: Send + Sync + Debug {
    /// Fills `buf` from `at` on; a shorter count means the end of the file.
    fn read_at(&self, buf: &mut [u8], at: u64) -> io::Result<usize>;
    /// Writes all of `bytes`. After an error any part of them may have been written.
    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()>;
    /// Makes the file's bytes, and the length needed to read them, durable (`fdatasync`).
    fn sync_data(&self) -> io::Result<()>;
    /// Cuts the file, or lengthens it with a hole that reads as zeros.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// The length in bytes.
    fn len(&self) -> io::Result<u64>;
    /// Takes room for `len` bytes from the start, so that writing them cannot meet a full disk;
    /// the file reads as zeros up to there. What it holds already stays.
    fn reserve(&self, len: u64) -> io::Result<()>;
}

/// A held lock; dropping it gives the lock back.
pub trait DiskLock: Send + Sync + Debug {
    /// Makes everything durable that was written to the file system of the lock, entries of
    /// directories included, through whatever descriptor. The lock's own descriptor was open all
    /// the while, so that a write-back error of a file that was closed since is reported here.
    fn sync_all(&self) -> io::Result<()>;
}

/// Makes a directory durably: every entry that was missing on the way is synced in its parent.
pub fn make_dir(disk: &dyn Disk, dir: &Path) -> io::Result<()> {
    let mut parents: Vec<PathBuf> = Vec::new();
    for missing in dir.ancestors() {
        if missing.as_os_str().is_empty() || disk.exists(missing)? {
            break;
        }
        parents.push(parent_of(missing));
    }
    if parents.is_empty() {
        return Ok(());
    }
    disk.create_dir_all(dir)?;
    parents.iter().rev().try_for_each(|parent| disk.sync_dir(parent))
}

/// The directory that holds the entry of a path; `.` for a bare name.
pub fn parent_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        Some(_) => PathBuf::from("."),
        None => path.to_owned(),
    }
}

/// Reads exactly `buf.len()` bytes; `UnexpectedEof` when the file ends before.
pub fn read_exact_at(file: &dyn DiskFile, buf: &mut [u8], at: u64) -> io::Result<()> {
    let read = file.read_at(buf, at)?;
    if read == buf.len() {
        return Ok(());
    }
    Err(io::Error::new(
        io::ErrorKind::UnexpectedEof,
        format!("{read} of {} bytes at {at}: the file is shorter than it must be", buf.len()),
    ))
}

/// Whether an error says that there is no room: what becomes [`Full`](super::StoreError::Full).
pub fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// The text of a file that is not the store's, such as a broker.conf.
pub fn read_text(path: &Path) -> io::Result<String> {
    fs::read_to_string(path)
        .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
}

/// The operating system's files.
#[derive(Clone, Copy, Debug, Default)]
pub struct OsDisk;

impl Disk for OsDisk {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        let mut options = OpenOptions::new();
        options.read(true).write(mode != OpenMode::Read).create(mode == OpenMode::Create);
        Ok(Arc::new(OsFile(options.open(path)?)))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let mut names = fs::read_dir(dir)?
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
            .collect::<io::Result<Vec<_>>>()?;
        names.sort_unstable();
        Ok(names)
    }

    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        fs::create_dir_all(dir)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        if fs::symlink_metadata(path)?.is_dir() {
            fs::remove_dir(path)
        } else {
            fs::remove_file(path)
        }
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        File::open(dir)?.sync_all()
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        fs::exists(path)
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn DiskLock>> {
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(io::ErrorKind::WouldBlock.into()),
            Err(TryLockError::Error(error)) => return Err(error),
        }
        // Java locks the same file in the other way that Linux has; neither sees the other's.
        match rustix::fs::fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::ACCESS | Errno::AGAIN) => Err(io::ErrorKind::WouldBlock.into()),
            other => Ok(other.map(|()| Box::new(OsLock(file)))?),
        }
    }

    fn space(&self, path: &Path) -> io::Result<Space> {
        let found = rustix::fs::statvfs(path)?;
        Ok(Space {
            free: found.f_bavail.saturating_mul(found.f_frsize),
            total: found.f_blocks.saturating_mul(found.f_frsize),
        })
    }
}

#[derive(Debug)]
struct OsFile(File);

impl DiskFile for OsFile {
    fn read_at(&self, buf: &mut [u8], at: u64) -> io::Result<usize> {
        let mut done = 0;
        while let Some(rest) = buf.get_mut(done..).filter(|rest| !rest.is_empty()) {
            match self.0.read_at(rest, at + done as u64) {
                Ok(0) => break,
                Ok(read) => done += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        self.0.write_all_at(bytes, at)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn reserve(&self, len: u64) -> io::Result<()> {
        match rustix::fs::fallocate(&self.0, FallocateFlags::empty(), 0, len) {
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => self.fill(len),
            other => Ok(other?),
        }
    }
}

impl OsFile {
    /// Takes room on file systems that cannot reserve it: by writing zeros behind what there is.
    fn fill(&self, len: u64) -> io::Result<()> {
        let zeros = [0_u8; 64 << 10];
        let mut at = self.len()?;
        while at < len {
            let chunk = zeros.len().min(usize::try_from(len - at).unwrap_or(zeros.len()));
            self.write_at(zeros.get(..chunk).unwrap_or(&zeros), at)?;
            at += chunk as u64;
        }
        Ok(())
    }
}

#[derive(Debug)]
struct OsLock(File);

impl DiskLock for OsLock {
    #[cfg(target_os = "linux")]
    fn sync_all(&self) -> io::Result<()> {
        Ok(rustix::fs::syncfs(&self.0)?)
    }

    #[cfg(not(target_os = "linux"))]
    fn sync_all(&self) -> io::Result<()> {
        rustix::fs::sync();
        self.0.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reserved_file_reads_as_zeros_and_keeps_what_it_had() {
        let dir = tempfile::tempdir().unwrap();
        let file = OsDisk.open(&dir.path().join("f"), OpenMode::Create).unwrap();
        file.write_at(b"abc", 0).unwrap();
        file.reserve(10).unwrap();
        let mut buf = [9; 16];
        assert_eq!(file.read_at(&mut buf, 0).unwrap(), 10);
        assert_eq!(&buf[..10], b"abc\0\0\0\0\0\0\0");
        assert!(read_exact_at(&*file, &mut buf, 0).is_err());
    }

    #[test]
    fn the_lock_is_for_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let held = OsDisk.lock(&path).unwrap();
        assert_eq!(OsDisk.lock(&path).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        held.sync_all().unwrap();
        drop(held);
        OsDisk.lock(&path).unwrap();
    }

    #[test]
    fn directories_are_made_with_their_parents_and_listed_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("a/b/c");
        make_dir(&OsDisk, &deep).unwrap();
        make_dir(&OsDisk, &deep).unwrap();
        for name in ["z", "m"] {
            OsDisk.open(&deep.join(name), OpenMode::Create).unwrap();
        }
        assert_eq!(OsDisk.list(&deep).unwrap(), ["m", "z"]);
        assert_eq!(OsDisk.list(&deep.join("no")).unwrap_err().kind(), io::ErrorKind::NotFound);
        assert!(OsDisk.space(&deep).unwrap().total > 0);
    }
}
