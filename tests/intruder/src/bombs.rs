//! Rows 65, 67 and 68: programs that take all they get.

use std::time::{Duration, Instant};

use crate::kernel::{self, call, fork, pointer, say};

/// Processes that share the memory of the bomb: so many that to kill one is of no use.
const HOGS: usize = 100;
const MIB: usize = 1 << 20;

/// Forks for ever, in every process, deaf to everything but SIGTERM to the first one.
pub(crate) fn fork_bomb() {
    kernel::end_on_sigterm();
    let first = std::process::id();
    let mut is_told = false;
    println!("lit");
    loop {
        match fork() {
            Ok(0) => {
                // SAFETY: SIG_IGN installs no handler.
                unsafe { libc::signal(libc::SIGTERM, libc::SIG_IGN) };
            }
            Ok(_) => {}
            Err(error) if !is_told && std::process::id() == first => {
                is_told = true;
                say("fork", kernel::error_name(error));
            }
            Err(_) => {
                // SAFETY: takes nothing.
                unsafe { libc::sched_yield() };
            }
        }
    }
}

/// Many small processes that grow together; whoever sees one die makes two.
pub(crate) fn memory_bomb() {
    println!("lit");
    for _ in 0..HOGS {
        hog();
    }
    loop {
        let mut status = 0;
        // SAFETY: `status` is a live integer.
        if unsafe { libc::waitpid(-1, &raw mut status, 0) } > 0 {
            hog();
            hog();
        }
    }
}

fn hog() {
    if fork() != Ok(0) {
        return;
    }
    let mut held: Vec<Vec<u8>> = Vec::new();
    loop {
        held.push(vec![1; MIB / 4]);
        std::hint::black_box(&mut held);
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Keeps so many processes busy for so many milliseconds at the highest priority that it can get, and prints what
/// share of one CPU they had, in thousandths.
pub(crate) fn burn(arguments: &[&str]) {
    let number = |at: usize| arguments.get(at).and_then(|text| text.parse::<u64>().ok()).unwrap_or(1);
    let (processes, time) = (number(0), Duration::from_millis(number(1)));
    // Refused; it is tried all the same.
    let _ = call(libc::SYS_sched_setscheduler, &[0, libc::SCHED_FIFO as usize, pointer(&99i32)]);
    let _ = call(libc::SYS_setpriority, &[libc::PRIO_PROCESS as usize, 0, -20isize as usize]);
    let start = Instant::now();
    let children: Vec<i32> = (0..processes)
        .filter_map(|_| {
            fork().ok().inspect(|pid| {
                if *pid == 0 {
                    spin(start, time)
                }
            })
        })
        .collect();
    children.into_iter().for_each(|child| {
        kernel::wait(child);
    });
    let wall = start.elapsed();
    // SAFETY: all zeroes is a value of a struct of numbers, which the call fills.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_CHILDREN, &raw mut usage);
        usage
    };
    let micros = |time: libc::timeval| time.tv_sec * 1_000_000 + time.tv_usec;
    let busy = micros(usage.ru_utime) + micros(usage.ru_stime);
    say("thousandths of a CPU", busy as u128 * 1000 / wall.as_micros());
}

fn spin(start: Instant, time: Duration) -> ! {
    while start.elapsed() < time {
        std::hint::spin_loop();
    }
    kernel::exit(0);
}
