//! Async RocketMQ remoting client: connections, route cache, producer, push and pull consumers.
