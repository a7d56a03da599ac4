//! `wasi:keyvalue`, in the two drafts that guests are built against, over the server's store.
//!
//! A bucket is the tenant's, whatever its name; there is no other tenant's to be named. Each operation is one
//! question to the server and durable once answered. A batch is not atomic, as its interface says.

use std::collections::VecDeque;

use neargate_wasm::protocol::{HostReply, HostRequest, KEY_VALUE_BYTES_MAX};
use wasmtime::component::Resource;

use super::bindings::wasi::{keyvalue0_2_0_draft as draft, keyvalue0_2_0_draft2 as draft2};
use super::{HostCtx, KeyValues, not_granted};
use crate::budget::Account;

/// The bucket of the empty name.
const DEFAULT_BUCKET: &str = "default";
/// The longest name of a bucket, in bytes.
const BUCKET_BYTES_MAX: usize = 64;
/// The longest key, in bytes.
const KEY_BYTES_MAX: usize = 1024;
/// The most keys of a batch.
const BATCH_KEYS_MAX: usize = 1000;
/// The most bytes of values that a batch reads. They are in the worker's memory before they are in the guest's.
const BATCH_BYTES_MAX: usize = 16 << 20;
/// How many places in lists of keys a bucket remembers, for the draft that names them by number.
const CURSORS_MAX: usize = 16;

/// An open bucket.
// Public for the generated code, which is in a private module and exports it there.
#[allow(unreachable_pub)]
pub struct Bucket {
    name: String,
    /// What the numbers that were given out stand for, newest last.
    cursors: VecDeque<(u64, String)>,
    next_cursor: u64,
}

impl Bucket {
    fn remember(&mut self, cursor: String) -> u64 {
        self.next_cursor += 1;
        if self.cursors.len() >= CURSORS_MAX {
            self.cursors.pop_front();
        }
        self.cursors.push_back((self.next_cursor, cursor));
        self.next_cursor
    }
}

/// A value as it was read, to be replaced if it is still the same.
#[allow(unreachable_pub)]
pub struct Cas {
    bucket: String,
    key: String,
    seen: Option<Vec<u8>>,
    _taken: Taken,
}

/// Memory that is counted on a run until this is dropped.
struct Taken {
    account: Account,
    bytes: u64,
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.account.give_back(self.bytes);
    }
}

/// Why an operation was not done, before it is one draft's error or the other's.
enum Failure {
    NoSuchStore,
    Other(String),
}

impl From<&str> for Failure {
    fn from(why: &str) -> Self {
        Self::Other(why.to_owned())
    }
}

type Answer<T> = Result<T, Failure>;

/// The name of a bucket that a guest opens.
fn bucket_name(identifier: String) -> Answer<String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    match identifier {
        name if name.is_empty() => Ok(DEFAULT_BUCKET.to_owned()),
        name if name.len() <= BUCKET_BYTES_MAX && name.bytes().all(plain) => Ok(name),
        _ => Err(Failure::NoSuchStore),
    }
}

fn check_key(key: &str) -> Answer<()> {
    match key.len() {
        0 => Err("a key cannot be empty".into()),
        bytes if bytes > KEY_BYTES_MAX => {
            Err(Failure::Other(format!("the key has {bytes} bytes, at most {KEY_BYTES_MAX} are allowed")))
        }
        _ => Ok(()),
    }
}

fn check_value(value: &[u8]) -> Answer<()> {
    match value.len() {
        bytes if bytes > KEY_VALUE_BYTES_MAX => Err(Failure::Other(format!(
            "the value has {bytes} bytes, at most {KEY_VALUE_BYTES_MAX} are kept"
        ))),
        _ => Ok(()),
    }
}

impl KeyValues {
    async fn ask(&self, request: HostRequest) -> Answer<HostReply> {
        match self.upcalls.ask(request).await {
            Ok(HostReply::Failed { why }) => Err(Failure::Other(why)),
            Ok(reply) => Ok(reply),
            Err(error) => Err(Failure::Other(error.to_string())),
        }
    }

    async fn get(&self, bucket: &str, key: &str) -> Answer<Option<Vec<u8>>> {
        check_key(key)?;
        match self.ask(HostRequest::KvGet { bucket: bucket.to_owned(), key: key.to_owned() }).await? {
            HostReply::Value { value } => Ok(value),
            _ => Err(UNFIT.into()),
        }
    }

    async fn set(&self, bucket: &str, key: String, value: Vec<u8>) -> Answer<()> {
        check_key(&key)?;
        check_value(&value)?;
        self.ask(HostRequest::KvSet { bucket: bucket.to_owned(), key, value }).await.map(drop)
    }

    async fn delete(&self, bucket: &str, key: String) -> Answer<()> {
        check_key(&key)?;
        self.ask(HostRequest::KvDelete { bucket: bucket.to_owned(), key }).await.map(drop)
    }

    async fn exists(&self, bucket: &str, key: String) -> Answer<bool> {
        check_key(&key)?;
        match self.ask(HostRequest::KvExists { bucket: bucket.to_owned(), key }).await? {
            HostReply::Is { is } => Ok(is),
            _ => Err(UNFIT.into()),
        }
    }

    async fn list(&self, bucket: &str, cursor: Option<String>) -> Answer<(Vec<String>, Option<String>)> {
        match self.ask(HostRequest::KvList { bucket: bucket.to_owned(), cursor }).await? {
            HostReply::Keys { keys, cursor } => Ok((keys, cursor)),
            _ => Err(UNFIT.into()),
        }
    }

    async fn increment(&self, bucket: &str, key: String, delta: i64) -> Answer<i64> {
        check_key(&key)?;
        match self.ask(HostRequest::KvIncrement { bucket: bucket.to_owned(), key, delta }).await? {
            HostReply::Number { number } => Ok(number),
            _ => Err(UNFIT.into()),
        }
    }

    async fn get_many(&self, bucket: &str, keys: Vec<String>) -> Answer<Vec<Option<(String, Vec<u8>)>>> {
        check_batch(keys.len())?;
        let mut bytes = 0;
        let mut found = Vec::with_capacity(keys.len());
        for key in keys {
            let value = self.get(bucket, &key).await?;
            bytes += value.as_ref().map_or(0, Vec::len);
            if bytes > BATCH_BYTES_MAX {
                return Err(Failure::Other(format!(
                    "the values have more than the {BATCH_BYTES_MAX} bytes of a batch; ask for fewer keys"
                )));
            }
            found.push(value.map(|value| (key, value)));
        }
        Ok(found)
    }

    async fn set_many(&self, bucket: &str, pairs: Vec<(String, Vec<u8>)>) -> Answer<()> {
        check_batch(pairs.len())?;
        for (key, value) in pairs {
            self.set(bucket, key, value).await?;
        }
        Ok(())
    }

    async fn delete_many(&self, bucket: &str, keys: Vec<String>) -> Answer<()> {
        check_batch(keys.len())?;
        for key in keys {
            self.delete(bucket, key).await?;
        }
        Ok(())
    }

    /// Reads a value and remembers it, on the run's memory.
    async fn cas(&self, bucket: String, key: String) -> Answer<Cas> {
        let seen = self.get(&bucket, &key).await?;
        let bytes = seen.as_ref().map_or(0, Vec::len) as u64;
        if !self.account.take(bytes) {
            return Err("the memory limit leaves no room for the value".into());
        }
        Ok(Cas { bucket, key, seen, _taken: Taken { account: self.account.clone(), bytes } })
    }

    /// Replaces the value, or reads anew what it is by now.
    async fn swap(&self, cas: Cas, new: Vec<u8>) -> Answer<Result<(), Cas>> {
        check_value(&new)?;
        let Cas { bucket, key, seen, _taken } = cas;
        let request = HostRequest::KvSwap { bucket: bucket.clone(), key: key.clone(), old: seen, new };
        match self.ask(request).await? {
            HostReply::Is { is: true } => Ok(Ok(())),
            HostReply::Is { is: false } => self.cas(bucket, key).await.map(Err),
            _ => Err(UNFIT.into()),
        }
    }
}

fn check_batch(keys: usize) -> Answer<()> {
    match keys <= BATCH_KEYS_MAX {
        true => Ok(()),
        false => {
            Err(Failure::Other(format!("a batch has at most {BATCH_KEYS_MAX} keys, this one has {keys}")))
        }
    }
}

/// The server is this very program; it does not happen.
const UNFIT: &str = "the server's answer does not fit the question";

impl HostCtx<'_> {
    fn key_values(&self) -> wasmtime::Result<KeyValues> {
        self.host.key_values.clone().ok_or_else(|| not_granted("wasi:keyvalue"))
    }

    /// What is needed for an operation on a bucket.
    fn in_bucket(&self, bucket: &Resource<Bucket>) -> wasmtime::Result<(KeyValues, String)> {
        Ok((self.key_values()?, self.table.get(bucket)?.name.clone()))
    }

    fn open_bucket(&mut self, identifier: String) -> wasmtime::Result<Answer<Resource<Bucket>>> {
        self.key_values()?;
        Ok(match bucket_name(identifier) {
            Ok(name) => Ok(self.table.push(Bucket { name, cursors: VecDeque::new(), next_cursor: 0 })?),
            Err(failure) => Err(failure),
        })
    }
}

/// What both drafts have in common, for one of them.
macro_rules! implement {
    ($draft:ident, $cursor:ty) => {
        impl From<Failure> for $draft::store::Error {
            fn from(failure: Failure) -> Self {
                match failure {
                    Failure::NoSuchStore => Self::NoSuchStore,
                    Failure::Other(why) => Self::Other(why),
                }
            }
        }

        impl $draft::store::Host for HostCtx<'_> {
            async fn open(
                &mut self,
                identifier: String,
            ) -> wasmtime::Result<Result<Resource<Bucket>, $draft::store::Error>> {
                Ok(self.open_bucket(identifier)?.map_err(Into::into))
            }
        }

        impl $draft::store::HostBucket for HostCtx<'_> {
            async fn get(
                &mut self,
                bucket: Resource<Bucket>,
                key: String,
            ) -> wasmtime::Result<Result<Option<Vec<u8>>, $draft::store::Error>> {
                let (values, name) = self.in_bucket(&bucket)?;
                Ok(values.get(&name, &key).await.map_err(Into::into))
            }

            async fn set(
                &mut self,
                bucket: Resource<Bucket>,
                key: String,
                value: Vec<u8>,
            ) -> wasmtime::Result<Result<(), $draft::store::Error>> {
                let (values, name) = self.in_bucket(&bucket)?;
                Ok(values.set(&name, key, value).await.map_err(Into::into))
            }

            async fn delete(
                &mut self,
                bucket: Resource<Bucket>,
                key: String,
            ) -> wasmtime::Result<Result<(), $draft::store::Error>> {
                let (values, name) = self.in_bucket(&bucket)?;
                Ok(values.delete(&name, key).await.map_err(Into::into))
            }

            async fn exists(
                &mut self,
                bucket: Resource<Bucket>,
                key: String,
            ) -> wasmtime::Result<Result<bool, $draft::store::Error>> {
                let (values, name) = self.in_bucket(&bucket)?;
                Ok(values.exists(&name, key).await.map_err(Into::into))
            }

            async fn list_keys(
                &mut self,
                bucket: Resource<Bucket>,
                cursor: Option<$cursor>,
            ) -> wasmtime::Result<Result<$draft::store::KeyResponse, $draft::store::Error>> {
                let (values, name) = self.in_bucket(&bucket)?;
                let Ok(cursor) = <$cursor as Cursor>::known(cursor, self.table.get(&bucket)?) else {
                    return Ok(Err(Failure::from("the cursor is unknown or too old").into()));
                };
                Ok(match values.list(&name, cursor).await {
                    Ok((keys, cursor)) => {
                        let bucket = self.table.get_mut(&bucket)?;
                        let cursor = cursor.map(|cursor| <$cursor as Cursor>::given(cursor, bucket));
                        Ok($draft::store::KeyResponse { keys, cursor })
                    }
                    Err(failure) => Err(failure.into()),
                })
            }

            async fn drop(&mut self, bucket: Resource<Bucket>) -> wasmtime::Result<()> {
                self.table.delete(bucket)?;
                Ok(())
            }
        }

        impl $draft::batch::Host for HostCtx<'_> {
            async fn get_many(
                &mut self,
                bucket: Resource<Bucket>,
                keys: Vec<String>,
            ) -> wasmtime::Result<Result<Vec<Option<(String, Vec<u8>)>>, $draft::store::Error>> {
                let (values, name) = self.in_bucket(&bucket)?;
                Ok(values.get_many(&name, keys).await.map_err(Into::into))
            }

            async fn set_many(
                &mut self,
                bucket: Resource<Bucket>,
                pairs: Vec<(String, Vec<u8>)>,
            ) -> wasmtime::Result<Result<(), $draft::store::Error>> {
                let (values, name) = self.in_bucket(&bucket)?;
                Ok(values.set_many(&name, pairs).await.map_err(Into::into))
            }

            async fn delete_many(
                &mut self,
                bucket: Resource<Bucket>,
                keys: Vec<String>,
            ) -> wasmtime::Result<Result<(), $draft::store::Error>> {
                let (values, name) = self.in_bucket(&bucket)?;
                Ok(values.delete_many(&name, keys).await.map_err(Into::into))
            }
        }
    };
}
implement!(draft, u64);
implement!(draft2, String);

/// A place in a list of keys, as one draft or the other has it. The server's are texts.
trait Cursor: Sized {
    /// The server's, for what a guest says.
    fn known(cursor: Option<Self>, bucket: &Bucket) -> Result<Option<String>, ()>;
    /// The guest's, for what the server says.
    fn given(cursor: String, bucket: &mut Bucket) -> Self;
}

impl Cursor for u64 {
    fn known(cursor: Option<Self>, bucket: &Bucket) -> Result<Option<String>, ()> {
        let Some(number) = cursor else { return Ok(None) };
        let found = bucket.cursors.iter().find(|(known, _)| *known == number);
        found.map(|(_, cursor)| Some(cursor.clone())).ok_or(())
    }

    fn given(cursor: String, bucket: &mut Bucket) -> Self {
        bucket.remember(cursor)
    }
}

impl Cursor for String {
    fn known(cursor: Option<Self>, _bucket: &Bucket) -> Result<Option<String>, ()> {
        match cursor {
            Some(cursor) if cursor.len() > KEY_BYTES_MAX => Err(()),
            cursor => Ok(cursor),
        }
    }

    fn given(cursor: String, _bucket: &mut Bucket) -> Self {
        cursor
    }
}

impl draft::atomics::Host for HostCtx<'_> {
    async fn increment(
        &mut self,
        bucket: Resource<Bucket>,
        key: String,
        delta: u64,
    ) -> wasmtime::Result<Result<u64, draft::store::Error>> {
        let (values, name) = self.in_bucket(&bucket)?;
        let Ok(delta) = i64::try_from(delta) else {
            return Ok(Err(Failure::from("numbers go up to 2^63 - 1").into()));
        };
        Ok(match values.increment(&name, key, delta).await {
            Ok(number) => u64::try_from(number).map_err(|_| Failure::from("the number is negative").into()),
            Err(failure) => Err(failure.into()),
        })
    }
}

impl draft2::atomics::Host for HostCtx<'_> {
    async fn increment(
        &mut self,
        bucket: Resource<Bucket>,
        key: String,
        delta: i64,
    ) -> wasmtime::Result<Result<i64, draft2::store::Error>> {
        let (values, name) = self.in_bucket(&bucket)?;
        Ok(values.increment(&name, key, delta).await.map_err(Into::into))
    }

    async fn swap(
        &mut self,
        cas: Resource<Cas>,
        value: Vec<u8>,
    ) -> wasmtime::Result<Result<(), draft2::atomics::CasError>> {
        use draft2::atomics::CasError;
        let values = self.key_values()?;
        let cas = self.table.delete(cas)?;
        Ok(match values.swap(cas, value).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(newer)) => Err(CasError::CasFailed(self.table.push(newer)?)),
            Err(failure) => Err(CasError::StoreError(failure.into())),
        })
    }
}

impl draft2::atomics::HostCas for HostCtx<'_> {
    async fn new(
        &mut self,
        bucket: Resource<Bucket>,
        key: String,
    ) -> wasmtime::Result<Result<Resource<Cas>, draft2::store::Error>> {
        let (values, name) = self.in_bucket(&bucket)?;
        Ok(match values.cas(name, key).await {
            Ok(cas) => Ok(self.table.push(cas)?),
            Err(failure) => Err(failure.into()),
        })
    }

    async fn current(
        &mut self,
        cas: Resource<Cas>,
    ) -> wasmtime::Result<Result<Option<Vec<u8>>, draft2::store::Error>> {
        Ok(Ok(self.table.get(&cas)?.seen.clone()))
    }

    async fn drop(&mut self, cas: Resource<Cas>) -> wasmtime::Result<()> {
        self.table.delete(cas)?;
        Ok(())
    }
}
