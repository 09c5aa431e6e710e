//! The store through its public interface. One binary, so that it links once.

mod life;
mod support;
