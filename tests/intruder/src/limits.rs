//! Row 68: priorities. Row 71: things that a task can hold without memory of its own. Row 76: core dumps.

use std::fs;

use crate::kernel::{
    Outcome, attempt, call, end_on_sigterm, error_name, fork, name, pointer, pointer_mut, say, text, wait,
};

/// No count goes further: a limit beyond it is none.
const COUNT_MAX: usize = 100_000;

pub(crate) fn priorities() {
    let scheduler = |policy: i32| call(libc::SYS_sched_setscheduler, &[0, policy as usize, pointer(&1i32)]);
    attempt("FIFO", || scheduler(libc::SCHED_FIFO));
    attempt("round robin", || scheduler(libc::SCHED_RR));
    attempt("deadline", || {
        // struct sched_attr: 48 bytes, SCHED_DEADLINE, 1 ms in 2 of 2.
        let attributes: [u64; 6] = [48 | 6 << 32, 0, 0, 1_000_000, 2_000_000, 2_000_000];
        call(libc::SYS_sched_setattr, &[0, pointer(&attributes), 0])
    });
    attempt("nice -20", || call(libc::SYS_setpriority, &[libc::PRIO_PROCESS as usize, 0, -20isize as usize]));
    attempt("nice -1", || call(libc::SYS_setpriority, &[libc::PRIO_PROCESS as usize, 0, -1isize as usize]));
    attempt("nice 19", || call(libc::SYS_setpriority, &[libc::PRIO_PROCESS as usize, 0, 19]));
    // IOPRIO_WHO_PROCESS and class 1, real time.
    attempt("real-time I/O", || call(libc::SYS_ioprio_set, &[1, 0, 1 << 13]));
    attempt("OOM score -1000", || {
        fs::write("/proc/self/oom_score_adj", "-1000")
            .map(|()| 0)
            .map_err(|error| error.raw_os_error().unwrap_or(0))
    });
    for (name, limit) in [
        ("RTPRIO", libc::RLIMIT_RTPRIO),
        ("NICE", libc::RLIMIT_NICE),
        ("NOFILE", libc::RLIMIT_NOFILE),
        ("MSGQUEUE", libc::RLIMIT_MSGQUEUE),
        ("SIGPENDING", libc::RLIMIT_SIGPENDING),
        ("MEMLOCK", libc::RLIMIT_MEMLOCK),
    ] {
        attempt(&format!("raise the limit {name}"), || {
            let mut now = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
            call(libc::SYS_prlimit64, &[0, limit as usize, 0, pointer_mut(&mut now)])?;
            let more = libc::rlimit { rlim_cur: now.rlim_cur, rlim_max: now.rlim_max.saturating_add(1) };
            if more.rlim_max == now.rlim_max {
                return Ok(0);
            }
            call(libc::SYS_prlimit64, &[0, limit as usize, pointer(&more)])
        });
    }
}

/// Crashes, with as much of a core dump as can be had.
pub(crate) fn core_dump() {
    say_core_limit();
    let own = call(libc::SYS_getpid, &[]).unwrap_or_default();
    let both = |limit| libc::rlimit { rlim_cur: limit, rlim_max: limit };
    for (verb, limit) in [("raise", both(libc::RLIM_INFINITY)), ("lower", both(0))] {
        say(&format!("{verb} it"), name(call(libc::SYS_prlimit64, &[0, CORE, pointer(&limit)])));
        say(&format!("{verb} it by id"), name(call(libc::SYS_prlimit64, &[own, CORE, pointer(&limit)])));
        // The kernel looks at the low half of the number of a resource.
        let wide = CORE | 1 << 32;
        say(&format!("{verb} it, written wide"), name(call(libc::SYS_prlimit64, &[0, wide, pointer(&limit)])));
        say(&format!("{verb} it the old way"), name(call(libc::SYS_setrlimit, &[CORE, pointer(&limit)])));
        say_core_limit();
    }
    let _ = std::env::set_current_dir("/tmp");
    match fork() {
        Ok(0) => {
            // SAFETY: ends the process by SIGABRT, whose default action dumps core.
            unsafe { libc::abort() }
        }
        Ok(child) => {
            let status = wait(child);
            say("killed by", if libc::WIFSIGNALED(status) { libc::WTERMSIG(status) } else { 0 });
            say("dumped", libc::WCOREDUMP(status));
        }
        Err(error) => say("fork", error_name(error)),
    }
    let files = fs::read_dir("/tmp").map(|entries| {
        entries.flatten().filter(|entry| entry.file_name().to_string_lossy().contains("core")).count()
    });
    say("files", files.unwrap_or(usize::MAX));
}

const CORE: usize = libc::RLIMIT_CORE as usize;

fn say_core_limit() {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    let asked = call(libc::SYS_prlimit64, &[0, CORE, 0, pointer_mut(&mut limit)]);
    let text = |limit: libc::rlimit| format!("{} of {} bytes", limit.rlim_cur, limit.rlim_max);
    say("limit", asked.map_or_else(error_name, |_| text(limit)));
}

/// Takes as many of each kind as there are; prints how many, and what ended it.
pub(crate) fn handles() {
    end_on_sigterm();
    count("descriptors", || call(libc::SYS_dup, &[0]));
    count("epoll", || call(libc::SYS_epoll_create1, &[0]));
    count("eventfd", || call(libc::SYS_eventfd2, &[0, 0]));
    count("timerfd", || call(libc::SYS_timerfd_create, &[libc::CLOCK_MONOTONIC as usize, 0]));
    count("memfd", || call(libc::SYS_memfd_create, &[text(c"intruder"), 0]));
    count("inotify", || call(libc::SYS_inotify_init1, &[0]));
    count("pseudo-terminals", || {
        call(libc::SYS_openat, &[libc::AT_FDCWD as usize, text(c"/dev/ptmx"), libc::O_RDWR as usize])
    });
    count("queued signals", queue_signal);
    count("timers of POSIX", make_timer);
    count("message queues", queue());
    count("shared memory of System V", || call(libc::SYS_shmget, &[0, 4096, 0o1666]));
    count("user namespaces", || call(libc::SYS_unshare, &[libc::CLONE_NEWUSER as usize]));
    count("mounts", || call(libc::SYS_mount, &[text(c"none"), text(c"/tmp"), text(c"tmpfs")]));
    count("keys", || call(libc::SYS_add_key, &[text(c"user"), text(c"a"), text(c"b"), 1, usize::MAX - 2]));
    println!("held");
    loop {
        std::thread::park();
    }
}

/// Opens queues of the largest size that may be had, each under a name of its own.
fn queue() -> impl FnMut() -> Outcome {
    let mut number = 0;
    move || {
        number += 1;
        let name = std::ffi::CString::new(format!("intruder-{number}")).map_err(|_| libc::EINVAL)?;
        let flags = (libc::O_CREAT | libc::O_RDWR) as usize;
        // struct mq_attr: 10 messages of 8192 bytes.
        let attributes: [i64; 8] = [0, 10, 8192, 0, 0, 0, 0, 0];
        call(libc::SYS_mq_open, &[text(&name), flags, 0o600, pointer(&attributes)])
    }
}

/// Counts in a process of its own, which keeps what it took while the others count.
fn count(name: &str, mut take: impl FnMut() -> Outcome) {
    let (mut reader, mut writer) = match std::io::pipe() {
        Ok(pipe) => pipe,
        Err(error) => return say(name, error),
    };
    match fork() {
        Ok(0) => {
            drop(reader);
            block_real_time_signals();
            let mut taken = 0;
            let why = loop {
                match take() {
                    Ok(_) if taken < COUNT_MAX => taken += 1,
                    Ok(_) => break "no limit".to_owned(),
                    Err(error) => break error_name(error),
                }
            };
            let _ = std::io::Write::write_all(&mut writer, format!("{taken} then {why}").as_bytes());
            drop(writer);
            loop {
                std::thread::park();
            }
        }
        Ok(_) => {
            drop(writer);
            let mut told = String::new();
            let _ = std::io::Read::read_to_string(&mut reader, &mut told);
            say(name, told);
        }
        Err(error) => say(name, error_name(error)),
    }
}

/// So that queued signals stay in the queue.
fn block_real_time_signals() {
    // SAFETY: `set` is initialised by sigemptyset before it is read.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGRTMIN());
        libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
    }
}

/// Queues a real-time signal, which is blocked, for the own process.
fn queue_signal() -> Outcome {
    let own = call(libc::SYS_getpid, &[])?;
    // struct siginfo with SI_QUEUE.
    let mut information = [0i32; 32];
    information[0] = libc::SIGRTMIN();
    information[2] = libc::SI_QUEUE;
    call(libc::SYS_rt_sigqueueinfo, &[own, libc::SIGRTMIN() as usize, pointer(&information)])
}

/// Makes a timer of POSIX.
fn make_timer() -> Outcome {
    let mut id = 0i32;
    call(libc::SYS_timer_create, &[libc::CLOCK_MONOTONIC as usize, 0, pointer_mut(&mut id)])
}

/// What a neighbour must still get while another task runs [`handles`].
pub(crate) fn a_few() {
    attempt("inotify", || call(libc::SYS_inotify_init1, &[0]));
    attempt("message queue", queue());
    block_real_time_signals();
    attempt("queued signal", queue_signal);
    attempt("timer of POSIX", make_timer);
}
