//! What a started container does: ends, signals, usage, checks, what it asks for and leaves behind.

use std::fs::File;
use std::io::{Read, Seek};
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::Duration;

use neargate_driver::{Driver, ExecError, ExecSpec, Exit, Handle, Signal, WasmTimes};
use neargate_model::ContainerId;
use neargate_wasm::protocol::{Entry, HostReply, Stop};

use crate::bench::{Bench, task};
use crate::fake::Event;

#[tokio::test]
async fn exits_are_told_exactly() {
    let bench = Bench::new();
    let check = async |words: &str, code: i32, oom: bool, reason: Option<&str>| {
        let exit = bench.run(task(words)).await.wait().await;
        let expect = Exit { code: Some(code), oom, reason: reason.map(str::to_owned) };
        assert_eq!(exit, expect, "{words}");
    };
    check("exit 0", 0, false, None).await;
    check("exit 3", 3, false, None).await;
    check("oom", 137, true, Some("too much")).await;
    check("trap", 134, false, Some("wasm trap: unreachable")).await;
}

#[tokio::test]
async fn signals_and_usage() {
    let bench = Bench::new();
    let handle = bench.run(task("hold")).await;
    let stats = handle.stats().await.unwrap();
    assert_eq!((stats.cpu_ns, stats.memory_bytes, stats.pids), (100, 1000, 1));
    assert_eq!(stats.wasm, Some(WasmTimes { instantiate_ns: 30, run_ns: 40 }));
    handle.signal(Signal::Stop(15)).await.unwrap();
    assert_eq!(handle.wait().await, Exit::code(143));
    // What it had used at its end is known for good.
    let stats = handle.stats().await.unwrap();
    assert_eq!((stats.cpu_ns, stats.memory_bytes, stats.memory_peak_bytes, stats.pids), (200, 0, 2000, 0));
    handle.signal(Signal::Kill).await.unwrap();
    let stops = |event: &Event| match event {
        Event::Stopped { stop, .. } => Some(stop.clone()),
        _ => None,
    };
    let stops: Vec<Stop> = bench.host.events().iter().filter_map(stops).collect();
    assert_eq!(stops, [Stop::Ask { code: 143 }]);
}

#[tokio::test]
async fn what_is_not_there_is_named() {
    let bench = Bench::new();
    let check = async |image: &str, export: Option<&str>, expect: &str| {
        let wanted = task("").image(image).options(|options| options.export = export.map(str::to_owned));
        let text = bench.refuse(wanted).await;
        assert!(text.contains(expect), "{text:?} lacks {expect:?}");
    };
    check("add hello", Some("greet"), "the component exports no function `greet`; it exports: add, hello")
        .await;
    check("add hello", None, "the component is no program").await;
    check("http", None, "neargate run` the option --http ADDR").await;
    check(
        "command wasi:keyvalue/store@0.2.0-draft",
        None,
        "imports wasi:keyvalue/store@0.2.0-draft, which the task is not granted",
    )
    .await;
    check("command wasi:keyvalue/store@0.2.0-draft", None, "neargate.wasm.grants").await;
    let text = bench.refuse(task("fail")).await;
    assert!(text.contains("it imports the moon"), "{text}");
}

#[tokio::test]
async fn an_export_is_called() {
    let bench = Bench::new();
    let call = task("1 2").image("yes").options(|options| options.export = Some("yes".to_owned()));
    assert_eq!(bench.run(call).await.wait().await.code, Some(0));
    assert_eq!(bench.host.starts()[0].1.entry, Entry::Export { name: "yes".to_owned() });
}

async fn check(handle: &Arc<dyn Handle>, words: &[&str], timeout: Duration) -> Result<Exit, ExecError> {
    let argv = words.iter().map(|word| (*word).to_owned()).collect();
    let env = vec![("C".to_owned(), "4".to_owned())];
    handle.exec(ExecSpec { argv, env, timeout, stdio: None }).await
}

#[tokio::test]
async fn health_checks() {
    let bench = Bench::new();
    let container = task("hold").image("command yes no hold mute");
    let handle = bench.run(container).await;
    let long = Duration::from_secs(20);
    assert_eq!(check(&handle, &["yes"], long).await.unwrap().code, Some(0));
    assert_eq!(check(&handle, &["no", "1"], long).await.unwrap().code, Some(1));
    assert_eq!(check(&handle, &["/bin/sh", "-c", "no"], long).await.unwrap().code, Some(1));
    assert_eq!(check(&handle, &["program", "exit", "6"], long).await.unwrap().code, Some(6));
    let short = Duration::from_millis(50);
    assert_eq!(check(&handle, &["hold"], short).await.unwrap().code, None);
    assert_eq!(check(&handle, &["mute"], short).await.unwrap().code, None);
    let starts = bench.host.starts();
    let (worker, plan) = &starts[1];
    assert_eq!((*worker, &plan.task), (starts[0].0, &starts[0].1.task));
    assert_eq!(plan.env.last(), Some(&("C".to_owned(), "4".to_owned())));
    let is_kill = |event: &Event| matches!(event, Event::Stopped { stop: Stop::Kill { code: 137 }, .. });
    bench.host.until("two killings", |events| events.iter().filter(|e| is_kill(e)).count() == 2).await;
}

#[tokio::test]
async fn health_checks_that_cannot_be() {
    let bench = Bench::new();
    let handle = bench.run(task("hold").image("yes").options(|o| o.export = Some("yes".to_owned()))).await;
    handle.wait().await;
    let long = Duration::from_secs(20);
    assert!(matches!(check(&handle, &["yes"], long).await, Err(ExecError::NotRunning)));
    let http = bench.run(task("hold").http()).await;
    let error = check(&http, &["curl", "localhost"], long).await.unwrap_err();
    assert!(error.to_string().contains("exports no function `curl`"), "{error}");
    let error = check(&http, &["/bin/sh", "-c", "curl || exit 1"], long).await.unwrap_err();
    assert!(error.to_string().contains("no shell"), "{error}");
}

#[tokio::test]
async fn streams_are_the_containers_own() {
    let bench = Bench::new();
    let mut file = tempfile::tempfile().unwrap();
    let mut writing = task("write hello");
    writing.stdout = Some(Arc::new(file.try_clone().unwrap()));
    bench.run(writing).await.wait().await;
    let mut text = String::new();
    file.rewind().unwrap();
    file.read_to_string(&mut text).unwrap();
    assert_eq!(text, "hello\n");
}

#[tokio::test]
async fn a_core_dump_is_there_when_the_end_is_told() {
    let bench = Bench::new();
    let dir = bench.dir.path().join("artifacts");
    std::fs::create_dir(&dir).unwrap();
    let mut dumping = task("dump");
    dumping.artifacts = Some(dir.clone());
    bench.run(dumping).await.wait().await;
    let mut dump = File::open(dir.join("core")).unwrap();
    assert_eq!(dump.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let mut bytes = Vec::new();
    dump.read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes, b"\0asm core");
    // A pipe is none, however long it is held out.
    let mut holding_out = task("dump-pipe");
    holding_out.artifacts = Some(bench.dir.path().to_owned());
    assert_eq!(bench.run(holding_out).await.wait().await.code, Some(134));
    assert!(!bench.dir.path().join("core").exists());
    // Without a directory it is dropped.
    assert_eq!(bench.run(task("dump")).await.wait().await.code, Some(134));
}

#[tokio::test]
async fn what_is_left_before_the_end_is_kept_once() {
    let bench = Bench::new();
    let dir = bench.dir.path().join("artifacts");
    let core = || std::fs::read_to_string(dir.join("core")).unwrap();
    let leaving = |words: &str| {
        let mut leaving = task(words);
        leaving.artifacts = Some(dir.clone());
        leaving
    };
    let first = bench.run(leaving("leave")).await;
    first.signal(Signal::Stop(15)).await.unwrap();
    first.wait().await;
    let kept = core();
    assert!(kept.ends_with(" 0"), "{kept}");
    // As another part of the same container would: the first one stays.
    std::fs::write(dir.join("core"), "the first").unwrap();
    let second = bench.run(leaving("leave")).await;
    second.signal(Signal::Stop(15)).await.unwrap();
    second.wait().await;
    assert_eq!(core(), "the first");
    assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 1, "no part of a file is left");
    // A worker of ours does neither of these.
    let greedy = bench.run(leaving("leave-twice")).await.wait().await;
    let why = greedy.reason.unwrap();
    assert!(why.contains("leaves more than one thing before its end"), "{why}");
    let unwanted = bench.run(task("leave")).await.wait().await;
    let why = unwanted.reason.unwrap();
    assert!(why.contains("leaves what nobody wants"), "{why}");
}

async fn told(bench: &Bench, count: usize) -> Vec<HostReply> {
    let replies = |events: &[Event]| -> Vec<HostReply> {
        let reply = |event: &Event| match event {
            Event::Told { reply, .. } => Some(reply.clone()),
            _ => None,
        };
        events.iter().filter_map(reply).collect()
    };
    replies(&bench.host.until("answers", |events| replies(events).len() >= count).await)
}

#[tokio::test]
async fn buckets_need_a_grant_and_belong_to_the_tenant() {
    let bench = Bench::new();
    let _denied = bench.run(task("ask")).await;
    for reply in told(&bench, 2).await {
        assert_eq!(reply, HostReply::Failed { why: "wasi:keyvalue is not granted".to_owned() });
    }
    assert!(bench.keys.tenants().is_empty());
    let granted = task("ask").tenant("b").options(|o| o.grants = vec!["wasi:keyvalue".to_owned()]);
    let _granted = bench.run(granted).await;
    let replies = told(&bench, 4).await;
    assert!(replies.contains(&HostReply::Done {}), "{replies:?}");
    assert_eq!(bench.keys.tenants(), ["b"]);
}

#[tokio::test]
async fn names_need_the_network() {
    let bench = Bench::new();
    let _denied = bench.run(task("resolve localhost")).await;
    let why = "look up a name: the task has no network".to_owned();
    assert_eq!(told(&bench, 1).await, [HostReply::Failed { why }]);
    let granted = task("resolve localhost").options(|options| options.host_network = true);
    let _granted = bench.run(granted).await;
    let HostReply::Addresses { addresses } = told(&bench, 2).await.remove(1) else { panic!("no addresses") };
    assert!(addresses.iter().any(|address| address == "127.0.0.1" || address == "::1"), "{addresses:?}");
}

#[tokio::test]
async fn sockets_and_names_are_those_of_the_tasks_network() {
    let bench = Bench::new();
    let why = "make a socket: the task has no network of its own".to_owned();
    let _denied = bench.run(task("socket")).await;
    let _also_denied = bench.run(task("socket").options(|options| options.host_network = true)).await;
    assert_eq!(told(&bench, 2).await, [(); 2].map(|()| HostReply::Failed { why: why.clone() }));
    let _granted = bench.run(task("socket").networked()).await;
    assert_eq!(told(&bench, 3).await[2], HostReply::Socket {});
    let _known = bench.run(task("resolve one.test").networked()).await;
    assert_eq!(told(&bench, 4).await[3], HostReply::Addresses { addresses: vec!["10.0.0.1".to_owned()] });
    // What the host calls so is nothing that such a task is told.
    let _unknown = bench.run(task("resolve localhost").networked()).await;
    assert_eq!(told(&bench, 5).await[4], HostReply::Failed { why: "the name has no address".to_owned() });
}

#[tokio::test]
async fn nothing_is_recovered() {
    let bench = Bench::new();
    let id = ContainerId::new("00000000-0000-0000-0000-000000000000").unwrap();
    assert!(bench.driver.recover(&id).await.unwrap().is_none());
}
