//! [`SimDisk`]: a disk in memory that can lose power, fail and fill up. For tests only.
//!
//! Per file it keeps what the running system sees (the cache) and what a power cut leaves (the
//! durable image), with the writes between them in order. A cut keeps an arbitrary subset of those:
//! each block of 512 or 4096 bytes ends up as any of its unsynced versions, so that writes are
//! dropped, torn and reordered. Names behave alike: a created, renamed or removed entry is durable
//! only once its directory was synced; a cut keeps any prefix of the entries that were not.
//!
//! A failed sync is the kernel's: it marks the pages clean. The cache keeps the new bytes, the disk
//! does not have them, and the next sync reports success. Everything that is random comes from the
//! seed given to [`SimDisk::crash`].

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::disk::{Disk, DiskFile, DiskLock, OpenMode, Space, parent_of};

const PAGE: usize = 4096;
const PAGE_BYTES: u64 = PAGE as u64;
const SECTOR: u64 = 512;

/// A small seeded generator (splitmix64), enough for tests and repeatable anywhere.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// A generator whose whole sequence follows from `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `end`; 0 when `end` is 0.
    pub fn below(&mut self, end: u64) -> u64 {
        self.draw().checked_rem(end).unwrap_or(0)
    }

    /// True in `percent` of 100 cases.
    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

/// A simulated disk. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct SimDisk(Arc<Mutex<State>>);

impl SimDisk {
    /// An empty disk.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Cuts the power and puts it back: unsynced writes and entries survive or not by `seed`, open
    /// files and locks are gone, and the faults that were set are lifted.
    pub fn crash(&self, seed: u64) {
        self.state().crash(&mut Rng::new(seed));
    }

    /// Ends the process only: open files and locks are gone, what was written stays.
    pub fn kill(&self) {
        self.state().restart();
    }

    /// A disk of its own with the same content, pending writes included.
    #[must_use]
    pub fn fork(&self) -> Self {
        Self(Arc::new(Mutex::new(self.state().clone())))
    }

    /// Makes the `nth` sync from now (1 is the next) fail as a kernel lets it fail.
    pub fn fail_sync(&self, nth: u64) {
        self.state().faults.sync_in = Some(nth);
    }

    /// Makes the `nth` write from now fail after a part of its bytes.
    pub fn fail_write(&self, nth: u64) {
        self.state().faults.write_in = Some(nth);
    }

    /// Takes the power after `operations` more changing calls: that one and all later fail until
    /// [`Self::crash`] or [`Self::kill`].
    pub fn power_off_after(&self, operations: u64) {
        self.state().faults.power_off_in = Some(operations);
    }

    /// Leaves room for `bytes` more, or lifts the limit.
    pub fn set_room(&self, bytes: Option<u64>) {
        self.state().room = bytes;
    }

    /// How many changing calls there were.
    #[must_use]
    pub fn operations(&self) -> u64 {
        self.state().operations
    }

    /// Changes bytes of a file at rest, in the cache and on the disk.
    ///
    /// # Errors
    /// When there is no such file.
    pub fn damage(&self, path: &Path, at: u64, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.state();
        let id = state.file_at(path)?;
        let inode = state.inode(id)?;
        inode.cache.write(at, bytes);
        inode.durable.write(at, bytes);
        Ok(())
    }

    /// Every file as the running system sees it.
    #[must_use]
    pub fn image(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let state = self.state();
        let files = state.names.iter().filter_map(|(path, node)| match node {
            Node::File(id) => Some((path.clone(), state.files.get(id)?.cache.to_vec())),
            Node::Dir => None,
        });
        files.collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open_state(&self, boot: u64) -> io::Result<MutexGuard<'_, State>> {
        let state = self.state();
        if state.boot != boot {
            return Err(io::Error::other("this file was opened before the crash"));
        }
        state.check_power()?;
        Ok(state)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Node {
    Dir,
    File(u64),
}

/// One change of a directory; a rename is one, so that it is never seen half done.
#[derive(Clone, Debug)]
struct EntryChange {
    gone: Option<PathBuf>,
    set: Option<(PathBuf, Node)>,
}

#[derive(Clone, Debug, Default)]
struct Faults {
    sync_in: Option<u64>,
    write_in: Option<u64>,
    power_off_in: Option<u64>,
    off: bool,
}

#[derive(Clone, Debug, Default)]
struct State {
    boot: u64,
    names: BTreeMap<PathBuf, Node>,
    durable_names: BTreeMap<PathBuf, Node>,
    entries: BTreeMap<PathBuf, Vec<EntryChange>>,
    files: HashMap<u64, Inode>,
    next_file: u64,
    locks: BTreeSet<PathBuf>,
    faults: Faults,
    room: Option<u64>,
    operations: u64,
}

impl State {
    fn check_power(&self) -> io::Result<()> {
        if self.faults.off { Err(io::Error::other("the power is off")) } else { Ok(()) }
    }

    /// Counts a changing call, and takes the power when its time has come.
    fn operation(&mut self) -> io::Result<()> {
        self.check_power()?;
        self.operations += 1;
        if count_down(&mut self.faults.power_off_in) {
            self.faults.off = true;
        }
        self.check_power()
    }

    fn inode(&mut self, id: u64) -> io::Result<&mut Inode> {
        self.files.get_mut(&id).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn file_at(&self, path: &Path) -> io::Result<u64> {
        match self.names.get(path) {
            Some(Node::File(id)) => Ok(*id),
            Some(Node::Dir) => Err(io::ErrorKind::IsADirectory.into()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn is_dir(&self, path: &Path) -> bool {
        path == Path::new("/") || path == Path::new(".") || self.names.get(path) == Some(&Node::Dir)
    }

    fn change(&mut self, dir: PathBuf, change: EntryChange) {
        apply(&mut self.names, &change);
        self.entries.entry(dir).or_default().push(change);
    }

    fn create(&mut self, path: &Path) -> io::Result<u64> {
        self.operation()?;
        let dir = parent_of(path);
        if !self.is_dir(&dir) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let id = self.next_file;
        self.next_file += 1;
        self.files.insert(id, Inode::default());
        self.change(dir, EntryChange { gone: None, set: Some((path.into(), Node::File(id))) });
        Ok(id)
    }

    /// Takes room for what `need` says beyond what the file has; the error is the full disk's.
    fn take_room(&mut self, bytes: u64) -> io::Result<()> {
        let Some(room) = &mut self.room else { return Ok(()) };
        match room.checked_sub(bytes) {
            Some(left) => *room = left,
            None => return Err(io::ErrorKind::StorageFull.into()),
        }
        Ok(())
    }

    fn give_room(&mut self, bytes: u64) {
        if let Some(room) = &mut self.room {
            *room += bytes;
        }
    }

    fn restart(&mut self) {
        self.boot += 1;
        self.locks.clear();
        self.faults = Faults::default();
    }

    fn crash(&mut self, rng: &mut Rng) {
        self.restart();
        let style = CrashStyle::draw(rng);
        for changes in std::mem::take(&mut self.entries).into_values() {
            let kept = style.prefix(changes.len(), rng);
            changes.iter().take(kept).for_each(|change| apply(&mut self.durable_names, change));
        }
        let reachable = self.durable_names.clone();
        self.durable_names
            .retain(|path, _| path.ancestors().skip(1).all(|dir| is_kept(&reachable, dir)));
        self.names = self.durable_names.clone();
        let alive: BTreeSet<u64> = self.names.values().filter_map(file_of).collect();
        self.files.retain(|id, _| alive.contains(id));
        for id in alive {
            if let Some(inode) = self.files.get_mut(&id) {
                inode.crash(&style, rng);
            }
        }
    }
}

fn file_of(node: &Node) -> Option<u64> {
    match node {
        Node::File(id) => Some(*id),
        Node::Dir => None,
    }
}

fn is_kept(names: &BTreeMap<PathBuf, Node>, dir: &Path) -> bool {
    dir == Path::new("/") || dir.as_os_str().is_empty() || names.contains_key(dir)
}

fn apply(names: &mut BTreeMap<PathBuf, Node>, change: &EntryChange) {
    if let Some(gone) = &change.gone {
        names.remove(gone);
    }
    if let Some((path, node)) = &change.set {
        names.insert(path.clone(), *node);
    }
}

/// True when the counted event is now.
fn count_down(left: &mut Option<u64>) -> bool {
    let Some(count) = left else { return false };
    *count = count.saturating_sub(1);
    let now = *count == 0;
    if now {
        *left = None;
    }
    now
}

/// What one power cut does to unsynced data.
struct CrashStyle {
    keep_percent: u64,
    block: u64,
}

impl CrashStyle {
    fn draw(rng: &mut Rng) -> Self {
        let keep_percent = match rng.below(6) {
            0 => 0,
            1 => 100,
            2 => 90,
            3 => 10,
            _ => 50,
        };
        Self { keep_percent, block: if rng.chance(50) { SECTOR } else { PAGE_BYTES } }
    }

    /// How many of `count` ordered changes of metadata survive.
    fn prefix(&self, count: usize, rng: &mut Rng) -> usize {
        (0..count).take_while(|_| rng.chance(self.keep_percent)).count()
    }

    /// Which of `versions` unsynced versions of a block survives; 0 is the durable one.
    fn version(&self, versions: u64, rng: &mut Rng) -> u64 {
        match rng.chance(self.keep_percent) {
            false => 0,
            true if rng.chance(70) => versions,
            true => rng.below(versions + 1),
        }
    }
}

#[derive(Clone, Debug)]
enum Pending {
    Write { at: u64, bytes: Box<[u8]> },
    Len(u64),
}

#[derive(Clone, Debug, Default)]
struct Inode {
    cache: Image,
    durable: Image,
    pending: Vec<Pending>,
    /// Room up to here is taken, written or not.
    reserved: u64,
}

impl Inode {
    fn write(&mut self, at: u64, bytes: &[u8]) {
        let end = at + bytes.len() as u64;
        if end > self.cache.len {
            self.pending.push(Pending::Len(end));
        }
        self.cache.write(at, bytes);
        self.pending.push(Pending::Write { at, bytes: bytes.into() });
    }

    fn set_len(&mut self, len: u64) {
        if len != self.cache.len {
            self.cache.set_len(len);
            self.pending.push(Pending::Len(len));
        }
        self.reserved = self.reserved.min(len);
    }

    fn sync(&mut self) {
        for change in std::mem::take(&mut self.pending) {
            match change {
                Pending::Write { at, bytes } => self.durable.write(at, &bytes),
                Pending::Len(len) => self.durable.set_len(len),
            }
        }
    }

    /// Room that writing `len` bytes at `at` takes: whole pages that the file does not have yet.
    fn room_for(&self, at: u64, len: u64) -> u64 {
        let first = at.max(self.reserved) / PAGE_BYTES;
        let pages = first..(at + len).div_ceil(PAGE_BYTES).max(first);
        let new = pages.filter(|page| !self.cache.pages.contains_key(page)).count();
        new as u64 * PAGE_BYTES
    }

    fn room_taken(&self) -> u64 {
        let reserved = self.reserved.div_ceil(PAGE_BYTES);
        let beyond = self.cache.pages.range(reserved..).count() as u64;
        (reserved + beyond) * PAGE_BYTES
    }

    /// Each block becomes one of its versions, the length one of its values, and the cache is lost.
    fn crash(&mut self, style: &CrashStyle, rng: &mut Rng) {
        let mut versions: BTreeMap<u64, u64> = BTreeMap::new();
        let lens = self.pending.iter().filter(|p| matches!(p, Pending::Len(_))).count();
        for change in &self.pending {
            if let Pending::Write { at, bytes } = change {
                for (block, _, _) in blocks(*at, bytes, style.block) {
                    *versions.entry(block).or_default() += 1;
                }
            }
        }
        let mut kept: BTreeMap<u64, u64> =
            versions.into_iter().map(|(block, n)| (block, style.version(n, rng))).collect();
        let mut lens_left = style.prefix(lens, rng);
        let mut len = self.durable.len;
        for change in std::mem::take(&mut self.pending) {
            match change {
                Pending::Len(to) if lens_left > 0 => {
                    lens_left -= 1;
                    len = to;
                    self.durable.set_len(to);
                }
                Pending::Len(_) => lens_left = 0,
                Pending::Write { at, bytes } => {
                    for (block, start, part) in blocks(at, &bytes, style.block) {
                        if take_version(&mut kept, block) {
                            self.durable.write(start, part);
                        }
                    }
                }
            }
        }
        self.durable.set_len(len);
        self.cache = self.durable.clone();
        self.reserved = self.reserved.min(len);
    }
}

fn take_version(kept: &mut BTreeMap<u64, u64>, block: u64) -> bool {
    match kept.get_mut(&block) {
        Some(left) if *left > 0 => {
            *left -= 1;
            true
        }
        _ => false,
    }
}

/// The parts of a write by block: (block number, position, bytes).
fn blocks(at: u64, bytes: &[u8], block: u64) -> impl Iterator<Item = (u64, u64, &[u8])> {
    let mut rest = bytes;
    let mut at = at;
    std::iter::from_fn(move || {
        let room = usize::try_from(block - at % block).unwrap_or(usize::MAX);
        let (part, left) = rest.split_at(room.min(rest.len()));
        let item = (!part.is_empty()).then_some((at / block, at, part));
        rest = left;
        at += part.len() as u64;
        item
    })
}

/// Bytes of a file by page; a missing page reads as zeros.
#[derive(Clone, Debug, Default)]
struct Image {
    pages: BTreeMap<u64, Arc<[u8; PAGE]>>,
    len: u64,
}

impl Image {
    fn read(&self, buf: &mut [u8], at: u64) -> usize {
        let left = usize::try_from(self.len.saturating_sub(at)).unwrap_or(usize::MAX);
        let size = buf.len().min(left);
        let mut done = 0;
        while done < size {
            let position = at + done as u64;
            let within = (position % PAGE_BYTES) as usize;
            let part = (PAGE - within).min(size - done);
            match self.pages.get(&(position / PAGE_BYTES)) {
                Some(page) => buf[done..done + part].copy_from_slice(&page[within..within + part]),
                None => buf[done..done + part].fill(0),
            }
            done += part;
        }
        size
    }

    fn write(&mut self, at: u64, bytes: &[u8]) {
        for (page, start, part) in blocks(at, bytes, PAGE_BYTES) {
            let within = (start % PAGE_BYTES) as usize;
            let page = self.pages.entry(page).or_insert_with(|| Arc::new([0; PAGE]));
            Arc::make_mut(page)[within..within + part.len()].copy_from_slice(part);
        }
        self.len = self.len.max(at + bytes.len() as u64);
    }

    fn set_len(&mut self, len: u64) {
        if len < self.len {
            self.pages.split_off(&len.div_ceil(PAGE_BYTES));
            if let Some(page) = self.pages.get_mut(&(len / PAGE_BYTES)) {
                Arc::make_mut(page)[(len % PAGE_BYTES) as usize..].fill(0);
            }
        }
        self.len = len;
    }

    fn to_vec(&self) -> Vec<u8> {
        let mut bytes = vec![0; usize::try_from(self.len).unwrap_or(0)];
        self.read(&mut bytes, 0);
        bytes
    }
}

impl Disk for SimDisk {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.state();
        state.check_power()?;
        let id = match state.file_at(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && mode == OpenMode::Create => {
                state.create(path)?
            }
            other => other?,
        };
        let boot = state.boot;
        Ok(Arc::new(SimFile { disk: self.clone(), id, boot, writable: mode != OpenMode::Read }))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let state = self.state();
        state.check_power()?;
        if !state.is_dir(dir) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let below = state.names.range(dir.to_owned()..).skip_while(|(path, _)| *path == dir);
        let names = below
            .take_while(|(path, _)| path.starts_with(dir))
            .filter(|(path, _)| path.parent() == Some(dir))
            .filter_map(|(path, _)| Some(path.file_name()?.to_string_lossy().into_owned()));
        Ok(names.collect())
    }

    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.operation()?;
        let mut missing: Vec<&Path> = dir.ancestors().collect();
        missing.reverse();
        for path in missing {
            if path.as_os_str().is_empty() || state.is_dir(path) {
                continue;
            }
            let change = EntryChange { gone: None, set: Some((path.into(), Node::Dir)) };
            state.change(parent_of(path), change);
        }
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.operation()?;
        let id = state.file_at(from)?;
        let change =
            EntryChange { gone: Some(from.into()), set: Some((to.into(), Node::File(id))) };
        state.change(parent_of(to), change);
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.operation()?;
        match state.names.get(path).copied().ok_or(io::ErrorKind::NotFound)? {
            Node::File(id) => {
                let taken = state.inode(id)?.room_taken();
                state.give_room(taken);
            }
            Node::Dir if state.names.keys().any(|name| name.parent() == Some(path)) => {
                return Err(io::ErrorKind::DirectoryNotEmpty.into());
            }
            Node::Dir => {}
        }
        state.change(parent_of(path), EntryChange { gone: Some(path.into()), set: None });
        Ok(())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.operation()?;
        for change in state.entries.remove(dir).unwrap_or_default() {
            apply(&mut state.durable_names, &change);
        }
        Ok(())
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        let state = self.state();
        state.check_power()?;
        Ok(state.is_dir(path) || state.names.contains_key(path))
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn DiskLock>> {
        let mut state = self.state();
        if state.file_at(path).is_err() {
            state.create(path)?;
        }
        if !state.locks.insert(path.to_owned()) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(Box::new(SimLock { disk: self.clone(), path: path.to_owned(), boot: state.boot }))
    }

    fn space(&self, _path: &Path) -> io::Result<Space> {
        let total = 1 << 40;
        Ok(Space { free: self.state().room.unwrap_or(total), total })
    }
}

#[derive(Debug)]
struct SimFile {
    disk: SimDisk,
    id: u64,
    boot: u64,
    writable: bool,
}

impl SimFile {
    fn change(&self) -> io::Result<MutexGuard<'_, State>> {
        let mut state = self.disk.open_state(self.boot)?;
        if !self.writable {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        state.operation()?;
        Ok(state)
    }
}

impl DiskFile for SimFile {
    fn read_at(&self, buf: &mut [u8], at: u64) -> io::Result<usize> {
        let mut state = self.disk.open_state(self.boot)?;
        Ok(state.inode(self.id)?.cache.read(buf, at))
    }

    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        let mut state = self.change()?;
        let fails = count_down(&mut state.faults.write_in);
        let room = state.inode(self.id)?.room_for(at, bytes.len() as u64);
        let room = state.take_room(room);
        let written = if fails || room.is_err() { bytes.len() / 2 } else { bytes.len() };
        if room.is_ok() {
            state.inode(self.id)?.write(at, bytes.get(..written).unwrap_or(bytes));
        }
        if fails { Err(io::Error::other("input/output error (planted)")) } else { room }
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.change()?;
        let fails = count_down(&mut state.faults.sync_in);
        let inode = state.inode(self.id)?;
        if fails {
            inode.pending.clear();
            return Err(io::Error::other("input/output error (planted)"));
        }
        inode.sync();
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = self.change()?;
        let inode = state.inode(self.id)?;
        let before = inode.room_taken();
        inode.set_len(len);
        let after = inode.room_taken();
        state.give_room(before.saturating_sub(after));
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        let mut state = self.disk.open_state(self.boot)?;
        Ok(state.inode(self.id)?.cache.len)
    }

    fn reserve(&self, len: u64) -> io::Result<()> {
        let mut state = self.change()?;
        let room = state.inode(self.id)?.room_for(0, len);
        state.take_room(room)?;
        let inode = state.inode(self.id)?;
        if len > inode.cache.len {
            inode.set_len(len);
        }
        inode.reserved = inode.reserved.max(len);
        Ok(())
    }
}

#[derive(Debug)]
struct SimLock {
    disk: SimDisk,
    path: PathBuf,
    boot: u64,
}

impl DiskLock for SimLock {
    fn sync_all(&self) -> io::Result<()> {
        let mut state = self.disk.open_state(self.boot)?;
        state.operation()?;
        let fails = count_down(&mut state.faults.sync_in);
        for change in std::mem::take(&mut state.entries).into_values().flatten() {
            apply(&mut state.durable_names, &change);
        }
        for inode in state.files.values_mut() {
            if fails {
                inode.pending.clear();
            } else {
                inode.sync();
            }
        }
        if fails { Err(io::Error::other("input/output error (planted)")) } else { Ok(()) }
    }
}

impl Drop for SimLock {
    fn drop(&mut self) {
        let mut state = self.disk.state();
        if state.boot == self.boot {
            state.locks.remove(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::disk::make_dir;

    fn file(disk: &SimDisk) -> Arc<dyn DiskFile> {
        disk.open(Path::new("/d/f"), OpenMode::Create).unwrap()
    }

    fn disk() -> SimDisk {
        let disk = SimDisk::new();
        make_dir(&disk, Path::new("/d")).unwrap();
        file(&disk);
        disk.sync_dir(Path::new("/d")).unwrap();
        disk
    }

    fn content(disk: &SimDisk) -> Vec<u8> {
        disk.image().remove(Path::new("/d/f")).unwrap()
    }

    #[test]
    fn synced_bytes_survive_and_others_may_not() {
        let mut outcomes = BTreeSet::new();
        for seed in 0..200 {
            let disk = disk();
            let open = file(&disk);
            open.write_at(b"old", 0).unwrap();
            open.sync_data().unwrap();
            open.write_at(b"new", 0).unwrap();
            disk.crash(seed);
            outcomes.insert(content(&disk));
            assert!(open.write_at(b"x", 0).is_err(), "a handle does not outlive the crash");
        }
        assert_eq!(outcomes, BTreeSet::from([b"old".to_vec(), b"new".to_vec()]));
    }

    #[test]
    fn blocks_are_torn_and_reordered() {
        let mut outcomes = BTreeSet::new();
        for seed in 0..300 {
            let disk = disk();
            let open = file(&disk);
            open.set_len(1024).unwrap();
            open.sync_data().unwrap();
            open.write_at(&[1; 1024], 0).unwrap();
            open.write_at(&[2; 512], 512).unwrap();
            disk.crash(seed);
            let bytes = content(&disk);
            outcomes.insert((bytes[0], bytes[1023]));
        }
        let all = [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)];
        assert_eq!(outcomes, BTreeSet::from(all));
    }

    #[test]
    fn an_entry_is_durable_only_when_its_directory_was_synced() {
        let mut lost = 0;
        for seed in 0..100 {
            let disk = disk();
            let other = disk.open(Path::new("/d/g"), OpenMode::Create).unwrap();
            other.write_at(b"bytes", 0).unwrap();
            other.sync_data().unwrap();
            disk.crash(seed);
            lost += u32::from(!disk.exists(Path::new("/d/g")).unwrap());
            assert!(disk.exists(Path::new("/d/f")).unwrap());
        }
        assert!((20..100).contains(&lost), "{lost}");
    }

    #[test]
    fn a_failed_sync_lies_the_second_time() {
        let disk = disk();
        let open = file(&disk);
        open.set_len(3).unwrap();
        open.sync_data().unwrap();
        disk.fail_sync(1);
        open.write_at(b"new", 0).unwrap();
        assert!(open.sync_data().is_err());
        open.sync_data().unwrap();
        disk.kill();
        assert_eq!(content(&disk), b"new", "the cache keeps what the disk lost");
        disk.crash(1);
        assert_eq!(content(&disk), [0; 3]);
    }

    #[test]
    fn room_runs_out_and_comes_back() {
        let disk = disk();
        let open = file(&disk);
        disk.set_room(Some(2 * PAGE_BYTES));
        open.reserve(PAGE_BYTES).unwrap();
        open.write_at(&[1; PAGE], 0).unwrap();
        assert_eq!(open.reserve(3 * PAGE_BYTES).unwrap_err().kind(), io::ErrorKind::StorageFull);
        open.write_at(&[1; PAGE], PAGE_BYTES).unwrap();
        assert!(open.write_at(&[1], 2 * PAGE_BYTES).is_err());
        disk.remove(Path::new("/d/f")).unwrap();
        assert_eq!(disk.space(Path::new("/")).unwrap().free, 2 * PAGE_BYTES);
    }

    #[test]
    fn the_power_goes_at_the_nth_operation() {
        let disk = disk();
        let open = file(&disk);
        disk.power_off_after(2);
        open.write_at(b"a", 0).unwrap();
        assert!(open.write_at(b"b", 1).is_err());
        assert!(open.read_at(&mut [0], 0).is_err());
        disk.crash(0);
        assert!(disk.exists(Path::new("/d/f")).unwrap());
    }
}
