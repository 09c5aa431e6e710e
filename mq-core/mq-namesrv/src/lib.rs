//! The route table: brokers register, clients ask where a topic lives.
