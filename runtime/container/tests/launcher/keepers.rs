//! Processes that keep files of foreign owners: the rights that they have, and that these end at their mounts.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};

use neargate_driver::{ProcessError, ProcessMount, ProcessRole, ProcessSpec, ProcessUser};

use crate::cases;
use crate::cases::status;
use crate::fixture::{Fixture, Mode};

cases![
    keepers_take_root,
    root_goes_to_no_other_role,
    keepers_stay_where_the_policy_says,
    keepers_have_rights_over_files_alone,
    keepers_reach_foreign_files_of_their_mounts,
    keepers_reach_closed_files_of_an_ordinary_user,
    keepers_make_what_layers_need,
    dangerous_calls_kill_keepers,
];

/// Of the keeper CHOWN, DAC_OVERRIDE and FOWNER; of the unpacker also FSETID, SYS_ADMIN and SETFCAP.
const KEEPERS: [(ProcessRole, u64); 2] =
    [(ProcessRole::FileKeeper, 0xb), (ProcessRole::Unpacker, 0x8020_001b)];

/// Somebody else than all users of the tests.
const STRANGER: u32 = 4711;

fn keeper(spec: &mut ProcessSpec, role: ProcessRole) {
    (spec.role, spec.user) = (role, ProcessUser::Root);
}

fn keepers_take_root(fixture: &Fixture) {
    for (role, _) in KEEPERS {
        let mut spec = fixture.spec("exit 0");
        keeper(&mut spec, role);
        match (fixture.mode, fixture.spawn(spec)) {
            (Mode::Root, Ok(process)) => assert_eq!(fixture.block_on(process.wait()).code, 0),
            // Over the user's own files.
            (Mode::Ordinary, Ok(process)) if role == ProcessRole::FileKeeper => {
                assert_eq!(fixture.block_on(process.wait()).code, 0);
            }
            (Mode::Ordinary | Mode::NoNamespaces, Err(ProcessError::Unsupported { .. })) => {}
            (_, other) => panic!("{role:?}: {:?}", other.err()),
        }
    }
}

fn root_goes_to_no_other_role(fixture: &Fixture) {
    for role in [ProcessRole::WasmWorker, ProcessRole::WasmCompiler] {
        let mut spec = fixture.spec("exit 0");
        keeper(&mut spec, role);
        assert!(fixture.spawn(spec).is_err(), "{role:?}");
    }
    for (role, _) in KEEPERS {
        for user in [ProcessUser::Nobody, ProcessUser::Volumes, ProcessUser::Invoker] {
            let mut spec = fixture.spec("exit 0");
            (spec.role, spec.user) = (role, user);
            assert!(fixture.spawn(spec).is_err(), "{role:?} as {user:?}");
        }
    }
}

fn keepers_stay_where_the_policy_says(fixture: &Fixture) {
    let kept = fixture.mount("kept", false);
    let above = kept.source.join("../../../etc");
    for source in ["/etc".into(), "/".into(), std::env::temp_dir().join(".."), above] {
        for (role, _) in KEEPERS {
            let mut spec = fixture.spec("exit 0");
            keeper(&mut spec, role);
            spec.mounts.push(ProcessMount {
                source: source.clone(),
                name: "data".to_owned(),
                read_only: false,
            });
            assert!(fixture.spawn(spec).is_err(), "{role:?}: {}", source.display());
        }
    }
}

fn keepers_have_rights_over_files_alone(fixture: &Fixture) {
    if fixture.mode != Mode::Root {
        return;
    }
    for (role, capabilities) in KEEPERS {
        let waiting = fixture.wait_with(&fixture.client, |spec| keeper(spec, role));
        let pid = waiting.process.id();
        for key in ["CapPrm", "CapEff"] {
            assert_eq!(status(pid, key), format!("{capabilities:016x}"), "{role:?}: {key}");
        }
        for key in ["CapInh", "CapBnd", "CapAmb"] {
            assert_eq!(status(pid, key), "0000000000000000", "{role:?}: {key}");
        }
        assert_eq!((status(pid, "NoNewPrivs"), status(pid, "Seccomp")), ("1".to_owned(), "2".to_owned()));
        assert_eq!((status(pid, "Uid"), status(pid, "Groups")), ("0 0 0 0".to_owned(), String::new()));
        let link = |pid: u32, kind: &str| fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap();
        let own = std::process::id();
        for kind in ["pid", "mnt", "ipc", "uts", "net"] {
            assert_ne!(link(pid, kind), link(own, kind), "{role:?}: {kind}");
        }
        assert_eq!(link(pid, "user"), link(own, "user"), "{role:?}");
        let mounts = fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap();
        assert_eq!(mounts.lines().count(), 1, "{mounts}");
        let score = fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).unwrap();
        assert!(score.trim().parse::<i32>().unwrap() >= 0, "{score}");
    }
}

fn keepers_reach_foreign_files_of_their_mounts(fixture: &Fixture) {
    if fixture.mode != Mode::Root {
        return;
    }
    let mount = fixture.mount("kept", false);
    let file = mount.source.join("foreign");
    let closed = |mode| {
        fs::write(&file, "content").unwrap();
        chown(&file, Some(STRANGER), Some(STRANGER)).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
    };
    for (role, _) in KEEPERS {
        closed(0);
        let check = |probe: &str, expect: &[&str]| {
            let found = fixture.try_with(probe, |spec| {
                keeper(spec, role);
                spec.mounts.push(fixture.mount("kept", false));
            });
            assert!(expect.contains(&found.text.as_str()), "{role:?}, {probe}: {found:?}");
        };
        check("open /kept/foreign", &["ok"]);
        check("own /kept/foreign", &["ok"]);
        let found = fs::metadata(&file).unwrap();
        assert_eq!((found.uid(), found.mode() & 0o7777), (1, 0), "{role:?}");
        check("unlink /kept/foreign", &["ok"]);
        for path in ["/etc/passwd", "/proc/self/status", "/kept/absolute", "/kept/../etc/passwd"] {
            check(&format!("open {path}"), &["ENOENT", "EACCES"]);
        }
        check("create /new", &["EACCES", "EROFS"]);
        let found = fixture.try_with("create /more/new", |spec| {
            keeper(spec, role);
            spec.mounts.push(fixture.mount("more", true));
        });
        assert!(["EROFS", "EACCES"].contains(&found.text.as_str()), "{role:?}: {found:?}");
    }
}

/// What a container has closed, whose root is the user.
fn keepers_reach_closed_files_of_an_ordinary_user(fixture: &Fixture) {
    if fixture.mode != Mode::Ordinary {
        return;
    }
    let mount = fixture.mount("kept", false);
    let closed = mount.source.join("closed");
    fs::create_dir(&closed).unwrap();
    fs::write(closed.join("file"), "content").unwrap();
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o000)).unwrap();
    assert!(fs::read_dir(&closed).is_err());
    for (probe, expect) in [
        ("open /kept/closed/file", "ok"),
        ("own /kept/closed/file", "Some(22)"),
        ("open /etc/passwd", "ENOENT"),
    ] {
        let found = fixture.try_with(probe, |spec| {
            keeper(spec, ProcessRole::FileKeeper);
            spec.mounts.push(fixture.mount("kept", false));
        });
        assert_eq!(found.text, expect, "{probe}: {found:?}");
    }
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o700)).unwrap();
}

fn keepers_make_what_layers_need(fixture: &Fixture) {
    if fixture.mode != Mode::Root {
        return;
    }
    let check = |role, probe: &str, expect: &str| {
        let found = fixture.try_with(probe, |spec| {
            keeper(spec, role);
            spec.mounts.push(fixture.mount("layer", false));
        });
        let killed = if expect.is_empty() { crate::probes::KILLED } else { 0 };
        assert_eq!((found.text.as_str(), found.exit.code), (expect, killed), "{role:?}, {probe}");
    };
    let node = |kind: u32, device: u64| format!("node {kind} {device}");
    check(ProcessRole::Unpacker, &node(libc::S_IFCHR, 0), "ok");
    check(ProcessRole::Unpacker, &node(libc::S_IFIFO, 0), "ok");
    check(ProcessRole::Unpacker, &node(libc::S_IFCHR, libc::makedev(1, 1)), "EPERM");
    check(ProcessRole::Unpacker, &node(libc::S_IFBLK, 0), "EPERM");
    check(ProcessRole::Unpacker, "opaque /layer", "ok");
    check(ProcessRole::FileKeeper, &node(libc::S_IFCHR, 0), "");
    check(ProcessRole::FileKeeper, "opaque /layer", "EPERM");
}

fn dangerous_calls_kill_keepers(fixture: &Fixture) {
    if fixture.mode != Mode::Root {
        return;
    }
    for number in [
        libc::SYS_execve,
        libc::SYS_ptrace,
        libc::SYS_mount,
        libc::SYS_umount2,
        libc::SYS_move_mount,
        libc::SYS_open_tree,
        libc::SYS_fsopen,
        libc::SYS_pivot_root,
        libc::SYS_chroot,
        libc::SYS_unshare,
        libc::SYS_setns,
        libc::SYS_setuid,
        libc::SYS_capset,
        libc::SYS_bpf,
        libc::SYS_open_by_handle_at,
        libc::SYS_swapoff,
        libc::SYS_sethostname,
        libc::SYS_quotactl,
    ] {
        for (role, _) in KEEPERS {
            let found = fixture.try_with(&format!("call {number} 0 0 0 0 0"), |spec| keeper(spec, role));
            assert_eq!(
                (found.text.as_str(), found.exit.code),
                ("", crate::probes::KILLED),
                "{role:?}, call {number}"
            );
        }
    }
}
