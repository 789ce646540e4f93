//! The key index: which records have a key, by the hash of `topic#key`. Callers compare the keys
//! themselves, different keys may have one hash.
//!
//! ```text
//! index/<yyyyMMddHHmmssSSS>: header 40 | slots: 4 each | units: 20 each, unit 0 is unused
//! header: begin time 8 | end time 8 | begin offset 8 | end offset 8 | slots used 4 | count 4
//! slot:   number of the newest unit of its chain, 0 for none
//! unit:   hash 4 | log offset 8 | seconds since begin time 4 | the unit before in the chain 4
//! ```
//!
//! New keys gather in memory and go to the file in batches, so that the slots of a page are changed
//! together. On disk the order is: units, sync, slots, sync, header, sync. The header's count is
//! the commit: a crash before it leaves slots that point at or past the count, and a start mends
//! them by following the units, which were synced first. Queries look into memory, too.
//!
//! Invariants: memory is bounded by two batches; a query gives offsets in falling order, each once.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use mq_core::clock::utc;

use super::commit_log::CommitLog;
use super::disk::{Disk, DiskFile, OpenMode, make_dir, read_exact_at};
use super::{StoreError, flush};

const HEADER_BYTES: usize = 40;
const SLOT_BYTES: u64 = 4;
const UNIT_BYTES: usize = 20;
/// So many keys make a batch: it touches every page of slots, the more keys a page the better.
pub(super) const BATCH_UNITS: usize = 128 << 10;
/// Slots are read and written in pages of so many: of 4 KiB, and of 64 KiB when nearly all of them
/// are touched anyway.
const PAGE_SLOTS: u32 = 1024;
const BIG_PAGE_SLOTS: u32 = 16 * PAGE_SLOTS;
/// A chain is followed so far at most: its links are bytes on a disk.
const CHAIN_UNITS: usize = 1 << 20;

/// One key of one record.
#[derive(Clone, Copy, Debug)]
pub(super) struct Unit {
    pub(super) hash: u32,
    pub(super) physical_offset: u64,
    pub(super) store_timestamp_ms: i64,
}

/// Continues Java's `String.hashCode` over more text.
pub(super) fn extend_hash(hash: i32, text: &str) -> i32 {
    if text.is_ascii() {
        let step = |hash: i32, byte| hash.wrapping_mul(31).wrapping_add(i32::from(byte));
        return text.bytes().fold(hash, step);
    }
    text.encode_utf16().fold(hash, |hash, unit| hash.wrapping_mul(31).wrapping_add(unit.into()))
}

/// The hash as units hold it: without sign.
pub(super) fn unsigned(hash: i32) -> u32 {
    // Java's abs of the smallest number is itself; RocketMQ takes 0 for it.
    hash.checked_abs().unwrap_or(0).cast_unsigned()
}

/// The index over all its files.
#[derive(Debug)]
pub struct KeyIndex {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    shape: Shape,
    pending: Mutex<Pending>,
    files: RwLock<Vec<Arc<IndexFile>>>,
    /// Keys of records before it are in the files since the start.
    known_to: u64,
    /// One writer at a time. The number is how much of the frozen batch is in the files.
    writing: Mutex<usize>,
}

/// How many slots and units a file has.
#[derive(Clone, Copy, Debug)]
struct Shape {
    slots: u32,
    units: u32,
}

impl Shape {
    fn file_bytes(self) -> u64 {
        self.unit_at(self.units)
    }

    fn unit_at(self, number: u32) -> u64 {
        let slots = u64::from(self.slots) * SLOT_BYTES;
        HEADER_BYTES as u64 + slots + u64::from(number) * UNIT_BYTES as u64
    }

    fn slot_at(self, slot: u32) -> u64 {
        HEADER_BYTES as u64 + u64::from(slot) * SLOT_BYTES
    }

    fn slot_of(self, hash: u32) -> u32 {
        hash.checked_rem(self.slots).unwrap_or(0)
    }
}

/// Keys that are not in a file yet.
#[derive(Debug, Default)]
struct Pending {
    /// Being written.
    frozen: Arc<Vec<Unit>>,
    frozen_to: u64,
    gathering: Vec<Unit>,
    gathered_to: u64,
    /// The keys of the log before this are in the files, durably.
    durable_to: u64,
}

impl KeyIndex {
    /// Opens the files there are. After an unclean stop the newest is mended.
    pub(super) fn open(
        disk: Arc<dyn Disk>,
        dir: PathBuf,
        (slots, units): (u32, u32),
        unclean: bool,
    ) -> Result<Self, StoreError> {
        let shape = Shape { slots: slots.max(1), units: units.max(2) };
        let names = match disk.list(&dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            other => other.map_err(|error| StoreError::io(&dir, "list", error))?,
        };
        let mut files = Vec::with_capacity(names.len());
        for (n, name) in (1..).zip(&names) {
            let path = dir.join(name);
            let unfinished = unclean && n == names.len();
            let file = IndexFile::open(&*disk, path.clone(), shape, unfinished)?;
            if file.is_none() {
                let removed = disk.remove(&path).and_then(|()| disk.sync_dir(&dir));
                removed.map_err(|error| StoreError::io(&path, "remove", error))?;
            }
            files.extend(file);
        }
        if let Some(newest) = files.last().filter(|_| unclean) {
            newest.mend().map_err(|error| newest.failed("mend", error))?;
        }
        let newest_first = files.iter().rev().map(|file| file.header());
        let mut known = newest_first.filter(|header| header.count > 1).map(|h| h.end_offset);
        Ok(Self {
            disk,
            dir,
            shape,
            pending: Mutex::default(),
            known_to: known.next().unwrap_or(0),
            files: RwLock::new(files),
            writing: Mutex::default(),
        })
    }

    /// States where the log ends. Keys from behind that are of records that are lost; other records
    /// take their places, and all of those are new.
    pub(super) fn reaching(mut self, log_end: u64) -> Self {
        if self.known_to > log_end {
            self.known_to = 0;
        }
        self
    }

    /// Log positions of records with this key, newest first, stored from `begin_ms` to `end_ms`.
    pub fn query(
        &self,
        topic: &str,
        key: &str,
        max: usize,
        begin_ms: i64,
        end_ms: i64,
    ) -> Result<Vec<i64>, StoreError> {
        let hash = [topic, "#", key].iter().fold(0, |hash, text| extend_hash(hash, text));
        let mut found = Found { hash: unsigned(hash), max, begin_ms, end_ms, offsets: Vec::new() };
        // Memory first: what moves to the file meanwhile is then seen twice, not missed.
        self.look_into_memory(&mut found);
        let files = self.files.read().unwrap_or_else(PoisonError::into_inner).clone();
        for file in files.iter().rev() {
            if found.is_full() {
                break;
            }
            file.look(&mut found).map_err(|error| file.failed("read", error))?;
        }
        Ok(found.offsets.into_iter().map(u64::cast_signed).collect())
    }

    fn look_into_memory(&self, found: &mut Found) {
        let pending = self.pending();
        for unit in pending.gathering.iter().rev().chain(pending.frozen.iter().rev()) {
            if unit.hash == found.hash {
                found.offer(unit.physical_offset, unit.store_timestamp_ms, 0);
            }
        }
    }

    /// Takes the keys of the log up to `position`. Writes a batch itself only when the one before
    /// is not written yet: memory stays bounded.
    pub(super) fn extend(
        &self,
        units: &[Unit],
        position: u64,
        log: &CommitLog,
    ) -> Result<(), StoreError> {
        let mut pending = self.pending();
        let new = units.iter().filter(|unit| self.known_to <= unit.physical_offset);
        pending.gathering.extend(new);
        pending.gathered_to = position;
        if pending.gathering.is_empty() && pending.frozen.is_empty() {
            pending.durable_to = position;
        }
        if pending.gathering.len() < BATCH_UNITS {
            return Ok(());
        }
        if !pending.frozen.is_empty() {
            drop(pending);
            self.write_full(log)?;
            pending = self.pending();
        }
        pending.freeze();
        Ok(())
    }

    /// Writes all keys there are. Afterwards those before the returned position are durable.
    pub(super) fn write_all(&self, log: &CommitLog) -> Result<u64, StoreError> {
        self.write_full(log)?;
        self.pending().freeze();
        self.write_full(log)?;
        Ok(self.pending().durable_to)
    }

    /// Writes a full batch, if there is one; says whether there was. The log is made durable first:
    /// no key on the disk is of a record that a crash can take back.
    pub(super) fn write_full(&self, log: &CommitLog) -> Result<bool, StoreError> {
        let (is_empty, to) = {
            let pending = self.pending();
            (pending.frozen.is_empty(), pending.frozen_to)
        };
        if is_empty {
            return Ok(false);
        }
        flush::reach(log, to)?;
        self.write_frozen()
    }

    fn write_frozen(&self) -> Result<bool, StoreError> {
        let mut written = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let (units, to) = {
            let pending = self.pending();
            (pending.frozen.clone(), pending.frozen_to)
        };
        if units.is_empty() {
            return Ok(false);
        }
        while let Some(first) = units.get(*written) {
            let file = self.file_with_room(first.store_timestamp_ms)?;
            let rest = units.get(*written..).unwrap_or_default();
            let part = rest.get(..file.room().min(rest.len())).unwrap_or_default();
            file.append(part).map_err(|error| file.failed("write", error))?;
            *written += part.len();
        }
        *written = 0;
        let mut pending = self.pending();
        pending.frozen = Arc::default();
        pending.durable_to = if pending.gathering.is_empty() { pending.gathered_to } else { to };
        Ok(true)
    }

    fn file_with_room(&self, now_ms: i64) -> Result<Arc<IndexFile>, StoreError> {
        let mut files = self.files.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(last) = files.last().filter(|file| file.room() > 0) {
            return Ok(last.clone());
        }
        let before = files.last().and_then(|file| file.path.file_name());
        let name = name_after(now_ms, before.and_then(|name| name.to_str()));
        let path = self.dir.join(name);
        let file = IndexFile::create(&*self.disk, &self.dir, path.clone(), self.shape);
        let file = Arc::new(file.map_err(|error| StoreError::io(&path, "make", error))?);
        files.push(file.clone());
        Ok(file)
    }

    fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pending {
    fn freeze(&mut self) {
        if !self.gathering.is_empty() && self.frozen.is_empty() {
            self.frozen = Arc::new(std::mem::take(&mut self.gathering));
            self.frozen_to = self.gathered_to;
        }
    }
}

/// The name of a file made now; it sorts behind the one before whatever the clocks did.
fn name_after(now_ms: i64, before: Option<&str>) -> String {
    let name = civil_name(now_ms);
    match before {
        Some(before) if *name <= *before => match before.parse::<u64>() {
            Ok(number) => format!("{:017}", number + 1),
            Err(_) => format!("{before}0"),
        },
        _ => name,
    }
}

/// `yyyyMMddHHmmssSSS` in UTC.
fn civil_name(ms: i64) -> String {
    let [year, month, day, hour, minute, second, ms] = utc(ms);
    format!("{year:04}{month:02}{day:02}{hour:02}{minute:02}{second:02}{ms:03}")
}

/// A query and what it has found.
#[derive(Debug)]
struct Found {
    hash: u32,
    max: usize,
    begin_ms: i64,
    end_ms: i64,
    offsets: Vec<u64>,
}

impl Found {
    fn is_full(&self) -> bool {
        self.offsets.len() >= self.max
    }

    /// Takes a match unless it was seen, or its time, known to within `grain_ms`, does not fit.
    fn offer(&mut self, offset: u64, stored_ms: i64, grain_ms: i64) {
        let in_time =
            stored_ms.saturating_add(grain_ms) >= self.begin_ms && stored_ms <= self.end_ms;
        let seen = self.offsets.last().is_some_and(|last| *last <= offset);
        if in_time && !seen && !self.is_full() {
            self.offsets.push(offset);
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Header {
    begin_ms: i64,
    end_ms: i64,
    begin_offset: u64,
    end_offset: u64,
    slots_used: u32,
    /// The number of the next unit.
    count: u32,
}

impl Header {
    fn to_bytes(self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..8].copy_from_slice(&self.begin_ms.to_be_bytes());
        bytes[8..16].copy_from_slice(&self.end_ms.to_be_bytes());
        bytes[16..24].copy_from_slice(&self.begin_offset.to_be_bytes());
        bytes[24..32].copy_from_slice(&self.end_offset.to_be_bytes());
        bytes[32..36].copy_from_slice(&self.slots_used.to_be_bytes());
        bytes[36..].copy_from_slice(&self.count.to_be_bytes());
        bytes
    }

    fn from_bytes(bytes: &[u8; HEADER_BYTES]) -> Self {
        let (longs, rest) = bytes.as_chunks::<8>();
        debug_assert!(rest.is_empty());
        let long = |n: usize| u64::from_be_bytes(longs.get(n).copied().unwrap_or_default());
        let last = long(4);
        Self {
            begin_ms: long(0).cast_signed(),
            end_ms: long(1).cast_signed(),
            begin_offset: long(2),
            end_offset: long(3),
            slots_used: (last >> 32) as u32,
            count: last as u32,
        }
    }
}

/// One file.
#[derive(Debug)]
struct IndexFile {
    path: PathBuf,
    file: Arc<dyn DiskFile>,
    shape: Shape,
    header: Mutex<Header>,
}

impl IndexFile {
    fn create(disk: &dyn Disk, dir: &Path, path: PathBuf, shape: Shape) -> io::Result<IndexFile> {
        make_dir(disk, dir)?;
        let file = disk.open(&path, OpenMode::Create)?;
        file.set_len(shape.file_bytes())?;
        file.sync_data()?;
        disk.sync_dir(dir)?;
        let zeros = Header::from_bytes(&[0; HEADER_BYTES]);
        Ok(Self { path, file, shape, header: Mutex::new(Header { count: 1, ..zeros }) })
    }

    /// `None` for the file that was being made when the last run ended: nothing is in it yet, and
    /// how much of it is on the disk cannot be known.
    fn open(
        disk: &dyn Disk,
        path: PathBuf,
        shape: Shape,
        unfinished: bool,
    ) -> Result<Option<Arc<Self>>, StoreError> {
        let failed = |error| StoreError::io(&path, "open", error);
        let file = disk.open(&path, OpenMode::Write).map_err(failed)?;
        let len = file.len().map_err(failed)?;
        let mut bytes = [0; HEADER_BYTES];
        let _short = file.read_at(&mut bytes, 0).map_err(failed)?;
        let mut header = Header::from_bytes(&bytes);
        if unfinished && header.count <= 1 {
            return Ok(None);
        }
        header.count = header.count.max(1);
        if len != shape.file_bytes() || header.count > shape.units {
            let what = format!(
                "its {len} bytes and {} units do not fit maxHashSlotNum {} and maxIndexNum {}; \
                 the directory `index` may be removed, old keys are then not found",
                header.count, shape.slots, shape.units
            );
            return Err(StoreError::Corrupt { file: path, at: 0, what });
        }
        Ok(Some(Arc::new(Self { path, file, shape, header: Mutex::new(header) })))
    }

    fn failed(&self, action: &'static str, source: io::Error) -> StoreError {
        StoreError::io(&self.path, action, source)
    }

    fn header(&self) -> Header {
        *self.header.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn room(&self) -> usize {
        (self.shape.units - self.header().count) as usize
    }

    /// Adds units, of which there is room for all.
    fn append(&self, units: &[Unit]) -> io::Result<()> {
        let mut header = self.header();
        let (Some(first), Some(last)) = (units.first(), units.last()) else { return Ok(()) };
        if header.count == 1 {
            header.begin_ms = first.store_timestamp_ms;
            header.begin_offset = first.physical_offset;
        }
        let order = self.by_slot(units);
        let bytes = self.link(units, &order, &mut header)?;
        self.file.write_at(&bytes, self.shape.unit_at(header.count))?;
        self.file.sync_data()?;
        self.point(&order, header.count)?;
        self.file.sync_data()?;
        header.count += units.len() as u32;
        header.end_ms = last.store_timestamp_ms;
        header.end_offset = last.physical_offset;
        self.file.write_at(&header.to_bytes(), 0)?;
        self.file.sync_data()?;
        *self.header.lock().unwrap_or_else(PoisonError::into_inner) = header;
        Ok(())
    }

    /// The slot of each unit and its place in the batch, sorted.
    fn by_slot(&self, units: &[Unit]) -> Vec<(u32, u32)> {
        let slots = units.iter().map(|unit| self.shape.slot_of(unit.hash));
        let mut order: Vec<(u32, u32)> = slots.zip(0..).collect();
        order.sort_unstable();
        order
    }

    /// The units as bytes, each linked to the one before it in its slot.
    fn link(
        &self,
        units: &[Unit],
        order: &[(u32, u32)],
        header: &mut Header,
    ) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; units.len() * UNIT_BYTES];
        let places = bytes.as_chunks_mut::<UNIT_BYTES>().0;
        let count = header.count;
        for group in order.chunk_by(|a, b| same_page(order.len(), a.0, b.0)) {
            let page = self.page_of(group, order.len(), count)?;
            for chain in group.chunk_by(|a, b| a.0 == b.0) {
                let mut before = page.get(chain.first().map_or(0, |unit| unit.0));
                header.slots_used += u32::from(before == 0);
                for (_, number) in chain {
                    let number = *number as usize;
                    if let (Some(place), Some(unit)) = (places.get_mut(number), units.get(number)) {
                        *place = unit_bytes(unit, header.begin_ms, before);
                    }
                    before = count + number as u32;
                }
            }
        }
        Ok(bytes)
    }

    /// Points each slot to its newest unit.
    fn point(&self, order: &[(u32, u32)], count: u32) -> io::Result<()> {
        for group in order.chunk_by(|a, b| same_page(order.len(), a.0, b.0)) {
            let mut page = self.page_of(group, order.len(), count)?;
            for (slot, number) in group {
                page.set(*slot, count + number);
            }
            self.file.write_at(&page.bytes, self.shape.slot_at(page.first))?;
        }
        Ok(())
    }

    fn page_of(&self, group: &[(u32, u32)], batch: usize, count: u32) -> io::Result<Page> {
        let slots = page_slots(batch);
        let slot = group.first().map_or(0, |unit| unit.0);
        let mut page = self.read_page(slot - slot % slots, slots)?;
        self.mend_page(&mut page, count, &mut HashMap::new())?;
        Ok(page)
    }

    fn read_page(&self, first: u32, slots: u32) -> io::Result<Page> {
        let slots = self.shape.slots.saturating_sub(first).min(slots);
        let mut bytes = vec![0; slots as usize * SLOT_BYTES as usize];
        read_exact_at(&*self.file, &mut bytes, self.shape.slot_at(first))?;
        Ok(Page { first, bytes })
    }

    fn look(&self, found: &mut Found) -> io::Result<()> {
        let header = self.header();
        if found.end_ms < header.begin_ms || found.begin_ms > header.end_ms.saturating_add(999) {
            return Ok(());
        }
        let mut slot = [0; 4];
        read_exact_at(&*self.file, &mut slot, self.shape.slot_at(self.shape.slot_of(found.hash)))?;
        let mut number = u32::from_be_bytes(slot);
        for _ in 0..CHAIN_UNITS {
            if number == 0 || number >= header.count || found.is_full() {
                break;
            }
            let (hash, offset, seconds, before) = self.unit(number)?;
            let stored_ms = header.begin_ms.saturating_add(i64::from(seconds) * 1000);
            if hash == found.hash {
                found.offer(offset, stored_ms, 999);
            }
            number = if before < number { before } else { 0 };
        }
        Ok(())
    }

    fn unit(&self, number: u32) -> io::Result<(u32, u64, i32, u32)> {
        let mut bytes = [0; UNIT_BYTES];
        read_exact_at(&*self.file, &mut bytes, self.shape.unit_at(number))?;
        let [h0, h1, h2, h3, o0, o1, o2, o3, o4, o5, o6, o7, s0, s1, s2, s3, before @ ..] = bytes;
        let offset = u64::from_be_bytes([o0, o1, o2, o3, o4, o5, o6, o7]);
        let seconds = i32::from_be_bytes([s0, s1, s2, s3]);
        Ok((u32::from_be_bytes([h0, h1, h2, h3]), offset, seconds, u32::from_be_bytes(before)))
    }

    /// Makes every slot point below the count, by the links of the units past it. The header is
    /// written once more, too: if the kernel failed to, its cache would not tell.
    fn mend(&self) -> io::Result<()> {
        let count = self.header().count;
        let mut known = HashMap::new();
        for first in (0..self.shape.slots).step_by(BIG_PAGE_SLOTS as usize) {
            let mut page = self.read_page(first, BIG_PAGE_SLOTS)?;
            if self.mend_page(&mut page, count, &mut known)? {
                self.file.write_at(&page.bytes, self.shape.slot_at(page.first))?;
            }
        }
        self.file.write_at(&self.header().to_bytes(), 0)?;
        self.file.sync_data()
    }

    fn mend_page(
        &self,
        page: &mut Page,
        count: u32,
        known: &mut HashMap<u32, u32>,
    ) -> io::Result<bool> {
        let mut changed = false;
        for slot in page.bytes.as_chunks_mut::<4>().0 {
            let number = u32::from_be_bytes(*slot);
            if number >= count {
                *slot = self.follow(number, count, known)?.to_be_bytes();
                changed = true;
            }
        }
        Ok(changed)
    }

    /// The first unit below `count` in the chain that starts at `number`.
    fn follow(&self, number: u32, count: u32, known: &mut HashMap<u32, u32>) -> io::Result<u32> {
        let mut at = number;
        while at >= count && at < self.shape.units {
            let before = match known.get(&at) {
                Some(before) => *before,
                None => self.unit(at)?.3,
            };
            known.insert(at, before);
            if before >= at {
                return Ok(0);
            }
            at = before;
        }
        Ok(if at < count { at } else { 0 })
    }
}

/// Some slots in a row.
#[derive(Debug)]
struct Page {
    first: u32,
    bytes: Vec<u8>,
}

impl Page {
    fn get(&self, slot: u32) -> u32 {
        let slots = self.bytes.as_chunks::<4>().0;
        slots.get((slot - self.first) as usize).map_or(0, |bytes| u32::from_be_bytes(*bytes))
    }

    fn set(&mut self, slot: u32, number: u32) {
        let slots = self.bytes.as_chunks_mut::<4>().0;
        if let Some(bytes) = slots.get_mut((slot - self.first) as usize) {
            *bytes = number.to_be_bytes();
        }
    }
}

/// Slots of a page when so many units are written at once.
fn page_slots(batch: usize) -> u32 {
    if batch >= BATCH_UNITS / 16 { BIG_PAGE_SLOTS } else { PAGE_SLOTS }
}

fn same_page(batch: usize, a: u32, b: u32) -> bool {
    a / page_slots(batch) == b / page_slots(batch)
}

fn unit_bytes(unit: &Unit, begin_ms: i64, before: u32) -> [u8; UNIT_BYTES] {
    let seconds = (unit.store_timestamp_ms - begin_ms) / 1000;
    let seconds = seconds.clamp(0, i32::MAX.into()) as i32;
    let mut bytes = [0; UNIT_BYTES];
    bytes[..4].copy_from_slice(&unit.hash.to_be_bytes());
    bytes[4..12].copy_from_slice(&unit.physical_offset.to_be_bytes());
    bytes[12..16].copy_from_slice(&seconds.to_be_bytes());
    bytes[16..].copy_from_slice(&before.to_be_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_named_by_their_time_and_sort_by_age() {
        assert_eq!(civil_name(0), "19700101000000000");
        assert_eq!(civil_name(951_782_400_123), "20000229000000123");
        assert_eq!(civil_name(1_764_547_199_999), "20251130235959999");
        assert_eq!(civil_name(4_107_542_400_000), "21000301000000000");
        assert_eq!(name_after(0, None), "19700101000000000");
        assert_eq!(name_after(0, Some("20251130235959999")), "20251130235960000");
        assert_eq!(name_after(1_764_547_200_000, Some("20251130235959999")), "20251201000000000");
    }

    #[test]
    fn hashes_are_javas() {
        let hash = |texts: [&str; 3]| texts.iter().fold(0, |hash, text| extend_hash(hash, text));
        let known = -1_609_557_962;
        assert_eq!(hash(["TopicTest", "#", "7F00000100002A139F5512345678ABCD"]), known);
        assert_eq!(unsigned(known), 1_609_557_962);
        assert_eq!(extend_hash(0, "\u{6807}\u{7B7E}"), 857_175);
        assert_eq!(unsigned(i32::MIN), 0);
    }
}
