//! Tests of the whole: what the crates may know of each other, and how the real programs behave.

mod dependencies;
