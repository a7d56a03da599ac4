//! What a worker makes of what it is told: sense, nonsense, and silence.

use std::os::fd::AsFd;

use neargate_ipc::wire;
use neargate_wasm::protocol::{HostReply, Stop, ToWorker, VERSION, WorkerSetup};
use proptest::prelude::*;

use crate::guests::{exit, spin};
use crate::harness::{Setup, Worker, exited, plan, told};

fn setup(version: u32) -> Vec<u8> {
    wire::encode(&WorkerSetup { version, runs_max: 2, images_max: 2, network: false })
}

#[test]
fn it_ends_when_the_server_hangs_up() {
    let worker = Worker::new();
    let _busy = worker.start(&spin(), &Setup::default()).unwrap();
    worker.hang_up();
    assert_eq!(worker.code(), 0);
}

#[test]
fn inputs_that_are_refused() {
    for input in [Vec::new(), vec![0xff; 100], setup(VERSION + 1)] {
        let worker = Worker::raw(input);
        assert_eq!(worker.code(), 1);
        assert!(worker.receive().is_none());
    }
}

#[test]
fn descriptors_must_fit_the_message() {
    let start = ToWorker::Start { run: 1, plan: plan() };
    let mut many = plan();
    (many.listeners, many.cgroups) = (u32::MAX, u32::MAX);
    for message in [start, ToWorker::Start { run: 1, plan: many }, ToWorker::Unload { image: 1 }] {
        let worker = Worker::new();
        let file = tempfile::tempfile().unwrap();
        worker.send(&message, &[file.as_fd()]);
        assert_eq!(worker.code(), 1, "{message:?}");
    }
}

/// What names nothing that is there is no error: it may have ended meanwhile.
#[test]
fn strangers_are_ignored() {
    let worker = Worker::new();
    worker.send(&ToWorker::Unload { image: 99 }, &[]);
    worker.send(&ToWorker::Stop { run: 99, stop: Stop::Kill { code: 1 } }, &[]);
    worker.send(&ToWorker::Stats { run: 99 }, &[]);
    worker.send(&ToWorker::HostReply { call: 99, reply: HostReply::Done {} }, &[]);
    assert_eq!(told(&worker.run(&exit(6), Setup::default()).exit), exited(6));
}

#[test]
fn images_are_bounded() {
    let worker = Worker::raw(setup(VERSION));
    worker.load(&exit(1)).unwrap();
    worker.load(&exit(2)).unwrap();
    assert_eq!(worker.load(&exit(3)).unwrap_err(), "2 images are loaded already");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Bytes of any kind end the worker with an error, or are a message; it never hangs and never panics, which would
    /// be the end of its thread without a code.
    #[test]
    fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        let worker = Worker::raw(setup(VERSION));
        prop_assume!(wire::decode::<ToWorker>(&bytes).is_err());
        worker.send_bytes(&bytes, &[]);
        prop_assert_eq!(worker.code(), 1);
    }

    /// A real message with one byte changed, cut off or added.
    #[test]
    fn almost_a_message(at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<bool>()) {
        let worker = Worker::raw(setup(VERSION));
        let mut bytes = wire::encode(&ToWorker::Start { run: 1, plan: plan() });
        let at = at.index(bytes.len());
        if cut {
            bytes.truncate(at);
        } else {
            bytes[at] ^= byte;
        }
        // No descriptors come with it, so even what still is a message is wrong, unless it is another.
        let is_start = !matches!(wire::decode::<ToWorker>(&bytes), Ok(other) if !matches!(other, ToWorker::Start { .. }));
        prop_assume!(is_start);
        worker.send_bytes(&bytes, &[]);
        prop_assert_eq!(worker.code(), 1);
    }

    /// Module bytes of any kind are compiled or refused, and what compiles runs to some end.
    #[test]
    fn any_module_bytes(at in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4)) {
        let mut wasm = exit(3);
        for (at, byte) in at {
            let at = at.index(wasm.len());
            wasm[at] = byte;
        }
        let worker = Worker::new();
        let Ok(_) = worker.load(&wasm) else { return Ok(()) };
        let mut setup = Setup::default();
        setup.plan.limits.cpu_budget_ns = Some(50_000_000);
        setup.plan.limits.memory_bytes = Some(64 << 20);
        if let Ok(started) = worker.start(&wasm, &setup) {
            worker.finish(started, b"");
        }
    }
}
