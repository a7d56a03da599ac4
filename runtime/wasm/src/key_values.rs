//! What guests keep: the trait behind `wasi:keyvalue`.
//!
//! Buckets belong to a tenant; a guest can name no other's. Whoever assembles the program supplies the store.

use std::io;

use async_trait::async_trait;

/// Keys that one page of a list has at most.
pub const KEYS_PER_PAGE: u32 = 100;

/// A durable store of values by tenant, bucket and key.
///
/// A bucket exists once it is written to. What a method has answered is durable, and all methods are atomic.
#[async_trait]
pub trait KeyValues: Send + Sync {
    /// The value of a key.
    async fn get(&self, tenant: &str, bucket: &str, key: &str) -> Result<Option<Vec<u8>>, KeyValueError>;
    /// Sets a key's value.
    async fn set(&self, tenant: &str, bucket: &str, key: &str, value: Vec<u8>) -> Result<(), KeyValueError>;
    /// Removes a key; one that is not there is no error.
    async fn delete(&self, tenant: &str, bucket: &str, key: &str) -> Result<(), KeyValueError>;
    /// Keys in the order of their bytes, at most [`KEYS_PER_PAGE`], after those up to `cursor`.
    async fn list(&self, tenant: &str, bucket: &str, cursor: Option<&str>) -> Result<KeyPage, KeyValueError>;
    /// Adds to the number that a key's value is in decimal digits, 0 when there is none, and tells the sum.
    async fn increment(
        &self,
        tenant: &str,
        bucket: &str,
        key: &str,
        delta: i64,
    ) -> Result<i64, KeyValueError>;
    /// Sets a key's value if it is `old` now (`None`: there is none), and tells whether it was.
    async fn swap(
        &self,
        tenant: &str,
        bucket: &str,
        key: &str,
        old: Option<Vec<u8>>,
        new: Vec<u8>,
    ) -> Result<bool, KeyValueError>;
}

/// Some keys of a bucket.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyPage {
    /// The keys.
    pub keys: Vec<String>,
    /// Where the next page begins; `None` when there is none.
    pub cursor: Option<String>,
}

/// Why a key-value operation was not done. Its text is shown to the guest.
#[derive(Debug, thiserror::Error)]
pub enum KeyValueError {
    /// A bucket's name, a key or a value is too long.
    #[error("{what} has {bytes} bytes, at most {bytes_max} are kept")]
    TooLarge {
        /// Which.
        what: &'static str,
        /// Its length.
        bytes: usize,
        /// The longest that is kept.
        bytes_max: usize,
    },
    /// The tenant has used all that it may.
    #[error("all {bytes_max} bytes that an account may keep are used; delete keys")]
    Quota {
        /// How much that is.
        bytes_max: u64,
    },
    /// A value that should be added to is no number, or the sum would be none.
    #[error("add to key {key:?}: {why}")]
    NotANumber {
        /// The key.
        key: String,
        /// What is wrong.
        why: &'static str,
    },
    /// The store cannot be used now.
    #[error("use the key-value store")]
    Store(#[source] io::Error),
}
