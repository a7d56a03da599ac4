//! Row 56: processes of the host, of the runtime and of other tasks, by the numbers that the host knows them by.

use std::fs;

use crate::kernel::{attempt, call, name, pointer, say};

pub(crate) fn processes(numbers: &[&str]) {
    for (at, number) in numbers.iter().enumerate() {
        let Ok(pid) = number.parse::<usize>() else { continue };
        let who = format!("process {at}");
        let attempt =
            |what: &str, call: &dyn Fn() -> crate::kernel::Outcome| attempt(&format!("{who}: {what}"), call);
        let vector = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 8 };
        attempt("kill", &|| call(libc::SYS_kill, &[pid, 0]));
        attempt("tgkill", &|| call(libc::SYS_tgkill, &[pid, pid, 0]));
        attempt("pidfd_open", &|| call(libc::SYS_pidfd_open, &[pid, 0]));
        attempt("getpgid", &|| call(libc::SYS_getpgid, &[pid]));
        attempt("setpriority", &|| call(libc::SYS_setpriority, &[libc::PRIO_PROCESS as usize, pid, 19]));
        attempt("ioprio_set", &|| call(libc::SYS_ioprio_set, &[1, pid, 3 << 13]));
        attempt("sched_setaffinity", &|| call(libc::SYS_sched_setaffinity, &[pid, 8, pointer(&1u64)]));
        attempt("prlimit", &|| {
            let limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
            call(libc::SYS_prlimit64, &[pid, libc::RLIMIT_NOFILE as usize, pointer(&limit)])
        });
        attempt("directory in /proc", &|| {
            let found = fs::metadata(format!("/proc/{pid}"));
            found.map(|_| 0).map_err(|error| error.raw_os_error().unwrap_or(0))
        });
        attempt("ptrace", &|| call(libc::SYS_ptrace, &[libc::PTRACE_ATTACH as usize, pid]));
        attempt("ptrace by seizing", &|| call(libc::SYS_ptrace, &[libc::PTRACE_SEIZE as usize, pid]));
        attempt("process_vm_readv", &|| {
            call(libc::SYS_process_vm_readv, &[pid, pointer(&vector), 1, pointer(&vector), 1])
        });
        attempt("process_vm_writev", &|| {
            call(libc::SYS_process_vm_writev, &[pid, pointer(&vector), 1, pointer(&vector), 1])
        });
        attempt("kcmp", &|| call(libc::SYS_kcmp, &[pid, pid, 0]));
    }
    attempt("pidfd_getfd", || {
        let own = call(libc::SYS_getpid, &[])?;
        let pidfd = call(libc::SYS_pidfd_open, &[own, 0])?;
        call(libc::SYS_pidfd_getfd, &[pidfd, 0])
    });
    let mut seen: Vec<usize> = fs::read_dir("/proc")
        .map(|entries| {
            entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
        })
        .unwrap_or_default();
    seen.sort_unstable();
    say("processes seen", seen.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "));
    // The signal goes to whoever can be seen but this process.
    say("kill all", name(call(libc::SYS_kill, &[usize::MAX, libc::SIGKILL as usize])));
}

/// What an ordinary process of a task can learn of a first process that the runtime has put there.
pub(crate) fn initial_process() {
    for file in [
        "mem",
        "maps",
        "environ",
        "exe",
        "root",
        "cwd",
        "fd",
        "auxv",
        "syscall",
        "stack",
        "pagemap",
        "task/1/mem",
    ] {
        let path = format!("/proc/1/{file}");
        let mut bytes = [0; 8];
        let outcome = match file {
            "exe" | "root" | "cwd" => fs::read_link(&path).map(|_| 0),
            "fd" => fs::read_dir(&path).map(Iterator::count),
            _ => fs::File::open(&path).and_then(|mut file| std::io::Read::read(&mut file, &mut bytes)),
        };
        say(&path, name(outcome.map_err(|error| error.raw_os_error().unwrap_or(0))));
    }
    attempt("ptrace", || call(libc::SYS_ptrace, &[libc::PTRACE_SEIZE as usize, 1]));
    attempt("process_vm_readv", || {
        let mut buffer = [0u8; 8];
        let ours = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
        let theirs = libc::iovec { iov_base: std::ptr::without_provenance_mut(0x1000), iov_len: 8 };
        call(libc::SYS_process_vm_readv, &[1, pointer(&ours), 1, pointer(&theirs), 1])
    });
    attempt("pidfd_getfd", || {
        let pidfd = call(libc::SYS_pidfd_open, &[1, 0])?;
        (0..64)
            .map(|fd| call(libc::SYS_pidfd_getfd, &[pidfd, fd]))
            .find(Result::is_ok)
            .unwrap_or(Err(libc::EPERM))
    });
    // The kernel shields the first process of a namespace from signals that it has no handler for.
    say("kill", name(call(libc::SYS_kill, &[1, libc::SIGKILL as usize])));
}
