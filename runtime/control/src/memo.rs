//! Records as they were decoded last. What a key holds at a revision never changes, so nothing in here can be wrong.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use neargate_store::{Entry, Key, Store, StoreError, Table, Versioned};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::tables::NOW;

/// Records of one memo; with more, all are forgotten and decoded again when they are asked for.
const RECORDS_MAX: usize = 1024;

/// Decoded records of a table, or of several with the same type.
pub(crate) struct Memo<T> {
    table: Table<T>,
    known: Mutex<HashMap<Key, Versioned<Arc<T>>>>,
}

impl<T: Serialize + DeserializeOwned> Memo<T> {
    pub(crate) fn new(table: Table<T>) -> Self {
        Self { table, known: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Versioned<Arc<T>>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads one record.
    pub(crate) async fn get(
        &self,
        store: &dyn Store,
        key: &Key,
    ) -> Result<Option<Versioned<Arc<T>>>, StoreError> {
        Ok(self.get_many(store, std::slice::from_ref(key)).await?.pop().flatten())
    }

    /// Reads several records at one revision, in the order asked.
    pub(crate) async fn get_many(
        &self,
        store: &dyn Store,
        keys: &[Key],
    ) -> Result<Vec<Option<Versioned<Arc<T>>>>, StoreError> {
        let found = store.get(keys, NOW).await?;
        found.iter().map(|entry| entry.as_ref().map(|entry| self.decode(entry)).transpose()).collect()
    }

    fn decode(&self, entry: &Entry) -> Result<Versioned<Arc<T>>, StoreError> {
        if let Some(known) = self.lock().get(&entry.key).filter(|known| known.rev == entry.rev) {
            return Ok(known.clone());
        }
        let Versioned { value, rev } = self.table.decode(entry)?;
        let decoded = Versioned { value: Arc::new(value), rev };
        self.enter(&entry.key, decoded.clone());
        Ok(decoded)
    }

    /// Notes what was committed at a revision.
    pub(crate) fn enter(&self, key: &Key, record: Versioned<Arc<T>>) {
        let mut known = self.lock();
        if known.len() >= RECORDS_MAX && !known.contains_key(key) {
            known.clear();
        }
        known.insert(key.clone(), record);
    }

    /// Lets go of a record that was deleted.
    pub(crate) fn forget(&self, key: &Key) {
        self.lock().remove(key);
    }
}
