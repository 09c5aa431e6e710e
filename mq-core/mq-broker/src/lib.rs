//! What a broker does, as a library: topics, groups, offsets, long polling, delay, retry, transactions.
