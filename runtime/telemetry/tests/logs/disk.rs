use std::fs;
use std::path::Path;
use std::process::Command;

use neargate_model::Timestamp;
use neargate_telemetry::{Appended, Create, FilterQuery, GetQuery, LogStore, LogStoreConfig, PutError};

use crate::crowd::lost_in;
use crate::{Fixture, append, event, now, scope};

/// A small file system, unmounted when dropped.
struct Tmpfs<'a>(&'a Path);

impl<'a> Tmpfs<'a> {
    fn mount(at: &'a Path, size: &str) -> Option<Self> {
        let options = format!("size={size}");
        let status = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(at).status();
        status.is_ok_and(|status| status.success()).then_some(Self(at))
    }
}

impl Drop for Tmpfs<'_> {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg("-l").arg(self.0).status();
        assert!(unmounted.is_ok_and(|status| status.success()) || std::thread::panicking());
    }
}

#[test]
fn a_full_disk_costs_lines_but_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let Some(_tmpfs) = Tmpfs::mount(dir.path(), "1m") else {
        eprintln!("SKIPPED a_full_disk_costs_lines_but_nothing_else: mounting a tmpfs needs root");
        return;
    };
    let ballast = dir.path().join("ballast");
    let store = LogStore::open(dir.path().join("logs"), LogStoreConfig::default()).unwrap();
    let writer = store.open_writer(&scope(), "g", "s", Create::GroupAndStream).unwrap();
    append(&writer, "before");
    store.flush();
    while fs::File::options()
        .append(true)
        .create(true)
        .open(&ballast)
        .and_then(|mut file| std::io::Write::write_all(&mut file, &[0; 4096]))
        .is_ok()
    {}
    let mut appended = 1;
    while store.stats().events_dropped == 0 {
        append(&writer, &format!("{appended} {}", "x".repeat(1000)));
        appended += 1;
        store.flush();
    }
    append(&writer, &format!("lost too {}", "z".repeat(9000)));
    store.flush();
    let refused = store.put_events(&scope(), "g", "s", &[event(now(), &"y".repeat(9000))]);
    assert!(matches!(refused, Err(PutError::Unavailable { .. })), "{refused:?}");
    assert!(store.stats().write_errors > 0);
    fs::remove_file(&ballast).unwrap();
    append(&writer, "after");
    store.flush();
    let check = |store: &LogStore| {
        let events = store.get_events(&scope(), "g", "s", &GetQuery::default()).unwrap().events;
        let lost: u64 = events.iter().filter(|event| event.gap).map(|event| lost_in(&event.message)).sum();
        let kept = events.iter().filter(|event| !event.gap).count();
        assert_eq!(lost, 2);
        // All but the two lost lines, and the one after.
        assert_eq!(kept, appended);
        assert_eq!(events[0].message, "before");
        assert_eq!(events.iter().filter(|event| event.message == "after").count(), 1);
    };
    check(&store);
    assert_eq!(store.stats().events_dropped, 2);
    drop((store, writer));
    check(&LogStore::open(dir.path().join("logs"), LogStoreConfig::default()).unwrap());
}

fn written(config: LogStoreConfig) -> Fixture {
    let f = Fixture::with(config);
    for i in 0..6 {
        f.put("s", &[event(now() - 100 + i, &i.to_string())]);
    }
    f
}

/// Changes the store's files while it is closed.
fn tamper(f: Fixture, change: impl FnOnce(&Fixture)) -> Fixture {
    let Fixture { dir, config, store } = f;
    store.close();
    drop(store);
    // The closed store is only a handle to paths here.
    let elsewhere = tempfile::tempdir().unwrap();
    let store = LogStore::open(elsewhere.path(), config.clone()).unwrap();
    let closed = Fixture { dir, config, store };
    change(&closed);
    closed.reopen()
}

#[test]
fn a_torn_end_is_cut_and_writing_goes_on() {
    for cut in [1, 7, 30, 50] {
        let f = tamper(written(LogStoreConfig::default()), |f| {
            let path = &f.files("seg")[0];
            let length = fs::metadata(path).unwrap().len();
            fs::File::options().write(true).open(path).unwrap().set_len(length - cut).unwrap();
        });
        assert_eq!(f.messages("s"), ["0", "1", "2", "3", "4"], "{cut}");
        assert!(f.store.stats().torn_bytes > 0);
        append(&f.writer("s"), "new");
        let f = f.reopen();
        assert_eq!(f.messages("s"), ["0", "1", "2", "3", "4", "new"]);
        assert_eq!(f.store.stats().torn_bytes, 0);
    }
}

#[test]
fn a_broken_block_is_skipped() {
    let f = tamper(written(LogStoreConfig::default()), |f| {
        let path = &f.files("seg")[0];
        let mut bytes = fs::read(path).unwrap();
        let block = bytes.len() / 6;
        bytes[block * 2 + 20] ^= 0x40;
        fs::write(path, bytes).unwrap();
    });
    assert_eq!(f.messages("s"), ["0", "1", "3", "4", "5"]);
    assert_eq!(f.store.stats().corrupt_blocks, 1);
}

#[test]
fn damaged_or_missing_indexes_are_made_again() {
    let config = || LogStoreConfig { segment_bytes: 100, ..LogStoreConfig::default() };
    let all = ["0", "1", "2", "3", "4", "5"];
    assert_eq!(written(config()).reopen().messages("s"), all);
    let f = tamper(written(config()), |f| {
        let indexes = f.files("idx");
        assert!(indexes.len() >= 3, "{indexes:?}");
        fs::remove_file(&indexes[0]).unwrap();
        fs::write(&indexes[1], b"garbage").unwrap();
    });
    assert_eq!(f.messages("s"), all);
    assert_eq!(f.reopen().messages("s"), all);
}

#[test]
fn unfinished_work_is_removed_at_open() {
    let f = tamper(written(LogStoreConfig::default()), |f| {
        let group = f.dir.path().join("g00000001");
        let segment = &f.files("seg")[0];
        fs::copy(segment, group.join("00000001-1.seg")).unwrap();
        fs::write(group.join("00000009-0.idx"), b"orphan").unwrap();
        fs::write(group.join("group.tmp"), b"half").unwrap();
        fs::create_dir(f.dir.path().join("g00000007.new")).unwrap();
        fs::create_dir_all(f.dir.path().join("g00000008.deleted/x")).unwrap();
    });
    assert_eq!(f.messages("s").len(), 6);
    assert_eq!(f.files("seg").len(), 1);
    assert!(f.files("seg")[0].ends_with("00000001-1.seg"));
    assert_eq!((f.files("idx").len(), f.files("tmp").len()), (0, 0));
    let dirs = fs::read_dir(f.dir.path()).unwrap().count();
    assert_eq!(dirs, 2, "the lock and one group");
}

#[test]
fn a_half_written_stream_line_is_cut() {
    let f = tamper(written(LogStoreConfig::default()), |f| {
        let log = &f.files("log")[0];
        let mut bytes = fs::read(log).unwrap();
        bytes.extend_from_slice(b"0123abcd {\"create\":{\"id\":");
        fs::write(log, bytes).unwrap();
    });
    assert!(f.store.stats().torn_bytes > 0);
    append(&f.writer("t"), "x");
    let f = f.reopen();
    assert_eq!((f.messages("s").len(), f.messages("t").len()), (6, 1));
}

#[test]
fn many_deleted_streams_do_not_fill_the_stream_log() {
    let f = Fixture::new();
    for i in 0..1200 {
        let name = format!("s{i}");
        f.store.create_stream(&scope(), "g", &name).unwrap();
        f.store.delete_stream(&scope(), "g", &name).unwrap();
    }
    f.put("kept", &[event(now(), "x")]);
    let length = |f: &Fixture| fs::metadata(&f.files("log")[0]).unwrap().len();
    assert!(length(&f) > 100_000);
    let f = f.reopen();
    assert!(length(&f) < 1000);
    // A new stream must not get the number, and with it the events, of an old one.
    f.put("newer", &[event(now(), "y")]);
    let f = f.reopen();
    assert_eq!((f.messages("kept"), f.messages("newer")), (vec!["x".to_owned()], vec!["y".to_owned()]));
}

#[test]
fn an_unreadable_group_does_not_stop_the_others() {
    let f = Fixture::new();
    f.store.create_group(&scope(), "h", None).unwrap();
    let f = tamper(f, |f| fs::write(f.dir.path().join("g00000002/group.json"), b"{").unwrap());
    assert_eq!(f.store.stats().unreadable_groups, 1);
    assert_eq!(f.filter(FilterQuery::default()).0.len(), 0);
    f.store.create_group(&scope(), "i", None).unwrap();
    assert!(f.dir.path().join("g00000003").is_dir());
}

#[test]
fn times_of_events_are_kept_exactly() {
    let f = Fixture::new();
    let writer = f.writer("s");
    let times = [0, 1, 1_700_000_000_123, i64::MAX / 2];
    for time in times {
        assert_eq!(writer.append(Timestamp(time), b"x"), Appended::Queued);
    }
    f.store.flush();
    let events = f.store.get_events(&scope(), "g", "s", &GetQuery::default()).unwrap().events;
    assert_eq!(events.iter().map(|event| event.timestamp.as_millis()).collect::<Vec<_>>(), times);
}
