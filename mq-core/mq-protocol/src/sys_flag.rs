//! The bits of a message's `sysFlag` and of a pull request's `sysFlag`.

pub const COMPRESSED: i32 = 0x1;
pub const MULTI_TAGS: i32 = 0x2;
pub const TRANSACTION_MASK: i32 = 0xC;
pub const TRANSACTION_NONE: i32 = 0x0;
pub const TRANSACTION_PREPARED: i32 = 0x4;
pub const TRANSACTION_COMMIT: i32 = 0x8;
pub const TRANSACTION_ROLLBACK: i32 = 0xC;
/// `bornHost` is 20 bytes wide.
pub const BORN_HOST_V6: i32 = 0x10;
/// `storeHost` is 20 bytes wide.
pub const STORE_HOST_V6: i32 = 0x20;
pub const NEED_UNWRAP: i32 = 0x40;
pub const INNER_BATCH: i32 = 0x80;
pub const CODEC_MASK: i32 = 0x700;

#[must_use]
pub fn transaction_bits(flag: i32) -> i32 {
    flag & TRANSACTION_MASK
}

#[must_use]
pub fn with_transaction_bits(flag: i32, bits: i32) -> i32 {
    (flag & !TRANSACTION_MASK) | bits
}

/// A pull request's flags.
pub mod pull {
    pub const COMMIT_OFFSET: i32 = 0x1;
    pub const SUSPEND: i32 = 0x2;
    pub const SUBSCRIPTION: i32 = 0x4;
    pub const CLASS_FILTER: i32 = 0x8;
    pub const LITE: i32 = 0x10;
}
