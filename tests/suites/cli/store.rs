//! `neargate image`: what comes into the store, what is refused, and what goes.

use std::fs;
use std::process::Command;

use anyhow::{Context as _, Result};
use neargate_tests::{fixtures, process};
use serde_json::Value;

use crate::suite::{Case, Needs};
use crate::{Cli, assert_refused, module, text};

pub(crate) const CASES: &[Case] = &[
    ("image/has_a_life", Needs::Wasm, has_a_life),
    ("image/packs_a_directory", Needs::Nothing, packs_a_directory),
    ("image/refuses_what_is_corrupt", Needs::Nothing, refuses_what_is_corrupt),
    ("image/does_not_leave_its_directory", Needs::Nothing, does_not_leave_its_directory),
];

fn names(cli: &Cli) -> Result<String> {
    let finished = cli.image(&["ls", "--output", "json"])?;
    assert_eq!(finished.code, 0, "{}", finished.stderr);
    let images: Value = serde_json::from_str(&finished.text()).context("read the list of images")?;
    Ok(images.to_string())
}

fn has_a_life() -> Result<()> {
    let cli = Cli::new()?;
    let imported = cli.image(&["import", &module(), "--name", "probe:v1"])?;
    assert_eq!(imported.code, 0, "{}", imported.stderr);
    assert!(names(&cli)?.contains("probe:v1"));
    let finished = cli.run(&["probe:v1", "--", "echo", "from the store"])?;
    assert_eq!(finished.text(), "from the store\n", "{}", finished.stderr);
    let inspected = cli.image(&["inspect", "probe:v1"])?;
    for part in ["probe:v1", "a core module", "sha256:", "a program", "wasi_snapshot_preview1  always"] {
        assert!(inspected.text().contains(part), "{part} is not in {}", inspected.text());
    }
    assert_eq!(cli.image(&["rm", "probe:v1"])?.code, 0);
    assert!(!names(&cli)?.contains("probe:v1"));
    assert_eq!(cli.image(&["prune"])?.code, 0);
    let left = cli.image(&["rm", "probe:v1"])?;
    assert_refused(&left, left.code.max(1), &["probe:v1"]);
    let blobs =
        walk(&format!("{}/", cli.data()))?.into_iter().filter(|path| path.contains("/blobs/sha256/")).count();
    assert_eq!(blobs, 0, "prune left blobs that no image names");
    Ok(())
}

fn walk(directory: &str) -> Result<Vec<String>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() { files.extend(walk(&text(&path))?) } else { files.push(text(&path)) }
    }
    Ok(files)
}

fn packs_a_directory() -> Result<()> {
    let cli = Cli::new()?;
    let root = text(&fixtures::busybox_root()?);
    let arguments =
        ["pack", &root, "--name", "box", "--entrypoint", "/bin/sh", "--cmd", "-c", "--env", "A=b"];
    let finished = cli.image(&arguments)?;
    assert_eq!(finished.code, 0, "{}", finished.stderr);
    let inspected = cli.image(&["inspect", "box"])?.text();
    for part in ["Linux layers", "linux/", "[\"/bin/sh\"]", "[\"-c\"]", "A=b", "LAYER"] {
        assert!(inspected.contains(part), "{part} is not in {inspected}");
    }
    let inspected = cli.image(&["inspect", "box", "--output", "json"])?.text();
    let inspected: Value = serde_json::from_str(&inspected)?;
    assert_eq!((&inspected["kind"], &inspected["platform"]["os"]), (&"oci".into(), &"linux".into()));
    assert_eq!(inspected["layers"].as_array().map(Vec::len), Some(1), "{inspected}");
    assert!(inspected["wasm"].is_null(), "{inspected}");
    for (image, says) in [("none", "image ls"), ("none.wasm", "does not exist"), ("UPPER", "lower-case")] {
        let refused = cli.image(&["inspect", image])?;
        assert_refused(&refused, refused.code.max(1), &[image, says]);
    }
    let absent = cli.image(&["pack", &cli.path("absent"), "--name", "x", "--entrypoint", "/x"])?;
    assert_refused(&absent, absent.code.max(1), &["absent"]);
    Ok(())
}

fn refuses_what_is_corrupt() -> Result<()> {
    let cli = Cli::new()?;
    let check = |name: &str, content: &[u8]| -> Result<()> {
        let file = cli.path(name);
        fs::write(&file, content)?;
        let finished = cli.image(&["import", &file, "--name", "corrupt"])?;
        assert_refused(&finished, finished.code.max(1), &[name]);
        assert!(!names(&cli)?.contains("corrupt"), "{name} left a name");
        Ok(())
    };
    check("empty.tar", b"")?;
    check("noise.tar", &[0xa5; 4096])?;
    check("zeros.tar", &[0; 10_240])?;
    check("gzip.tar.gz", b"\x1f\x8b\x08\0\0\0\0\0\0\x03cut")?;
    check("text.tar", b"this is no archive")?;
    // An archive that is sound but not an image, and the same cut in the middle.
    let tar = cli.path("other.tar");
    let root = text(&fixtures::busybox_root()?);
    process::run(Command::new("tar").args(["-cf", &tar, "-C", &root, "etc", "bin"]), b"", crate::LIMIT)?;
    let whole = fs::read(&tar)?;
    check("other.tar", &whole)?;
    check("cut.tar", &whole[..whole.len() / 2 + 100])?;
    Ok(())
}

/// A layout whose manifest is named by a path instead of a digest must not make the store read that file.
fn does_not_leave_its_directory() -> Result<()> {
    let cli = Cli::new()?;
    let layout = cli.path("layout");
    fs::create_dir_all(format!("{layout}/blobs/sha256"))?;
    fs::write(format!("{layout}/oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)?;
    let digests = [
        "sha256:../../../../../../etc/passwd",
        "sha256:0",
        "md5:d41d8cd98f00b204e9800998ecf8427e",
        "/etc/passwd",
    ];
    for digest in digests {
        let index = serde_json::json!({"schemaVersion": 2, "manifests": [{
            "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digest, "size": 2}]});
        fs::write(format!("{layout}/index.json"), index.to_string())?;
        let finished = cli.image(&["import", &layout, "--name", "escape"])?;
        assert_refused(&finished, finished.code.max(1), &[]);
        assert!(!finished.stderr.contains("root:"), "{}", finished.stderr);
        assert!(!names(&cli)?.contains("escape"));
    }
    Ok(())
}
