//! What operators did, for good: JSON lines in `checkback/audit.jsonl`, each on disk before it counts as written. Bounded:
//! a full file becomes `audit.1.jsonl`, and the oldest of them goes. Knows nothing of what a deed is.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use serde::Serialize;

/// Of one file: some 20,000 lines.
const MAX_BYTES: u64 = 4 << 20;
/// Full files that are kept beside the current one.
const KEPT: u32 = 4;

pub(crate) struct Audit {
    directory: PathBuf,
    max_bytes: u64,
    /// Opened by the first line; closed by one that failed.
    file: Mutex<Option<File>>,
}

impl Audit {
    /// Touches nothing before the first line.
    pub(crate) fn new(store_root: &Path) -> Self {
        Self { directory: store_root.join("checkback"), max_bytes: MAX_BYTES, file: Mutex::new(None) }
    }

    /// Returns when the line is on disk.
    pub(crate) fn write(&self, line: &impl Serialize) -> io::Result<()> {
        let mut text = serde_json::to_vec(line)?;
        text.push(b'\n');
        let mut held = self.file.lock();
        let mut file = match held.take() {
            Some(file) => file,
            None => self.open()?,
        };
        if file.stream_position()? + text.len() as u64 > self.max_bytes {
            self.rotate()?;
            file = self.open()?;
        }
        file.write_all(&text)?;
        file.sync_data()?;
        *held = Some(file);
        Ok(())
    }

    fn path(&self, number: u32) -> PathBuf {
        match number {
            0 => self.directory.join("audit.jsonl"),
            number => self.directory.join(format!("audit.{number}.jsonl")),
        }
    }

    /// At its end, behind a line that a crash may have torn.
    fn open(&self) -> io::Result<File> {
        fs::create_dir_all(&self.directory)?;
        let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(self.path(0))?;
        if file.seek(SeekFrom::End(0))? == 0 {
            File::open(&self.directory)?.sync_all()?;
            return Ok(file);
        }
        let mut last = [0];
        file.seek(SeekFrom::End(-1))?;
        file.read_exact(&mut last)?;
        if last != *b"\n" {
            file.write_all(b"\n")?;
        }
        Ok(file)
    }

    fn rotate(&self) -> io::Result<()> {
        for number in (0..KEPT).rev() {
            match fs::rename(self.path(number), self.path(number + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(path: PathBuf) -> Vec<String> {
        fs::read_to_string(path).map(|text| text.lines().map(str::to_owned).collect()).unwrap_or_default()
    }

    #[test]
    fn lines_are_appended_over_restarts_and_a_torn_one_spoils_no_other() {
        let root = tempfile::tempdir().expect("a directory");
        Audit::new(root.path()).write(&1).expect("written");
        let path = root.path().join("checkback/audit.jsonl");
        fs::write(&path, "1\n{\"torn").expect("written");
        let audit = Audit::new(root.path());
        audit.write(&2).expect("written");
        audit.write(&3).expect("written");
        assert_eq!(lines(path), ["1", "{\"torn", "2", "3"]);
    }

    #[test]
    fn a_full_file_makes_room_and_the_oldest_goes() {
        let root = tempfile::tempdir().expect("a directory");
        let audit = Audit { max_bytes: 4, ..Audit::new(root.path()) };
        for number in 0..16 {
            audit.write(&number).expect("written");
        }
        let kept: Vec<_> = (0..=KEPT + 1).map(|number| lines(audit.path(number))).collect();
        assert_eq!(kept, [vec!["15"], vec!["14"], vec!["13"], vec!["12"], vec!["11"], vec![]]);
    }
}
