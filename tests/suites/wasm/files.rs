//! `wasi:filesystem`: what every operation does, and that no path leads out of what the task was given.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::Path;

use anyhow::{Context as _, Result};
use neargate_tests::cli::Cli;

use crate::guests;
use crate::suite::{Case, Needs};

pub(crate) const CASES: &[Case] = &[
    ("files/every_operation", Needs::Wasm, every_operation),
    ("files/read_only_stays_as_it_is", Needs::Wasm, read_only_stays_as_it_is),
    ("files/no_way_out", Needs::Wasm, no_way_out),
    ("files/directories_keep_apart", Needs::Wasm, directories_keep_apart),
    ("files/none_without_a_directory", Needs::Wasm, none_without_a_directory),
    ("files/sees_what_the_host_changes", Needs::Wasm, sees_what_the_host_changes),
];

/// What the guest prints in an empty directory; the same for both versions of WASI.
const TOUR: &str = include_str!("files.txt");
/// What a refused attempt may say: WASI's names for EPERM, EACCES, EROFS, ENOENT, ENOTCAPABLE, EBADF, EXDEV, ELOOP.
const REFUSALS: [&str; 8] = [
    "Operation not permitted",
    "Permission denied",
    "Read-only file system",
    "No such file or directory",
    "Capabilities insufficient",
    "Bad file descriptor",
    "Cross-device link",
    "Symbolic link loop",
];

struct Shared {
    cli: Cli,
    host: String,
}

impl Shared {
    /// A directory with a file, a file outside of it, and links in it that lead out.
    fn new() -> Result<Self> {
        let cli = Cli::with_kept_code()?;
        let host = cli.path("shared");
        fs::create_dir_all(format!("{host}/sub"))?;
        fs::write(format!("{host}/file"), "inside")?;
        fs::write(cli.path("outside"), "outside")?;
        fs::create_dir(cli.path("outside-directory"))?;
        symlink("../outside", format!("{host}/relative-link"))?;
        symlink(cli.path("outside"), format!("{host}/absolute-link"))?;
        symlink("../outside-directory", format!("{host}/directory-link"))?;
        Ok(Self { cli, host })
    }

    fn attempt(&self, image: &str, directory: &str, operation: &[&str]) -> Result<String> {
        let arguments = ["--quiet", "--dir", directory, image, "--", "file"];
        let finished = self.cli.run(&[&arguments[..], operation].concat())?;
        anyhow::ensure!(
            finished.code == 0,
            "{operation:?} ended with {}: {}",
            finished.code,
            finished.stderr
        );
        Ok(finished.text().trim_end().to_owned())
    }

    /// All below the scratch directory but the data directory, to be compared: names, kinds, contents, times.
    fn picture(&self) -> Result<Vec<String>> {
        let mut lines = Vec::new();
        let root = self.cli.path("");
        list(Path::new(&root), &mut lines)?;
        lines.sort();
        Ok(lines)
    }
}

fn list(directory: &Path, lines: &mut Vec<String>) -> Result<()> {
    for entry in fs::read_dir(directory).with_context(|| format!("list {}", directory.display()))? {
        let path = entry?.path();
        let metadata = fs::symlink_metadata(&path)?;
        if path.file_name().is_some_and(|name| name == "data") {
            continue;
        }
        let content = if metadata.is_file() { fs::read(&path)? } else { Vec::new() };
        lines.push(format!("{} {:o} {} {content:?}", path.display(), metadata.mode(), metadata.mtime()));
        if metadata.is_dir() {
            list(&path, lines)?;
        }
    }
    Ok(())
}

#[track_caller]
fn assert_no(answer: &str, attempt: &[&str]) {
    assert!(REFUSALS.iter().any(|refusal| answer.starts_with(refusal)), "{attempt:?} gave {answer:?}");
}

fn every_operation() -> Result<()> {
    for image in guests()? {
        let cli = Cli::with_kept_code()?;
        let host = cli.path("shared");
        fs::create_dir(&host)?;
        let given = format!("{host}:/data");
        let finished = cli.run(&["--quiet", "--dir", &given, &image, "--", "files", "/data"])?;
        assert_eq!(finished.code, 0, "{}", finished.stderr);
        for (found, expect) in finished.text().lines().zip(TOUR.lines()) {
            assert_eq!(found, expect, "{image}");
        }
        assert_eq!(finished.text(), TOUR, "{image}");
        let left = fs::metadata(format!("{host}/b"))?;
        assert_eq!((left.len(), left.nlink()), (12, 2));
        assert_eq!(fs::read(format!("{host}/b"))?, b"hello+end\0\0\0");
        assert_eq!(fs::metadata(format!("{host}/hard"))?.ino(), left.ino());
        assert_eq!(fs::read_link(format!("{host}/soft"))?, Path::new("b"));
        let mut names: Vec<_> =
            fs::read_dir(&host)?.flatten().map(|entry| entry.file_name().into_string().unwrap()).collect();
        names.sort();
        assert_eq!(names, ["b", "circle", "hard", "soft", "文書"]);
    }
    Ok(())
}

fn read_only_stays_as_it_is() -> Result<()> {
    for image in guests()? {
        let shared = Shared::new()?;
        let given = format!("{}:/data:ro", shared.host);
        let before = shared.picture()?;
        assert_eq!(shared.attempt(&image, &given, &["read", "/data/file"])?, "inside");
        assert_eq!(shared.attempt(&image, &given, &["length", "/data/file"])?, "6");
        let attempts: [&[&str]; 11] = [
            &["write", "/data/file", "x"],
            &["write", "/data/new", "x"],
            &["append", "/data/file", "x"],
            &["truncate", "/data/file"],
            &["make", "/data/new"],
            &["remove", "/data/file"],
            &["remove-directory", "/data/sub"],
            &["rename", "/data/file", "/data/new"],
            &["link", "/data/file", "/data/new"],
            &["symlink", "file", "/data/new"],
            &["times", "/data/file"],
        ];
        for attempt in attempts {
            assert_no(&shared.attempt(&image, &given, attempt)?, attempt);
        }
        assert_eq!(shared.picture()?, before, "a refused attempt changed something");
    }
    Ok(())
}

fn no_way_out() -> Result<()> {
    for image in guests()? {
        let shared = Shared::new()?;
        let given = format!("{}:/data", shared.host);
        let outside = shared.cli.path("outside");
        let before = shared.picture()?;
        let attempts: [&[&str]; 15] = [
            &["read", "/etc/hostname"],
            &["read", &outside],
            &["read", "/data/../outside"],
            &["read", "/data/sub/../../outside"],
            &["read", "../outside"],
            &["read", "/data/relative-link"],
            &["read", "/data/absolute-link"],
            &["write", "/data/relative-link", "x"],
            &["truncate", "/data/relative-link"],
            &["write", "/data/directory-link/new", "x"],
            &["make", "/data/../new"],
            &["remove", "/data/../outside"],
            &["rename", "/data/../outside", "/data/new"],
            &["link", "/data/../outside", "/data/new"],
            &["list", "/data/.."],
        ];
        for attempt in attempts {
            assert_no(&shared.attempt(&image, &given, attempt)?, attempt);
        }
        assert_eq!(shared.picture()?, before, "an attempt changed something");
        // A link of the guest's own making leads no further.
        for to in ["../outside", outside.as_str()] {
            let made = shared.attempt(&image, &given, &["symlink", to, "/data/own-link"])?;
            let attempt = ["read", "/data/own-link"];
            assert_no(&shared.attempt(&image, &given, &attempt)?, &attempt);
            if made == "done" {
                fs::remove_file(format!("{}/own-link", shared.host))?;
            }
        }
        assert_eq!(fs::read_to_string(&outside)?, "outside");
    }
    Ok(())
}

/// What may be read in one directory cannot be made writable by way of another.
fn directories_keep_apart() -> Result<()> {
    for image in guests()? {
        let shared = Shared::new()?;
        let other = shared.cli.path("other");
        fs::create_dir(&other)?;
        fs::write(format!("{other}/own"), "own")?;
        let (read_only, writable) = (format!("{}:/ro:ro", shared.host), format!("{other}:/rw"));
        let before = shared.picture()?;
        let attempts: [&[&str]; 4] = [
            &["link", "/ro/file", "/rw/file"],
            &["rename", "/ro/file", "/rw/file"],
            &["rename", "/rw/own", "/ro/own"],
            &["link", "/rw/own", "/ro/own"],
        ];
        for attempt in attempts {
            let both = ["--quiet", "--dir", &read_only, "--dir", &writable, &image, "--", "file"];
            let finished = shared.cli.run(&[&both[..], attempt].concat())?;
            assert_no(finished.text().trim_end(), attempt);
        }
        assert_eq!(shared.picture()?, before, "an attempt changed something");
    }
    Ok(())
}

fn none_without_a_directory() -> Result<()> {
    let cli = Cli::with_kept_code()?;
    for image in guests()? {
        for attempt in [["list", "/"], ["list", "."], ["read", "/proc/self/status"], ["read", "/etc/passwd"]]
        {
            let finished = cli.run(&[&["--quiet", &image, "--", "file"], &attempt[..]].concat())?;
            assert_no(finished.text().trim_end(), &attempt);
        }
    }
    Ok(())
}

fn sees_what_the_host_changes() -> Result<()> {
    let shared = Shared::new()?;
    let given = format!("{}:/data", shared.host);
    for image in guests()? {
        for content in ["one", "another"] {
            fs::write(format!("{}/file", shared.host), content)?;
            assert_eq!(shared.attempt(&image, &given, &["read", "/data/file"])?, content);
        }
    }
    Ok(())
}
