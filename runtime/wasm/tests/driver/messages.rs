//! The protocol: what is encoded is decoded, and bytes that are no message do no harm.

use std::net::SocketAddr;

use neargate_fuzz::Fuzz;
use neargate_ipc::wire::{Wire, decode, encode};
use neargate_wasm::protocol::{
    Attachment, BinaryKind, Cause, CodeInfo, CompileOrder, CompileRefusal, CompileReply, EngineKind, Entry,
    EntryKind, ExportInfo, FromWorker, HostReply, HostRequest, Inspection, Network, Preopen, RunExit,
    RunLimits, RunPlan, StartFailure, Stop, ToWorker, Usage, WorkerSetup,
};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::{Just, Strategy, any, prop_oneof};
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

/// Messages of each kind that are damaged.
const SAMPLES: usize = 100;

fn text() -> impl Strategy<Value = String> {
    prop_oneof!["[a-z:/@.0-9]{0,12}", "\\PC{0,6}"]
}

fn pairs() -> impl Strategy<Value = Vec<(String, String)>> {
    vec((text(), text()), 0..4)
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), 0..20)
}

fn binary() -> impl Strategy<Value = BinaryKind> {
    prop_oneof![Just(BinaryKind::Module {}), Just(BinaryKind::Component {})]
}

fn engine() -> impl Strategy<Value = EngineKind> {
    prop_oneof![Just(EngineKind::Sync {}), Just(EngineKind::Concurrent {})]
}

fn entry() -> impl Strategy<Value = Entry> {
    prop_oneof![
        Just(Entry::Command {}),
        option::of(any::<u32>()).prop_map(|reuse| Entry::Http { reuse }),
        Just(Entry::Handler {}),
        text().prop_map(|name| Entry::Export { name }),
    ]
}

fn limits() -> impl Strategy<Value = RunLimits> {
    (option::of(any::<u32>()), option::of(any::<u64>()), option::of(any::<u64>())).prop_map(
        |(cpu_millis, cpu_budget_ns, memory_bytes)| RunLimits { cpu_millis, cpu_budget_ns, memory_bytes },
    )
}

fn network() -> impl Strategy<Value = Network> {
    prop_oneof![
        Just(Network::None {}),
        vec(any::<SocketAddr>(), 0..3).prop_map(|control| Network::Host { control }),
    ]
}

fn plan() -> impl Strategy<Value = RunPlan> {
    let preopen = (text(), text(), any::<bool>()).prop_map(|(name, guest, read_only)| Preopen {
        name,
        guest,
        read_only,
    });
    let who = (any::<u32>(), entry(), text(), any::<u32>(), option::of(any::<u64>()));
    let what = (vec(text(), 0..4), pairs(), vec(preopen, 0..3), vec(text(), 0..3), pairs());
    let how = (limits(), limits(), network(), any::<(bool, u32, u32, bool, bool)>());
    (who, what, how).prop_map(|(who, what, how)| {
        let (image, entry, task, attempt, deadline_ms) = who;
        let (argv, env, preopens, grants, config) = what;
        let (limits, task_limits, network, rest) = how;
        let (own_thread, listeners, cgroups, core_dump, profile) = rest;
        RunPlan {
            image,
            entry,
            task,
            attempt,
            deadline_ms,
            argv,
            env,
            preopens,
            limits,
            task_limits,
            grants,
            config,
            network,
            own_thread,
            listeners,
            cgroups,
            core_dump,
            profile,
        }
    })
}

fn stop() -> impl Strategy<Value = Stop> {
    prop_oneof![
        any::<i32>().prop_map(|code| Stop::Ask { code }),
        any::<i32>().prop_map(|code| Stop::Kill { code }),
    ]
}

fn reply() -> impl Strategy<Value = HostReply> {
    prop_oneof![
        vec(text(), 0..4).prop_map(|addresses| HostReply::Addresses { addresses }),
        option::of(bytes()).prop_map(|value| HostReply::Value { value }),
        Just(HostReply::Done {}),
        any::<bool>().prop_map(|is| HostReply::Is { is }),
        (vec(text(), 0..4), option::of(text())).prop_map(|(keys, cursor)| HostReply::Keys { keys, cursor }),
        any::<i64>().prop_map(|number| HostReply::Number { number }),
        text().prop_map(|why| HostReply::Failed { why }),
    ]
}

fn to_worker() -> impl Strategy<Value = ToWorker> {
    prop_oneof![
        (any::<u32>(), binary(), engine())
            .prop_map(|(image, kind, engine)| ToWorker::Load { image, code: CodeInfo { kind, engine } }),
        any::<u32>().prop_map(|image| ToWorker::Unload { image }),
        (any::<u64>(), plan()).prop_map(|(run, plan)| ToWorker::Start { run, plan }),
        (any::<u64>(), stop()).prop_map(|(run, stop)| ToWorker::Stop { run, stop }),
        any::<u64>().prop_map(|run| ToWorker::Stats { run }),
        (any::<u64>(), reply()).prop_map(|(call, reply)| ToWorker::HostReply { call, reply }),
    ]
}

fn usage() -> impl Strategy<Value = Usage> {
    any::<[u64; 6]>().prop_map(
        |[cpu_ns, memory_bytes, memory_peak_bytes, instantiate_ns, run_ns, requests]| Usage {
            cpu_ns,
            memory_bytes,
            memory_peak_bytes,
            instantiate_ns,
            run_ns,
            requests,
        },
    )
}

fn exit() -> impl Strategy<Value = RunExit> {
    let cause = prop_oneof![
        Just(Cause::Exit {}),
        Just(Cause::Trap {}),
        Just(Cause::OutOfMemory {}),
        Just(Cause::CpuBudget {}),
        Just(Cause::Stopped {}),
        Just(Cause::Denied {}),
    ];
    (any::<i32>(), cause, option::of(text()), usage(), vec(attachment(), 0..3)).prop_map(
        |(code, cause, reason, usage, attachments)| RunExit { code, cause, reason, usage, attachments },
    )
}

fn failure() -> impl Strategy<Value = StartFailure> {
    prop_oneof![
        text().prop_map(|why| StartFailure::NoEntry { why }),
        text().prop_map(|why| StartFailure::Import { why }),
        (text(), any::<i32>()).prop_map(|(name, errno)| StartFailure::Preopen { name, errno }),
        Just(StartFailure::Full {}),
        (text(), any::<i32>()).prop_map(|(step, errno)| StartFailure::System { step, errno }),
    ]
}

fn request() -> impl Strategy<Value = HostRequest> {
    let place = || (text(), text());
    prop_oneof![
        text().prop_map(|name| HostRequest::Resolve { name }),
        place().prop_map(|(bucket, key)| HostRequest::KvGet { bucket, key }),
        (place(), bytes()).prop_map(|((bucket, key), value)| HostRequest::KvSet { bucket, key, value }),
        place().prop_map(|(bucket, key)| HostRequest::KvDelete { bucket, key }),
        place().prop_map(|(bucket, key)| HostRequest::KvExists { bucket, key }),
        (text(), option::of(text())).prop_map(|(bucket, cursor)| HostRequest::KvList { bucket, cursor }),
        (place(), any::<i64>()).prop_map(|((bucket, key), delta)| HostRequest::KvIncrement {
            bucket,
            key,
            delta
        }),
        (place(), option::of(bytes()), bytes()).prop_map(|((bucket, key), old, new)| HostRequest::KvSwap {
            bucket,
            key,
            old,
            new
        }),
    ]
}

fn attachment() -> impl Strategy<Value = Attachment> {
    prop_oneof![Just(Attachment::CoreDump {}), Just(Attachment::Profile {})]
}

fn from_worker() -> impl Strategy<Value = FromWorker> {
    prop_oneof![
        any::<u32>().prop_map(|version| FromWorker::Ready { version }),
        any::<u32>().prop_map(|image| FromWorker::Loaded { image }),
        (any::<u32>(), text()).prop_map(|(image, why)| FromWorker::LoadFailed { image, why }),
        any::<u64>().prop_map(|run| FromWorker::Started { run }),
        (any::<u64>(), failure()).prop_map(|(run, failure)| FromWorker::StartFailed { run, failure }),
        (any::<u64>(), exit()).prop_map(|(run, exit)| FromWorker::Exited { run, exit }),
        (any::<u64>(), usage()).prop_map(|(run, usage)| FromWorker::Usage { run, usage }),
        (any::<u64>(), any::<u64>(), request()).prop_map(|(run, call, request)| FromWorker::HostCall {
            run,
            call,
            request
        }),
        text().prop_map(|text| FromWorker::Notice { text }),
        (any::<u64>(), attachment()).prop_map(|(run, attachment)| FromWorker::Left { run, attachment }),
    ]
}

fn inspection() -> impl Strategy<Value = Inspection> {
    let entry =
        prop_oneof![Just(EntryKind::Command {}), Just(EntryKind::Http {}), Just(EntryKind::Handler {})];
    let export = (text(), text()).prop_map(|(name, signature)| ExportInfo { name, signature });
    (binary(), engine(), vec(entry, 0..3), vec(export, 0..3), vec(text(), 0..4), text()).prop_map(
        |(kind, engine, entries, exports, imports, compiler)| Inspection {
            kind,
            engine,
            entries,
            exports,
            imports,
            compiler,
        },
    )
}

fn compile_reply() -> impl Strategy<Value = CompileReply> {
    let reason = prop_oneof![
        text().prop_map(|what| CompileRefusal::NotWasm { what }),
        text().prop_map(|found| CompileRefusal::Digest { found }),
        text().prop_map(|why| CompileRefusal::Invalid { why }),
        (any::<u64>(), any::<u64>())
            .prop_map(|(bytes, bytes_max)| CompileRefusal::TooLarge { bytes, bytes_max }),
        (text(), text(), inspection()).prop_map(|(name, why, seen)| {
            let seen = Box::new(seen);
            CompileRefusal::Import { name, why, seen }
        }),
        (text(), inspection()).prop_map(|(why, seen)| CompileRefusal::NoEntry { why, seen: Box::new(seen) }),
    ];
    prop_oneof![
        inspection().prop_map(|inspection| CompileReply::Done { inspection }),
        reason.prop_map(|reason| CompileReply::Refused { reason }),
        (text(), any::<i32>()).prop_map(|(step, errno)| CompileReply::Failed { step, errno }),
    ]
}

fn order() -> impl Strategy<Value = CompileOrder> {
    (text(), any::<u64>(), any::<u64>()).prop_map(|(digest, wasm_bytes_max, code_bytes_max)| CompileOrder {
        digest,
        wasm_bytes_max,
        code_bytes_max,
    })
}

fn setup() -> impl Strategy<Value = WorkerSetup> {
    any::<(u32, u32, u32, bool)>().prop_map(|(version, runs_max, images_max, network)| WorkerSetup {
        version,
        runs_max,
        images_max,
        network,
    })
}

/// Encoded, cut anywhere, with a byte changed anywhere: only the whole message is one, and nothing panics.
fn check<T: Wire + PartialEq + std::fmt::Debug>(message: &T, cut: usize, flip: (usize, u8)) {
    let bytes = encode(message);
    assert_eq!(decode::<T>(&bytes).as_ref(), Ok(message));
    if !bytes.is_empty() {
        assert!(decode::<T>(&bytes[..cut % bytes.len()]).is_err());
        let mut changed = bytes.clone();
        let index = flip.0 % bytes.len();
        changed[index] ^= flip.1;
        // Either it is another message or none.
        if let Ok(other) = decode::<T>(&changed) {
            assert_eq!(encode(&other), changed);
        }
    }
    let mut longer = bytes;
    longer.push(0);
    assert!(decode::<T>(&longer).is_err());
}

/// Messages of one kind, the same in every run, damaged: what still is one has no other form.
fn check_damaged<T: Wire>(messages: impl Strategy<Value = T>) {
    let mut runner = TestRunner::deterministic();
    let mut sample = || encode(&messages.new_tree(&mut runner).unwrap().current());
    let corpus: Vec<_> = (0..SAMPLES).map(|_| sample()).collect();
    Fuzz { cases: 5000, memory_bytes_max: 64 << 20 }.run(&corpus, |bytes| {
        if let Ok(message) = decode::<T>(bytes) {
            assert_eq!(encode(&message), bytes);
        }
    });
}

#[test]
fn damaged_messages() {
    check_damaged(to_worker());
    check_damaged(from_worker());
    check_damaged(compile_reply());
    check_damaged(order());
    check_damaged(setup());
}

proptest::proptest! {
    #[test]
    fn messages_to_a_worker(message in to_worker(), cut: usize, flip: (usize, u8)) {
        check(&message, cut, flip);
    }

    #[test]
    fn messages_from_a_worker(message in from_worker(), cut: usize, flip: (usize, u8)) {
        check(&message, cut, flip);
    }

    #[test]
    fn messages_of_the_compiler(message in compile_reply(), cut: usize, flip: (usize, u8)) {
        check(&message, cut, flip);
    }

    #[test]
    fn orders(order in order(), setup in setup(), cut: usize, flip: (usize, u8)) {
        check(&order, cut, flip);
        check(&setup, cut, flip);
    }

    #[test]
    fn any_bytes_are_a_message_or_none(bytes in vec(any::<u8>(), 0..200)) {
        let _ = decode::<ToWorker>(&bytes);
        let _ = decode::<FromWorker>(&bytes);
        let _ = decode::<CompileReply>(&bytes);
        let _ = decode::<CompileOrder>(&bytes);
        let _ = decode::<WorkerSetup>(&bytes);
    }
}
