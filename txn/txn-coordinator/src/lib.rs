//! Half messages, OP records and checkback: a pure engine and the driver that runs it on mq-store.
