//! What guests keep with `wasi:keyvalue`: one SQLite database for all tenants.
//!
//! It is apart from the control state, because guests fill it: it may be lost, large or slow without a task being
//! lost. Each operation is one transaction that is on disk when it is answered (WAL, `synchronous=FULL`). The file
//! is made at the first operation, so a server whose guests keep nothing has none.

#![forbid(unsafe_code)]

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use neargate_wasm::protocol::KEY_VALUE_BYTES_MAX;
use neargate_wasm::{KEYS_PER_PAGE, KeyPage, KeyValueError, KeyValues};
use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior, params};

/// Longest name of a bucket, in bytes.
pub const BUCKET_BYTES_MAX: usize = 256;
/// Longest key, in bytes.
pub const KEY_BYTES_MAX: usize = 1024;
/// What a tenant may keep, in bytes of keys and values, unless changed.
pub const TENANT_BYTES_MAX: u64 = 64 << 20;
/// How long another process that uses the same file is waited for.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS kv (
        tenant TEXT NOT NULL, bucket TEXT NOT NULL, key TEXT NOT NULL, value BLOB NOT NULL,
        PRIMARY KEY (tenant, bucket, key)
    ) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS used (tenant TEXT PRIMARY KEY, bytes INTEGER NOT NULL) WITHOUT ROWID;
";

/// A store in one file. Clones share it.
#[derive(Clone, Debug)]
pub struct SqliteKeyValues {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    path: PathBuf,
    tenant_bytes_max: u64,
    /// `None` until it is first used.
    connection: Mutex<Option<Connection>>,
}

impl SqliteKeyValues {
    /// A store in this file, which is opened when it is first used.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self::with_quota(path, TENANT_BYTES_MAX)
    }

    /// The same, where a tenant may keep so many bytes.
    pub fn with_quota(path: impl Into<PathBuf>, tenant_bytes_max: u64) -> Self {
        let shared = Shared { path: path.into(), tenant_bytes_max, connection: Mutex::default() };
        Self { shared: Arc::new(shared) }
    }

    /// Does one thing in one transaction, on a thread that may block.
    async fn transact<T: Send + 'static>(
        &self,
        act: impl FnOnce(&Bucket<'_>) -> Result<T, KeyValueError> + Send + 'static,
        tenant: &str,
        bucket: &str,
    ) -> Result<T, KeyValueError> {
        check("the bucket's name", bucket.len(), BUCKET_BYTES_MAX)?;
        let (shared, tenant, bucket) = (Arc::clone(&self.shared), tenant.to_owned(), bucket.to_owned());
        let work = move || {
            let mut connection = shared.connection.lock().unwrap_or_else(PoisonError::into_inner);
            let connection = match &mut *connection {
                Some(connection) => connection,
                closed => closed.insert(open(&shared.path).map_err(broken)?),
            };
            let transaction =
                connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(broken)?;
            let done = act(&Bucket {
                transaction: &transaction,
                tenant: &tenant,
                bucket: &bucket,
                bytes_max: shared.tenant_bytes_max,
            })?;
            transaction.commit().map_err(broken)?;
            Ok(done)
        };
        let done = tokio::task::spawn_blocking(work).await;
        done.unwrap_or_else(|error| Err(KeyValueError::Store(io::Error::other(error))))
    }
}

fn open(path: &PathBuf) -> rusqlite::Result<Connection> {
    let connection = Connection::open(path)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.execute_batch(SCHEMA)?;
    Ok(connection)
}

fn broken(error: rusqlite::Error) -> KeyValueError {
    KeyValueError::Store(io::Error::other(error))
}

fn check(what: &'static str, bytes: usize, bytes_max: usize) -> Result<(), KeyValueError> {
    match bytes <= bytes_max {
        true => Ok(()),
        false => Err(KeyValueError::TooLarge { what, bytes, bytes_max }),
    }
}

/// One bucket within a transaction.
struct Bucket<'a> {
    transaction: &'a Transaction<'a>,
    tenant: &'a str,
    bucket: &'a str,
    bytes_max: u64,
}

impl Bucket<'_> {
    fn get(&self, key: &str) -> Result<Option<Vec<u8>>, KeyValueError> {
        let query = "SELECT value FROM kv WHERE tenant = ?1 AND bucket = ?2 AND key = ?3";
        let mut statement = self.transaction.prepare_cached(query).map_err(broken)?;
        statement
            .query_row(params![self.tenant, self.bucket, key], |row| row.get(0))
            .optional()
            .map_err(broken)
    }

    fn set(&self, key: &str, value: &[u8]) -> Result<(), KeyValueError> {
        check("the key", key.len(), KEY_BYTES_MAX)?;
        check("the value", value.len(), KEY_VALUE_BYTES_MAX)?;
        let before = self.get(key)?.map_or(0, |old| key.len() + old.len());
        self.charge(before, key.len() + value.len())?;
        let put = "INSERT OR REPLACE INTO kv (tenant, bucket, key, value) VALUES (?1, ?2, ?3, ?4)";
        let mut statement = self.transaction.prepare_cached(put).map_err(broken)?;
        statement.execute(params![self.tenant, self.bucket, key, value]).map(drop).map_err(broken)
    }

    fn delete(&self, key: &str) -> Result<(), KeyValueError> {
        let Some(old) = self.get(key)? else { return Ok(()) };
        self.charge(key.len() + old.len(), 0)?;
        let delete = "DELETE FROM kv WHERE tenant = ?1 AND bucket = ?2 AND key = ?3";
        let mut statement = self.transaction.prepare_cached(delete).map_err(broken)?;
        statement.execute(params![self.tenant, self.bucket, key]).map(drop).map_err(broken)
    }

    /// Counts what a tenant keeps; only growth can be refused.
    fn charge(&self, before: usize, after: usize) -> Result<(), KeyValueError> {
        let query = "SELECT bytes FROM used WHERE tenant = ?1";
        let mut statement = self.transaction.prepare_cached(query).map_err(broken)?;
        let used: Option<i64> =
            statement.query_row([self.tenant], |row| row.get(0)).optional().map_err(broken)?;
        let used = u64::try_from(used.unwrap_or(0)).unwrap_or(0);
        let used = used.saturating_sub(before as u64) + after as u64;
        if after > before && used > self.bytes_max {
            return Err(KeyValueError::Quota { bytes_max: self.bytes_max });
        }
        let put = "INSERT OR REPLACE INTO used (tenant, bytes) VALUES (?1, ?2)";
        let mut statement = self.transaction.prepare_cached(put).map_err(broken)?;
        let used = i64::try_from(used).unwrap_or(i64::MAX);
        statement.execute(params![self.tenant, used]).map(drop).map_err(broken)
    }

    fn list(&self, cursor: &str) -> Result<KeyPage, KeyValueError> {
        let query = "SELECT key FROM kv WHERE tenant = ?1 AND bucket = ?2 AND key > ?3 ORDER BY key LIMIT ?4";
        let mut statement = self.transaction.prepare_cached(query).map_err(broken)?;
        // One more than a page tells whether there is another.
        let rows = statement
            .query_map(params![self.tenant, self.bucket, cursor, KEYS_PER_PAGE + 1], |row| row.get(0))
            .map_err(broken)?;
        let mut keys = rows.collect::<rusqlite::Result<Vec<String>>>().map_err(broken)?;
        let is_last = keys.len() <= KEYS_PER_PAGE as usize;
        keys.truncate(KEYS_PER_PAGE as usize);
        let cursor = if is_last { None } else { keys.last().cloned() };
        Ok(KeyPage { keys, cursor })
    }

    fn increment(&self, key: &str, delta: i64) -> Result<i64, KeyValueError> {
        let not_a_number = |why| KeyValueError::NotANumber { key: key.to_owned(), why };
        let number = match self.get(key)? {
            None => 0,
            Some(value) => std::str::from_utf8(&value)
                .ok()
                .and_then(|text| text.parse::<i64>().ok())
                .ok_or_else(|| not_a_number("its value is not a whole number in decimal digits"))?,
        };
        let sum =
            number.checked_add(delta).ok_or_else(|| not_a_number("the sum does not fit into 64 bits"))?;
        self.set(key, sum.to_string().as_bytes())?;
        Ok(sum)
    }
}

#[async_trait]
impl KeyValues for SqliteKeyValues {
    async fn get(&self, tenant: &str, bucket: &str, key: &str) -> Result<Option<Vec<u8>>, KeyValueError> {
        let key = key.to_owned();
        self.transact(move |bucket| bucket.get(&key), tenant, bucket).await
    }

    async fn set(&self, tenant: &str, bucket: &str, key: &str, value: Vec<u8>) -> Result<(), KeyValueError> {
        let key = key.to_owned();
        self.transact(move |bucket| bucket.set(&key, &value), tenant, bucket).await
    }

    async fn delete(&self, tenant: &str, bucket: &str, key: &str) -> Result<(), KeyValueError> {
        let key = key.to_owned();
        self.transact(move |bucket| bucket.delete(&key), tenant, bucket).await
    }

    async fn list(&self, tenant: &str, bucket: &str, cursor: Option<&str>) -> Result<KeyPage, KeyValueError> {
        let cursor = cursor.unwrap_or_default().to_owned();
        self.transact(move |bucket| bucket.list(&cursor), tenant, bucket).await
    }

    async fn increment(
        &self,
        tenant: &str,
        bucket: &str,
        key: &str,
        delta: i64,
    ) -> Result<i64, KeyValueError> {
        let key = key.to_owned();
        self.transact(move |bucket| bucket.increment(&key, delta), tenant, bucket).await
    }

    async fn swap(
        &self,
        tenant: &str,
        bucket: &str,
        key: &str,
        old: Option<Vec<u8>>,
        new: Vec<u8>,
    ) -> Result<bool, KeyValueError> {
        let key = key.to_owned();
        let swap = move |bucket: &Bucket<'_>| {
            let is_old = bucket.get(&key)? == old;
            if is_old {
                bucket.set(&key, &new)?;
            }
            Ok(is_old)
        };
        self.transact(swap, tenant, bucket).await
    }
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    fn store(bytes_max: u64) -> (SqliteKeyValues, TempDir) {
        let dir = tempfile::tempdir().unwrap();
        (SqliteKeyValues::with_quota(dir.path().join("kv.sqlite"), bytes_max), dir)
    }

    #[tokio::test]
    async fn values_survive_and_tenants_are_apart() {
        let (kv, dir) = store(1000);
        assert!(!dir.path().join("kv.sqlite").exists(), "nothing is made before it is used");
        kv.set("a", "b", "k", b"1".to_vec()).await.unwrap();
        drop(kv);
        let again = SqliteKeyValues::new(dir.path().join("kv.sqlite"));
        assert_eq!(again.get("a", "b", "k").await.unwrap(), Some(b"1".to_vec()));
        assert_eq!(again.get("other", "b", "k").await.unwrap(), None);
        assert_eq!(again.get("a", "other", "k").await.unwrap(), None);
        again.delete("a", "b", "k").await.unwrap();
        again.delete("a", "b", "k").await.unwrap();
        assert_eq!(again.get("a", "b", "k").await.unwrap(), None);
    }

    #[tokio::test]
    async fn limits() {
        let (kv, _dir) = store(10);
        let text = |error: KeyValueError| error.to_string();
        let long = "k".repeat(KEY_BYTES_MAX + 1);
        assert!(text(kv.set("a", "b", &long, vec![]).await.unwrap_err()).contains("the key has 1025 bytes"));
        let bucket = "b".repeat(BUCKET_BYTES_MAX + 1);
        assert!(text(kv.get("a", &bucket, "k").await.unwrap_err()).contains("the bucket's name"));
        let large = vec![0; KEY_VALUE_BYTES_MAX + 1];
        assert!(text(kv.set("a", "b", "k", large).await.unwrap_err()).contains("the value"));
        kv.set("a", "b", "k", vec![0; 9]).await.unwrap();
        assert!(matches!(kv.set("a", "c", "k", vec![]).await, Err(KeyValueError::Quota { bytes_max: 10 })));
        // Another tenant has its own; and what is overwritten or deleted is given back.
        kv.set("z", "c", "k", vec![]).await.unwrap();
        kv.set("a", "b", "k", vec![0; 8]).await.unwrap();
        kv.set("a", "c", "k", vec![]).await.unwrap();
        kv.delete("a", "b", "k").await.unwrap();
        kv.set("a", "c", "k", vec![0; 9]).await.unwrap();
    }

    #[tokio::test]
    async fn numbers_add_up_under_concurrency() {
        let (kv, _dir) = store(1000);
        let adds = (0..50).map(|_| {
            let kv = kv.clone();
            tokio::spawn(async move { kv.increment("a", "b", "n", 2).await.unwrap() })
        });
        let adds: Vec<_> = adds.collect();
        let mut sums = Vec::new();
        for add in adds {
            sums.push(add.await.unwrap());
        }
        sums.sort_unstable();
        assert_eq!(sums, (1..=50).map(|n| n * 2).collect::<Vec<i64>>());
        kv.set("a", "b", "text", b"x".to_vec()).await.unwrap();
        assert!(matches!(kv.increment("a", "b", "text", 1).await, Err(KeyValueError::NotANumber { .. })));
        kv.set("a", "b", "n", i64::MAX.to_string().into_bytes()).await.unwrap();
        assert!(matches!(kv.increment("a", "b", "n", 1).await, Err(KeyValueError::NotANumber { .. })));
    }

    #[tokio::test]
    async fn swaps_only_what_is_as_expected() {
        let (kv, _dir) = store(1000);
        let swap = |old: Option<&[u8]>, new: &[u8]| {
            let (kv, old, new) = (kv.clone(), old.map(<[u8]>::to_vec), new.to_vec());
            async move { kv.swap("a", "b", "k", old, new).await.unwrap() }
        };
        assert!(!swap(Some(b"1"), b"2").await);
        assert!(swap(None, b"1").await);
        assert!(!swap(None, b"3").await);
        assert!(swap(Some(b"1"), b"2").await);
        assert_eq!(kv.get("a", "b", "k").await.unwrap(), Some(b"2".to_vec()));
    }

    #[tokio::test]
    async fn keys_are_listed_in_pages() {
        let (kv, _dir) = store(100_000);
        for n in 0..=KEYS_PER_PAGE {
            kv.set("a", "b", &format!("{n:04}"), vec![]).await.unwrap();
        }
        let first = kv.list("a", "b", None).await.unwrap();
        assert_eq!((first.keys.len(), first.cursor.as_deref()), (KEYS_PER_PAGE as usize, Some("0099")));
        let second = kv.list("a", "b", first.cursor.as_deref()).await.unwrap();
        assert_eq!(second, KeyPage { keys: vec!["0100".to_owned()], cursor: None });
        assert_eq!(kv.list("a", "none", None).await.unwrap(), KeyPage::default());
    }
}
