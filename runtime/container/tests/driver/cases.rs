//! What a container is given, and how it ends.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::time::{Duration, Instant};

use neargate_container::DEFAULT_ID_BASE;
use neargate_driver::{
    Driver, ExecError, Limits, Mount, MountSource, Rootfs, SandboxHost, SandboxSpec, Signal, StartError,
    Ulimit,
};
use neargate_model::TmpfsOptions;

use crate::cases;
use crate::fixture::{Fixture, HOSTNAME, Output, Streams, exec_spec};

cases![
    exit_codes,
    streams_are_byte_exact,
    stdin_is_connected,
    stdout_can_be_opened_again,
    arguments_and_environment,
    row_19_working_directory,
    users,
    row_20_unknown_users,
    row_23_programs_that_do_not_run,
    unsupported_specs,
    ulimits,
    many_layers,
    layers_by_path,
    row_23_large_arguments,
    network_files,
    read_only_root,
    tmpfs_mount,
    tmpfs_options,
    shared_memory,
    host_mount,
    file_mount,
    missing_mount_source,
    localhost_is_shared,
    exec_in_container,
    exec_timeout,
    exec_failures,
    stop_and_kill,
    init_reaps_and_forwards,
    stats,
    recover,
    restart_with_same_id,
    starts_are_concurrent,
    prepare_is_idempotent,
    release_kills_everything,
    wasm_only_sandbox,
];

async fn exit_codes(fixture: &Fixture) {
    let task = fixture.task().await;
    for (script, code) in
        [("exit 0", 0), ("exit 3", 3), ("exit 255", 255), ("kill -9 $$; sleep 9 & wait; exit 7", 7)]
    {
        assert_eq!(task.sh(script).await.code(), Some(code), "{script}");
    }
    let with_init = |signal: &str| format!("kill -{signal} $$; sleep 9");
    for (signal, code) in [("TERM", 143), ("KILL", 137), ("SEGV", 139)] {
        let output = task.sh_with(&with_init(signal), |spec| spec.init = true).await;
        assert_eq!(output.code(), Some(code), "{signal}");
        assert!(!output.exit.oom);
    }
    task.release().await;
}

async fn streams_are_byte_exact(fixture: &Fixture) {
    let task = fixture.task().await;
    let output = task.sh(r"printf 'a\000b\377\n'; printf 'e\r\n' >&2").await;
    assert_eq!((&output.stdout[..], &output.stderr[..]), (&b"a\0b\xff\n"[..], &b"e\r\n"[..]));
    let output = task.sh("head -c 1000000 /dev/zero").await;
    assert_eq!(output.stdout.len(), 1_000_000);
    task.release().await;
}

async fn stdin_is_connected(fixture: &Fixture) {
    let task = fixture.task().await;
    let (spec, mut streams) = task.spec(&["cat"]);
    streams.stdin.write_all(b"through").unwrap();
    assert_eq!(task.run(spec, streams).await.unwrap().text(), "through");
    task.release().await;
}

async fn stdout_can_be_opened_again(fixture: &Fixture) {
    let task = fixture.task().await;
    for user in [None, Some("web".to_owned())] {
        let output =
            task.sh_with("echo out > /dev/stdout; echo err > /dev/stderr", |spec| spec.user = user).await;
        assert_eq!((output.text(), output.errors()), ("out".to_owned(), "err".to_owned()));
    }
    task.release().await;
}

async fn arguments_and_environment(fixture: &Fixture) {
    let task = fixture.task().await;
    let (mut spec, streams) = task.spec(&["env"]);
    spec.env = [("B", "1"), ("PATH", "/bin"), ("A", "x y=z"), ("B", "2")]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .to_vec();
    assert_eq!(task.run(spec, streams).await.unwrap().text(), "B=2\nPATH=/bin\nA=x y=z");
    let (spec, streams) = task.spec(&["printf", "%s|", "", "a b", "$HOME", "ü"]);
    assert_eq!(task.run(spec, streams).await.unwrap().text(), "|a b|$HOME|ü|");
    task.release().await;
}

async fn row_19_working_directory(fixture: &Fixture) {
    let task = fixture.task().await;
    for dir in ["/", "/tmp", "/made/on/the/way"] {
        let output = task.sh_with("pwd; stat -c %u:%a .", |spec| spec.working_dir = dir.into()).await;
        assert_eq!(output.text().lines().next(), Some(dir));
        assert!(output.text().contains("\n0:"), "{}", output.text());
    }
    for dir in ["/proc/self/fd/0", "/proc/self/fd/3", "/proc/1/cwd", "relative", "/data/plain", "/../x/.."] {
        let (mut spec, _streams) = task.spec(&["pwd"]);
        spec.working_dir = dir.into();
        let error = task.start(spec).await.map(|_| ()).unwrap_err();
        assert!(matches!(error, StartError::InvalidImage { .. }), "{dir}: {error:?}");
    }
    task.release().await;
}

async fn users(fixture: &Fixture) {
    let task = fixture.task().await;
    for (user, ids) in [
        (None, "0 0 0"),
        (Some("root"), "0 0 0"),
        (Some("web"), "1000 1001 1001 44"),
        (Some("1000"), "1000 1001 1001 44"),
        (Some("web:extra"), "1000 44 44"),
        (Some("65535:65535"), "65535 65535 65535"),
    ] {
        let script = "echo $(id -u) $(id -g) $(id -G)";
        let output = task.sh_with(script, |spec| spec.user = user.map(str::to_owned)).await;
        assert_eq!(output.text(), ids, "{user:?}: {}", output.errors());
    }
    task.release().await;
}

async fn row_20_unknown_users(fixture: &Fixture) {
    let task = fixture.task().await;
    for user in ["nobody", "web:nogroup", "4294967296", "65536", "-1", "a:b:c", "", ":0", "0:4294967296"] {
        let (mut spec, _streams) = task.spec(&["id"]);
        spec.user = Some(user.to_owned());
        let error = task.start(spec).await.map(|_| ()).unwrap_err();
        assert!(matches!(error, StartError::UnknownUser { .. }), "{user:?}: {error:?}");
    }
    task.release().await;
}

async fn row_23_programs_that_do_not_run(fixture: &Fixture) {
    let task = fixture.task().await;
    let start = async |program: &str, init: bool| {
        let (mut spec, _streams) = task.spec(&[program]);
        spec.init = init;
        task.start(spec).await.map(|_| ()).unwrap_err()
    };
    for program in ["nothing", "/bin/nothing", "/data/plain/x"] {
        for init in [false, true] {
            let error = start(program, init).await;
            assert!(matches!(&error, StartError::NotFound { program: p } if p == program), "{error:?}");
        }
    }
    for (program, part) in [
        ("/data/plain", "permission denied"),
        ("/data", "is a directory"),
        ("/bin/orphan", "interpreter"),
        ("garbage", "not a program"),
    ] {
        let error = start(program, false).await;
        assert!(
            matches!(&error, StartError::NotExecutable { why, .. } if why.contains(part)),
            "{program}: {error:?}"
        );
    }
    assert!(task.cgroups().iter().all(|dir| fs::read_dir(dir).unwrap().all(|e| !e.unwrap().path().is_dir())));
    task.release().await;
}

async fn unsupported_specs(fixture: &Fixture) {
    let task = fixture.task().await;
    let check = async |what: &str, change: &dyn Fn(&mut neargate_driver::ContainerSpec)| {
        let (mut spec, _streams) = task.spec(&["true"]);
        change(&mut spec);
        let error = task.start(spec).await.map(|_| ()).unwrap_err();
        assert!(matches!(error, StartError::Unsupported { .. }), "{what}: {error:?}");
    };
    check("SYS_ADMIN", &|spec| spec.capabilities_add = vec!["SYS_ADMIN".to_owned()]).await;
    check("unknown capability", &|spec| spec.capabilities_drop = vec!["MAGIC".to_owned()]).await;
    check("unknown ulimit", &|spec| {
        spec.ulimits = vec![Ulimit { name: "magic".to_owned(), soft: 1, hard: 1 }];
    })
    .await;
    check("soft above hard", &|spec| {
        spec.ulimits = vec![Ulimit { name: "nofile".to_owned(), soft: 2, hard: 1 }];
    })
    .await;
    check("real-time priority", &|spec| {
        spec.ulimits = vec![Ulimit { name: "rtprio".to_owned(), soft: 0, hard: 1 }];
    })
    .await;
    check("NUL in argument", &|spec| spec.argv.push("a\0b".to_owned())).await;
    check("empty command", &|spec| spec.argv.clear()).await;
    check("relative target", &|spec| {
        let source = MountSource::Tmpfs { size_bytes: 4096, options: TmpfsOptions::default() };
        spec.mounts = vec![Mount { source, target: "x".into(), read_only: false }];
    })
    .await;
    let (mut spec, _streams) = task.spec(&["true"]);
    spec.rootfs = Rootfs::Layers(vec![]);
    assert!(matches!(task.start(spec).await.map(|_| ()), Err(StartError::InvalidImage { .. })));
    task.release().await;
}

async fn ulimits(fixture: &Fixture) {
    let task = fixture.task().await;
    let own = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum.unwrap_or(u64::MAX);
    let nofile = own.min(65_535);
    assert_eq!(task.sh("ulimit -n; ulimit -Hn; ulimit -c").await.text(), format!("{nofile}\n{nofile}\n0"));
    let set = |spec: &mut neargate_driver::ContainerSpec| {
        spec.ulimits = vec![Ulimit { name: "nofile".to_owned(), soft: 100, hard: 200 }];
    };
    assert_eq!(task.sh_with("ulimit -n; ulimit -Hn", set).await.text(), "100\n200");
    // Of core dumps: a limit of 1 byte is what stands for none wherever they go (row 76).
    let script = "ulimit -c 0; ulimit -c unlimited; grep 'core file' /proc/self/limits";
    let with_core = |limit: u64| {
        move |spec: &mut neargate_driver::ContainerSpec| {
            spec.ulimits = vec![Ulimit { name: "core".to_owned(), soft: limit, hard: limit }];
        }
    };
    let none = "Max core file size 1 1 bytes";
    let words = |text: String| text.split_whitespace().collect::<Vec<_>>().join(" ");
    assert_eq!(words(task.sh(script).await.text()), none);
    assert_eq!(words(task.sh_with(script, with_core(0)).await.text()), none);
    let pattern = fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap();
    if pattern.starts_with(['|', '@']) {
        let (mut spec, _streams) = task.spec(&["true"]);
        with_core(u64::MAX)(&mut spec);
        let refused = task.start(spec).await.map(|_| ());
        assert!(matches!(refused, Err(StartError::Unsupported { .. })), "{refused:?}");
    } else {
        let text = task.sh_with("grep 'core file' /proc/self/limits", with_core(u64::MAX)).await.text();
        assert_eq!(words(text), "Max core file size unlimited unlimited bytes");
    }
    task.release().await;
}

async fn many_layers(fixture: &Fixture) {
    let task = fixture.task().await;
    let mut layers = vec![fixture.rootfs()];
    for n in 1..100 {
        let dir = fixture.new_dir();
        fs::write(dir.join("top"), n.to_string()).unwrap();
        fs::write(dir.join(format!("layer-{n}")), "").unwrap();
        layers.push(dir);
    }
    let script = "cat /top; echo; ls -d /layer-* | wc -l";
    let output = task.sh_with(script, |spec| spec.rootfs = Rootfs::Layers(layers.clone())).await;
    assert_eq!(output.text(), "99\n99");
    task.release().await;
}

async fn layers_by_path(fixture: &Fixture) {
    let task = fixture.task_on(&fixture.old_client, Limits::default()).await;
    let mut layers = vec![fixture.rootfs()];
    for n in 1..20 {
        let dir = fixture.new_dir();
        fs::write(dir.join("top"), n.to_string()).unwrap();
        layers.push(dir);
    }
    let script = "cat /top; echo x > /new; stat -c ' %u' /new; ls /";
    let output = task.sh_with(script, |spec| spec.rootfs = Rootfs::Layers(layers.clone())).await;
    assert!(output.text().starts_with("19 0\n"), "{} {}", output.text(), output.errors());
    task.release().await;
}

async fn row_23_large_arguments(fixture: &Fixture) {
    let task = fixture.task().await;
    let long = "x".repeat(100_000);
    let (spec, streams) = task.spec(&["sh", "-c", "echo ${#1} ${#2}", "sh", &long, &long]);
    assert_eq!(task.run(spec, streams).await.unwrap().text(), "100000 100000");
    let too_long = "x".repeat(1_000_000);
    let (spec, _streams) = task.spec(&["echo", &too_long]);
    let error = task.start(spec).await.map(|_| ()).unwrap_err();
    assert!(matches!(&error, StartError::NotExecutable { why, .. } if why.contains("too long")), "{error:?}");
    let huge = "x".repeat(20_000_000);
    let (spec, _streams) = task.spec(&["echo", &huge]);
    assert!(task.start(spec).await.is_err());
    assert_eq!(task.sh("echo still here").await.text(), "still here");
    task.release().await;
}

async fn network_files(fixture: &Fixture) {
    let task = fixture.task().await;
    let script = "hostname; cat /etc/hostname /etc/resolv.conf; grep -c 127.0.0.1 /etc/hosts";
    let expect = format!("{HOSTNAME}\n{HOSTNAME}\nnameserver 192.0.2.53\n2");
    assert_eq!(task.sh(script).await.text(), expect);
    assert_eq!(task.sh_with(script, |spec| spec.read_only_root = true).await.text(), expect);
    task.release().await;
}

async fn read_only_root(fixture: &Fixture) {
    let task = fixture.task().await;
    let script =
        "touch /x 2>/dev/null; echo $?; touch /tmp/x 2>/dev/null; echo $?; touch /dev/shm/x; echo $?";
    assert_eq!(task.sh_with(script, |spec| spec.read_only_root = true).await.text(), "1\n1\n0");
    assert_eq!(task.sh("touch /x; echo $?").await.text(), "0");
    assert!(!fixture.rootfs().join("x").exists(), "a container wrote into its image");
    task.release().await;
}

async fn tmpfs_mount(fixture: &Fixture) {
    let task = fixture.task().await;
    let mount = |target: &str, read_only| Mount {
        source: MountSource::Tmpfs { size_bytes: 1024 * 1024, options: TmpfsOptions::default() },
        target: target.into(),
        read_only,
    };
    let script = "grep ' /new/dir ' /proc/mounts; head -c 2000000 /dev/zero > /new/dir/big; stat -c %s /new/dir/big; touch /ro/x";
    let mounts = vec![mount("/new/dir", false), mount("/ro", true)];
    let output = task.sh_with(script, |spec| spec.mounts = mounts.clone()).await;
    let text = output.text();
    assert!(text.contains("nosuid,nodev") && text.ends_with("\n1048576"), "{text}");
    let errors = output.errors();
    assert!(errors.contains("Read-only file system"), "{errors}");
    task.release().await;
}

async fn tmpfs_options(fixture: &Fixture) {
    let task = fixture.task().await;
    let mount = |options: TmpfsOptions| Mount {
        source: MountSource::Tmpfs { size_bytes: 1024 * 1024, options },
        target: "/t".into(),
        read_only: false,
    };
    let script = "stat -c '%a %u %g' /t; \
                  grep -o ' /t .*' /proc/mounts; printf '#!/bin/sh\necho ran\n' > /t/run; chmod 755 /t/run; /t/run";
    let output = task.sh_with(script, |spec| spec.mounts = vec![mount(TmpfsOptions::default())]).await;
    assert!(output.text().starts_with("1777 0 0\n"), "{output:?}");
    assert!(output.text().contains("nosuid,nodev,noexec"), "{output:?}");
    assert!(output.errors().contains("Permission denied") && !output.text().contains("ran"), "{output:?}");
    let options = TmpfsOptions { exec: true, mode: Some(0o750), uid: 1000, gid: 1001, inodes_max: Some(4) };
    let output = task.sh_with(script, |spec| spec.mounts = vec![mount(options.clone())]).await;
    assert!(output.text().starts_with("750 1000 1001\n") && output.text().ends_with("\nran"), "{output:?}");
    assert!(output.text().contains("nosuid,nodev") && !output.text().contains("noexec"), "{output:?}");
    let full = "touch /t/1 /t/2 /t/3 && touch /t/4; echo $?";
    let output = task.sh_with(full, |spec| spec.mounts = vec![mount(options)]).await;
    assert_eq!(output.text(), "1", "the root and three files are all of four: {output:?}");
    task.release().await;
}

async fn shared_memory(fixture: &Fixture) {
    let task = fixture.task().await;
    let script = "head -c 100000000 /dev/zero > /dev/shm/x 2>/dev/null; stat -c %s /dev/shm/x; grep -o ' /dev/shm .*' /proc/mounts";
    for (shm_bytes, expect) in [(None, 64 << 20), (Some(1 << 20), 1 << 20), (Some(80 << 20), 80 << 20)] {
        let output = task.sh_with(script, |spec| spec.shm_bytes = shm_bytes).await;
        assert_eq!(output.text().lines().next(), Some(&*expect.to_string()), "{output:?}");
        assert!(output.text().contains("nosuid,nodev,noexec"), "{output:?}");
    }
    task.release().await;
}

fn host_mounts(source: &std::path::Path, read_only: bool) -> Vec<Mount> {
    vec![Mount { source: MountSource::Host(source.to_owned()), target: "/vol".into(), read_only }]
}

/// A container's files on the host never belong to host root, and outlive the task's own id range.
async fn host_mount(fixture: &Fixture) {
    let volume = fixture.new_dir();
    std::os::unix::fs::chown(&volume, Some(4321), Some(4322)).unwrap();
    let task = fixture.task().await;
    let script =
        "stat -c %u:%g /vol; echo one > /vol/root; echo two > /vol/other; chown 1000:1001 /vol/other";
    let output = task.sh_with(script, |spec| spec.mounts = host_mounts(&volume, false)).await;
    assert_eq!(output.text(), "0:0", "{}", output.errors());
    task.release().await;
    let owner = |name: &str| {
        let metadata = fs::metadata(volume.join(name)).unwrap();
        (metadata.uid(), metadata.gid())
    };
    assert_eq!(owner("root"), (4321, 4322));
    assert_eq!(owner("other"), (DEFAULT_ID_BASE + 1000, DEFAULT_ID_BASE + 1001));
    let task = fixture.task().await;
    let script = "cat /vol/root; stat -c %u:%g /vol/other; touch /vol/x";
    let output = task.sh_with(script, |spec| spec.mounts = host_mounts(&volume, true)).await;
    assert_eq!(output.text(), "one\n1000:1001");
    assert!(output.errors().contains("Read-only file system"), "{}", output.errors());
    let ours = fixture.new_dir();
    fs::set_permissions(&ours, PermissionsExt::from_mode(0o777)).unwrap();
    let script = "touch /vol/x; stat -c %u /vol";
    let output = task.sh_with(script, |spec| spec.mounts = host_mounts(&ours, false)).await;
    assert_eq!((output.text().as_str(), fs::read_dir(&ours).unwrap().count()), ("65534", 0), "{output:?}");
    task.release().await;
}

async fn file_mount(fixture: &Fixture) {
    let task = fixture.task().await;
    let file = fixture.new_dir().join("file");
    fs::write(&file, "content").unwrap();
    let mount = Mount { source: MountSource::Host(file), target: "/a/b/file".into(), read_only: true };
    let output = task.sh_with("cat /a/b/file", |spec| spec.mounts = vec![mount]).await;
    assert_eq!(output.text(), "content");
    task.release().await;
}

async fn missing_mount_source(fixture: &Fixture) {
    let task = fixture.task().await;
    let missing = fixture.directory.join("missing");
    let (mut spec, _streams) = task.spec(&["true"]);
    spec.mounts = host_mounts(&missing, false);
    match task.start(spec).await.map(|_| ()) {
        Err(StartError::Mount { source_path, target, source }) => {
            assert_eq!((source_path, target.to_str()), (missing, Some("/vol")));
            assert_eq!(source.kind(), std::io::ErrorKind::NotFound);
        }
        other => panic!("{other:?}"),
    }
    task.release().await;
}

async fn localhost_is_shared(fixture: &Fixture) {
    let task = fixture.task().await;
    // Port 80: root of a container has no rights over the network namespace, yet low ports are open.
    let serve = "mkdir /www; echo hello > /www/f; httpd -p 127.0.0.1:80 -h /www; echo ready; cat";
    let (server, streams) = task.start_ready(serve, |_| {}).await;
    assert_eq!(task.sh("wget -q -O - http://127.0.0.1:80/f").await.text(), "hello");
    let other = fixture.task().await;
    assert_ne!(other.sh("wget -q -O - http://127.0.0.1:80/f").await.code(), Some(0));
    server.signal(Signal::Kill).await.unwrap();
    assert_eq!(server.wait().await.code, Some(137));
    drop(streams);
    task.release().await;
    other.release().await;
}

async fn exec_in_container(fixture: &Fixture) {
    let task = fixture.task().await;
    let (handle, streams) = task
        .start_ready("echo $$ > /tmp/pid; echo ready; cat", |spec| {
            spec.env.push(("GIVEN".to_owned(), "yes".to_owned()));
            spec.user = Some("web".to_owned());
        })
        .await;
    let (stdio, ours) = Streams::new();
    let script = "cat /tmp/pid; echo $GIVEN $ADDED; id -u; hostname; grep -E 'CapBnd|Seccomp:|NoNewPrivs' /proc/self/status; \
        ls /proc | grep -c '^[0-9]'; cat /proc/self/cgroup > /tmp/a; cat /proc/1/cgroup > /tmp/b; cmp /tmp/a /tmp/b && echo same; exit 5";
    let mut spec = exec_spec(&["sh", "-c", script], Some(stdio));
    spec.env.push(("ADDED".to_owned(), "too".to_owned()));
    let (exit, (stdout, stderr)) = tokio::join!(handle.exec(spec), ours.read());
    let stdout = String::from_utf8(stdout).unwrap();
    let lines: Vec<&str> = stdout.split_whitespace().collect();
    assert_eq!(exit.unwrap().code, Some(5), "{stdout} {}", String::from_utf8_lossy(&stderr));
    let expect = [
        "1",
        "yes",
        "too",
        "1000",
        HOSTNAME,
        "CapBnd:",
        "00000000800405fb",
        "NoNewPrivs:",
        "1",
        "Seccomp:",
        "2",
    ];
    assert_eq!(&lines[..11], &expect);
    assert_eq!(lines.last(), Some(&"same"));
    assert_eq!(handle.exec(exec_spec(&["true"], None)).await.unwrap().code, Some(0));
    drop(streams);
    assert_eq!(handle.wait().await.code, Some(0));
    let after = handle.exec(exec_spec(&["true"], None)).await;
    assert!(matches!(after, Err(ExecError::NotRunning)), "{after:?}");
    task.release().await;
}

async fn exec_timeout(fixture: &Fixture) {
    let task = fixture.task().await;
    let (handle, _streams) = task.start_ready("echo ready; cat", |_| {}).await;
    let mut spec = exec_spec(&["sh", "-c", "sleep 100 & sleep 100"], None);
    spec.timeout = Duration::from_millis(150);
    let begun = Instant::now();
    let exit = handle.exec(spec).await.unwrap();
    assert_eq!(exit.code, None);
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    let (stdio, ours) = Streams::new();
    let spec = exec_spec(&["sh", "-c", "ps -o stat,comm | grep sleep | grep -vc Z"], Some(stdio));
    let (_, (stdout, _)) = tokio::join!(handle.exec(spec), ours.read());
    assert_eq!(stdout, b"0\n", "what the command had started lives on");
    task.release().await;
}

async fn exec_failures(fixture: &Fixture) {
    let task = fixture.task().await;
    let (handle, _streams) = task.start_ready("echo ready; cat", |_| {}).await;
    let error = handle.exec(exec_spec(&["nothing"], None)).await.unwrap_err();
    assert!(matches!(error, ExecError::Start(StartError::NotFound { .. })), "{error:?}");
    let error = handle.exec(exec_spec(&["/data"], None)).await.unwrap_err();
    assert!(matches!(error, ExecError::Start(StartError::NotExecutable { .. })), "{error:?}");
    task.release().await;
}

async fn stop_and_kill(fixture: &Fixture) {
    let task = fixture.task().await;
    let (polite, _a) =
        task.start_ready("trap 'exit 9' TERM; echo ready; while :; do sleep 0.01; done", |_| {}).await;
    polite.signal(Signal::Stop(15)).await.unwrap();
    assert_eq!(polite.wait().await.code, Some(9));
    polite.signal(Signal::Stop(15)).await.unwrap();
    polite.signal(Signal::Kill).await.unwrap();
    let (deaf, _b) = task.start_ready("trap '' TERM; echo ready; cat", |_| {}).await;
    deaf.signal(Signal::Stop(15)).await.unwrap();
    let waited = tokio::time::timeout(Duration::from_millis(50), deaf.wait()).await;
    assert!(waited.is_err(), "it ended by a signal that it ignores");
    deaf.signal(Signal::Kill).await.unwrap();
    assert_eq!(deaf.wait().await.code, Some(137));
    assert!(deaf.signal(Signal::Stop(-1)).await.is_ok(), "an ended container takes any signal");
    task.release().await;
}

async fn init_reaps_and_forwards(fixture: &Fixture) {
    let task = fixture.task().await;
    let output = task
        .sh_with(
            "echo $$; (sleep 0.01 &); sleep 0.1; ps -o pid,stat | grep -c Z; readlink /proc/1/fd/3",
            |spec| {
                spec.init = true;
            },
        )
        .await;
    assert_eq!(output.text(), "2\n0", "own pid, zombies, and descriptors of PID 1");
    let script = "trap 'exit 11' USR1; echo ready; while :; do sleep 0.01; done";
    let (handle, _streams) = task.start_ready(script, |spec| spec.init = true).await;
    handle.signal(Signal::Stop(10)).await.unwrap();
    assert_eq!(handle.wait().await.code, Some(11));
    let (handle, _streams) = task.start_ready("echo ready; exec cat", |spec| spec.init = true).await;
    handle.signal(Signal::Stop(15)).await.unwrap();
    assert_eq!(handle.wait().await.code, Some(143), "with init, the default action of TERM works");
    task.release().await;
}

async fn stats(fixture: &Fixture) {
    let task = fixture.task().await;
    let script = "i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done; head -c 8000000 /dev/zero > /dev/shm/x; echo ready; cat";
    let (handle, streams) = task.start_ready(script, |_| {}).await;
    let stats = handle.stats().await.unwrap();
    assert!(stats.cpu_ns > 5_000_000, "{stats:?}");
    assert!(stats.memory_bytes > 8_000_000, "{stats:?}");
    assert!(stats.memory_peak_bytes >= stats.memory_bytes, "{stats:?}");
    assert_eq!(stats.pids, 1, "the shell has become cat");
    drop(streams);
    handle.wait().await;
    let last = handle.stats().await.unwrap();
    assert!(last.cpu_ns >= stats.cpu_ns && last.memory_peak_bytes >= stats.memory_peak_bytes, "{last:?}");
    task.release().await;
}

async fn recover(fixture: &Fixture) {
    let task = fixture.task().await;
    let (mut spec, streams) = task.spec(&["cat"]);
    spec.working_dir = "/tmp".into();
    let id = spec.id.clone();
    assert!(fixture.client.recover(&id).await.unwrap().is_none());
    drop(task.start(spec).await.unwrap());
    let found = fixture.client.recover(&id).await.unwrap().expect("a container that runs is found");
    drop(streams);
    assert_eq!(found.handle.wait().await.code, Some(0));
    task.release().await;
    assert!(fixture.client.recover(&id).await.unwrap().is_none());
}

async fn restart_with_same_id(fixture: &Fixture) {
    let task = fixture.task().await;
    let (spec, streams) = task.spec(&["cat"]);
    let id = spec.id.clone();
    let first = task.start(spec).await.unwrap();
    let (mut twin, _twin_streams) = task.spec(&["true"]);
    twin.id = id.clone();
    assert!(task.start(twin).await.is_err(), "one id ran twice at once");
    drop(streams);
    assert_eq!(first.wait().await.code, Some(0));
    let (mut again, streams) = task.spec(&["sh", "-c", "exit 4"]);
    again.id = id;
    assert_eq!(task.run(again, streams).await.unwrap().code(), Some(4));
    assert_eq!(first.wait().await.code, Some(0), "the first run keeps its own end");
    task.release().await;
}

async fn starts_are_concurrent(fixture: &Fixture) {
    let task = fixture.task().await;
    let runs: Vec<_> = (0..40)
        .map(|n| {
            let (spec, streams) = task.spec(&["sh", "-c", &format!("echo {n}; exit {n}")]);
            let task = &task;
            async move { task.run(spec, streams).await.unwrap() }
        })
        .collect();
    let mut outputs = Vec::new();
    let mut running: Vec<std::pin::Pin<Box<dyn Future<Output = Output> + '_>>> =
        runs.into_iter().map(|run| Box::pin(run) as _).collect();
    std::future::poll_fn(|context| {
        running.retain_mut(|run| match run.as_mut().poll(context) {
            std::task::Poll::Ready(output) => {
                outputs.push(output);
                false
            }
            std::task::Poll::Pending => true,
        });
        if running.is_empty() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
    let mut codes: Vec<_> = outputs.iter().map(|output| output.code().unwrap()).collect();
    codes.sort_unstable();
    assert_eq!(codes, (0..40).collect::<Vec<_>>());
    assert!(outputs.iter().all(|output| output.text() == output.code().unwrap().to_string()));
    task.release().await;
}

async fn prepare_is_idempotent(fixture: &Fixture) {
    let task = fixture.task().await;
    let (handle, _streams) = task.start_ready("echo ready; cat", |_| {}).await;
    let spec = SandboxSpec {
        task: task.sandbox.task.clone(),
        hostname: "another".to_owned(),
        limits: Limits::default(),
        linux: true,
        network: Default::default(),
        sharing: Default::default(),
    };
    SandboxHost::prepare(&fixture.client, &spec).await.unwrap();
    assert_eq!(task.sh("hostname").await.text(), HOSTNAME);
    assert!(tokio::time::timeout(Duration::from_millis(20), handle.wait()).await.is_err());
    task.release().await;
    task.release().await;
    let (spec, _streams) = task.spec(&["true"]);
    assert!(task.start(spec).await.is_err(), "a released sandbox is gone");
}

async fn release_kills_everything(fixture: &Fixture) {
    let task = fixture.task().await;
    let script = "trap '' TERM INT HUP; (setsid sh -c 'while :; do sleep 1; done' &); echo ready; cat";
    let (one, _a) = task.start_ready(script, |_| {}).await;
    let (two, _b) = task.start_ready(script, |spec| spec.init = true).await;
    let exec = one.exec(exec_spec(&["sleep", "100"], None));
    let release = async {
        tokio::task::yield_now().await;
        task.release().await;
    };
    let (exec, ()) = tokio::join!(exec, release);
    assert!(exec.is_err() || exec.is_ok_and(|exit| exit.code == Some(137)));
    assert_eq!((one.wait().await.code, two.wait().await.code), (Some(137), Some(137)));
    assert_eq!(task.cgroups(), Vec::<std::path::PathBuf>::new());
}

async fn wasm_only_sandbox(fixture: &Fixture) {
    let task = fixture.task().await.sandbox.task;
    fixture.client.release(&task).await.unwrap();
    let spec = SandboxSpec {
        task,
        hostname: "x".to_owned(),
        limits: Limits::default(),
        linux: false,
        network: Default::default(),
        sharing: Default::default(),
    };
    let sandbox = SandboxHost::prepare(&fixture.client, &spec).await.unwrap();
    fixture.client.release(&sandbox.task).await.unwrap();
}
