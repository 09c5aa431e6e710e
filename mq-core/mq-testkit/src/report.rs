//! What a test has to show to whoever runs it: scenarios that passed, counts, what was skipped. `make test` prints all of it
//! at its end, for cargo shows nothing of a test that passes.

use std::path::PathBuf;

use crate::process::workspace;

/// Where the tables of a run lie.
#[must_use]
pub fn directory() -> PathBuf {
    workspace().join("target/report")
}

/// Prints the text, and keeps it in a file of this name; `make test` prints them in their order.
///
/// # Panics
/// When the file cannot be written.
#[allow(clippy::print_stdout, reason = "a report is for who runs the test")]
pub fn show(name: &str, text: &str) {
    println!("{text}");
    let path = directory().join(name);
    let written = std::fs::create_dir_all(directory()).and_then(|()| std::fs::write(&path, text));
    written.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}
