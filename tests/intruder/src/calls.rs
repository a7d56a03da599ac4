//! Rows 47 and 50: system calls that the filter refuses. Row 48: other ways into the kernel.

use std::arch::asm;
use std::ffi::c_long;

use crate::kernel::{Outcome, attempt, call, outcome_of, say};

macro_rules! numbers {
    ($($name:ident)*) => { &[$((stringify!($name), libc::$name)),*] };
}

/// Calls that no default of a container runtime allows.
const REFUSED: &[(&str, c_long)] = numbers![
    SYS_acct SYS_add_key SYS_bpf SYS_clock_settime SYS_delete_module SYS_fanotify_init SYS_finit_module SYS_fsconfig
    SYS_fsmount SYS_fsopen SYS_fspick SYS_get_mempolicy SYS_init_module SYS_io_uring_enter SYS_io_uring_register
    SYS_io_uring_setup SYS_ioperm SYS_iopl SYS_kcmp SYS_kexec_file_load SYS_kexec_load SYS_keyctl SYS_lookup_dcookie
    SYS_mbind SYS_migrate_pages SYS_mount SYS_mount_setattr SYS_move_mount SYS_move_pages SYS_nfsservctl
    SYS_open_by_handle_at SYS_open_tree SYS_perf_event_open SYS_pidfd_getfd SYS_pivot_root SYS_process_madvise
    SYS_process_vm_readv SYS_process_vm_writev SYS_ptrace SYS_quotactl SYS_quotactl_fd SYS_reboot SYS_request_key
    SYS_set_mempolicy SYS_set_mempolicy_home_node SYS_setdomainname SYS_sethostname SYS_setns SYS_settimeofday
    SYS_swapoff SYS_swapon SYS_sysfs SYS_syslog SYS_umount2 SYS_unshare SYS_uselib SYS_userfaultfd SYS_ustat
    SYS_vhangup
];

/// Calls that the C library has no names for.
const REFUSED_BY_NUMBER: &[(&str, c_long)] = &[
    ("_sysctl", 156),
    ("create_module", 174),
    ("get_kernel_syms", 177),
    ("query_module", 178),
    ("afs_syscall", 183),
    ("vserver", 236),
    ("statmount", 457),
    ("listmount", 458),
    ("lsm_get_self_attr", 459),
    ("lsm_set_self_attr", 460),
    ("lsm_list_modules", 461),
    ("open_tree_attr", 467),
    ("file_setattr", 469),
    ("listns", 470),
];

/// No kernel has calls of these numbers yet, so that the filter must have refused what answers EPERM.
const UNKNOWN: [std::ops::Range<c_long>; 2] = [600..700, 1_000_000..1_000_010];

/// An argument that is no valid descriptor, address, flag or size anywhere: only who does not look at arguments answers
/// EPERM.
const INVALID: usize = usize::MAX;

pub(crate) fn calls() {
    for (name, number) in REFUSED.iter().chain(REFUSED_BY_NUMBER) {
        attempt(name.trim_start_matches("SYS_"), || call(*number, &[INVALID; 6]));
    }
    let mut unknown: Vec<String> =
        UNKNOWN.into_iter().flatten().map(|n| outcome_of(|| call(n, &[INVALID; 6]))).collect();
    unknown.sort();
    unknown.dedup();
    say("unknown numbers", unknown.join(" "));
    attempt("clone3", || call(libc::SYS_clone3, &[INVALID, INVALID]));
    for (name, flag) in [
        ("cgroup", libc::CLONE_NEWCGROUP),
        ("ipc", libc::CLONE_NEWIPC),
        ("mount", libc::CLONE_NEWNS),
        ("network", libc::CLONE_NEWNET),
        ("pid", libc::CLONE_NEWPID),
        ("user", libc::CLONE_NEWUSER),
        ("uts", libc::CLONE_NEWUTS),
    ] {
        let flags = (flag | libc::SIGCHLD) as usize;
        attempt(&format!("unshare {name}"), || call(libc::SYS_unshare, &[flag as usize]));
        attempt(&format!("clone {name}"), || call(libc::SYS_clone, &[flags]));
    }
    attempt("unshare time", || call(libc::SYS_unshare, &[libc::CLONE_NEWTIME as usize]));
    attempt("personality without random addresses", || call(libc::SYS_personality, &[0x004_0000]));
    attempt("ioctl TIOCSTI", || call(libc::SYS_ioctl, &[0, libc::TIOCSTI as usize, INVALID]));
    attempt("ioctl TIOCLINUX", || call(libc::SYS_ioctl, &[0, libc::TIOCLINUX as usize, INVALID]));
    // What is allowed proves that the others are refused for what they are.
    attempt("getpid", || call(libc::SYS_getpid, &[]));
    attempt("clone", || call(libc::SYS_clone, &[libc::SIGCHLD as usize]));
    attempt("personality", || call(libc::SYS_personality, &[0xffff_ffff]));
}

/// Entries for 32-bit programs and x32, which see other numbers than the filter's list.
pub(crate) fn foreign() {
    for (name, number) in [("getpid", 20), ("socketcall", 102), ("exit", 1), ("mount", 21)] {
        attempt(&format!("int 0x80 {name}"), || int_0x80(number));
    }
    const X32_BIT: c_long = 0x4000_0000;
    attempt("x32 getpid", || call(X32_BIT | libc::SYS_getpid, &[]));
    attempt("x32 mount", || call(X32_BIT | libc::SYS_mount, &[INVALID; 5]));
    attempt("x32 ptrace", || call(X32_BIT | 521, &[INVALID; 4]));
    attempt("vsyscall time", vsyscall_time);
}

/// A call through the gate for 32-bit programs, with whatever the registers of its arguments hold.
fn int_0x80(number: i32) -> Outcome {
    let result: i32;
    // SAFETY: the calls asked for take no address that would be written to; the kernel keeps all other registers,
    // of which it clears r8 to r11.
    unsafe {
        asm!("int 0x80", inout("eax") number => result, in("ecx") 0, in("edx") 0, out("r8") _, out("r9") _, out("r10") _, out("r11") _);
    }
    if result < 0 { Err(-result) } else { Ok(result.cast_unsigned() as usize) }
}

/// The legacy page of calls at a fixed address; reading the time there is as harmless as from the vDSO.
fn vsyscall_time() -> Outcome {
    // SAFETY: where the page is missing or not executable the process gets SIGSEGV, which is an outcome, too.
    let time = unsafe { std::mem::transmute::<usize, extern "C" fn(usize) -> usize>(0xffff_ffff_ff60_0400) };
    Ok(time(0))
}
