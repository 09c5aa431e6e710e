//! The binary mq: parse arguments, load configuration, start the parts.
