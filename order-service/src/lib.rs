//! Reference orders, payments and red packets on the transactional SDK.
