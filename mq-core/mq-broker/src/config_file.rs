//! One JSON file of `config/`: written atomically, with the former one beside it as `.bak` and a checksum as its last
//! key, which Apache passes over; read from either. Knows nothing of what it holds.
//!
//! ```text
//! …,
//!     "checkbackSum":"a1b2c3d4"      CRC-32 of the file without this line and the comma before it
//! }
//! ```
//!
//! Apache writes the file without the key: then nothing but its form can be checked.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use mq_protocol::body;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tracing::error;

const BEFORE_SUM: &str = ",\n\t\"checkbackSum\":\"";
const SUM_DIGITS: usize = 8;
const AFTER_SUM: &str = "\"\n}";
const END: &[u8] = b"\n}";

/// A change that could not be written, and so was not made.
#[derive(Debug, thiserror::Error)]
#[error("cannot write {path}: {error}", path = path.display())]
pub struct SaveError {
    path: PathBuf,
    error: io::Error,
}

#[derive(Debug)]
pub(crate) struct ConfigFile {
    path: PathBuf,
}

/// A table as its file will have it.
pub(crate) struct Rendered(Vec<u8>);

impl Rendered {
    /// Tells one state of the file from another.
    pub(crate) fn stamp(&self) -> u32 {
        crc32fast::hash(&self.0)
    }
}

/// Which state of its file a table was read from. The default: of none, it was never written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Origin {
    pub(crate) stamp: u32,
    /// The file before, because this one is damaged or gone.
    pub(crate) stands_in: bool,
}

impl ConfigFile {
    pub(crate) fn new(directory: &Path, name: &str) -> Self {
        Self { path: directory.join(name) }
    }

    pub(crate) fn load<T: DeserializeOwned>(&self) -> io::Result<Option<T>> {
        Ok(self.load_stamped()?.map(|(value, _)| value))
    }

    /// The table and where it came from: `.bak` where the file is missing, or damaged and said so
    /// loudly. `None`: neither was ever written. When damage leaves nothing to read, the broker is not to start with an
    /// empty table.
    pub(crate) fn load_stamped<T: DeserializeOwned>(&self) -> io::Result<Option<(T, Origin)>> {
        let backup = with_suffix(&self.path, ".bak");
        let damage = match read(&self.path)? {
            Found::Whole(value, stamp) => return Ok(Some((value, Origin { stamp, stands_in: false }))),
            Found::Nothing => None,
            Found::Damaged(reason) => Some(reason),
        };
        match (damage, read(&backup)?) {
            (None, Found::Whole(value, stamp)) => Ok(Some((value, Origin { stamp, stands_in: true }))),
            (None, Found::Nothing) => Ok(None),
            (Some(reason), Found::Whole(value, stamp)) => {
                let aside = with_suffix(&self.path, ".damaged");
                let (file, aside) = (self.path.display(), aside.display());
                error!(%file, %aside, %reason, "damaged and set aside; the file before it is used, its last change is lost");
                fs::rename(&self.path, with_suffix(&self.path, ".damaged"))?;
                Ok(Some((value, Origin { stamp, stands_in: true })))
            }
            (Some(reason), Found::Nothing) => Err(refused(&self.path, &reason)),
            (_, Found::Damaged(reason)) => Err(refused(&backup, &reason)),
        }
    }

    pub(crate) fn save(&self, value: &impl Serialize) -> Result<(), SaveError> {
        self.write(&self.render(value)?)
    }

    pub(crate) fn render(&self, value: &impl Serialize) -> Result<Rendered, SaveError> {
        pretty(value).map(|bytes| Rendered(with_sum(bytes))).map_err(|error| self.not_saved(error))
    }

    pub(crate) fn write(&self, rendered: &Rendered) -> Result<(), SaveError> {
        let keep = || match fs::remove_file(with_suffix(&self.path, ".bak")) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => fs::hard_link(&self.path, with_suffix(&self.path, ".bak")),
        };
        let kept = if self.path.exists() { keep() } else { Ok(()) };
        let written = kept.and_then(|()| mq_files::replace(&self.path, &rendered.0));
        written.map_err(|error| self.not_saved(error))
    }

    fn not_saved(&self, error: io::Error) -> SaveError {
        SaveError { path: self.path.clone(), error }
    }
}

enum Found<T> {
    Whole(T, u32),
    Nothing,
    Damaged(String),
}

fn read<T: DeserializeOwned>(path: &Path) -> io::Result<Found<T>> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Found::Nothing),
        Err(error) => return Err(io::Error::new(error.kind(), format!("{}: {error}", path.display()))),
    };
    if let Err(reason) = check_sum(&bytes) {
        return Ok(Found::Damaged(reason));
    }
    Ok(match body::from_json("configuration file", &bytes) {
        Ok(value) => Found::Whole(value, crc32fast::hash(&bytes)),
        Err(error) => Found::Damaged(error.to_string()),
    })
}

fn refused(path: &Path, reason: &str) -> io::Error {
    let message = format!(
        "{} is damaged ({reason}), and no whole file stands beside it: restore it from a copy, or remove it and its \
         .bak to start without them",
        path.display()
    );
    io::Error::new(ErrorKind::InvalidData, message)
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn with_sum(mut bytes: Vec<u8>) -> Vec<u8> {
    // An empty table has no last key to stand behind.
    if bytes.ends_with(END) {
        let sum = crc32fast::hash(&bytes);
        bytes.truncate(bytes.len() - END.len());
        bytes.extend_from_slice(format!("{BEFORE_SUM}{sum:08x}{AFTER_SUM}").as_bytes());
    }
    bytes
}

/// Whether a table's bytes are as they were written, if they say what that was.
fn check_sum(bytes: &[u8]) -> Result<(), String> {
    let sum_bytes = BEFORE_SUM.len() + SUM_DIGITS + AFTER_SUM.len();
    let Some((content, sum)) = bytes.split_at_checked(bytes.len().saturating_sub(sum_bytes)) else { return Ok(()) };
    let stated = sum.strip_prefix(BEFORE_SUM.as_bytes()).and_then(|rest| rest.strip_suffix(AFTER_SUM.as_bytes()));
    let Some(stated) = stated else { return Ok(()) };
    let mut found = crc32fast::Hasher::new();
    found.update(content);
    found.update(END);
    if stated == format!("{:08x}", found.finalize()).as_bytes() {
        Ok(())
    } else {
        Err("its checksum does not match; whoever edits it removes the line of checkbackSum".into())
    }
}

/// Indented by tabs, as Apache writes these files.
fn pretty(value: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut out = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b"\t");
    value.serialize(&mut serde_json::Serializer::with_formatter(&mut out, formatter))?;
    Ok(out)
}

/// What damages the tables of a store, by their paths: for who reads a stopped store without starting it.
pub(crate) fn damaged_tables(config_directory: &Path) -> io::Result<Vec<(PathBuf, String)>> {
    let mut damaged = Vec::new();
    let entries = match fs::read_dir(config_directory) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(damaged),
        entries => entries?,
    };
    for entry in entries {
        let path = entry?.path();
        let is_table = [".json", ".json.bak"].iter().any(|end| path.to_string_lossy().ends_with(end));
        if is_table && let Found::Damaged(reason) = read::<serde::de::IgnoredAny>(&path)? {
            damaged.push((path, reason));
        }
    }
    damaged.sort();
    Ok(damaged)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    type Table = BTreeMap<String, serde_json::Value>;

    fn table(numbers: &[u32]) -> Table {
        numbers.iter().map(|number| (format!("queue {number}"), (*number).into())).collect()
    }

    /// Without our key.
    fn read_table(file: &ConfigFile) -> io::Result<Option<Table>> {
        let mut found = file.load::<Table>()?;
        found.iter_mut().for_each(|table| table.retain(|_, value| value.is_u64()));
        Ok(found)
    }

    #[test]
    fn a_damaged_table_is_read_from_the_one_before_or_refused_and_never_empty() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = ConfigFile::new(directory.path(), "table.json");
        let (old, new) = (table(&[1, 2]), table(&[1, 2, 30]));
        assert_eq!(read_table(&file).expect("nothing is there"), None);
        [&old, &new].into_iter().for_each(|table| file.save(table).expect("saved"));
        assert_eq!(read_table(&file).expect("read"), Some(new.clone()));
        assert_eq!(damaged_tables(directory.path()).expect("read"), []);
        let whole = fs::read(&file.path).expect("there");
        let damage = |bytes: &[u8]| {
            fs::write(&file.path, bytes).expect("written");
            let damaged = damaged_tables(directory.path()).expect("read").len();
            (damaged, read_table(&file).expect("read").expect("a table"))
        };
        for at in 0..whole.len() {
            for bit in 0..8 {
                let mut bytes = whole.clone();
                bytes[at] ^= 1 << bit;
                let found = damage(&bytes);
                // A bit of our key's own name takes the sum away, and nothing else.
                assert!([(1, old.clone()), (0, new.clone())].contains(&found), "bit {bit} of byte {at}: {found:?}");
            }
        }
        for cut in 0..whole.len() {
            assert_eq!(damage(&whole[..cut]), (1, old.clone()), "cut at {cut}");
        }
        fs::remove_file(with_suffix(&file.path, ".bak")).expect("removed");
        fs::write(&file.path, &whole[..whole.len() / 2]).expect("written");
        let refused = read_table(&file).expect_err("nothing is left to read").to_string();
        assert!(refused.contains("table.json is damaged"), "{refused}");
    }
}
