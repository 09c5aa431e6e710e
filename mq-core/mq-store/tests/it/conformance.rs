//! One suite for every backend: what the store relies on.

use std::io::ErrorKind;

use mq_store::backend::{Backend, CrashBackend, FileBackend, MemoryBackend, Space};

fn run_on_each(check: fn(&dyn Backend)) {
    let directory = tempfile::tempdir().unwrap();
    check(&FileBackend::new(directory.path().join("root")).unwrap());
    check(&MemoryBackend::new());
    check(&CrashBackend::new());
}

fn contents(backend: &dyn Backend, path: &str) -> Vec<u8> {
    let file = backend.open(path).unwrap();
    let mut bytes = vec![0xFF; file.bytes().unwrap() as usize];
    file.read_at(0, &mut bytes).unwrap();
    bytes
}

fn names(backend: &dyn Backend, directory: &str) -> Vec<String> {
    let slash = |is_directory| if is_directory { "/" } else { "" };
    let entries = backend.list(directory).unwrap().into_iter();
    entries.map(|entry| format!("{}{}", entry.name, slash(entry.is_directory))).collect()
}

#[test]
fn a_new_file_is_zeros_of_its_length_in_its_directories() {
    run_on_each(|backend| {
        for (path, space) in [("a/b/1", Space::Reserved), ("a/b/2", Space::Sparse)] {
            backend.create(path, 10_000, space).unwrap();
            assert_eq!(contents(backend, path), vec![0; 10_000]);
            let again = backend.create(path, 1, space).err().unwrap();
            assert_eq!(again.kind(), ErrorKind::AlreadyExists);
        }
        assert_eq!(names(backend, ""), ["a/"]);
        assert_eq!(names(backend, "a/b"), ["1", "2"]);
        assert_eq!(names(backend, "missing"), [""; 0]);
        assert_eq!(backend.open("a/b/3").err().unwrap().kind(), ErrorKind::NotFound);
        ["a/b", "a", ""].iter().for_each(|directory| backend.sync_directory(directory).unwrap());
        assert!(backend.sync_directory("missing").is_err());
    });
}

#[test]
fn bytes_are_read_as_written_and_never_beyond_the_end() {
    run_on_each(|backend| {
        let file = backend.create("f", 9000, Space::Reserved).unwrap();
        file.write_at(4090, b"across a page").unwrap();
        file.sync().unwrap();
        let mut read = [0; 15];
        file.read_at(4089, &mut read).unwrap();
        assert_eq!(&read, b"\0across a page\0");
        assert!(file.read_at(8990, &mut read).is_err());
        file.write_at(8998, b"grows").unwrap();
        assert_eq!(file.bytes().unwrap(), 9003);
        if let Some(map) = file.map().unwrap() {
            assert_eq!(&map[4090..4096], b"across");
            file.write_at(0, b"seen in the map").unwrap();
            assert_eq!(&map[..15], b"seen in the map");
        }
    });
}

#[test]
fn zeroed_and_resized_ranges_are_exact() {
    run_on_each(|backend| {
        for space in [Space::Reserved, Space::Sparse] {
            for (at, bytes) in [(0, 20_000), (1, 1), (4095, 2), (100, 12_000), (4096, 4096), (8000, 12_000), (5, 0)] {
                let path = format!("{space:?}-{at}-{bytes}");
                let file = backend.create(&path, 20_000, space).unwrap();
                file.write_at(0, &[7; 20_000]).unwrap();
                file.zero(at, bytes, space).unwrap();
                let mut expected = vec![7; 20_000];
                expected[at as usize..(at + bytes) as usize].fill(0);
                assert!(contents(backend, &path) == expected, "{path}");
                file.resize(4097, space).unwrap();
                file.resize(20_000, space).unwrap();
                if space == Space::Sparse {
                    expected[4097..].fill(0);
                    assert!(contents(backend, &path) == expected, "{path} resized");
                }
            }
        }
    });
}

#[test]
fn names_move_and_go() {
    run_on_each(|backend| {
        backend.create("d/old", 3, Space::Sparse).unwrap().write_at(0, b"old").unwrap();
        backend.create("d/new", 3, Space::Sparse).unwrap().write_at(0, b"new").unwrap();
        backend.rename("d/new", "d/old").unwrap();
        assert_eq!(names(backend, "d"), ["old"]);
        assert_eq!(contents(backend, "d/old"), b"new");
        let open = backend.open("d/old").unwrap();
        backend.remove("d/old").unwrap();
        assert_eq!(names(backend, "d"), [""; 0]);
        let mut still = [0; 3];
        open.read_at(0, &mut still).unwrap();
        assert_eq!(&still, b"new");
        assert_eq!(backend.remove("d/old").unwrap_err().kind(), ErrorKind::NotFound);
        assert_eq!(backend.rename("d/old", "d/x").unwrap_err().kind(), ErrorKind::NotFound);
    });
}

#[test]
fn the_lock_is_held_by_one() {
    run_on_each(|backend| {
        let held = backend.lock("lock").unwrap();
        assert_eq!(backend.lock("lock").err().unwrap().kind(), ErrorKind::WouldBlock);
        drop(held);
        backend.lock("lock").unwrap();
    });
}
