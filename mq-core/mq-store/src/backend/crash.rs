//! Files in memory that lose power: what was not synced is dropped, kept, cut or torn. For tests of this crate and of
//! those that store through it.
//!
//! Contents last once their file is synced, names once their directory is. A sync that failed loses for good what it
//! should have written, as Linux does: a second sync of the file succeeds and writes nothing of it.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind};
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use super::image::{Change, Image, Inode, MemoryLock, Naming};
use super::transfer::{read_exact, uninterrupted, write_all};
use super::{Backend, Entry, File, LockGuard, Space, Usage};

const SECTOR_BYTES: u64 = 512;

/// What becomes of everything that was not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CrashMode {
    Drop,
    Keep,
    /// The first so many changes, in the order in which they were made.
    Prefix,
    /// As `Prefix`, and the write after them up to some sector.
    Torn,
    /// Any sectors of any writes; of each directory's changes the first so many.
    Subset,
}

impl CrashMode {
    pub const ALL: [Self; 5] = [Self::Drop, Self::Keep, Self::Prefix, Self::Torn, Self::Subset];
}

/// What happens at a chosen operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The operation fails and changes nothing.
    Fails(ErrorKind),
    /// The operation reaches the page cache, then it and all later ones fail. See [`CrashBackend::crash`].
    PowerCut,
}

/// Clones share the files.
#[derive(Clone, Default)]
pub struct CrashBackend(Arc<Shared>);

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    lock: MemoryLock,
}

#[derive(Clone)]
struct State {
    /// What a reader sees.
    live: Image,
    /// What is certain to outlive a power cut.
    disk: Image,
    /// What is in `live` and not in `disk`, in order.
    unsynced: Vec<Event>,
    operations: u64,
    faults: BTreeMap<u64, Fault>,
    disturbance: Option<Disturbance>,
    power_is_cut: bool,
    capacity_bytes: u64,
}

impl Default for State {
    fn default() -> Self {
        Self {
            live: Image::default(),
            disk: Image::default(),
            unsynced: Vec::new(),
            operations: 0,
            faults: BTreeMap::new(),
            disturbance: None,
            power_is_cut: false,
            capacity_bytes: u64::MAX,
        }
    }
}

/// Signals in every call on a file, and transfers in small pieces.
#[derive(Clone)]
struct Disturbance {
    piece_bytes: usize,
    /// The next call is interrupted.
    signal: bool,
}

#[derive(Clone)]
enum Event {
    Content { inode: Inode, change: Change },
    Name(Naming),
}

impl CrashBackend {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Changes and syncs so far; the next one has this number.
    #[must_use]
    pub fn operations(&self) -> u64 {
        self.0.state.lock().operations
    }

    /// Plans a fault for one operation.
    pub fn plan(&self, operation: u64, fault: Fault) {
        self.0.state.lock().faults.insert(operation, fault);
    }

    /// From now on every call on a file is first interrupted by a signal, and moves at most so many bytes when it is
    /// repeated.
    pub fn disturb(&self, piece_bytes: usize) {
        self.0.state.lock().disturbance = Some(Disturbance { piece_bytes, signal: true });
    }

    /// Bytes beyond which writes and allocations fail with `StorageFull`.
    pub fn set_capacity(&self, bytes: u64) {
        self.0.state.lock().capacity_bytes = bytes;
    }

    /// The files as they are found when power comes back. Nothing planned is left, and the numbers start again.
    #[must_use]
    pub fn crash(&self, mode: CrashMode, seed: u64) -> Self {
        let state = self.0.state.lock();
        let mut dice = Dice(seed);
        let mut disk = state.disk.clone();
        survivors(&state.unsynced, mode, &mut dice).iter().for_each(|event| event.apply(&mut disk));
        disk.drop_orphans();
        let found = State { live: disk.clone(), disk, capacity_bytes: state.capacity_bytes, ..State::default() };
        Self(Arc::new(Shared { state: Mutex::new(found), lock: MemoryLock::default() }))
    }
}

impl State {
    /// Counts an operation; says whether it fails before or after it reached the page cache.
    fn begin(&mut self) -> io::Result<Afterwards> {
        if self.power_is_cut {
            return Err(power_is_cut());
        }
        self.operations += 1;
        match self.faults.get(&(self.operations - 1)) {
            None => Ok(Afterwards::Fine),
            Some(Fault::Fails(kind)) => Err((*kind).into()),
            Some(Fault::PowerCut) => {
                self.power_is_cut = true;
                Ok(Afterwards::Cut)
            }
        }
    }

    /// How many of `bytes` the next call on a file moves.
    fn disturbed(&mut self, bytes: usize) -> io::Result<usize> {
        let Some(Disturbance { piece_bytes, signal }) = &mut self.disturbance else { return Ok(bytes) };
        *signal = !*signal;
        if *signal { Ok(bytes.min(*piece_bytes)) } else { Err(ErrorKind::Interrupted.into()) }
    }

    fn alive(&self) -> io::Result<()> {
        if self.power_is_cut { Err(power_is_cut()) } else { Ok(()) }
    }

    fn name(&mut self, naming: Naming) {
        self.live.name(&naming);
        self.unsynced.push(Event::Name(naming));
    }

    fn change(&mut self, inode: Inode, change: Change) {
        self.live.change(inode, &change);
        self.unsynced.push(Event::Content { inode, change });
    }

    fn has_room(&self, bytes: u64) -> io::Result<()> {
        let full = self.capacity_bytes != u64::MAX && self.live.used_bytes() + bytes > self.capacity_bytes;
        if full { Err(ErrorKind::StorageFull.into()) } else { Ok(()) }
    }

    /// Moves the events that `lasts` picks to the disk.
    fn settle(&mut self, lasts: impl Fn(&Event) -> bool) {
        for event in self.unsynced.extract_if(.., |event| lasts(event)) {
            event.apply(&mut self.disk);
        }
    }
}

#[must_use]
enum Afterwards {
    Fine,
    Cut,
}

impl Afterwards {
    fn result(&self) -> io::Result<()> {
        match self {
            Self::Fine => Ok(()),
            Self::Cut => Err(power_is_cut()),
        }
    }
}

fn power_is_cut() -> io::Error {
    io::Error::other("the power is cut")
}

impl Event {
    fn apply(&self, image: &mut Image) {
        match self {
            Self::Content { inode, change } => image.change(*inode, change),
            Self::Name(naming) => image.name(naming),
        }
    }
}

fn survivors(unsynced: &[Event], mode: CrashMode, dice: &mut Dice) -> Vec<Event> {
    match mode {
        CrashMode::Drop => Vec::new(),
        CrashMode::Keep => unsynced.to_vec(),
        CrashMode::Prefix => unsynced[..dice.below(unsynced.len() + 1)].to_vec(),
        CrashMode::Torn => {
            let kept = dice.below(unsynced.len() + 1);
            let mut survivors = unsynced[..kept].to_vec();
            if let Some(Event::Content { inode, change: Change::Write { at, bytes } }) = unsynced.get(kept) {
                let sectors: Vec<_> = sectors(*at, bytes.len()).collect();
                let torn = sectors[..dice.below(sectors.len())].last().map_or(0, |sector| sector.end);
                let change = Change::Write { at: *at, bytes: bytes[..torn].to_vec() };
                survivors.push(Event::Content { inode: *inode, change });
            }
            survivors
        }
        CrashMode::Subset => any_sectors(unsynced, dice),
    }
}

fn any_sectors(unsynced: &[Event], dice: &mut Dice) -> Vec<Event> {
    let mut survivors = Vec::new();
    let mut ended_directories = BTreeSet::new();
    for event in unsynced {
        match event {
            Event::Name(naming) => {
                if dice.below(4) == 0 {
                    ended_directories.insert(naming.directory());
                }
                if !ended_directories.contains(naming.directory()) {
                    survivors.push(event.clone());
                }
            }
            Event::Content { inode, change: Change::Write { at, bytes } } => {
                for sector in sectors(*at, bytes.len()).filter(|_| dice.below(2) == 0) {
                    let change = Change::Write { at: at + sector.start as u64, bytes: bytes[sector].to_vec() };
                    survivors.push(Event::Content { inode: *inode, change });
                }
            }
            Event::Content { .. } if dice.below(2) == 0 => survivors.push(event.clone()),
            Event::Content { .. } => {}
        }
    }
    survivors
}

/// The pieces of a write that disks keep whole, as ranges of its bytes.
fn sectors(at: u64, bytes: usize) -> impl Iterator<Item = Range<usize>> {
    let mut start = 0;
    std::iter::from_fn(move || {
        let room = SECTOR_BYTES - (at + start as u64) % SECTOR_BYTES;
        let sector = start..bytes.min(start + room as usize);
        start = sector.end;
        (!sector.is_empty()).then_some(sector)
    })
}

impl Backend for CrashBackend {
    fn open(&self, path: &str) -> io::Result<Arc<dyn File>> {
        let state = self.0.state.lock();
        state.alive()?;
        let inode = state.live.inode(path)?;
        Ok(Arc::new(CrashFile { shared: self.0.clone(), inode }))
    }

    fn create(&self, path: &str, bytes: u64, space: Space) -> io::Result<Arc<dyn File>> {
        let mut state = self.0.state.lock();
        let afterwards = state.begin()?;
        state.has_room(if space == Space::Reserved { bytes } else { 0 })?;
        let (inode, namings) = state.live.creation(path)?;
        namings.into_iter().for_each(|naming| state.name(naming));
        state.change(inode, Change::Resize(bytes));
        state.live.reserve(inode, bytes, space);
        afterwards.result()?;
        Ok(Arc::new(CrashFile { shared: self.0.clone(), inode }))
    }

    fn list(&self, directory: &str) -> io::Result<Vec<Entry>> {
        let state = self.0.state.lock();
        state.alive()?;
        Ok(state.live.list(directory))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.0.state.lock();
        let afterwards = state.begin()?;
        state.live.inode(from)?;
        state.name(Naming::Rename { from: from.to_owned(), to: to.to_owned() });
        afterwards.result()
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        let mut state = self.0.state.lock();
        let afterwards = state.begin()?;
        state.live.inode(path)?;
        state.name(Naming::Remove(path.to_owned()));
        afterwards.result()
    }

    fn sync_directory(&self, directory: &str) -> io::Result<()> {
        let mut state = self.0.state.lock();
        state.begin()?.result()?;
        state.live.directory(directory)?;
        state.settle(|event| matches!(event, Event::Name(naming) if naming.directory() == directory));
        Ok(())
    }

    fn sync_all(&self) -> io::Result<()> {
        let mut state = self.0.state.lock();
        state.begin()?.result()?;
        state.settle(|_| true);
        Ok(())
    }

    fn lock(&self, _path: &str) -> io::Result<LockGuard> {
        self.0.lock.take()
    }

    fn usage(&self) -> io::Result<Usage> {
        let state = self.0.state.lock();
        Ok(state.live.usage(state.capacity_bytes))
    }

    fn locate(&self, path: &str) -> String {
        format!("crash:{path}")
    }
}

struct CrashFile {
    shared: Arc<Shared>,
    inode: Inode,
}

impl CrashFile {
    fn change(&self, room: u64, change: Change) -> io::Result<()> {
        uninterrupted(|| self.shared.state.lock().disturbed(0))?;
        let mut state = self.shared.state.lock();
        self.change_undisturbed(&mut state, room, change)
    }

    fn change_undisturbed(&self, state: &mut State, room: u64, change: Change) -> io::Result<()> {
        let afterwards = state.begin()?;
        state.has_room(room)?;
        state.change(self.inode, change);
        afterwards.result()
    }

    fn write_some(&self, at: u64, bytes: &[u8]) -> io::Result<usize> {
        let mut state = self.shared.state.lock();
        let bytes = &bytes[..state.disturbed(bytes.len())?];
        let room = state.live.missing_bytes(self.inode, at, bytes.len() as u64);
        self.change_undisturbed(&mut state, room, Change::Write { at, bytes: bytes.to_vec() })?;
        Ok(bytes.len())
    }

    fn read_some(&self, at: u64, into: &mut [u8]) -> io::Result<usize> {
        let mut state = self.shared.state.lock();
        state.alive()?;
        let bytes = state.disturbed(into.len())?;
        let whole = state.live.content(self.inode)?.read(at, &mut into[..bytes]);
        Ok(if whole { bytes } else { 0 })
    }
}

impl File for CrashFile {
    fn bytes(&self) -> io::Result<u64> {
        let state = self.shared.state.lock();
        state.alive()?;
        Ok(state.live.content(self.inode)?.len)
    }

    fn resize(&self, bytes: u64, space: Space) -> io::Result<()> {
        let more = bytes.saturating_sub(self.bytes()?);
        self.change(if space == Space::Reserved { more } else { 0 }, Change::Resize(bytes))?;
        self.shared.state.lock().live.reserve(self.inode, bytes, space);
        Ok(())
    }

    fn read_at(&self, at: u64, into: &mut [u8]) -> io::Result<()> {
        read_exact(at, into, |at, into| self.read_some(at, into))
    }

    fn write_at(&self, at: u64, bytes: &[u8]) -> io::Result<()> {
        write_all(at, bytes, |at, bytes| self.write_some(at, bytes))
    }

    fn zero(&self, at: u64, bytes: u64, _space: Space) -> io::Result<()> {
        self.change(0, Change::Zero { at, bytes })
    }

    fn sync(&self) -> io::Result<()> {
        uninterrupted(|| self.shared.state.lock().disturbed(0))?;
        let mut state = self.shared.state.lock();
        let ours = |event: &Event| matches!(event, Event::Content { inode, .. } if *inode == self.inode);
        match state.begin() {
            Ok(afterwards) => afterwards.result()?,
            Err(error) => {
                state.unsynced.retain(|event| !ours(event));
                return Err(error);
            }
        }
        state.settle(ours);
        Ok(())
    }

    fn map(&self) -> io::Result<Option<Bytes>> {
        Ok(None)
    }
}

/// SplitMix64: the same seed, the same crash.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((mixed ^ (mixed >> 31)) % limit.max(1) as u64) as usize
    }
}
