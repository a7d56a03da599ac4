//! Row 61: user ids at and beyond the end of the task's range, and a directory of the host.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

use crate::kernel::{attempt, call, pointer, say};

/// First id beyond the range.
const BEYOND: usize = 65_536;

/// The arguments are a volume, and a directory of the host's root with a file `host-owned` in it.
pub(crate) fn ids(arguments: &[&str]) {
    let [directory, of_host] = arguments else { return };
    let error_of = |error: std::io::Error| error.raw_os_error().unwrap_or(0);
    let file = format!("{directory}/made-by-root");
    attempt("make a file", || fs::write(&file, "x").map(|()| 0).map_err(error_of));
    say("its owner", fs::metadata(&file).map_or(u32::MAX, |meta| meta.uid()));
    attempt("make it setuid", || {
        fs::set_permissions(&file, fs::Permissions::from_mode(0o4755)).map(|()| 0).map_err(error_of)
    });
    let chown = |id: u32| std::os::unix::fs::chown(&file, Some(id), Some(id)).map(|()| 0).map_err(error_of);
    for (name, id) in [
        ("the last id", 65_535),
        ("the first beyond", 65_536),
        ("the host's root", 1 << 20),
        ("2^31", 1 << 31),
    ] {
        attempt(&format!("give it to {name}"), || chown(id));
    }
    for (name, id) in [
        ("the last id", BEYOND - 1),
        ("the first beyond", BEYOND),
        ("2^32 - 2", u32::MAX as usize - 1),
        ("-1", u32::MAX as usize),
    ] {
        attempt(&format!("setuid to {name}"), || call(libc::SYS_setuid, &[id]));
        attempt(&format!("setgid to {name}"), || call(libc::SYS_setgid, &[id]));
    }
    attempt("setgroups to the first beyond", || call(libc::SYS_setgroups, &[1, pointer(&(BEYOND as u32))]));
    let owned = format!("{of_host}/host-owned");
    let new = format!("{of_host}/new");
    attempt("make a file beside one of the host's root", || {
        fs::write(&new, "x").map(|()| 0).map_err(error_of)
    });
    attempt("read a file of the host's root", || fs::read(&owned).map(|bytes| bytes.len()).map_err(error_of));
    attempt("write to it", || fs::write(&owned, "x").map(|()| 0).map_err(error_of));
    attempt("take it", || std::os::unix::fs::chown(&owned, Some(0), Some(0)).map(|()| 0).map_err(error_of));
    attempt("change its mode", || {
        fs::set_permissions(&owned, fs::Permissions::from_mode(0o4777)).map(|()| 0).map_err(error_of)
    });
    for map in ["uid_map", "gid_map", "setgroups"] {
        attempt(&format!("write {map}"), || {
            fs::write(format!("/proc/self/{map}"), "0 0 1").map(|()| 0).map_err(error_of)
        });
    }
}
