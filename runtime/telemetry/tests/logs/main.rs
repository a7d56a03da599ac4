//! The log store as its users see it: the API's rules, crashes, full disks, crowds.

#![allow(clippy::unwrap_used)]

mod api;
mod crash;
mod crowd;
mod disk;
mod follow;
mod paging;
mod space;

use std::time::SystemTime;

use neargate_model::{AccountId, Region, Scope, Timestamp};
use neargate_telemetry::{
    Appended, Create, FilterQuery, GetQuery, InputEvent, LogStore, LogStoreConfig, StreamWriter,
};
use tempfile::TempDir;

const DAY_MS: i64 = 86_400_000;

fn scope() -> Scope {
    let (account, region) = ("123456789012".to_owned(), "us-east-1".to_owned());
    Scope { account: AccountId::new(account).unwrap(), region: Region::new(region).unwrap() }
}

fn now() -> i64 {
    Timestamp::from(SystemTime::now()).as_millis()
}

fn event(timestamp: i64, message: &str) -> InputEvent {
    InputEvent { timestamp: Timestamp(timestamp), message: message.to_owned() }
}

/// A store in a directory of its own, with a group `g`.
struct Fixture {
    dir: TempDir,
    config: LogStoreConfig,
    store: LogStore,
}

impl Fixture {
    fn new() -> Self {
        Self::with(LogStoreConfig::default())
    }

    fn with(config: LogStoreConfig) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = LogStore::open(dir.path(), config.clone()).unwrap();
        store.create_group(&scope(), "g", None).unwrap();
        Self { dir, config, store }
    }

    fn reopen(self) -> Self {
        let Self { dir, config, store } = self;
        drop(store);
        let store = LogStore::open(dir.path(), config.clone()).unwrap();
        Self { dir, config, store }
    }

    fn writer(&self, stream: &str) -> StreamWriter {
        self.store.open_writer(&scope(), "g", stream, Create::Stream).unwrap()
    }

    fn put(&self, stream: &str, events: &[InputEvent]) {
        drop(self.writer(stream));
        let rejected = self.store.put_events(&scope(), "g", stream, events).unwrap();
        assert_eq!(rejected, neargate_telemetry::Rejected::default());
    }

    /// All messages of a stream, oldest first.
    fn messages(&self, stream: &str) -> Vec<String> {
        let mut query = GetQuery { start_from_head: true, ..GetQuery::default() };
        let mut messages = Vec::new();
        loop {
            let page = self.store.get_events(&scope(), "g", stream, &query).unwrap();
            messages.extend(page.events.into_iter().map(|event| event.message));
            if query.token.as_ref() == Some(&page.next_forward_token) {
                return messages;
            }
            query.token = Some(page.next_forward_token);
        }
    }

    /// The messages that a search finds, over all its pages, and how many pages there were.
    fn filter(&self, mut query: FilterQuery) -> (Vec<String>, usize) {
        let (mut messages, mut pages) = (Vec::new(), 0);
        loop {
            let page = self.store.filter_events(&scope(), "g", &query).unwrap();
            messages.extend(page.items.into_iter().map(|found| found.event.message));
            pages += 1;
            match page.next_token {
                Some(token) => query.token = Some(token),
                None => return (messages, pages),
            }
        }
    }

    /// The files of the group `g`, by extension.
    fn files(&self, extension: &str) -> Vec<std::path::PathBuf> {
        let group = self.dir.path().join("g00000001");
        let mut files: Vec<_> =
            std::fs::read_dir(group).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.retain(|path| path.extension().is_some_and(|e| e == extension));
        files.sort();
        files
    }
}

fn append(writer: &StreamWriter, line: &str) {
    assert_eq!(writer.append_blocking(Timestamp(now()), line.as_bytes()), Appended::Queued);
}
