//! Replacing a small file of the real file system whole: after a power cut either the old or the new one is there. Knows
//! nothing of what the file holds; the store's own files go through its backend.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

/// Writes a temporary neighbour, syncs it, renames it over `path` and syncs the directory.
pub fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    fs::create_dir_all(directory)?;
    let mut temporary = name.to_owned();
    temporary.push(format!(".{}.tmp", std::process::id()));
    let temporary = directory.join(temporary);
    let write = || {
        let mut file = fs::File::create(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    };
    write().inspect_err(|_| drop(fs::remove_file(&temporary)))?;
    fs::File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_whole_and_nothing_stays_beside_it() {
        let directory = tempfile::tempdir().unwrap();
        let config = directory.path().join("config");
        let path = config.join("topics.json");
        for contents in ["first", "second, and longer", ""] {
            replace(&path, contents.as_bytes()).unwrap();
            assert_eq!(fs::read(&path).unwrap(), contents.as_bytes());
            let names: Vec<_> = fs::read_dir(&config).unwrap().map(|entry| entry.unwrap().file_name()).collect();
            assert_eq!(names, ["topics.json"]);
        }
    }
}
