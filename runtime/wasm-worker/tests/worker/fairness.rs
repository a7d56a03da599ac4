//! Newcomers come before guests that compute: told by the order of events, not by time.

use std::io::{Read, Write};

use crate::guests::{cat, exit, spin};
use crate::harness::{Setup, Started, Worker, exited, stopped, told};

/// Guests that never rest, and have run long enough to be known for it.
fn busy(worker: &Worker, count: usize) -> Vec<Started> {
    let started: Vec<Started> = (0..count)
        .map(|_| {
            let mut started = worker.start(&spin(), &Setup::default()).unwrap();
            started.stdout.read_exact(&mut [0; 2]).unwrap();
            started
        })
        .collect();
    for guest in &started {
        while worker.usage(guest.run).cpu_ns < 5_000_000 {}
    }
    started
}

fn cpu_ns(worker: &Worker, guests: &[Started]) -> u64 {
    guests.iter().map(|guest| worker.usage(guest.run).cpu_ns).sum()
}

/// Between the order to start a small guest and its end, the busy ones run for a slice or two together and not
/// for one each. 40 starts beside 8 busy guests: at a slice of a millisecond each, taking turns would cost the
/// small ones 8 ms of others' CPU time per start at the least, and usually twice that.
#[test]
fn newcomers_come_first() {
    let worker = Worker::new();
    let guests = busy(&worker, 8);
    worker.load(&exit(5)).unwrap();
    let before = cpu_ns(&worker, &guests);
    for _ in 0..40 {
        assert_eq!(told(&worker.run(&exit(5), Setup::default()).exit), exited(5));
    }
    let others = cpu_ns(&worker, &guests) - before;
    assert!(others < 40 * 8_000_000, "the busy guests ran for {others} ns meanwhile");
    for guest in &guests {
        assert_eq!(told(&worker.kill(guest.run)), stopped(137));
    }
}

/// Those that compute take turns: none is forgotten.
#[test]
fn busy_guests_share_what_is_left() {
    let worker = Worker::new();
    let guests = busy(&worker, 4);
    let before: Vec<u64> = guests.iter().map(|guest| worker.usage(guest.run).cpu_ns).collect();
    // Until one has had 50 ms more, the others must have had most of that as well.
    while worker.usage(guests[0].run).cpu_ns < before[0] + 50_000_000 {}
    for (guest, before) in guests.iter().zip(&before) {
        let had = worker.usage(guest.run).cpu_ns - before;
        assert!(had > 10_000_000, "one had {had} ns while another had 50 ms");
    }
}

/// A guest that never rests but makes calls is not starved by light ones that never rest either.
#[test]
fn light_guests_do_not_starve_busy_ones() {
    let worker = Worker::new();
    let mut guests = busy(&worker, 1);
    let target = worker.usage(guests[0].run).cpu_ns + 20_000_000;
    // Echoes that are always being answered.
    let mut echo = worker.start(&cat(), &Setup::default()).unwrap();
    let mut back = [0; 1];
    while worker.usage(guests[0].run).cpu_ns < target {
        for _ in 0..20 {
            echo.stdin.write_all(b"x").unwrap();
            echo.stdout.read_exact(&mut back).unwrap();
        }
    }
    let guest = guests.remove(0);
    assert_eq!(told(&worker.kill(guest.run)), stopped(137));
    assert_eq!(told(&worker.finish(echo, b"").exit), exited(0));
}
