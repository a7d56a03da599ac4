//! What a process can and cannot do.

use std::fs;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use neargate_driver::{ProcessNetwork, ProcessRole, ProcessUser};

use crate::cases;
use crate::fixture::{Fixture, Mode};

cases![
    input_and_descriptors_arrive,
    only_own_descriptors,
    prepared_descriptors_stay_and_tell_no_secrets,
    nothing_of_the_program_is_left,
    no_file_without_mounts,
    mounts_and_nothing_else,
    read_only_mounts,
    dangerous_calls_kill,
    other_calls_are_refused,
    no_new_process,
    no_signal_to_others,
    no_socket_without_network,
    sockets_with_network,
    compilers_may_do_less,
    a_runtime_works,
    threads_are_limited,
    memory_is_limited,
    cpu_time_is_limited,
    an_abort_is_told,
    address_space_is_limited,
    a_core_is_kept,
    seen_from_outside,
    own_namespaces,
    users,
];

fn input_and_descriptors_arrive(fixture: &Fixture) {
    fixture.check(&format!("echo {}", "x".repeat(5 << 20)), &format!("{} bytes", 5 << 20));
    let many = |spec: &mut neargate_driver::ProcessSpec| {
        spec.fds.extend((0..20).map(|_| OwnedFd::from(fs::File::open("/dev/null").unwrap())));
    };
    fixture.check_with("count", many, "21 descriptors");
}

fn only_own_descriptors(fixture: &Fixture) {
    let _other = fixture.wait_with(&fixture.client, |_| {});
    let found = fixture.try_with("descriptors", |_| {});
    let open: Vec<&str> = found.text.split(' ').collect();
    // The standard ones, the one it was given, and the one it has opened in time.
    assert_eq!((&open[..3], open.len()), (&["0", "1", "2"][..], 5), "{}", found.text);
}

fn prepared_descriptors_stay_and_tell_no_secrets(fixture: &Fixture) {
    fixture.check("pages", "true 1 0");
}

fn nothing_of_the_program_is_left(fixture: &Fixture) {
    fixture.check("environment", "0 0 0");
}

fn no_file_without_mounts(fixture: &Fixture) {
    for path in ["/", "/etc/passwd", "/proc/self/mem", "/dev/null", ".", "..", "/root"] {
        fixture.check(&format!("open {path}"), "EPERM");
    }
    fixture.check("create /x", "EPERM");
    fixture.check("list /", "EPERM");
}

fn mounts_and_nothing_else(fixture: &Fixture) {
    if !fixture.has_namespaces() {
        let mut spec = fixture.spec("exit 0");
        spec.mounts.push(fixture.mount("data", false));
        let error = fixture.spawn(spec).err().unwrap();
        assert!(matches!(error, neargate_driver::ProcessError::Mount { .. }), "{error:?}");
        return;
    }
    let check = |probe: &str, expect: &[&str]| {
        let found = fixture.try_with(probe, |spec| {
            spec.user = ProcessUser::Invoker;
            spec.mounts.extend([fixture.mount("data", false), fixture.mount("more", true)]);
        });
        assert!(expect.contains(&found.text.as_str()), "{probe}: {found:?}");
    };
    check("list /data", &["absolute file relative"]);
    check("open /data/file", &["ok"]);
    check("open /more/file", &["ok"]);
    check("create /data/new", &["ok"]);
    check("list /", &["EACCES"]);
    check("create /new", &["EACCES", "EROFS"]);
    let outside = ["/etc/passwd", "/proc/self/status", "/dev/null", "/data/../etc/passwd", "/data/absolute"];
    for path in outside.into_iter().chain(["/data/relative", "/data/../../proc/1/root/etc/passwd"]) {
        check(&format!("open {path}"), &["ENOENT", "EACCES"]);
    }
    check("list /data/..", &["EACCES"]);
    assert_eq!(fs::read(fixture.directory.path().join("data/new")).unwrap(), b"x");
    fs::remove_file(fixture.directory.path().join("data/new")).unwrap();
}

fn read_only_mounts(fixture: &Fixture) {
    if !fixture.has_namespaces() {
        return;
    }
    let read_only = |spec: &mut neargate_driver::ProcessSpec| {
        spec.user = ProcessUser::Invoker;
        spec.mounts.push(fixture.mount("more", true));
    };
    for path in ["/more/new", "/more/file"] {
        let found = fixture.try_with(&format!("create {path}"), read_only);
        assert!(["EROFS", "EACCES"].contains(&found.text.as_str()), "{path}: {found:?}");
    }
    assert_eq!(fs::read(fixture.directory.path().join("more/file")).unwrap(), b"content");
}

fn dangerous_calls_kill(fixture: &Fixture) {
    for number in [
        libc::SYS_execve,
        libc::SYS_execveat,
        libc::SYS_ptrace,
        libc::SYS_mount,
        libc::SYS_umount2,
        libc::SYS_pivot_root,
        libc::SYS_open_tree,
        libc::SYS_unshare,
        libc::SYS_setns,
        libc::SYS_setuid,
        libc::SYS_setresuid,
        libc::SYS_capset,
        libc::SYS_bpf,
        libc::SYS_keyctl,
        libc::SYS_io_uring_setup,
        libc::SYS_process_vm_readv,
        libc::SYS_process_vm_writev,
        libc::SYS_userfaultfd,
        libc::SYS_perf_event_open,
        libc::SYS_pidfd_open,
        libc::SYS_chroot,
        libc::SYS_open_by_handle_at,
    ] {
        fixture.check_killed(&format!("call {number}"));
    }
}

fn other_calls_are_refused(fixture: &Fixture) {
    // A limit can be looked at and not be set; only names can be given by prctl(2); no terminal is typed into.
    fixture.check(&format!("call {} 0 {} 0 0", libc::SYS_prlimit64, libc::RLIMIT_NOFILE), "ok");
    fixture.check(&format!("call {} 0 {} 1 0", libc::SYS_prlimit64, libc::RLIMIT_NOFILE), "EPERM");
    fixture.check(&format!("call {} 1 {} 0 0", libc::SYS_prlimit64, libc::RLIMIT_NOFILE), "EPERM");
    fixture.check(&format!("call {} {} 0", libc::SYS_prctl, libc::PR_SET_PDEATHSIG), "EPERM");
    fixture.check(&format!("call {} {} 1", libc::SYS_prctl, libc::PR_SET_DUMPABLE), "EPERM");
    fixture.check(&format!("call {} 2 {} 0", libc::SYS_ioctl, libc::TIOCSTI), "EPERM");
    for number in [libc::SYS_openat, libc::SYS_openat2, libc::SYS_mkdirat, libc::SYS_getdents64] {
        fixture.check(&format!("call {number} -100 0 0 0"), "EPERM");
    }
}

fn no_new_process(fixture: &Fixture) {
    fixture.check(&format!("call {} {}", libc::SYS_clone, libc::SIGCHLD), "EPERM");
    fixture.check(&format!("call {} 0 0", libc::SYS_clone3), "ENOSYS");
    let in_namespace = libc::CLONE_NEWUSER | libc::CLONE_THREAD;
    fixture.check(&format!("call {} {in_namespace}", libc::SYS_clone), "EPERM");
    #[cfg(target_arch = "x86_64")]
    fixture.check_killed(&format!("call {}", libc::SYS_fork));
    #[cfg(target_arch = "x86_64")]
    fixture.check_killed(&format!("call {}", libc::SYS_vfork));
}

fn no_signal_to_others(fixture: &Fixture) {
    let (own, parent) = (std::process::id(), fixture.client.id());
    for pid in [1, own, parent] {
        fixture.check(&format!("call {} {pid} 9", libc::SYS_kill), "EPERM");
    }
    for pid in [own, parent] {
        fixture.check(&format!("call {} {pid} {pid} 9", libc::SYS_tgkill), "EPERM");
    }
    fixture.check(&format!("call {} 1 9", libc::SYS_tkill), "EPERM");
}

fn no_socket_without_network(fixture: &Fixture) {
    let kind = |kind: i32| kind | libc::SOCK_CLOEXEC;
    for family in
        [libc::AF_INET, libc::AF_INET6, libc::AF_UNIX, libc::AF_NETLINK, libc::AF_ALG, libc::AF_VSOCK]
    {
        for kind in [kind(libc::SOCK_STREAM), kind(libc::SOCK_DGRAM)] {
            fixture.check(&format!("call {} {family} {kind} 0", libc::SYS_socket), "EPERM");
        }
    }
    let pair = |kind| format!("call {} {} {kind} 0 0", libc::SYS_socketpair, libc::AF_UNIX);
    fixture.check(&pair(libc::SOCK_DGRAM), "EPERM");
    fixture.check(&pair(libc::SOCK_SEQPACKET), "EPERM");
    // A stream gets as far as its null pointer.
    fixture.check(&pair(kind(libc::SOCK_STREAM)), &format!("{:?}", Some(libc::EFAULT)));
    for number in [libc::SYS_bind, libc::SYS_connect, libc::SYS_listen] {
        fixture.check(&format!("call {number} 0 0 0"), "EPERM");
    }
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    fixture.check(&format!("connect {}", listener.local_addr().unwrap()), "EPERM");
}

fn sockets_with_network(fixture: &Fixture) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let host = |spec: &mut neargate_driver::ProcessSpec| spec.network = ProcessNetwork::Host;
    fixture.check_with(&format!("connect {address}"), host, "ok");
    for family in [libc::AF_UNIX, libc::AF_NETLINK, libc::AF_PACKET, libc::AF_ALG, libc::AF_VSOCK] {
        let probe = format!("call {} {family} {} 0", libc::SYS_socket, libc::SOCK_STREAM);
        fixture.check_with(&probe, host, "EPERM");
    }
    let raw = format!("call {} {} {} 1", libc::SYS_socket, libc::AF_INET, libc::SOCK_RAW);
    fixture.check_with(&raw, host, "EPERM");
}

fn compilers_may_do_less(fixture: &Fixture) {
    let compiler = |spec: &mut neargate_driver::ProcessSpec| {
        spec.role = ProcessRole::WasmCompiler;
        spec.network = ProcessNetwork::Host;
    };
    fixture.check_with("threads", compiler, "28");
    let stream = libc::SOCK_STREAM;
    fixture.check_with(&format!("call {} {} {stream} 0", libc::SYS_socket, libc::AF_INET), compiler, "EPERM");
    fixture.check_with(&format!("call {} 0 0 0", libc::SYS_recvmsg), compiler, "EPERM");
    fixture.check_with("open /etc/passwd", compiler, "EPERM");
}

fn a_runtime_works(fixture: &Fixture) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    std::io::Write::write_all(&mut &ours, b"hello").unwrap();
    fixture.check_with("runtime", |spec| spec.fds.push(theirs.into()), "2 hello");
}

fn threads_are_limited(fixture: &Fixture) {
    fixture.check("threads", "28");
    fixture.check("thread-bomb", "limited");
}

fn memory_is_limited(fixture: &Fixture) {
    if fixture.mode != Mode::Root {
        return;
    }
    let found = fixture.try_with("memory-bomb", |spec| spec.memory_bytes = Some(32 << 20));
    assert_eq!((found.text.as_str(), found.exit.code, found.exit.oom), ("", 137, true));
}

fn cpu_time_is_limited(fixture: &Fixture) {
    let found = fixture.try_with("spin", |spec| spec.cpu_seconds = Some(1));
    let code = 128 + libc::SIGXCPU;
    assert_eq!((found.text.as_str(), found.exit.code, found.exit.oom), ("", code, false));
    // One that does not hear the signal is killed all the same.
    let found = fixture.try_with("deaf-spin", |spec| spec.cpu_seconds = Some(1));
    assert_eq!((found.text.as_str(), found.exit.code, found.exit.oom), ("", 137, false));
}

/// Allocators end a program in this way that asks for more than there is.
fn an_abort_is_told(fixture: &Fixture) {
    let code = 128 + libc::SIGABRT;
    assert_eq!(fixture.try_with("abort", |_| {}).exit.code, code);
    let found = fixture.try_with("large-allocation", |spec| spec.address_space_bytes = Some(1 << 30));
    assert_eq!((found.text.as_str(), found.exit.code), ("", code));
}

fn address_space_is_limited(fixture: &Fixture) {
    fixture.check("address-space", "ok");
    fixture.check_with("address-space", |spec| spec.address_space_bytes = Some(1 << 30), "ENOMEM");
}

fn a_core_is_kept(fixture: &Fixture) {
    fixture.check_with("cores", |spec| spec.core = Some(0), "0");
    let mut spec = fixture.spec("exit 0");
    spec.core = Some(1_000_000);
    assert!(fixture.spawn(spec).is_err());
}

/// A line of `/proc/<pid>/status`.
pub(crate) fn status(pid: u32, key: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    line.unwrap().split_whitespace().collect::<Vec<_>>().join(" ")
}

fn seen_from_outside(fixture: &Fixture) {
    let waiting = fixture.wait_with(&fixture.client, |_| {});
    let pid = waiting.process.id();
    for key in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
        assert_eq!(status(pid, key), "0000000000000000", "{key}");
    }
    if fixture.has_namespaces() {
        assert_eq!(status(pid, "CapBnd"), "0000000000000000");
    }
    assert_eq!((status(pid, "NoNewPrivs"), status(pid, "Seccomp")), ("1".to_owned(), "2".to_owned()));
    assert_eq!((status(pid, "Name"), status(pid, "Threads")), ("ng-probe".to_owned(), "1".to_owned()));
    for key in ["SigBlk", "SigPnd"] {
        assert_eq!(status(pid, key), "0000000000000000", "{key}");
    }
    let score = fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).unwrap();
    assert!(score.trim().parse::<i32>().unwrap() >= 0, "{score}");
    if fixture.mode == Mode::Root {
        let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
        let limit = |name: &str| limits.lines().find(|line| line.starts_with(name)).unwrap().to_owned();
        assert!(limit("Max core file size").contains(" 1 "), "{limits}");
        assert!(limit("Max processes").contains(" 1024 "), "{limits}");
    }
}

fn own_namespaces(fixture: &Fixture) {
    if !fixture.has_namespaces() {
        return;
    }
    fixture.check("host-name", "neargate");
    fixture.check("ids", "0 1");
    if fixture.mode != Mode::Root {
        // Only root may look into a process that forbids it.
        return;
    }
    let waiting = fixture.wait_with(&fixture.client, |_| {});
    let host = fixture.wait_with(&fixture.client, |spec| spec.network = ProcessNetwork::Host);
    let link = |pid: u32, kind: &str| fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap();
    let (own, pid, host) = (std::process::id(), waiting.process.id(), host.process.id());
    for kind in ["user", "pid", "mnt", "ipc", "uts"] {
        assert_ne!(link(pid, kind), link(own, kind), "{kind}");
        assert_ne!(link(pid, kind), link(host, kind), "{kind}");
    }
    assert_ne!(link(pid, "net"), link(own, "net"));
    assert_eq!(link(host, "net"), link(own, "net"));
    let mounts = fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap();
    assert_eq!(mounts.lines().count(), 1, "{mounts}");
    assert!(mounts.contains(" / / ro,nosuid,nodev,noexec"), "{mounts}");
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    assert!(groups.lines().any(|line| line.contains("/neargate/") && line.contains("/probe.")), "{groups}");
}

fn users(fixture: &Fixture) {
    let check = |user, expect: u32| {
        let waiting = fixture.wait_with(&fixture.client, |spec| spec.user = user);
        let pid = waiting.process.id();
        let one = format!("{expect} {expect} {expect} {expect}");
        assert_eq!((status(pid, "Uid"), status(pid, "Gid")), (one.clone(), one), "{user:?}");
        if fixture.mode == Mode::Root {
            assert_eq!(status(pid, "Groups"), "", "{user:?}");
        }
    };
    let own = rustix::process::getuid().as_raw();
    let is_root = fixture.mode == Mode::Root;
    check(ProcessUser::Invoker, if is_root { crate::INVOKER } else { own });
    check(ProcessUser::Nobody, if is_root { neargate_driver::VOLUME_ID_BASE - 1 } else { own });
    check(ProcessUser::Volumes, if is_root { neargate_driver::VOLUME_ID_BASE } else { own });
}
