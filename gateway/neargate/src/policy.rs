//! The operator's policy: a file, and the flags that say a part of it.
//!
//! It is read once, when the server starts, before anything runs: what is wrong in it is told with its line or key,
//! and nothing is served under a policy that was misunderstood.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use neargate_model::policy::{HostNamespace, HostPath, Privileged};
use neargate_model::{Family, Policy, capability};
use serde::Deserialize;

/// The longest policy file, in bytes: some thousand entries.
const BYTES_MAX: u64 = 1 << 20;

/// The file.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct PolicyFile {
    host_paths: Vec<HostPathEntry>,
    capabilities: Vec<String>,
    privileged: PrivilegedEntry,
    host_namespaces: Vec<String>,
    devices: Vec<PathBuf>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct HostPathEntry {
    path: PathBuf,
    access: Access,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Access {
    Ro,
    Rw,
}

#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "privileged must be true, false or a list of task definition families")]
enum PrivilegedEntry {
    All(bool),
    Families(Vec<String>),
}

impl Default for PrivilegedEntry {
    fn default() -> Self {
        Self::All(false)
    }
}

/// Reads a policy file.
pub(crate) fn read(path: &Path) -> Result<Policy> {
    let read = || {
        let file = File::open(path)?;
        check_owner(&file.metadata()?)?;
        let mut text = String::new();
        let length = file.take(BYTES_MAX + 1).read_to_string(&mut text)? as u64;
        ensure!(length <= BYTES_MAX, "it is longer than {BYTES_MAX} bytes");
        parse(&text)
    };
    read().with_context(|| format!("read policy {}", path.display()))
}

/// The policy of `neargate run`, whose user is the operator: what its options name is allowed.
pub(crate) fn of_invoker() -> Policy {
    Policy {
        host_paths: vec![HostPath { path: PathBuf::from("/"), read_only: false }],
        host_namespaces: vec![HostNamespace::Network],
        ..Policy::default()
    }
}

/// Adds what flags allow.
pub(crate) fn add_flags(policy: &mut Policy, host_paths: &[PathBuf], host_network: bool) -> Result<()> {
    for path in host_paths {
        let real =
            fs::canonicalize(path).with_context(|| format!("use --allow-host-path {}", path.display()))?;
        policy.host_paths.push(HostPath { path: real, read_only: false });
    }
    if host_network && !policy.shares(HostNamespace::Network) {
        policy.host_namespaces.push(HostNamespace::Network);
    }
    Ok(())
}

/// What a policy allows, one line for each kind.
pub(crate) fn describe(policy: &Policy) -> Vec<String> {
    let mut lines = Vec::new();
    let mut tell = |what: &str, entries: Vec<String>| {
        if !entries.is_empty() {
            lines.push(format!("{what} {}", entries.join(", ")));
        }
    };
    let path = |one: &HostPath| format!("{} {}", one.path.display(), if one.read_only { "ro" } else { "rw" });
    tell("host paths", policy.host_paths.iter().map(path).collect());
    let mut capabilities: Vec<String> =
        capability::names(policy.capabilities).into_iter().map(str::to_owned).collect();
    capabilities.extend(policy.every_capability.then(|| capability::EVERY.to_owned()));
    tell("capabilities", capabilities);
    tell(
        "privileged",
        match &policy.privileged {
            Privileged::Everyone => vec!["all families".to_owned()],
            Privileged::Families(families) => families.iter().map(ToString::to_string).collect(),
        },
    );
    tell("host namespaces", policy.host_namespaces.iter().map(|one| one.name().to_owned()).collect());
    tell("devices", policy.devices.iter().map(|path| path.display().to_string()).collect());
    lines
}

/// Who may write the file may give tasks the host.
fn check_owner(metadata: &fs::Metadata) -> Result<()> {
    let own = rustix::process::geteuid().as_raw();
    ensure!(
        metadata.uid() == 0 || metadata.uid() == own,
        "it belongs to user {}; give it to root, or to user {own}, who runs the server",
        metadata.uid()
    );
    ensure!(
        metadata.mode() & 0o022 == 0,
        "others than its owner may write to it; `chmod go-w` takes that away"
    );
    Ok(())
}

fn parse(text: &str) -> Result<Policy> {
    // serde would take a list for the fields in their order.
    ensure!(text.trim_start().starts_with('{'), "line 1: a JSON object is expected");
    // The error names line and column, and the key if it is not one of ours.
    let file: PolicyFile = serde_json::from_str(text)?;
    let mut policy = Policy::default();
    for (index, entry) in file.host_paths.iter().enumerate() {
        let path = real(&entry.path).with_context(|| format!("host_paths[{index}].path"))?;
        policy.host_paths.push(HostPath { path, read_only: entry.access == Access::Ro });
    }
    for (index, name) in file.capabilities.iter().enumerate() {
        add_capability(&mut policy, name).with_context(|| format!("capabilities[{index}]"))?;
    }
    policy.privileged = match file.privileged {
        PrivilegedEntry::All(true) => Privileged::Everyone,
        PrivilegedEntry::All(false) => Privileged::default(),
        PrivilegedEntry::Families(names) => Privileged::Families(families(names)?),
    };
    for (index, name) in file.host_namespaces.iter().enumerate() {
        let namespace = namespace(name).with_context(|| format!("host_namespaces[{index}]"))?;
        policy.host_namespaces.push(namespace);
    }
    for (index, path) in file.devices.iter().enumerate() {
        policy.devices.push(device(path).with_context(|| format!("devices[{index}]"))?);
    }
    Ok(policy)
}

fn real(path: &Path) -> Result<PathBuf> {
    ensure!(path.is_absolute(), "{} is not an absolute path", path.display());
    fs::canonicalize(path).with_context(|| format!("look at {}", path.display()))
}

fn add_capability(policy: &mut Policy, name: &str) -> Result<()> {
    if name == capability::EVERY {
        policy.every_capability = true;
        return Ok(());
    }
    let Some(bit) = capability::bit(name) else {
        bail!("there is no capability {name:?}; names have no CAP_ prefix, and ALL is all of them");
    };
    ensure!(
        bit & (capability::USEFUL | capability::DEFAULT) != 0,
        "{name} would do nothing: the kernel asks for it in the host's user namespace, and containers have their \
         own; useful are {}",
        capability::names(capability::USEFUL).join(", ")
    );
    policy.capabilities |= bit;
    Ok(())
}

fn families(names: Vec<String>) -> Result<Vec<Family>> {
    let family = |(index, name): (usize, String)| {
        Family::new(name.as_str()).with_context(|| format!("privileged[{index}]: {name:?}"))
    };
    names.into_iter().enumerate().map(family).collect()
}

fn namespace(name: &str) -> Result<HostNamespace> {
    let known = HostNamespace::ALL.into_iter().find(|namespace| namespace.name() == name);
    match known {
        Some(namespace) => Ok(namespace),
        None => bail!("there is no namespace {name:?}; known are network, ipc and pid"),
    }
}

fn device(path: &Path) -> Result<PathBuf> {
    let path = real(path)?;
    let kind = fs::metadata(&path).with_context(|| format!("look at {}", path.display()))?.file_type();
    ensure!(kind.is_char_device() || kind.is_block_device(), "{} is no device node", path.display());
    Ok(path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[track_caller]
    fn refused(text: &str, mentions: &[&str]) {
        let error = format!("{:#}", parse(text).unwrap_err());
        for part in mentions {
            assert!(error.contains(part), "{part:?} is not in {error:?}");
        }
    }

    #[test]
    fn everything_that_can_be_allowed() {
        let directory = tempfile::tempdir().unwrap();
        let real = directory.path().canonicalize().unwrap();
        std::os::unix::fs::symlink(&real, directory.path().join("link")).unwrap();
        let text = serde_json::json!({
            "host_paths": [
                {"path": real.join("link"), "access": "ro"}, {"path": "/", "access": "rw"},
            ],
            "capabilities": ["NET_RAW", "sys_admin"],
            "privileged": ["web"],
            "host_namespaces": ["network", "ipc", "pid"],
            "devices": ["/dev/null"],
        });
        let policy = parse(&text.to_string()).unwrap();
        assert_eq!(policy.host_paths[0], HostPath { path: real, read_only: true });
        assert_eq!(capability::names(policy.capabilities), ["NET_RAW", "SYS_ADMIN"]);
        assert_eq!(policy.privileged, Privileged::Families(vec![Family::new("web").unwrap()]));
        assert_eq!(policy.host_namespaces, HostNamespace::ALL);
        assert_eq!(policy.devices, [PathBuf::from("/dev/null")]);
        assert_eq!(describe(&policy).len(), 5);
        assert_eq!(parse("{}").unwrap(), Policy::default());
        assert_eq!(describe(&Policy::default()), Vec::<String>::new());
        assert_eq!(parse("{\"privileged\": true}").unwrap().privileged, Privileged::Everyone);
        assert!(parse("{\"capabilities\": [\"ALL\"]}").unwrap().every_capability);
    }

    #[test]
    fn mistakes_are_told_with_their_place() {
        refused("{\n  \"host_path\": []\n}", &["host_path", "line 2"]);
        refused("{\"devices\": [\"/dev/null\"], \"devices\": []}", &["duplicate", "devices"]);
        refused("{\n\n\"capabilities\": \"NET_RAW\"}", &["line 3"]);
        refused("{", &["line 1"]);
        refused("", &["line 1"]);
        refused("[]", &["line 1"]);
        refused("{\"privileged\": 1}", &["true, false or a list"]);
        refused("{\"privileged\": [\"a b\"]}", &["privileged[0]"]);
        refused("{\"capabilities\": [\"NET_RAW\", \"CAP_SYS_ADMIN\"]}", &["capabilities[1]", "CAP_ prefix"]);
        refused("{\"capabilities\": [\"SYS_MODULE\"]}", &["capabilities[0]", "would do nothing"]);
        refused("{\"host_namespaces\": [\"uts\"]}", &["host_namespaces[0]", "uts"]);
        refused("{\"host_namespaces\": [\"uts\"]}", &["known are network, ipc and pid"]);
        refused("{\"devices\": [\"/dev\"]}", &["devices[0]", "no device node"]);
        refused("{\"devices\": [\"dev/null\"]}", &["devices[0]", "absolute"]);
        refused("{\"host_paths\": [{\"path\": \"/\"}]}", &["access"]);
        refused("{\"host_paths\": [{\"path\": \"/\", \"access\": \"rwx\"}]}", &["rwx", "line 1"]);
        refused("{\"host_paths\": [{\"path\": \"/no/such\", \"access\": \"ro\"}]}", &["host_paths[0].path"]);
    }

    #[test]
    fn only_the_operator_may_write_it() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(&file, "{}").unwrap();
        let mode = |mode| file.as_file().set_permissions(fs::Permissions::from_mode(mode)).unwrap();
        mode(0o644);
        assert_eq!(read(file.path()).unwrap(), Policy::default());
        mode(0o664);
        assert!(format!("{:#}", read(file.path()).unwrap_err()).contains("chmod go-w"));
        mode(0o600);
        fs::write(&file, vec![b' '; BYTES_MAX as usize + 1]).unwrap();
        assert!(format!("{:#}", read(file.path()).unwrap_err()).contains("longer than"));
        assert!(read(Path::new("/no/such/policy")).is_err());
    }
}
