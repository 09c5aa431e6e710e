//! Development only: in-process cluster on port 0, crash harness, official clients, invariants.
