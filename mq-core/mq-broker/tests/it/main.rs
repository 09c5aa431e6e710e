//! A broker on real sockets, driven frame by frame.

mod harness;
mod pulls;
mod sends;
