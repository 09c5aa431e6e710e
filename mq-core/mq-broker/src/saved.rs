//! A table whose changes are on disk before they are seen, in one file that is written whole.
//!
//! Changes that come while the file is written share the next write, so that n of them do not cost n files: one of those
//! that wait writes for all of them. Readers never wait for the disk. Knows nothing of what the table holds.

use std::sync::{Arc, OnceLock};

use arc_swap::{ArcSwap, Guard};
use parking_lot::{Condvar, Mutex};
use serde::Serialize;

use crate::config_file::{ConfigFile, SaveError};

/// A table as memory keeps it. Its clones are made once a write, and should cost little.
pub(crate) trait Table: Clone {
    /// As its file has it.
    fn in_file(&self) -> impl Serialize;
}

pub(crate) struct Saved<T> {
    file: ConfigFile,
    /// What is on disk.
    seen: ArcSwap<T>,
    staged: Mutex<Staged<T>>,
    /// A write ended.
    written: Condvar,
}

struct Staged<T> {
    /// With the changes that wait for a write.
    table: Arc<T>,
    next: Arc<Write>,
    is_led: bool,
}

/// What became of a write, for all whose changes it took along.
type Write = OnceLock<Result<(), Arc<SaveError>>>;

impl<T: Table> Saved<T> {
    pub(crate) fn new(file: ConfigFile, table: T) -> Self {
        let table = Arc::new(table);
        let staged = Mutex::new(Staged { table: table.clone(), next: Arc::default(), is_led: false });
        Self { file, seen: ArcSwap::new(table), staged, written: Condvar::new() }
    }

    pub(crate) fn seen(&self) -> Guard<Arc<T>> {
        self.seen.load()
    }

    /// Changes the table; returns when the change is on disk and seen. `edit` says what it changed, if anything; when it
    /// fails it must have changed nothing.
    pub(crate) fn change<R, E: From<Arc<SaveError>>>(
        &self,
        edit: impl FnOnce(&mut T) -> Result<Option<R>, E>,
    ) -> Result<Option<R>, E> {
        let (changed, write) = self.stage(edit)?;
        if let Some(write) = write {
            if let Some(lead) = self.lead_unless(|| write.get().is_some()) {
                lead.write();
            }
            write.get().cloned().expect("it has ended")?;
        }
        Ok(changed)
    }

    /// The same with something else to be done, changed or not, before a later change is seen.
    pub(crate) fn change_and<E: From<Arc<SaveError>>>(
        &self,
        edit: impl FnOnce(&mut T) -> Result<Option<()>, E>,
        along: impl FnOnce(bool) -> Result<(), E>,
    ) -> Result<(), E> {
        let lead = self.lead_unless(|| false).expect("in its turn");
        let (changed, write) = self.stage(edit)?;
        if let Some(write) = write {
            lead.write();
            write.get().cloned().expect("it has ended")?;
        }
        along(changed.is_some())
    }

    fn stage<R, E>(
        &self,
        edit: impl FnOnce(&mut T) -> Result<Option<R>, E>,
    ) -> Result<(Option<R>, Option<Arc<Write>>), E> {
        let mut staged = self.staged.lock();
        let nothing_waits = Arc::ptr_eq(&staged.table, &self.seen.load());
        let changed = edit(Arc::make_mut(&mut staged.table));
        if nothing_waits && !matches!(changed, Ok(Some(_))) {
            staged.table = self.seen.load_full();
            return Ok((changed?, None));
        }
        // Where this is no change because of another one, that one may have to reach the disk yet.
        Ok((changed?, Some(staged.next.clone())))
    }

    /// Waits for its turn to write; `None` when there is no need to any more.
    fn lead_unless(&self, is_done: impl Fn() -> bool) -> Option<Lead<'_, T>> {
        let mut staged = self.staged.lock();
        while !is_done() {
            if !staged.is_led {
                staged.is_led = true;
                return Some(Lead(self));
            }
            self.written.wait(&mut staged);
        }
        None
    }
}

/// The one that writes.
struct Lead<'s, T>(&'s Saved<T>);

impl<T: Table> Lead<'_, T> {
    /// Writes all that waits.
    fn write(&self) {
        let saved = self.0;
        let (table, write) = {
            let mut staged = saved.staged.lock();
            (staged.table.clone(), std::mem::take(&mut staged.next))
        };
        let outcome = saved.file.save(&table.in_file()).map_err(Arc::new);
        let mut staged = saved.staged.lock();
        if outcome.is_ok() {
            saved.seen.store(table);
        } else {
            // Changes that were made meanwhile stand on those that failed, and fail with them.
            staged.table = saved.seen.load_full();
            let _ = std::mem::take(&mut staged.next).set(outcome.clone());
        }
        let _ = write.set(outcome);
    }
}

impl<T> Drop for Lead<'_, T> {
    fn drop(&mut self) {
        self.0.staged.lock().is_led = false;
        self.0.written.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc::{Receiver, Sender, channel};
    use std::thread;

    use super::*;

    /// Numbers. Each write says that it begins, and waits until it may go on.
    #[derive(Clone)]
    struct Numbers {
        numbers: Vec<usize>,
        writes: Arc<AtomicUsize>,
        begins: Sender<()>,
        goes_on: Arc<Mutex<Receiver<()>>>,
    }

    impl Table for Numbers {
        fn in_file(&self) -> impl Serialize {
            self.writes.fetch_add(1, Ordering::SeqCst);
            let _ = self.begins.send(());
            self.goes_on.lock().recv().expect("the test goes on");
            &self.numbers
        }
    }

    type Outcome = Result<Option<()>, Arc<SaveError>>;

    fn add(saved: &Saved<Numbers>, number: usize) -> Outcome {
        saved.change(|table| {
            let is_new = !table.numbers.contains(&number);
            Ok(is_new.then(|| table.numbers.push(number)))
        })
    }

    /// One change is being written, ten more and one of them again wait; `meanwhile` happens, then the writes go on.
    fn crowd(directory: &std::path::Path, meanwhile: impl FnOnce()) -> (Saved<Numbers>, Vec<Outcome>) {
        let ((begins, begun), (go_on, goes_on)) = (channel(), channel());
        let goes_on = Arc::new(Mutex::new(goes_on));
        let table = Numbers { numbers: Vec::new(), writes: Arc::default(), begins, goes_on };
        let saved = Saved::new(ConfigFile::new(directory, "numbers.json"), table);
        let outcomes = thread::scope(|scope| {
            let saved = &saved;
            let first = scope.spawn(|| add(saved, 0));
            begun.recv().expect("the first write begins");
            let others: Vec<_> = (1..=11).map(|n| scope.spawn(move || add(saved, n.min(10)))).collect();
            while saved.staged.lock().table.numbers.len() < 11 {
                thread::yield_now();
            }
            assert!(saved.seen().numbers.is_empty(), "nothing is seen before it is on disk");
            meanwhile();
            (0..12).for_each(|_| go_on.send(()).expect("the writes wait"));
            [first].into_iter().chain(others).map(|one| one.join().expect("no panic")).collect()
        });
        (saved, outcomes)
    }

    #[test]
    fn changes_that_come_during_a_write_share_the_next_one() {
        let directory = tempfile::tempdir().expect("a directory");
        let (saved, outcomes) = crowd(directory.path(), || ());
        assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
        assert_eq!(outcomes.iter().flatten().flatten().count(), 11, "one of them was there already");
        let seen = saved.seen();
        assert_eq!(seen.numbers.len(), 11);
        // The one that came twice may have come after the second write began.
        assert!((2..=3).contains(&seen.writes.load(Ordering::SeqCst)), "{:?}", seen.writes);
        let on_disk: Option<Vec<usize>> = ConfigFile::new(directory.path(), "numbers.json").load().expect("read");
        assert_eq!(on_disk.as_ref(), Some(&seen.numbers));
    }

    #[test]
    fn what_cannot_be_written_is_taken_back_with_what_stands_on_it() {
        let directory = tempfile::tempdir().expect("a directory");
        let config = directory.path().join("config");
        let block = || std::fs::write(&config, "a file where the directory should be").expect("written");
        let (saved, outcomes) = crowd(&config, block);
        assert!(outcomes.iter().all(Result::is_err), "{outcomes:?}");
        assert!(saved.seen().numbers.is_empty() && saved.staged.lock().table.numbers.is_empty());
        std::fs::remove_file(&config).expect("removed");
        assert_eq!(add(&saved, 7).expect("written"), Some(()));
        assert_eq!(saved.seen().numbers, [7]);
    }
}
