//! Rows 10 to 22: images that hold or name what they should not, met by the containers that run them.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use rustix::fs::{CWD, FileType, Mode, XattrFlags};
use serde_json::json;

use crate::expect::expect;
use crate::lab::{Course, lab};
use crate::suite::{Case, Needs};

pub(crate) const CASES: &[Case] = &[
    ("row_10_devices_in_an_image", Needs::Root, row_10_devices_in_an_image),
    ("row_11_programs_that_give_rights", Needs::Root, row_11_programs_that_give_rights),
    ("row_19_working_directories", Needs::Root, row_19_working_directories),
    ("row_20_users", Needs::Root, row_20_users),
    ("row_22_links_in_place_of_mount_points", Needs::Root, row_22_links_in_place_of_mount_points),
    ("row_22_links_in_place_of_written_files", Needs::Root, row_22_links_in_place_of_written_files),
];

/// A device in an image is left out, or cannot be opened; a FIFO is harmless.
fn row_10_devices_in_an_image() -> Result<()> {
    let lab = lab()?;
    let devices = [
        ("mem", FileType::CharacterDevice, 1, 1),
        ("zero", FileType::CharacterDevice, 1, 5),
        ("sda", FileType::BlockDevice, 8, 0),
        ("fuse", FileType::CharacterDevice, 10, 229),
    ];
    lab.import("with-devices", |root| {
        for (name, kind, major, minor) in devices {
            let device = rustix::fs::makedev(major, minor);
            rustix::fs::mknodat(CWD, root.join("home").join(name), kind, Mode::from_raw_mode(0o666), device)
                .with_context(|| format!("make {name}"))?;
        }
        let fifo = root.join("home/fifo");
        rustix::fs::mknodat(CWD, fifo, FileType::Fifo, Mode::from_raw_mode(0o666), 0).context("make a FIFO")
    })?;
    let paths: Vec<String> = devices.iter().map(|(name, ..)| format!("/home/{name}")).collect();
    let mut arguments = vec!["read"];
    arguments.extend(paths.iter().map(String::as_str));
    arguments.push("/etc/passwd");
    let expected: Vec<String> = paths.iter().map(|path| format!("{path}: ENOENT|EACCES")).collect();
    let expected = format!("{}\n/etc/passwd: something", expected.join("\n"));
    expect(&expected, &lab.run_with(&arguments, |container| container["image"] = json!("with-devices"))?)
}

/// `struct vfs_cap_data` of version 2: effective, with those of the first eight capabilities permitted that a task may
/// have at all. A file with more could not even be executed.
const CAPABILITIES: [u8; 20] = [1, 0, 0, 2, 0xfb, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

fn row_11_programs_that_give_rights() -> Result<()> {
    let lab = lab()?;
    lab.import("with-rights", |root| {
        let copy = |name: &str| -> Result<std::path::PathBuf> {
            let to = root.join("bin").join(name);
            fs::copy(root.join("bin/intruder"), &to)?;
            Ok(to)
        };
        fs::set_permissions(copy("setuid")?, fs::Permissions::from_mode(0o6755))?;
        let capable = copy("capable")?;
        rustix::fs::setxattr(&capable, "security.capability", &CAPABILITIES, XattrFlags::empty())
            .context("give a file capabilities")
    })?;
    for (program, file) in [("setuid", "6755 0"), ("capable", "755 20")] {
        let mut definition = lab.definition(&["effective-user"]);
        let container = &mut definition["containerDefinitions"][0];
        container["image"] = json!("with-rights");
        container["user"] = json!("user");
        container["entryPoint"] = json!([format!("/bin/{program}")]);
        let none = "0000000000000000";
        let user = "1000 1000 1000 1000";
        // The first line proves that the image has kept what would give rights.
        let expected = format!(
            "mode and capabilities of the program: {file}\nUid: {user}\nGid: {user}\nCapPrm: {none}\nCapEff: {none}"
        );
        expect(&expected, &lab.start(&definition)?.finish()?).with_context(|| program.to_owned())?;
    }
    Ok(())
}

/// CVE-2024-21626 and its kin: a working directory is in the task or the task does not start.
fn row_19_working_directories() -> Result<()> {
    let lab = lab()?;
    lab.pack("with-links", |root| {
        symlink("/proc/self/fd/7", root.join("home/to-a-descriptor"))?;
        symlink("/proc/1/root", root.join("home/to-the-root"))?;
        symlink("../../../../..", root.join("home/to-the-top")).context("make links")
    })?;
    let mut ran = 0;
    let descriptors = (3..12).map(|number| format!("/proc/self/fd/{number}"));
    let others = [
        "/tmp",
        "/proc/self/fd/7/../../..",
        "/proc/1/root",
        "/proc/self/cwd",
        "/home/to-a-descriptor",
        "/home/to-the-root",
        "/home/to-the-top",
        "/../../..",
        "/home/../..",
    ];
    for directory in descriptors.chain(others.map(str::to_owned)) {
        let mut definition = lab.definition(&["working-directory"]);
        definition["containerDefinitions"][0]["image"] = json!("with-links");
        definition["containerDefinitions"][0]["workingDirectory"] = json!(directory);
        match lab.try_run(&definition)? {
            Course::Ran(output) => {
                ran += 1;
                let stands = output.lines().next().unwrap_or_default();
                ensure!(
                    stands.starts_with("working directory: /") && !stands.contains("unreachable"),
                    "{directory}: {output}"
                );
                ensure!(output.lines().nth(1) == Some("the top above it: the root"), "{directory}: {output}");
                ensure!(!directory.starts_with("/proc/self/fd/"), "{directory} was entered: {output}");
            }
            Course::Failed(reason) => ensure!(reason.contains("working directory"), "{directory}: {reason}"),
            Course::Refused(code, message) => {
                ensure!(code == "ClientException", "{directory}: {code}: {message}")
            }
        }
    }
    // Those that stay inside by any reading.
    ensure!(ran >= 2, "only {ran} were entered");
    Ok(())
}

/// Users that do not exist, overflow, or are written oddly never become root.
fn row_20_users() -> Result<()> {
    let lab = lab()?;
    let run = |user: &str| {
        let mut definition = lab.definition(&["effective-user"]);
        definition["containerDefinitions"][0]["user"] = json!(user);
        lab.try_run(&definition)
    };
    for user in [
        "4294967295",
        "4294967296",
        "18446744073709551616",
        "-1",
        "65536",
        "1000:4294967296",
        "1000:-1",
        "+0",
        "0x0",
        " 0",
        "0 ",
        "name-with:colon:",
        ":",
        "no-such",
        "root:no-such",
        "1000:65536",
        "0\n",
        "\u{0660}",
    ] {
        match run(user)? {
            Course::Refused(code, _) => ensure!(code == "ClientException", "{user:?}: {code}"),
            Course::Failed(reason) => ensure!(reason.contains("user"), "{user:?}: {reason}"),
            Course::Ran(output) => ensure!(false, "{user:?} ran as {output}"),
        }
    }
    for (user, uid, gid) in
        [("0:0", 0, 0), ("user", 1000, 1000), ("1000:0", 1000, 0), ("65535", 65_535, 0), ("007", 7, 0)]
    {
        match run(user)? {
            Course::Ran(output) => {
                let ids = |name: &str, id: u32| format!("{name}: {id} {id} {id} {id}");
                let lines: Vec<&str> = output.lines().skip(1).take(2).collect();
                ensure!(lines == [ids("Uid", uid), ids("Gid", gid)], "{user:?}: {output}");
            }
            other => ensure!(user == "007", "{user:?}: {other:?}"),
        }
    }
    Ok(())
}

/// Makes an image in whose root something was put in the place of something else.
fn with_link(name: &str, at: &str, target: &Path) -> Result<()> {
    lab()?.pack(name, |root| {
        let at = root.join(at);
        let removed = if at.is_dir() { fs::remove_dir_all(&at) } else { fs::remove_file(&at) };
        removed.or_else(|error| if at.symlink_metadata().is_err() { Ok(()) } else { Err(error) })?;
        symlink(target, at).context("make a link")
    })
}

fn row_22_links_in_place_of_mount_points() -> Result<()> {
    let lab = lab()?;
    let victim = lab.volumes().join("victim-of-mounts");
    fs::create_dir(&victim)?;
    for at in ["dev", "proc", "sys"] {
        for (number, target) in
            [victim.as_path(), Path::new("../../../.."), Path::new("/etc")].iter().enumerate()
        {
            let image = format!("link-at-{at}-{number}");
            with_link(&image, at, target)?;
            let mut definition = lab.definition(&["descriptors"]);
            definition["containerDefinitions"][0]["image"] = json!(image);
            match lab.try_run(&definition)? {
                Course::Failed(reason) => ensure!(reason.contains(&format!("/{at}")), "{image}: {reason}"),
                other => ensure!(false, "{image}: {other:?}"),
            }
        }
    }
    ensure!(fs::read_dir(&victim)?.next().is_none(), "something was made in a directory of the host");
    Ok(())
}

/// The runtime writes three files into a container's `/etc`, and writes through no link there.
fn row_22_links_in_place_of_written_files() -> Result<()> {
    let lab = lab()?;
    let victim = lab.volumes().join("victim-of-writes");
    fs::write(&victim, "untouched")?;
    for (number, name) in ["hosts", "hostname", "resolv.conf"].iter().enumerate() {
        let image = format!("link-at-file-{number}");
        with_link(&image, &format!("etc/{name}"), &victim)?;
        let path = format!("/etc/{name}");
        let mut definition = lab.definition(&["read", &path]);
        definition["containerDefinitions"][0]["image"] = json!(image);
        expect(&format!("{path}: something|empty"), &lab.start(&definition)?.finish()?)?;
    }
    ensure!(fs::read_to_string(&victim)? == "untouched", "a file of the host was written to");
    Ok(())
}
