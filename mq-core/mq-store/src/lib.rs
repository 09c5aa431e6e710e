//! Commit log, consume queues, recovery, in Apache RocketMQ's disk format. Synchronous; knows no socket.
