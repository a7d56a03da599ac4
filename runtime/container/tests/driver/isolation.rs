//! What a container must not be able to see or do. Numbers are those of the security test catalogue.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use neargate_container::DEFAULT_ID_BASE;
use neargate_driver::{ContainerSpec, Limits, Mount, MountSource, StartError};

use crate::cases;
use crate::fixture::{Fixture, exec_spec};

cases![
    row_46_status,
    row_46_namespaces,
    row_46_capabilities,
    row_47_denied_calls,
    row_48_foreign_abi,
    row_51_kernel_files,
    row_52_masked_files,
    row_54_own_binary,
    row_55_descriptors,
    row_56_host_processes,
    row_57_devices,
    row_61_id_ranges,
    row_63_ipc,
    only_loopback,
    row_51_proc_and_sys,
    row_22_links_in_place_of_mount_points,
    row_35_links_as_mount_targets,
    row_35_mounts_over_system_directories,
    row_22_links_in_etc,
    row_11_setuid_programs,
    row_54_supervisor_is_sealed,
    row_56_dump_is_refused,
];

async fn row_46_status(fixture: &Fixture) {
    let task = fixture.task().await;
    let script = "grep -E '^(Cap...|NoNewPrivs|Seccomp|Groups):' /proc/self/status | tr -s '\\t ' ' '";
    let root = "Groups: \nCapInh: 0000000000000000\nCapPrm: 00000000800405fb\nCapEff: 00000000800405fb\n\
        CapBnd: 00000000800405fb\nCapAmb: 0000000000000000\nNoNewPrivs: 1\nSeccomp: 2";
    assert_eq!(task.sh(script).await.text(), root);
    assert_eq!(task.sh_with(script, |spec| spec.init = true).await.text(), root);
    let user = root
        .replace("Groups: ", "Groups: 44 1001 ")
        .replace("Prm: 00000000800405fb", "Prm: 0000000000000000");
    let user = user.replace("Eff: 00000000800405fb", "Eff: 0000000000000000").replace("44 1001 ", "44 ");
    let as_user = task.sh_with(script, |spec| spec.user = Some("web".to_owned())).await;
    assert_eq!(as_user.text(), user);
    task.release().await;
}

async fn row_46_namespaces(fixture: &Fixture) {
    let task = fixture.task().await;
    let script = "for n in cgroup ipc mnt net pid user uts; do readlink /proc/self/ns/$n; done";
    // Kept alive, or the kernel may use its numbers again.
    let (handle, _streams) = task.start_ready("echo ready; cat", |_| {}).await;
    let (stdio, ours) = crate::fixture::Streams::new();
    let (_, (one, _)) = tokio::join!(handle.exec(exec_spec(&["sh", "-c", script], Some(stdio))), ours.read());
    let one = String::from_utf8(one).unwrap();
    let two = task.sh(script).await.text();
    for line in one.lines() {
        let kind = line.split(':').next().unwrap();
        let host = fs::read_link(format!("/proc/self/ns/{kind}")).unwrap();
        assert_ne!(Path::new(line), host, "{kind} is the host's");
        assert_eq!(two.contains(line), kind == "net", "{kind}: containers of a task share the network alone");
    }
    assert_eq!(one.lines().count(), 7);
    assert_eq!(
        task.sh("echo $$; cat /proc/self/cgroup | cut -d: -f3 | sort -u").await.text().lines().next(),
        Some("1")
    );
    let groups = task.sh("grep -E ':(memory|pids)?:' /proc/self/cgroup | cut -d: -f3 | sort -u").await.text();
    assert_eq!(groups, "/", "the container sees where its groups lie on the host");
    task.release().await;
}

async fn row_46_capabilities(fixture: &Fixture) {
    let task = fixture.task().await;
    let bounding = async |change: fn(&mut ContainerSpec)| {
        let output = task.sh_with("grep CapBnd /proc/self/status; kill -0 1", change).await;
        output.text().trim_start_matches("CapBnd:\t").to_owned()
    };
    assert_eq!(bounding(|spec| spec.capabilities_drop = vec!["ALL".to_owned()]).await, "0000000000000000");
    assert_eq!(
        bounding(|spec| spec.capabilities_add = vec!["SYS_PTRACE".to_owned()]).await,
        "00000000800c05fb"
    );
    let drop_chown = |spec: &mut ContainerSpec| spec.capabilities_drop = vec!["CHOWN".to_owned()];
    let output = task.sh_with("touch /x; chown 5 /x", drop_chown).await;
    assert!(output.errors().contains("Operation not permitted"), "{}", output.errors());
    task.release().await;
}

async fn row_47_denied_calls(fixture: &Fixture) {
    let task = fixture.task().await;
    for command in [
        "mount -t tmpfs none /tmp",
        "mount -o remount,rw /proc/sys",
        "mount --bind /etc /tmp",
        "umount /proc",
        "umount /dev/shm",
        "unshare -U true",
        "unshare -n true",
        "unshare -m true",
        "nsenter -t 1 -m true",
        "pivot_root / /tmp",
        "hostname other",
        "swapon /data/plain",
        "insmod /data/plain",
        "dmesg",
        "reboot -f",
        "chrt -f 10 true",
        "renice -n -5 -p 1",
        "ip link add dummy0 type dummy",
        "ip link set lo down",
        "route add default gw 127.0.0.1",
        "ping -c 1 -I lo -W 1 -p ff 127.0.0.1 -s 70000",
        "mknod /tmp/null c 1 3",
        "losetup /dev/loop0 /data/plain",
        "fsfreeze -f /",
        "chattr +i /data/plain",
        "setpriv --clear-groups --reuid 65536 true",
    ] {
        let output = task.sh(&format!("timeout 5 {command}")).await;
        assert_ne!(output.code(), Some(0), "{command} succeeded: {}", output.text());
    }
    let clock = task.sh("date -s 2020-01-01").await.errors();
    assert!(clock.contains("not permitted"), "{clock}");
    task.release().await;
}

/// `int 0x80` ends the process: the program is the 32-bit code `exit(0)`.
async fn row_48_foreign_abi(fixture: &Fixture) {
    if !cfg!(target_arch = "x86_64") {
        return;
    }
    let task = fixture.task().await;
    let rootfs = fixture.new_rootfs();
    fs::write(rootfs.join("bin/foreign"), foreign_program()).unwrap();
    fs::set_permissions(rootfs.join("bin/foreign"), std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .unwrap();
    let image = neargate_driver::Rootfs::Layers(vec![rootfs]);
    let output = task.sh_with("foreign; echo $?", |spec| spec.rootfs = image).await;
    assert_eq!(output.text().lines().last(), Some("159"), "SIGSYS is 31: {output:?}");
    task.release().await;
}

/// A 64-bit ELF file whose code is `xor ebx, ebx; mov eax, 1; int 0x80`.
fn foreign_program() -> Vec<u8> {
    const BASE: u64 = 0x40_0000;
    let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    let half = |file: &mut Vec<u8>, n: u16| file.extend(n.to_le_bytes());
    let word = |file: &mut Vec<u8>, n: u32| file.extend(n.to_le_bytes());
    let long = |file: &mut Vec<u8>, n: u64| file.extend(n.to_le_bytes());
    half(&mut file, 2);
    half(&mut file, 62);
    word(&mut file, 1);
    long(&mut file, BASE + 120);
    long(&mut file, 64);
    long(&mut file, 0);
    word(&mut file, 0);
    for n in [64, 56, 1, 0, 0, 0] {
        half(&mut file, n);
    }
    word(&mut file, 1);
    word(&mut file, 5);
    for n in [0, BASE, BASE, 129, 129, 0x1000] {
        long(&mut file, n);
    }
    file.extend(b"\x31\xdb\xb8\x01\0\0\0\xcd\x80");
    file
}

async fn row_51_kernel_files(fixture: &Fixture) {
    let task = fixture.task().await;
    for file in [
        "/proc/sys/kernel/core_pattern",
        "/proc/sys/kernel/modprobe",
        "/proc/sys/kernel/hostname",
        "/proc/sys/net/ipv4/ip_forward",
        "/proc/sys/vm/overcommit_memory",
        "/proc/sysrq-trigger",
        "/proc/irq/default_smp_affinity",
        "/sys/kernel/uevent_helper",
        "/sys/power/state",
        "/sys/kernel/mm/transparent_hugepage/enabled",
        "/proc/self/uid_map",
        "/proc/self/gid_map",
    ] {
        let output = task.sh(&format!("echo 1 > {file}")).await;
        assert_ne!(output.code(), Some(0), "{file} was written");
    }
    let output = task.sh("echo 0 > /proc/sys/kernel/core_pattern").await;
    assert!(output.errors().contains("Read-only"), "{}", output.errors());
    let lower = task.sh("echo -1000 > /proc/self/oom_score_adj; cat /proc/self/oom_score_adj").await;
    assert_eq!(lower.text(), "0", "a container made itself immune to the OOM killer");
    task.release().await;
}

async fn row_52_masked_files(fixture: &Fixture) {
    let task = fixture.task().await;
    let script = "for f in /proc/kcore /proc/keys /proc/timer_list /proc/sched_debug /proc/latency_stats /proc/interrupts; do \
        [ -e $f ] && head -c 1 $f | wc -c; done | sort -u; \
        for d in /sys/firmware /proc/scsi /proc/acpi /proc/asound /sys/devices/virtual/powercap; do [ -e $d ] && ls $d; done; \
        head -c 1 /proc/self/root/proc/kcore /proc/1/root/proc/kcore /proc/thread-self/root/proc/kcore | grep -v '^==' | tr -d '\\n' | wc -c";
    let output = task.sh(script).await;
    assert_eq!(output.text(), "0\n0", "{}", output.errors());
    task.release().await;
}

async fn row_54_own_binary(fixture: &Fixture) {
    let task = fixture.task().await;
    let output = task.sh_with("readlink /proc/1/exe; echo x > /proc/1/exe", |spec| spec.init = true).await;
    assert_ne!(output.code(), Some(0));
    assert!(!output.text().contains("driver"), "{}", output.text());
    task.release().await;
}

async fn row_55_descriptors(fixture: &Fixture) {
    let task = fixture.task().await;
    // The third is the directory that ls itself reads.
    for init in [false, true] {
        let output = task.sh_with("exec ls /proc/self/fd", |spec| spec.init = init).await;
        assert_eq!(output.text(), "0\n1\n2\n3", "init {init}");
        let output = task.sh_with("ls /proc/1/fd; true", |spec| spec.init = init).await;
        assert!(output.text().is_empty() || output.text() == "0\n1\n2", "init {init}: {}", output.text());
    }
    let (handle, _streams) = task.start_ready("echo ready; cat", |_| {}).await;
    let (stdio, ours) = crate::fixture::Streams::new();
    let exec = handle.exec(exec_spec(&["ls", "/proc/self/fd"], Some(stdio)));
    let (_, (stdout, _)) = tokio::join!(exec, ours.read());
    assert_eq!(stdout, b"0\n1\n2\n3\n");
    task.release().await;
}

async fn row_56_host_processes(fixture: &Fixture) {
    let task = fixture.task().await;
    let own = std::process::id();
    let script =
        format!("ls /proc | grep '^[0-9]' | sort -n | head -n 1; kill -0 {own} 2>&1; ls -d /proc/{own} 2>&1");
    let output = task.sh(&script).await;
    assert!(output.text().starts_with("1\n"), "{}", output.text());
    assert!(own < 50 || output.text().contains("No such process"), "{}", output.text());
    task.release().await;
}

async fn row_57_devices(fixture: &Fixture) {
    let task = fixture.task().await;
    let output = task
        .sh("ls /dev | tr '\\n' ' '; head -c 4 /dev/zero | wc -c; echo x > /dev/null; echo x > /dev/full")
        .await;
    let expect = "fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero 4";
    assert_eq!(output.text(), expect);
    assert!(output.errors().contains("No space left"));
    for device in ["mem", "kmsg", "vda", "kvm", "fuse", "net/tun", "loop-control"] {
        assert_ne!(task.sh(&format!("head -c 1 /dev/{device}")).await.code(), Some(0), "{device}");
    }
    task.release().await;
}

async fn row_61_id_ranges(fixture: &Fixture) {
    let (one, two) = (fixture.task().await, fixture.task().await);
    let range = |map: String| -> u32 {
        let fields: Vec<u32> = map.split_whitespace().map(|n| n.parse().unwrap()).collect();
        let [0, first, 65536] = fields[..] else { panic!("{map}") };
        first
    };
    let first = range(one.sh("cat /proc/self/uid_map").await.text());
    let again = range(one.sh("cat /proc/self/gid_map").await.text());
    let other = range(two.sh("cat /proc/self/uid_map").await.text());
    assert_eq!(first, again);
    assert!(first >= DEFAULT_ID_BASE + 65536 && first.abs_diff(other) >= 65536, "{first} {other}");
    assert_eq!(one.sh("cat /proc/self/setgroups").await.text(), "allow");
    one.release().await;
    two.release().await;
}

async fn row_63_ipc(fixture: &Fixture) {
    let task = fixture.task().await;
    let script = "ipcs -m | grep -c 0x; touch /dev/shm/mine; ls /dev/shm /dev/mqueue";
    let one = task.sh(script).await.text();
    assert_eq!(one, task.sh(script).await.text());
    task.release().await;
}

async fn only_loopback(fixture: &Fixture) {
    let task = fixture.task().await;
    let output = task.sh("ls /sys/class/net; ip -o link | wc -l; ip -o link | grep -c 'lo: <LOOPBACK,UP'; cat /proc/net/unix | tail -n +2").await;
    assert_eq!(output.text(), "lo\n1\n1");
    task.release().await;
}

async fn row_51_proc_and_sys(fixture: &Fixture) {
    let task = fixture.task().await;
    let text = task.sh("cat /proc/mounts").await.text();
    let options = |target: &str| {
        let line = text.lines().find(|line| line.split(' ').nth(1) == Some(target));
        line.unwrap_or_else(|| panic!("{target} in {text}")).split(' ').nth(3).unwrap().to_owned()
    };
    for (target, expect) in [
        ("/", "rw,nodev,"),
        ("/proc", "rw,nosuid,nodev,noexec,"),
        ("/sys", "ro,nosuid,nodev,noexec,"),
        ("/dev", "rw,nosuid,nodev,noexec,"),
        ("/dev/shm", "rw,nosuid,nodev,noexec,"),
        ("/proc/sys", "ro,nosuid,nodev,noexec,"),
        ("/proc/irq", "ro,nosuid,nodev,noexec,"),
    ] {
        assert!(options(target).starts_with(expect), "{target}: {}", options(target));
    }
    let targets: Vec<&str> = text.lines().filter_map(|line| line.split(' ').nth(1)).collect();
    let known =
        |target: &&str| *target == "/" || ["/proc", "/sys", "/dev"].iter().any(|top| target.starts_with(top));
    assert!(targets.iter().all(known), "{targets:?}");
    assert!(!text.contains("tmpfs /root"), "the launch namespace shows through");
    task.release().await;
}

/// An image whose fixed mount points are links or files is refused, and nothing is written through them.
async fn row_22_links_in_place_of_mount_points(fixture: &Fixture) {
    let task = fixture.task().await;
    for name in ["dev", "proc", "sys"] {
        let victim = fixture.new_dir();
        for target in [victim.to_str().unwrap(), "../../../..", "/etc", "/proc/self/fd"] {
            let rootfs = fixture.new_rootfs();
            fs::remove_dir(rootfs.join(name)).unwrap();
            symlink(target, rootfs.join(name)).unwrap();
            let (mut spec, _streams) = task.spec(&["true"]);
            spec.rootfs = neargate_driver::Rootfs::Layers(vec![rootfs]);
            let error = task.start(spec).await.map(|_| ()).unwrap_err();
            assert!(matches!(error, StartError::InvalidImage { .. }), "{name} -> {target}: {error:?}");
            assert_eq!(fs::read_dir(&victim).unwrap().count(), 0);
        }
        let rootfs = fixture.new_rootfs();
        fs::remove_dir(rootfs.join(name)).unwrap();
        let (mut spec, streams) = task.spec(&["ls", "/proc/self", "/sys/class", "/dev/null"]);
        spec.rootfs = neargate_driver::Rootfs::Layers(vec![rootfs]);
        assert_eq!(task.run(spec, streams).await.unwrap().code(), Some(0), "a missing /{name} is made");
    }
    task.release().await;
}

/// A mount target that leads elsewhere leads elsewhere inside the container only.
async fn row_35_links_as_mount_targets(fixture: &Fixture) {
    let task = fixture.task().await;
    let volume = fixture.new_dir();
    fs::write(volume.join("marker"), "volume").unwrap();
    let victim = fixture.new_dir();
    let mount = |target: &str| Mount {
        source: MountSource::Host(volume.clone()),
        target: target.into(),
        read_only: false,
    };
    for (link, expect) in [
        ("/etc", "/etc/marker"),
        ("../../../../../../tmp", "/tmp/marker"),
        ("/link/../data", ""),
        ("/proc/self/cwd", ""),
        ("/proc/1/root/tmp", ""),
        (victim.to_str().unwrap(), ""),
        ("/proc", ""),
        ("/", ""),
        ("/dev", ""),
        ("loop", ""),
    ] {
        let rootfs = fixture.new_rootfs();
        symlink(link, rootfs.join("loop")).unwrap();
        symlink(link, rootfs.join("link")).unwrap();
        let (mut spec, streams) = task.spec(&["cat", expect]);
        spec.rootfs = neargate_driver::Rootfs::Layers(vec![rootfs]);
        spec.mounts = vec![mount("/link")];
        match task.run(spec, streams).await {
            Ok(output) => assert_eq!(output.text(), "volume", "{link}: {}", output.errors()),
            Err(StartError::Mount { .. }) => assert_eq!(expect, "", "{link} was refused"),
            Err(other) => panic!("{link}: {other:?}"),
        }
        assert_eq!(fs::read_dir(&victim).unwrap().count(), 0, "{link}");
    }
    task.release().await;
}

async fn row_35_mounts_over_system_directories(fixture: &Fixture) {
    let task = fixture.task().await;
    for target in
        ["/", "/proc", "/proc/sys", "/sys", "/sys/fs/cgroup", "/dev", "/../x", "/a/../../b", "//", "/./"]
    {
        for host in [true, false] {
            let source = if host {
                MountSource::Host(fixture.new_dir())
            } else {
                MountSource::Tmpfs { size_bytes: 4096, options: Default::default() }
            };
            let (mut spec, _streams) = task.spec(&["true"]);
            spec.mounts = vec![Mount { source, target: target.into(), read_only: false }];
            let error = task.start(spec).await.map(|_| ()).unwrap_err();
            assert!(matches!(error, StartError::Mount { .. }), "{target}: {error:?}");
        }
    }
    task.release().await;
}

async fn row_22_links_in_etc(fixture: &Fixture) {
    let task = fixture.task().await;
    let victim = fixture.new_dir().join("victim");
    fs::write(&victim, "untouched").unwrap();
    let rootfs = fixture.new_rootfs();
    for name in ["hosts", "hostname", "resolv.conf"] {
        symlink(&victim, rootfs.join("etc").join(name)).unwrap();
    }
    let script = "cat /etc/hostname; readlink /etc/hosts";
    let image = neargate_driver::Rootfs::Layers(vec![rootfs]);
    let output = task.sh_with(script, |spec| spec.rootfs = image).await;
    assert_eq!(output.text(), crate::fixture::HOSTNAME);
    assert_eq!(fs::read_to_string(&victim).unwrap(), "untouched");

    let rootfs = fixture.new_rootfs();
    fs::rename(rootfs.join("etc"), rootfs.join("elsewhere")).unwrap();
    symlink("/elsewhere", rootfs.join("etc")).unwrap();
    let image = neargate_driver::Rootfs::Layers(vec![rootfs]);
    let output = task.sh_with("cat /elsewhere/hostname", |spec| spec.rootfs = image).await;
    assert_eq!(output.text(), crate::fixture::HOSTNAME);

    // A user database that leads out of the image, or never ends, is no user database.
    for target in ["/proc/self/fd/0", "/dev/zero", "/data"] {
        let rootfs = fixture.new_rootfs();
        fs::remove_file(rootfs.join("etc/passwd")).unwrap();
        symlink(target, rootfs.join("etc/passwd")).unwrap();
        let (mut spec, _streams) = task.spec(&["true"]);
        spec.rootfs = neargate_driver::Rootfs::Layers(vec![rootfs]);
        spec.user = Some("web".to_owned());
        assert!(task.start(spec).await.is_err(), "{target}");
    }
    task.release().await;
}

async fn row_11_setuid_programs(fixture: &Fixture) {
    let task = fixture.task().await;
    let rootfs = fixture.new_rootfs();
    fs::set_permissions(rootfs.join("bin/busybox"), std::os::unix::fs::PermissionsExt::from_mode(0o4755))
        .unwrap();
    let image = neargate_driver::Rootfs::Layers(vec![rootfs]);
    let output = task.sh_with("grep ^Uid /proc/self/status", |spec| {
        spec.rootfs = image;
        spec.user = Some("web".to_owned());
    });
    assert_eq!(output.await.text(), "Uid:\t1000\t1000\t1000\t1000");
    task.release().await;
}

/// The supervisor runs from a file that nobody can write to.
async fn row_54_supervisor_is_sealed(fixture: &Fixture) {
    let task = fixture.task_with(Limits::default()).await;
    let own = std::process::id().to_string();
    let mut supervisors = 0;
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        let Some((name, rest)) = stat.rsplit_once(')') else { continue };
        if !name.ends_with("(ng-supervisor") || rest.split(' ').nth(2) != Some(&own) {
            continue;
        }
        supervisors += 1;
        let exe = fs::read_link(entry.path().join("exe")).unwrap();
        assert!(exe.to_str().unwrap().starts_with("/memfd:neargate-supervisor"), "{exe:?}");
        let threads = fs::read_dir(entry.path().join("task")).unwrap().count();
        assert_eq!(threads, 1, "the supervisor has threads");
    }
    // Those of this host, and one for each other.
    assert_eq!(supervisors, 3 + fixture.machines.len());
    task.release().await;
}

/// The reaper is a copy of the supervisor: with every right that a container can have, its memory stays
/// shut.
async fn row_56_dump_is_refused(fixture: &Fixture) {
    let task = fixture.task().await;
    let output = task
        .sh_with("head -c 1 /proc/1/mem; cat /proc/1/environ | wc -c; cat /proc/1/maps", |spec| {
            spec.init = true;
            spec.capabilities_add = vec!["SYS_PTRACE".to_owned()];
        })
        .await;
    assert_eq!(output.text(), "0", "{}", output.errors());
    task.release().await;
}
