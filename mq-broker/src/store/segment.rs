//! Files of one size named by the offset they start at: the segments of the commit log.
//!
//! Here: names, making one durably, finding the one an offset lies in. Not here: records, and when
//! a segment is needed.
//!
//! Invariants: the list is contiguous and sorted; a segment enters it only after its room is
//! reserved and its length and its directory entry are synced.

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use super::StoreError;
use super::disk::{Disk, DiskFile, OpenMode};

const NAME_DIGITS: usize = 20;

/// The name of the file that starts at `offset`: 20 digits.
#[must_use]
pub fn file_name(offset: u64) -> String {
    format!("{offset:0NAME_DIGITS$}")
}

/// The offset that a file name stands for.
#[must_use]
pub fn parse_name(name: &str) -> Option<u64> {
    let digits = name.len() == NAME_DIGITS && name.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| name.parse().ok()).flatten()
}

/// One file of the log.
#[derive(Debug)]
pub struct Segment {
    /// The log offset of its first byte.
    pub base: u64,
    /// Where it is, for messages.
    pub path: PathBuf,
    /// The one descriptor it is written, synced and read through.
    pub file: Arc<dyn DiskFile>,
}

impl Segment {
    /// An error of this file, whose room is reserved: a full disk, too, is a failure here.
    pub fn failed(&self, action: &'static str, source: io::Error) -> StoreError {
        StoreError::Io { file: self.path.clone(), action, source }
    }
}

/// The segments of a log.
#[derive(Debug)]
pub struct Segments {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    /// The size of each.
    pub size: u64,
    list: RwLock<Vec<Arc<Segment>>>,
}

impl Segments {
    /// A list with nothing in it; `dir` must exist.
    pub fn new(disk: Arc<dyn Disk>, dir: PathBuf, size: u64) -> Self {
        Self { disk, dir, size, list: RwLock::default() }
    }

    /// Opens a file that is there already, and enters it.
    pub fn open(&self, base: u64) -> Result<Arc<Segment>, StoreError> {
        let path = self.path(base);
        let file = self.disk.open(&path, OpenMode::Write);
        let file = file.map_err(|error| StoreError::io(&path, "open", error))?;
        let segment = Arc::new(Segment { base, path, file });
        self.enter(segment.clone());
        Ok(segment)
    }

    /// Makes a file for `base`, reserved and durable. It is not in the list yet.
    pub fn create(&self, base: u64) -> Result<Arc<Segment>, StoreError> {
        let path = self.path(base);
        let file = self.reserve(&path).map_err(|error| StoreError::io(&path, "make", error))?;
        Ok(Arc::new(Segment { base, path, file }))
    }

    fn reserve(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let file = self.disk.open(path, OpenMode::Create)?;
        if let Err(error) = file.reserve(self.size) {
            drop(file);
            // What was taken of the room goes back; a leftover would be removed at the next start.
            self.disk.remove(path)?;
            return Err(error);
        }
        file.sync_data()?;
        self.disk.sync_dir(&self.dir)?;
        Ok(file)
    }

    /// Adds a segment behind the last.
    pub fn enter(&self, segment: Arc<Segment>) {
        self.list.write().unwrap_or_else(PoisonError::into_inner).push(segment);
    }

    /// The segment that holds `offset`.
    pub fn find(&self, offset: u64) -> Option<Arc<Segment>> {
        let list = self.list.read().unwrap_or_else(PoisonError::into_inner);
        let index = offset.checked_sub(list.first()?.base)?.checked_div(self.size)?;
        list.get(usize::try_from(index).ok()?).cloned()
    }

    /// The segments that hold a part of the range, oldest first.
    pub fn within(&self, range: Range<u64>) -> Vec<Arc<Segment>> {
        let list = self.list.read().unwrap_or_else(PoisonError::into_inner);
        let touches = |s: &&Arc<Segment>| s.base < range.end && s.base + self.size > range.start;
        list.iter().filter(touches).cloned().collect()
    }

    /// Fills `buf` from the log offset on, up to the end of its segment; says how much that was.
    pub fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<usize, StoreError> {
        let Some(segment) = self.find(offset) else { return Ok(0) };
        let within = offset - segment.base;
        let left = usize::try_from(self.size - within).unwrap_or(usize::MAX);
        let size = buf.len().min(left);
        let Some(buf) = buf.get_mut(..size) else { return Ok(0) };
        segment.file.read_at(buf, within).map_err(|error| segment.failed("read", error))
    }

    /// Takes segments that start at or behind `offset` from the list; their files stay.
    pub fn keep_below(&self, offset: u64) {
        let mut list = self.list.write().unwrap_or_else(PoisonError::into_inner);
        list.retain(|segment| segment.base < offset);
    }

    /// Where the first segment starts; `None` when there is none.
    pub fn first_base(&self) -> Option<u64> {
        let list = self.list.read().unwrap_or_else(PoisonError::into_inner);
        list.first().map(|segment| segment.base)
    }

    /// Where the file of `base` lies.
    pub fn path(&self, base: u64) -> PathBuf {
        self.dir.join(file_name(base))
    }

    /// The start of the segment that holds `offset`.
    pub fn base_of(&self, offset: u64) -> u64 {
        offset - offset % self.size
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::disk::make_dir;
    use crate::store::sim_disk::SimDisk;

    fn segments(disk: &SimDisk) -> Segments {
        make_dir(disk, Path::new("/log")).unwrap();
        Segments::new(Arc::new(disk.clone()), "/log".into(), 4096)
    }

    #[test]
    fn names_are_offsets() {
        assert_eq!(file_name(1_073_741_824), "00000000001073741824");
        assert_eq!(parse_name("00000000001073741824"), Some(1_073_741_824));
        for bad in
            ["", "1", "0000000000107374182x", "000000000010737418240", "99999999999999999999"]
        {
            assert_eq!(parse_name(bad), None, "{bad}");
        }
    }

    #[test]
    fn an_offset_finds_its_segment() {
        let disk = SimDisk::new();
        let segments = segments(&disk);
        for base in [8192, 12_288] {
            segments.enter(segments.create(base).unwrap());
        }
        let base = |offset| segments.find(offset).map(|segment| segment.base);
        assert_eq!([base(8191), base(8192), base(12_287)], [None, Some(8192), Some(8192)]);
        assert_eq!([base(12_288), base(16_384)], [Some(12_288), None]);
        assert_eq!(segments.within(12_287..12_289).len(), 2);
        assert_eq!(segments.within(8192..12_288).len(), 1);
    }

    #[test]
    fn a_full_disk_leaves_nothing_behind() {
        let disk = SimDisk::new();
        let segments = segments(&disk);
        disk.set_room(Some(100));
        assert!(matches!(segments.create(0), Err(StoreError::Full)));
        assert!(!disk.exists(&segments.path(0)).unwrap());
        disk.set_room(None);
        segments.create(0).unwrap();
    }
}
