//! What a container has only where the operator allows it, and that it has no more even then.

use std::fs;
use std::path::PathBuf;

use neargate_driver::{
    ContainerSpec, Device, Limits, Mount, MountSource, Privileges, SandboxHost, SandboxNetwork, SandboxSpec,
    Sharing, StartError,
};
use neargate_model::IpcMode;

use crate::cases;
use crate::fixture::{Fixture, Streams, Task, exec_spec};

cases![
    nothing_without_a_policy,
    network_capabilities_count,
    mounts_with_sys_admin,
    limits_that_capabilities_raise,
    privileged_containers,
    the_hosts_network,
    the_hosts_ipc,
    devices_of_the_host,
    row_57_devices_in_volumes,
];

/// What is asked for, and how.
type Change<'a> = (&'a str, &'a dyn Fn(&mut ContainerSpec));

fn adds(names: &[&str]) -> impl Fn(&mut ContainerSpec) {
    let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
    move |spec| spec.capabilities_add.clone_from(&names)
}

fn privileged(spec: &mut ContainerSpec) {
    spec.privileges.privileged = true;
}

fn device(fixture: &Fixture, name: &str, target: &str, read: bool, write: bool) -> Device {
    let source = fixture.directory.canonicalize().unwrap().join("devices").join(name);
    Device { source, target: PathBuf::from(target), read, write }
}

/// A supervisor that was told of no policy starts nothing beyond the usual, whatever it is asked for.
async fn nothing_without_a_policy(fixture: &Fixture) {
    let task = fixture.task().await;
    let device = device(fixture, "zero", "/dev/x", true, true);
    let changes: [Change<'_>; 4] = [
        ("SYS_ADMIN", &adds(&["SYS_ADMIN"])),
        ("ALL", &adds(&["ALL"])),
        ("privileged", &privileged),
        ("device", &|spec| spec.privileges.devices.push(device.clone())),
    ];
    for (what, change) in changes {
        let (mut spec, _streams) = task.spec(&["true"]);
        change(&mut spec);
        let refused = task.start(spec).await.err();
        assert!(matches!(refused, Some(StartError::Unsupported { .. })), "{what}: {refused:?}");
    }
    task.release().await;
    let spec = SandboxSpec {
        task: task.sandbox.task.clone(),
        hostname: "x".to_owned(),
        limits: Limits::default(),
        linux: true,
        network: SandboxNetwork::Host,
        sharing: Sharing::default(),
    };
    let refused = SandboxHost::prepare(&fixture.client, &spec).await.unwrap_err();
    assert!(neargate_model::chain(&refused).contains("--policy"), "{refused:?}");
}

/// NET_ADMIN and NET_RAW are power over the task's own network, for those containers alone that have them.
async fn network_capabilities_count(fixture: &Fixture) {
    let task = fixture.allowed_task(SandboxNetwork::Managed).await;
    let add = "ip addr add 10.1.2.3/32 dev lo && ip -o addr show dev lo | grep -c 10.1.2.3";
    let output = task.sh_with(add, adds(&["NET_ADMIN"])).await;
    assert_eq!(output.text(), "1", "{}", output.errors());
    // Its siblings see what it did and can do nothing like it.
    let output = task.sh("ip -o addr show dev lo | grep -c 10.1.2.3; ip addr add 10.1.2.4/32 dev lo").await;
    assert_eq!(output.text(), "1");
    assert_ne!(output.code(), Some(0), "a container without NET_ADMIN changed the network");
    let namespaces = "for n in ipc mnt pid user uts; do readlink /proc/self/ns/$n; done";
    // Kept alive, or the kernel may use its numbers again.
    let (handle, _streams) = task.start_ready("echo ready; cat", adds(&["NET_RAW"])).await;
    let (stdio, ours) = Streams::new();
    let exec = handle.exec(exec_spec(&["sh", "-c", namespaces], Some(stdio)));
    let (_, (one, _)) = tokio::join!(exec, ours.read());
    let (one, two) = (String::from_utf8(one).unwrap(), task.sh(namespaces).await);
    for line in one.lines() {
        let kind = line.split(':').next().unwrap();
        let host = fs::read_link(format!("/proc/self/ns/{kind}")).unwrap();
        assert_ne!(line, host.to_str().unwrap(), "{kind} is the host's");
        assert!(!two.text().contains(line), "{kind} is a sibling's");
    }
    assert_eq!(one.lines().count(), 5);
    let script =
        "echo $$; id -u; ls /proc | grep -c '^[0-9]'; mount -t tmpfs none /tmp 2>&1; ls /dev/pts/ptmx";
    let output = task.sh_with(script, adds(&["NET_RAW", "NET_ADMIN"])).await;
    let lines: Vec<String> = output.text().lines().map(str::to_owned).collect();
    assert_eq!((lines[0].as_str(), lines[1].as_str(), lines[4].as_str()), ("1", "0", "/dev/pts/ptmx"));
    assert!(lines[3].contains("denied"), "{lines:?}");
    // A command in it has the same.
    let (handle, _streams) = task.start_ready("echo ready; cat", adds(&["NET_ADMIN"])).await;
    let exec = exec_spec(&["ip", "addr", "add", "10.1.2.5/32", "dev", "lo"], None);
    assert_eq!(handle.exec(exec).await.unwrap().code, Some(0));
    task.release().await;
}

/// SYS_ADMIN mounts what lies in the container's own namespaces, and nothing of the host's.
async fn mounts_with_sys_admin(fixture: &Fixture) {
    let task = fixture.allowed_task(SandboxNetwork::Own).await;
    let script = "mount -t tmpfs none /tmp && touch /tmp/x && umount /tmp && unshare -m true && hostname other && hostname";
    let output = task.sh_with(script, adds(&["SYS_ADMIN"])).await;
    assert_eq!(output.text(), "other", "{}", output.errors());
    for command in [
        "mknod /tmp/null c 1 3",
        "insmod /data/plain",
        "swapon /data/plain",
        "losetup /dev/loop0 /data/plain",
        "ip addr add 10.1.2.3/32 dev lo",
        "nsenter -t 1 -m -u -- umount /proc/no",
        "mount -t ext4 /dev/vda /tmp",
        "echo x > /proc/sys/kernel/core_pattern",
        "echo 1 > /sys/kernel/uevent_helper",
    ] {
        let output = task.sh_with(&format!("timeout 5 sh -c '{command}'"), adds(&["SYS_ADMIN"])).await;
        assert_ne!(output.code(), Some(0), "{command} succeeded: {}", output.text());
    }
    task.release().await;
}

/// What the kernel would ignore in a user namespace, and that these capabilities give by a limit.
async fn limits_that_capabilities_raise(fixture: &Fixture) {
    let task = fixture.allowed_task(SandboxNetwork::Own).await;
    // A supervisor without SYS_RESOURCE can give as much as it has itself.
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:\t")).unwrap();
    let may_raise = u64::from_str_radix(effective, 16).unwrap() & 1 << 24 != 0;
    let own = rustix::process::getrlimit(rustix::process::Resource::Memlock).maximum;
    let most = own.filter(|_| !may_raise).map_or("unlimited".to_owned(), |bytes| (bytes / 1024).to_string());
    assert_eq!(task.sh_with("ulimit -l", adds(&["IPC_LOCK"])).await.text(), most);
    let named = |spec: &mut ContainerSpec| {
        adds(&["IPC_LOCK"])(spec);
        spec.ulimits.push(neargate_driver::Ulimit { name: "memlock".to_owned(), soft: 65_536, hard: 65_536 });
    };
    assert_eq!(task.sh_with("ulimit -l", named).await.text(), "64", "the definition's own limit holds");
    let lower = "renice -n -5 -p $$ >/dev/null; cut -d ' ' -f 19 /proc/$$/stat";
    let nice = rustix::process::getpriority_process(None).unwrap();
    assert_eq!(task.sh(lower).await.text(), nice.to_string());
    let lowered = if may_raise { -5 } else { nice };
    assert_eq!(task.sh_with(lower, adds(&["SYS_NICE"])).await.text(), lowered.to_string());
    task.release().await;
}

/// A privileged container has every capability in its own namespaces, its network included, and sees all of its
/// proc; the host's settings and devices stay out of its reach.
async fn privileged_containers(fixture: &Fixture) {
    let task = fixture.allowed_task(SandboxNetwork::Managed).await;
    let script = "grep -E '^(CapEff|CapBnd|NoNewPrivs|Seccomp):' /proc/self/status | tr -s '\\t ' ' '; \
        mount -t tmpfs none /tmp && ip addr add 10.1.2.3/32 dev lo && echo 1 > /proc/sys/net/ipv4/ip_forward && \
        cat /proc/sys/net/ipv4/ip_forward; grep -c ' /proc/' /proc/mounts";
    let output = task.sh_with(script, privileged).await;
    let expect = "CapBnd: 000001ffffffffff\nNoNewPrivs: 1\nSeccomp: 2\n1\n0";
    assert_eq!(output.text(), format!("CapEff: 000001ffffffffff\n{expect}"), "{}", output.errors());
    let dropped = |spec: &mut ContainerSpec| {
        privileged(spec);
        spec.capabilities_drop = vec!["CHOWN".to_owned()];
    };
    let bounding = task.sh_with("grep CapBnd /proc/self/status | cut -f2", dropped).await;
    assert_eq!(bounding.text(), "000001fffffffffe");
    let before = fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap();
    for command in [
        "echo x > /proc/sys/kernel/core_pattern",
        "echo x > /proc/sys/kernel/modprobe",
        "echo 3 > /proc/sys/vm/drop_caches",
        "echo h > /proc/sysrq-trigger",
        "head -c 1 /proc/kcore",
        "mknod /dev/mem c 1 1",
        "mknod /data/vda b 254 0",
        "insmod /data/plain",
        "dmesg",
        "chroot /proc/1/root /bin/ls /var/lib",
        "echo 1 > /sys/kernel/uevent_helper",
    ] {
        let output = task.sh_with(&format!("timeout 5 sh -c '{command}'"), privileged).await;
        assert_ne!(output.code(), Some(0), "{command} succeeded: {}", output.text());
    }
    assert_eq!(fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap(), before);
    let clock = task.sh_with("date -s 2020-01-01", privileged).await.errors();
    assert!(clock.contains("not permitted"), "{clock}");
    task.release().await;
}

/// The host's network can be used and not changed.
async fn the_hosts_network(fixture: &Fixture) {
    let task = fixture.allowed_task(SandboxNetwork::Host).await;
    let host = fs::read_link("/proc/self/ns/net").unwrap();
    assert_eq!(task.sh("readlink /proc/self/ns/net").await.text(), host.to_str().unwrap());
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let script = format!("nc -w 2 127.0.0.1 {port} </dev/null; echo $?");
    let connect = task.sh(&script);
    let accept = tokio::task::spawn_blocking(move || listener.accept().map(drop));
    let (output, accepted) = tokio::join!(connect, accept);
    assert_eq!(output.text(), "0", "{}", output.errors());
    accepted.unwrap().unwrap();
    for capabilities in [&["NET_ADMIN", "NET_RAW"][..], &[], &["ALL"]] {
        for command in ["ip addr add 10.1.2.3/32 dev lo", "echo 1 > /proc/sys/net/ipv4/ip_forward"] {
            let output = task.sh_with(command, adds(capabilities)).await;
            assert_ne!(output.code(), Some(0), "{command} with {capabilities:?}");
        }
    }
    task.release().await;
}

async fn the_hosts_ipc(fixture: &Fixture) {
    let shared = Sharing { ipc: IpcMode::Host, ..Sharing::default() };
    let task = fixture.sharing_task(&fixture.allowing_client, shared).await;
    let file = tempfile::Builder::new().prefix("neargate-test-").tempfile_in("/dev/shm").unwrap();
    fs::write(file.path(), "shared").unwrap();
    fs::set_permissions(file.path(), std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    let host = fs::read_link("/proc/self/ns/ipc").unwrap();
    let script = format!(
        "readlink /proc/self/ns/ipc; cat {}; echo; ls -d /dev/mqueue; echo $$",
        file.path().display()
    );
    let output = task.sh(&script).await;
    let expect = format!("{}\nshared\n/dev/mqueue\n1", host.display());
    assert_eq!(output.text(), expect, "{}", output.errors());
    let other = fixture.allowed_task(SandboxNetwork::Own).await;
    assert_ne!(other.sh("readlink /proc/self/ns/ipc").await.text(), host.to_str().unwrap());
    other.release().await;
    let pids = task.sh("readlink /proc/self/ns/pid").await.text();
    assert_ne!(pids, fs::read_link("/proc/self/ns/pid").unwrap().to_str().unwrap());
    // A command in it is there, too.
    let (handle, _streams) = task.start_ready("echo ready; cat", |_| {}).await;
    let (stdio, ours) = Streams::new();
    let exec = handle.exec(exec_spec(&["readlink", "/proc/self/ns/ipc"], Some(stdio)));
    let (_, (stdout, _)) = tokio::join!(exec, ours.read());
    assert_eq!(String::from_utf8(stdout).unwrap().trim(), host.to_str().unwrap());
    task.release().await;
}

/// A device is where the definition wants it, for what it wants, and for nobody else.
async fn devices_of_the_host(fixture: &Fixture) {
    for client in [&fixture.allowing_client, &fixture.old_client] {
        devices_by(fixture, &fixture.task_on(client, Limits::default()).await).await;
    }
}

async fn devices_by(fixture: &Fixture, task: &Task<'_>) {
    let device = |name, target, read, write| device(fixture, name, target, read, write);
    let has = |devices: &[Device]| {
        let devices = devices.to_vec();
        move |spec: &mut ContainerSpec| spec.privileges = Privileges { devices, ..Privileges::default() }
    };
    let both = [device("zero", "/dev/deep/er", true, true), device("kmsg", "/dev/kmsg", false, true)];
    let script = "head -c 3 /dev/deep/er | wc -c; id -u; : > /dev/deep/er && : > /dev/kmsg && echo opened; \
        head -c 1 /dev/kmsg";
    for user in [None, Some("web".to_owned())] {
        let with = |spec: &mut ContainerSpec| {
            has(&both)(spec);
            spec.user = user.clone();
        };
        let output = task.sh_with(script, with).await;
        let id = if user.is_some() { "1000" } else { "0" };
        assert_eq!(output.text(), format!("3\n{id}\nopened"), "{}", output.errors());
        assert_ne!(output.code(), Some(0), "a device that may be written to was read");
    }
    let read_only = [device("zero", "/dev/source", true, false)];
    let output = task.sh_with("head -c 1 /dev/source | wc -c; echo x > /dev/source", has(&read_only)).await;
    assert_eq!((output.text().as_str(), output.code() == Some(0)), ("1", false), "{output:?}");
    assert_ne!(task.sh("head -c 1 /dev/deep/er").await.code(), Some(0));
    let (mut spec, _streams) = task.spec(&["true"]);
    has(&[Device { source: "/dev/mem".into(), ..both[0].clone() }])(&mut spec);
    assert!(matches!(task.start(spec).await, Err(StartError::Unsupported { .. })));
    task.release().await;
}

/// A node that a container can reach is of no use to it, even if it may change mounts: its cgroup refuses the device.
async fn row_57_devices_in_volumes(fixture: &Fixture) {
    use rustix::fs::{AtFlags, CWD, FileType, Mode, chmodat, makedev, mknodat};
    let dir = fixture.new_dir().canonicalize().unwrap();
    for (name, minor) in [("zero", 5), ("mem", 1), ("kmsg", 11)] {
        let (path, mode) = (dir.join(name), Mode::from_raw_mode(0o666));
        mknodat(CWD, &path, FileType::CharacterDevice, mode, makedev(1, minor)).unwrap();
        chmodat(CWD, &path, mode, AtFlags::empty()).unwrap();
        // What belongs to root of the host is foreign to a container, which may not write to it.
        std::os::unix::fs::chown(&path, Some(1000), Some(1000)).unwrap();
    }
    std::os::unix::fs::chown(&dir, Some(1000), Some(1000)).unwrap();
    let volume = |spec: &mut ContainerSpec| {
        let source = MountSource::Host(dir.clone());
        spec.mounts.push(Mount { source, target: "/v".into(), read_only: false });
        adds(&["SYS_ADMIN"])(spec);
    };
    let has = |name| device(fixture, name, "/dev/own", true, true);
    for (how, client) in [("v1", &fixture.allowing_client), ("programs", &fixture.old_client)] {
        let task = fixture.task_on(client, Limits::default()).await;
        let nodev = task.sh_with("head -c 1 /v/zero", volume).await;
        assert!(nodev.errors().contains("Permission denied"), "{how}: {nodev:?}");
        let script =
            "mount -o remount,bind,dev /v && head -c 3 /v/zero | wc -c; true > /v/kmsg; head -c 1 /v/mem";
        let output = task.sh_with(script, volume).await;
        assert_eq!(output.text(), "3", "{how}: {}", output.errors());
        let denied = output.errors().matches("Operation not permitted").count();
        assert_eq!(denied, 2, "{how}: {}", output.errors());
        // A device of its own is no other's, and its command may do what it may.
        let own = |spec: &mut ContainerSpec| {
            volume(spec);
            spec.privileges.devices.push(has("kmsg"));
        };
        let script = "mount -o remount,bind,dev /v && true > /v/kmsg && true > /dev/own && echo opened; head -c 1 /v/mem";
        let output = task.sh_with(script, own).await;
        assert_eq!(output.text(), "opened", "{how}: {}", output.errors());
        assert!(output.errors().contains("Operation not permitted"), "{how}: {}", output.errors());
        let (handle, _streams) =
            task.start_ready("mount -o remount,bind,dev /v; echo ready; cat", volume).await;
        let exec = exec_spec(&["sh", "-c", "head -c 1 /v/zero && ! true > /v/kmsg"], None);
        assert_eq!(handle.exec(exec).await.unwrap().code, Some(0), "{how}");
        task.release().await;
    }
}
