use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::process::Command;

use neargate_image::{Limits, Ownership, Reason, UnpackError, Unpacked, unpack};
use neargate_model::chain;
use proptest::prelude::*;
use tar::EntryType;
use tempfile::TempDir;

use crate::build::{self, dir, file, hard_link, of_type, symlink, tar};

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn ownership() -> Ownership {
    if is_root() { Ownership::Preserve } else { Ownership::Caller }
}

fn opaque_name() -> &'static str {
    if is_root() { "trusted.overlay.opaque" } else { "user.overlay.opaque" }
}

/// Unpacks below `outside/root`, and asserts that nothing outside the root has changed.
fn unpack_with(bytes: &[u8], limits: &Limits) -> (TempDir, Result<Unpacked, UnpackError>) {
    let outside = tempfile::tempdir().unwrap();
    fs::create_dir(outside.path().join("root")).unwrap();
    fs::create_dir(outside.path().join("etc")).unwrap();
    fs::write(outside.path().join("etc/shadow"), "secret").unwrap();
    let root = File::open(outside.path().join("root")).unwrap();
    let result = unpack(bytes, root.as_fd(), limits, ownership());
    let names = |p: &Path| {
        fs::read_dir(p).unwrap().map(|e| e.unwrap().file_name()).collect::<std::collections::BTreeSet<_>>()
    };
    assert_eq!(names(outside.path()), ["etc", "root"].map(Into::into).into());
    assert_eq!(names(&outside.path().join("etc")), ["shadow"].map(Into::into).into());
    assert_eq!(fs::read(outside.path().join("etc/shadow")).unwrap(), b"secret");
    assert_eq!(fs::metadata(outside.path().join("etc/shadow")).unwrap().nlink(), 1);
    (outside, result)
}

fn accept(entries: &[build::Entry]) -> TempDir {
    let bytes = tar(entries);
    let (outside, result) = unpack_with(&bytes, &Limits::default());
    let unpacked = result.unwrap_or_else(|e| panic!("{}", chain(&e)));
    assert_eq!(unpacked.diff_id.to_string(), build::digest(&bytes));
    outside
}

fn refuse(entries: &[build::Entry], expect: Reason) {
    refuse_bytes(&tar(entries), expect);
}

fn refuse_bytes(bytes: &[u8], expect: Reason) {
    match unpack_with(bytes, &Limits::default()).1 {
        Err(UnpackError::Member { reason, .. }) => assert_eq!(reason, expect),
        other => panic!("{expect:?}: {other:?}"),
    }
}

fn is_whiteout(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|m| m.file_type().is_char_device() && m.rdev() == 0)
}

fn xattr(path: &Path, name: &str) -> Option<Vec<u8>> {
    let mut value = vec![0; 64];
    let n = rustix::fs::lgetxattr(path, name, value.as_mut_slice()).ok()?;
    value.truncate(n);
    Some(value)
}

#[test]
fn files_directories_links_modes_and_times() {
    let mut suid = file("bin/su", b"su");
    suid.mode = 0o4755;
    let mut locked = dir("locked");
    locked.mode = 0o500;
    let mut fraction = file("t", b"");
    fraction.pax.push(("mtime".into(), b"12.5".to_vec()));
    let out = accept(&[
        suid,
        hard_link("bin/sudo", "bin/su"),
        symlink("sh", "../../no/../where//"),
        locked,
        file("locked/in", b"x"),
        fraction,
        file(&"long/".repeat(60), b""),
        file("./a//b/./c", b"c"),
    ]);
    let root = out.path().join("root");
    let su = fs::metadata(root.join("bin/su")).unwrap();
    assert_eq!((su.mode() & 0o7777, su.nlink(), su.mtime()), (0o4755, 2, 1_000_000_000));
    assert_eq!(fs::metadata(root.join("bin")).unwrap().mode() & 0o7777, 0o755);
    assert_eq!(fs::read_link(root.join("sh")).unwrap(), Path::new("../../no/../where//"));
    let locked = fs::metadata(root.join("locked")).unwrap();
    assert_eq!((locked.mode() & 0o7777, locked.mtime()), (0o500, 1_000_000_000));
    assert_eq!(fs::read(root.join("locked/in")).unwrap(), b"x");
    let t = fs::metadata(root.join("t")).unwrap();
    assert_eq!((t.mtime(), t.mtime_nsec()), (12, 500_000_000));
    assert!(root.join("long/".repeat(60)).is_dir());
    assert_eq!(fs::read(root.join("a/b/c")).unwrap(), b"c");
}

#[test]
fn later_members_replace_earlier_ones() {
    let out = accept(&[
        file("a", b"1"),
        file("a", b"2"),
        dir("d"),
        file("d/x", b""),
        file("d", b"3"),
        file("e", b""),
        dir("e"),
        file("e/y", b"4"),
        symlink("f", "/etc"),
        dir("f"),
        file("f/z", b"5"),
    ]);
    let root = out.path().join("root");
    for (path, expect) in [("a", "2"), ("d", "3"), ("e/y", "4"), ("f/z", "5")] {
        assert_eq!(fs::read_to_string(root.join(path)).unwrap(), expect);
    }
}

#[test]
fn compressed_layers_have_the_digest_of_what_is_in_them() {
    let plain = tar(&[file("a", b"1")]);
    let (head, tail) = plain.split_at(700);
    let two_members = [build::gzip(head), build::gzip(tail)].concat();
    let two_frames = [build::zstd(head), build::zstd(tail)].concat();
    for bytes in [&plain, &build::gzip(&plain), &build::zstd(&plain), &two_members, &two_frames] {
        let (out, result) = unpack_with(bytes, &Limits::default());
        assert_eq!(result.unwrap().diff_id.to_string(), build::digest(&plain));
        assert_eq!(fs::read(out.path().join("root/a")).unwrap(), b"1");
    }
    let truncated = &build::gzip(&plain)[..60];
    assert!(matches!(unpack_with(truncated, &Limits::default()).1, Err(UnpackError::Read { .. })));
    assert!(matches!(unpack_with(b"BZh91AY&SY", &Limits::default()).1, Err(UnpackError::Read { .. })));
}

#[test]
fn row_01_parent_directories_are_refused() {
    for path in ["../../etc/cron.d/x", "..", "a/../../etc/x", "a/..", "/../etc/x"] {
        refuse(&[file(path, b"x")], Reason::DotDot);
        refuse(&[dir(path)], Reason::DotDot);
        refuse(&[symlink(path, "x")], Reason::DotDot);
    }
    refuse(&[symlink("./", "x")], Reason::Root);
}

#[test]
fn row_02_absolute_paths_stay_inside() {
    let out = accept(&[file("/etc/passwd", b"in")]);
    assert_eq!(fs::read(out.path().join("root/etc/passwd")).unwrap(), b"in");
}

#[test]
fn row_03_nothing_is_written_through_a_symbolic_link() {
    for target in ["/etc", "../etc", "/", ".", "..", "/proc/self/cwd", "a"] {
        refuse(&[symlink("a", target), file("a/shadow", b"x")], Reason::SymlinkParent);
        refuse(&[symlink("a", target), dir("a/b")], Reason::SymlinkParent);
        refuse(&[symlink("a", target), symlink("a/b", "x")], Reason::SymlinkParent);
        refuse(&[symlink("a", target), file("a/.wh.shadow", b"")], Reason::SymlinkParent);
        refuse(&[symlink("a", target), file("a/.wh..wh..opq", b"")], Reason::SymlinkParent);
        refuse(&[symlink("a", target), hard_link("b", "a/shadow")], Reason::LinkMissing);
        refuse(&[dir("d"), symlink("d/a", target), file("d/a/b/c", b"x")], Reason::SymlinkParent);
        refuse(
            &[dir("d"), file("d/x", b""), symlink("d", target), file("d/shadow", b"x")],
            Reason::SymlinkParent,
        );
    }
    // The file takes the place of the link, not of what it points to.
    let out = accept(&[symlink("a", "../etc/shadow"), file("a", b"new")]);
    assert!(fs::symlink_metadata(out.path().join("root/a")).unwrap().is_file());
    refuse(&[file("f", b""), file("f/x", b"")], Reason::FileParent);
}

#[test]
fn row_04_hard_links_stay_inside() {
    refuse(&[hard_link("a", "../../../../etc/shadow")], Reason::LinkDotDot);
    refuse(&[hard_link("a", "../etc/shadow")], Reason::LinkDotDot);
    refuse(&[hard_link("a", "/etc/shadow")], Reason::LinkMissing);
    refuse(&[hard_link("a", "")], Reason::LinkMissing);
    refuse(&[dir("d"), hard_link("a", "d")], Reason::LinkMissing);
    refuse(&[file(".wh.w", b""), hard_link("a", "w")], Reason::LinkMissing);
    // A link to a symbolic link is one to the link itself, so writing to it replaces the name.
    let out = accept(&[symlink("s", "../etc/shadow"), hard_link("h", "s"), file("h", b"x")]);
    assert!(fs::symlink_metadata(out.path().join("root/h")).unwrap().is_file());
    accept(&[file("f", b"1"), hard_link("f", "f")]);
}

#[test]
fn row_06_hostile_whiteouts_are_refused() {
    for path in [".wh.", ".wh..", ".wh...", "a/.wh...", "a/.wh..", ".wh.x/y", "a/.wh.x/.wh.y"] {
        refuse(&[file(path, b"")], Reason::Whiteout);
    }
    refuse(&[file("../.wh.etc", b"")], Reason::DotDot);
    refuse(&[symlink("a", "../etc"), file("a/.wh..wh..opq", b"")], Reason::SymlinkParent);
    accept(&[file(".wh..wh.aufs", b"")]);
}

#[test]
fn row_06_opaque_root_is_only_that_layer() {
    let out = accept(&[file(".wh..wh..opq", b"")]);
    assert_eq!(xattr(&out.path().join("root"), opaque_name()).as_deref(), Some(&b"y"[..]));
    assert_eq!(xattr(&out.path().join("etc"), opaque_name()), None);
}

#[test]
fn row_07_whiteout_of_a_link_hides_the_link() {
    let out = accept(&[file("d/.wh.link", b""), dir("real"), symlink("s", "real"), file(".wh.s", b"")]);
    let root = out.path().join("root");
    assert!(is_whiteout(&root.join("d/link")));
    assert!(root.join("real").is_dir());
    // A whiteout hides lower layers only, so the link of this layer stays.
    assert_eq!(fs::read_link(root.join("s")).unwrap(), Path::new("real"));
}

#[test]
fn whiteout_and_directory_of_one_layer_make_an_opaque_directory() {
    for entries in [
        [file(".wh.d", b""), dir("d")],
        [dir("d"), file(".wh.d", b"")],
        [file(".wh.d", b""), file("d/f", b"")],
    ] {
        let out = accept(&entries);
        let path = out.path().join("root/d");
        assert!(path.is_dir());
        assert_eq!(xattr(&path, opaque_name()).as_deref(), Some(&b"y"[..]));
    }
}

/// Member names as GNU tar sees them; `None` if it is not installed.
fn gnu_tar(bytes: &[u8]) -> Option<Vec<String>> {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("a.tar"), bytes).unwrap();
    let out = Command::new("tar").arg("-tf").arg(dir.path().join("a.tar")).output();
    let Ok(out) = out else {
        eprintln!("SKIPPED: comparison with GNU tar, which is not installed");
        return None;
    };
    Some(String::from_utf8(out.stdout).unwrap().lines().map(str::to_owned).collect())
}

#[test]
fn row_08_pax_size_overrides_the_header() {
    // The header says 0 bytes and PAX 512: a reader that believes the header takes the data for a member.
    let hidden = build::header(&file("hidden", b""), 0).as_bytes().to_vec();
    let mut bytes = build::pax(&[("size".into(), b"512".to_vec())]);
    bytes.extend(build::header(&file("outer", b""), 0).as_bytes());
    bytes.extend(&hidden);
    bytes.extend(tar(&[file("last", b"z")]));
    let (out, result) = unpack_with(&bytes, &Limits::default());
    assert_eq!(result.unwrap().entries, 2);
    let root = out.path().join("root");
    assert_eq!(fs::read(root.join("outer")).unwrap(), hidden);
    assert!(root.join("last").exists() && !root.join("hidden").exists());
    if let Some(names) = gnu_tar(&bytes) {
        assert_eq!(names, ["outer", "last"]);
    }
}

#[test]
fn row_08_ambiguous_archives_are_refused() {
    let empty = |path: &str| build::header(&file(path, b""), 0).as_bytes().to_vec();
    let mut sized_link = symlink("a", "b");
    sized_link.data = vec![0; 512];
    refuse(&[sized_link], Reason::DataWithoutFile);
    let size = |v: &str| build::pax(&[("size".into(), v.as_bytes().to_vec())]);
    refuse_bytes(&[size("-1"), empty("a")].concat(), Reason::Pax);
    refuse_bytes(&[size("99999999999999999999"), empty("a")].concat(), Reason::Pax);
    refuse_bytes(&[size("0"), size("0"), empty("a")].concat(), Reason::TwoNames);
    refuse_bytes(&size("0"), Reason::NoMember);
    refuse_bytes(&[vec![0; 512], tar(&[file("a", b"")])].concat(), Reason::LoneZeroBlock);
    let mut damaged = empty("a");
    damaged[0] ^= 1;
    refuse_bytes(&damaged, Reason::Checksum);
    let mut global = build::pax(&[("path".into(), b"x".to_vec())]);
    global
        .splice(..512, build::header(&of_type("g", EntryType::XGlobalHeader), 10).as_bytes().iter().copied());
    refuse_bytes(&[global, empty("a")].concat(), Reason::GlobalPax);
    refuse(&[of_type("a", EntryType::new(b'S'))], Reason::MemberType);
    let mut owner = file("a", b"");
    owner.pax.push(("uid".into(), b"4294967296".to_vec()));
    refuse(&[owner], Reason::Owner);
    refuse(&[file(&"x".repeat(256), b"")], Reason::Path);
    refuse(&[file(&"x/".repeat(2048), b"")], Reason::Path);
}

#[test]
fn row_10_device_nodes_are_left_out() {
    let entries = [
        of_type("sda", EntryType::Block),
        of_type("mem", EntryType::Char),
        of_type("p", EntryType::Fifo),
        file("f", b"1"),
    ];
    let out = accept(&entries);
    let root = out.path().join("root");
    assert!(!root.join("sda").exists() && !root.join("mem").exists());
    assert!(fs::symlink_metadata(root.join("p")).unwrap().file_type().is_fifo());
    assert_eq!(unpack_with(&tar(&entries), &Limits::default()).1.unwrap().skipped, 2);
}

#[test]
fn row_11_extended_attributes_that_matter_are_kept() {
    // A capability set with the byte 0x0a, at which a careless PAX reader would split.
    let capability = [1, 0, 0, 2, 0x0a, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let mut f = file("f", b"");
    for (name, value) in [
        ("user.k", &b"v"[..]),
        ("security.capability", &capability),
        ("user.overlay.redirect", b"/x"),
        ("trusted.overlay.redirect", b"/x"),
        ("security.selinux", b"z"),
    ] {
        f.pax.push((format!("SCHILY.xattr.{name}"), value.to_vec()));
    }
    let out = accept(&[f]);
    let path = out.path().join("root/f");
    if xattr(&path, "user.k").is_none() {
        eprintln!("SKIPPED: user attributes, which the temporary directory's file system does not have");
        return;
    }
    assert_eq!(xattr(&path, "user.k").as_deref(), Some(&b"v"[..]));
    assert_eq!(xattr(&path, "security.capability"), is_root().then(|| capability.to_vec()));
    for name in ["user.overlay.redirect", "trusted.overlay.redirect", "security.selinux"] {
        assert_eq!(xattr(&path, name), None, "{name}");
    }
}

fn over_limit(bytes: &[u8], limits: Limits, expect: &str) {
    match unpack_with(bytes, &limits).1 {
        Err(UnpackError::TooLarge { what, .. }) => assert!(what.contains(expect), "{what}"),
        other => panic!("{expect}: {other:?}"),
    }
}

#[test]
fn row_13_bombs_are_stopped() {
    // 96 MiB of zeros as the data of one member, and as garbage after the archive.
    let header = build::header(&file("zeros", b""), 96 << 20);
    let bomb = |head: &[u8]| build::gzip(&[head, vec![0; 96 << 20].as_slice()].concat());
    let limits = Limits::default();
    over_limit(&bomb(header.as_bytes()), limits, "compressed size");
    over_limit(&bomb(&tar(&[])), Limits { bytes: 1 << 20, ..limits }, "bytes unpacked");
    over_limit(&tar(&[file("a", &[0; 4096])]), Limits { bytes: 4096, ..limits }, "bytes unpacked");
    let huge_name = build::header(&of_type("x", EntryType::GNULongName), 1 << 40);
    over_limit(huge_name.as_bytes(), limits, "member header");
}

#[test]
fn row_14_counts_are_capped() {
    let many: Vec<_> = (0..101).map(|i| file(&format!("{i}"), b"")).collect();
    over_limit(&tar(&many), Limits { entries: 100, ..Limits::default() }, "members");
    let deep = "d/".repeat(300);
    over_limit(&tar(&[dir(&deep)]), Limits::default(), "directories");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn hostile_names_and_links_never_leave_the_root(
        members in prop::collection::vec((0..6u8, "[./ab]{0,8}|\\.wh\\.[.ab]{0,3}", "[./ab]{0,8}|\\.\\./etc/shadow"), 0..12),
    ) {
        let entries: Vec<_> = members.iter().map(|(kind, path, link)| match kind {
            0 => file(path, b"data"),
            1 => dir(path),
            2 => symlink(path, link),
            3 => hard_link(path, link),
            4 => of_type(path, EntryType::Fifo),
            _ => of_type(path, EntryType::Char),
        }).collect();
        let _ = unpack_with(&tar(&entries), &Limits::default());
    }

    #[test]
    fn damaged_archives_never_panic(flips in prop::collection::vec((0..3000usize, any::<u8>()), 1..8), cut in 0..4000usize) {
        let mut long = file("x", b"abc");
        long.pax.push(("SCHILY.xattr.user.k".into(), b"v".to_vec()));
        let mut bytes = tar(&[dir("d"), long, symlink("s", "d"), hard_link("h", "x")]);
        for (at, value) in flips {
            let at = at % bytes.len();
            bytes[at] = value;
        }
        bytes.truncate(cut);
        let _ = unpack_with(&bytes, &Limits::default());
    }
}
