//! Names that many transactions share (groups, clients): each is kept once, for as long as one of them uses it.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::Arc;

use foldhash::quality::RandomState;

/// Stands for a name, in four bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Name(NonZeroU32);

#[derive(Clone, Debug, Default)]
pub(super) struct Names {
    known: HashMap<Arc<str>, Name, RandomState>,
    entries: Vec<Entry>,
    free: Vec<Name>,
}

#[derive(Clone, Debug)]
struct Entry {
    text: Arc<str>,
    users: u32,
}

impl Names {
    /// One more user of this name.
    pub(super) fn take(&mut self, text: &str) -> Name {
        if let Some(name) = self.known.get(text).copied() {
            return self.again(name);
        }
        let entry = Entry { text: text.into(), users: 1 };
        let shared = entry.text.clone();
        let name = match self.free.pop() {
            Some(name) => {
                self.entries[index(name)] = entry;
                name
            }
            None => {
                self.entries.push(entry);
                let number = u32::try_from(self.entries.len()).ok().and_then(NonZeroU32::new);
                Name(number.expect("there are fewer names than pending and remembered transactions"))
            }
        };
        self.known.insert(shared, name);
        name
    }

    /// One more user of a name that has some.
    pub(super) fn again(&mut self, name: Name) -> Name {
        self.entries[index(name)].users += 1;
        name
    }

    /// One user less; the last one takes the name with it.
    pub(super) fn give_back(&mut self, name: Name) {
        let entry = &mut self.entries[index(name)];
        entry.users -= 1;
        if entry.users == 0 {
            self.known.remove(&entry.text);
            entry.text = Arc::default();
            self.free.push(name);
        }
    }

    pub(super) fn known(&self, text: &str) -> Option<Name> {
        self.known.get(text).copied()
    }

    pub(super) fn text(&self, name: Name) -> &Arc<str> {
        &self.entries[index(name)].text
    }
}

fn index(name: Name) -> usize {
    name.0.get() as usize - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_kept_once_and_goes_with_its_last_user() {
        let mut names = Names::default();
        let a = names.take("a");
        assert_eq!((names.take("a"), names.known("a"), &**names.text(a)), (a, Some(a), "a"));
        let b = names.take("b");
        names.give_back(a);
        assert_eq!(names.known("a"), Some(a));
        names.give_back(a);
        assert_eq!((names.known("a"), names.known("b")), (None, Some(b)));
        assert_eq!(names.take("c"), a, "its place is used again");
        assert_eq!((&**names.text(a), names.entries.len()), ("c", 2));
    }
}
