//! Typed records over keys.
//!
//! A key is `table!segment!segment`. Order and separation come from one rule: the separator `!` (0x21) and the
//! escape `%` (0x25) are smaller than every byte that stands for itself, and any other byte up to `%` is written
//! `%XX`. So keys sort exactly as their lists of segments do, "a" and its children before "a-b" and "a.b", no choice
//! of user names makes two lists meet, and the usual names and ARNs stay readable. (The usual separator `/` cannot do
//! that: `-` and `.` are smaller.)
//!
//! A value is one byte of schema version, then JSON.

use std::fmt;
use std::marker::PhantomData;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::StoreError;
use crate::key::Key;
use crate::store::{Consistency, Entry, Rev, Store};
use crate::txn::Txn;

const SEPARATOR: u8 = b'!';
const ESCAPE: u8 = b'%';

/// Turns the JSON of an older schema version into that of the next program version's, or `None` if it cannot.
type Upgrade = fn(u8, serde_json::Value) -> Option<serde_json::Value>;

/// A family of records of type `T`.
///
/// ```
/// # use neargate_store::Table;
/// # #[derive(serde::Serialize, serde::Deserialize)] struct Cluster { status: String }
/// /// Clusters by name. Written by `control`.
/// const CLUSTERS: Table<Cluster> = Table::new("cluster", "control", 1);
/// assert_eq!(CLUSTERS.key(&["my-cluster"]).to_string(), "cluster!my-cluster");
/// ```
pub struct Table<T> {
    name: &'static str,
    writer: &'static str,
    version: u8,
    upgrade: Upgrade,
    record: PhantomData<fn() -> T>,
}

/// A value and the revision it was written at, for [`Txn::at_rev`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Versioned<T> {
    /// The record.
    pub value: T,
    /// The revision of the last transaction that wrote it.
    pub rev: Rev,
}

/// Part of a scan of a table, as [`Page`](crate::Page).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TablePage<T> {
    /// Keys and records, in key order.
    pub items: Vec<(Key, Versioned<T>)>,
    /// Pass as `after` to go on; `None` at the end.
    pub next: Option<Key>,
    /// The revision this page shows.
    pub rev: Rev,
}

impl<T> Table<T> {
    /// A table under the key prefix `name`, written only by the crate `writer`, at schema `version`.
    ///
    /// # Panics
    ///
    /// At compile time, in a constant: if `name` is empty or has a byte that a segment would escape.
    pub const fn new(name: &'static str, writer: &'static str, version: u8) -> Self {
        let bytes = name.as_bytes();
        assert!(!bytes.is_empty(), "a table has a name");
        let mut at = 0;
        while at < bytes.len() {
            assert!(bytes[at] > ESCAPE, "a table's name needs no escape");
            at += 1;
        }
        Self { name, writer, version, upgrade: |_, _| None, record: PhantomData }
    }

    /// Reads records of older versions through `upgrade`, which gets the stored version and JSON and returns JSON of
    /// the current version.
    #[must_use]
    pub const fn upgraded_by(
        mut self,
        upgrade: fn(u8, serde_json::Value) -> Option<serde_json::Value>,
    ) -> Self {
        self.upgrade = upgrade;
        self
    }

    /// The table's name: the first part of its keys.
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// The crate that alone writes this table.
    pub const fn writer(&self) -> &'static str {
        self.writer
    }

    /// The key of one record. Distinct lists of segments have distinct keys, ordered as the lists are.
    pub fn key(&self, segments: &[&str]) -> Key {
        let mut key = self.name.as_bytes().to_vec();
        for segment in segments {
            key.push(SEPARATOR);
            escape(segment, &mut key);
        }
        Key::from(key)
    }

    /// The prefix of all records below these segments: of all whose lists begin with them and are longer.
    pub fn prefix(&self, segments: &[&str]) -> Key {
        let mut key = self.key(segments).as_bytes().to_vec();
        key.push(SEPARATOR);
        Key::from(key)
    }

    /// The segments of a key of this table; `None` if it is none.
    pub fn segments(&self, key: &Key) -> Option<Vec<String>> {
        let rest = key.as_bytes().strip_prefix(self.name.as_bytes())?;
        if rest.is_empty() {
            return Some(Vec::new());
        }
        rest.strip_prefix(&[SEPARATOR])?.split(|&byte| byte == SEPARATOR).map(unescape).collect()
    }
}

impl<T: Serialize + DeserializeOwned> Table<T> {
    /// Reads one record.
    pub async fn get(
        &self,
        store: &dyn Store,
        key: &Key,
        c: Consistency,
    ) -> Result<Option<Versioned<T>>, StoreError> {
        let mut found = store.get(std::slice::from_ref(key), c).await?;
        found.pop().flatten().map(|entry| self.decode(&entry)).transpose()
    }

    /// Reads several records at one revision, in the order asked.
    pub async fn get_many(
        &self,
        store: &dyn Store,
        keys: &[Key],
        c: Consistency,
    ) -> Result<Vec<Option<Versioned<T>>>, StoreError> {
        let found = store.get(keys, c).await?;
        found.iter().map(|entry| entry.as_ref().map(|entry| self.decode(entry)).transpose()).collect()
    }

    /// Reads records under `prefix` (from [`prefix`](Self::prefix)) in order, beginning after `after`.
    pub async fn scan(
        &self,
        store: &dyn Store,
        prefix: &Key,
        after: Option<&Key>,
        limit: u32,
        c: Consistency,
    ) -> Result<TablePage<T>, StoreError> {
        let page = store.scan(prefix, after, limit, c).await?;
        let items = page.entries.iter().map(|entry| Ok((entry.key.clone(), self.decode(entry)?)));
        Ok(TablePage { items: items.collect::<Result<_, StoreError>>()?, next: page.next, rev: page.rev })
    }

    /// Adds the write of one record to a transaction. Fails only if `value` cannot be JSON.
    pub fn put(&self, txn: Txn, key: &Key, value: &T) -> Result<Txn, StoreError> {
        Ok(txn.put(key, self.encode(key, value)?))
    }

    /// A record as it is stored.
    pub fn encode(&self, key: &Key, value: &T) -> Result<Bytes, StoreError> {
        let mut bytes = vec![self.version];
        serde_json::to_writer(&mut bytes, value).map_err(|source| StoreError::corrupt(key, source))?;
        Ok(bytes.into())
    }

    /// Reads a stored record, for instance one from a watch.
    pub fn decode(&self, entry: &Entry) -> Result<Versioned<T>, StoreError> {
        let corrupt = |source: DecodeError| StoreError::corrupt(&entry.key, source);
        let (&version, json) = entry.value.split_first().ok_or(DecodeError::Empty).map_err(corrupt)?;
        let value = self.decode_version(version, json).map_err(corrupt)?;
        Ok(Versioned { value, rev: entry.rev })
    }

    fn decode_version(&self, version: u8, json: &[u8]) -> Result<T, DecodeError> {
        let known = self.version;
        if version == known {
            return serde_json::from_slice(json).map_err(DecodeError::Json);
        }
        if version > known {
            return Err(DecodeError::Newer { version, known });
        }
        let old = serde_json::from_slice(json).map_err(DecodeError::Json)?;
        let new = (self.upgrade)(version, old).ok_or(DecodeError::Older { version, known })?;
        serde_json::from_value(new).map_err(DecodeError::Json)
    }
}

impl<T> fmt::Debug for Table<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Table({} v{}, written by {})", self.name, self.version, self.writer)
    }
}

#[derive(Debug, thiserror::Error)]
enum DecodeError {
    #[error("the value is empty")]
    Empty,
    #[error("the record has schema version {version}, this program knows up to {known}")]
    Newer { version: u8, known: u8 },
    #[error("the record has schema version {version}, which this program, at {known}, cannot upgrade")]
    Older { version: u8, known: u8 },
    #[error("parse the record")]
    Json(#[source] serde_json::Error),
}

/// Not the percent-encoding of URLs, which escapes all that is not ASCII and would put it before the letters.
fn escape(segment: &str, key: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    for &byte in segment.as_bytes() {
        if byte > ESCAPE {
            key.push(byte);
        } else {
            key.extend([ESCAPE, HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
        }
    }
}

fn unescape(segment: &[u8]) -> Option<String> {
    let mut bytes = Vec::with_capacity(segment.len());
    let mut rest = segment.iter();
    while let Some(&byte) = rest.next() {
        if byte == ESCAPE {
            let high = char::from(*rest.next()?).to_digit(16)?;
            let low = char::from(*rest.next()?).to_digit(16)?;
            bytes.push(u8::try_from(high * 16 + low).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Cat {
        name: String,
    }

    const CATS: Table<Cat> = Table::new("cat", "control", 2);

    #[test]
    fn keys_are_readable_and_escaped() {
        let check = |segments: &[&str], expect: &str| {
            let key = CATS.key(segments);
            assert_eq!(key, Key::from(expect));
            assert_eq!(CATS.segments(&key).unwrap(), segments);
        };
        check(&[], "cat");
        check(&["tom"], "cat!tom");
        check(&["my-cluster", "a.b_c/1:2"], "cat!my-cluster!a.b_c/1:2");
        check(&["a!b", "50%"], "cat!a%21b!50%25");
        check(&["a b", "\0"], "cat!a%20b!%00");
        check(&["", ""], "cat!!");
        check(&["über"], "cat!über");
    }

    #[test]
    fn foreign_keys_have_no_segments() {
        for key in ["dog!a", "cats!a", "ca", "cat!%2", "cat!%zz", "cat!%FF"] {
            assert_eq!(CATS.segments(&Key::from(key)), None, "{key}");
        }
    }

    proptest! {
        #[test]
        fn keys_sort_as_their_segments_do(
            a in prop::collection::vec("[ !%/a-c.\\-\u{0}ü]{0,4}", 0..4),
            b in prop::collection::vec("[ !%/a-c.\\-\u{0}ü]{0,4}", 0..4),
        ) {
            fn key(list: &[String]) -> Key {
                CATS.key(&list.iter().map(String::as_str).collect::<Vec<_>>())
            }
            prop_assert_eq!(key(&a).cmp(&key(&b)), a.cmp(&b));
            prop_assert_eq!(CATS.segments(&key(&a)).unwrap(), a);
        }
    }

    fn decode(table: &Table<Cat>, value: &'static [u8]) -> Result<Cat, String> {
        let entry = Entry { key: CATS.key(&["tom"]), value: Bytes::from_static(value), rev: Rev::ZERO };
        table.decode(&entry).map(|cat| cat.value).map_err(|error| {
            let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
            format!("{error}: {cause}")
        })
    }

    #[test]
    fn decode_errors_name_the_key_and_the_reason() {
        let check = |value: &'static [u8], expect: &str| {
            let error = decode(&CATS, value).unwrap_err();
            assert!(error.contains("cat!tom") && error.ends_with(expect), "{error}");
        };
        check(b"", "the value is empty");
        check(b"\x02{}", "parse the record");
        check(b"\x03{}", "the record has schema version 3, this program knows up to 2");
        check(b"\x01{}", "the record has schema version 1, which this program, at 2, cannot upgrade");
    }

    #[test]
    fn old_records_are_upgraded() {
        const NEW: Table<Cat> = Table::new("cat", "control", 2).upgraded_by(|version, json| {
            (version == 1).then(|| serde_json::json!({ "name": json["title"] }))
        });
        assert_eq!(decode(&NEW, b"\x01{\"title\":\"Tom\"}").unwrap(), Cat { name: "Tom".into() });
        assert!(decode(&NEW, b"\x00{\"title\":\"Tom\"}").is_err());
    }

    #[tokio::test]
    async fn records_come_back_as_they_went() {
        let store = crate::MemoryStore::new();
        let key = CATS.key(&["tom"]);
        let cat = || Cat { name: "Tom".into() };
        let txn = CATS.put(Txn::fresh(), &key, &cat()).unwrap();
        let crate::Commit::Done(rev) = store.commit(txn).await.unwrap() else { panic!("no precondition") };
        let found = CATS.get(&store, &key, Consistency::Linearizable).await.unwrap().unwrap();
        assert_eq!(found, Versioned { value: cat(), rev });
        let page = CATS.scan(&store, &CATS.prefix(&[]), None, 10, Consistency::AtLeast(rev)).await.unwrap();
        assert_eq!(page.items, vec![(key, Versioned { value: cat(), rev })]);
    }
}
