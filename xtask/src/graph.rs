//! The packages of the workspace and what they depend on, as `cargo metadata` tells.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use serde::Deserialize;

use crate::shell::{cargo, output};

/// What kind of dependency an arrow is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// Part of what is built.
    Normal,
    /// Needed by tests only.
    Dev,
    /// Needed by the build script only.
    Build,
}

/// A package.
#[derive(Clone, Debug, Default)]
pub(crate) struct Package {
    /// Dependencies by name; ours and others'.
    pub(crate) dependencies: BTreeSet<(String, Kind)>,
    /// SPDX expression.
    pub(crate) licence: Option<String>,
    /// The folder of its manifest.
    pub(crate) directory: PathBuf,
    /// Whether it belongs to the workspace.
    pub(crate) is_member: bool,
}

/// All packages by name. Of a package with several versions the dependencies are those of all.
#[derive(Clone, Debug, Default)]
pub(crate) struct Graph {
    pub(crate) packages: BTreeMap<String, Package>,
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<MetadataPackage>,
    workspace_members: Vec<String>,
}

#[derive(Deserialize)]
struct MetadataPackage {
    id: String,
    name: String,
    license: Option<String>,
    manifest_path: PathBuf,
    dependencies: Vec<MetadataDependency>,
}

#[derive(Deserialize)]
struct MetadataDependency {
    name: String,
    kind: Option<String>,
    optional: bool,
}

impl Graph {
    /// Asks Cargo.
    pub(crate) fn load() -> Result<Self> {
        let platform = ["--filter-platform", "x86_64-unknown-linux-gnu"];
        let text = output(cargo(&["metadata", "--format-version", "1", "--locked"]).args(platform))?;
        Self::parse(&text)
    }

    fn parse(text: &str) -> Result<Self> {
        let metadata: Metadata = serde_json::from_str(text).context("read the answer of cargo metadata")?;
        let members: BTreeSet<String> = metadata.workspace_members.into_iter().collect();
        let mut packages: BTreeMap<String, Package> = BTreeMap::new();
        for found in metadata.packages {
            let package = packages.entry(found.name).or_default();
            package.is_member |= members.contains(&found.id);
            package.licence = found.license;
            package.directory = found.manifest_path.parent().map(PathBuf::from).unwrap_or_default();
            // Optional dependencies of others are not known to be switched on; ours are arrows even if they are not.
            let kept = found.dependencies.into_iter().filter(|d| !d.optional || package.is_member);
            let arrows: Vec<_> = kept.map(|d| (d.name, kind(d.kind.as_deref()))).collect();
            package.dependencies.extend(arrows);
        }
        Ok(Self { packages })
    }

    /// Names of the workspace's packages.
    pub(crate) fn members(&self) -> impl Iterator<Item = &str> {
        self.packages.iter().filter(|(_, package)| package.is_member).map(|(name, _)| name.as_str())
    }

    /// Whether building the tests of `from` builds `to`: its dev-dependencies count, those of others do not.
    pub(crate) fn reaches(&self, from: &str, to: &str) -> bool {
        let mut seen = BTreeSet::from([from]);
        let mut waiting = vec![(from, true)];
        while let Some((name, with_dev)) = waiting.pop() {
            let Some(package) = self.packages.get(name) else { continue };
            for (next, kind) in &package.dependencies {
                if *kind == Kind::Dev && !with_dev {
                    continue;
                }
                if next == to {
                    return true;
                }
                if seen.insert(next) {
                    waiting.push((next, false));
                }
            }
        }
        false
    }
}

fn kind(name: Option<&str>) -> Kind {
    match name {
        Some("dev") => Kind::Dev,
        Some("build") => Kind::Build,
        _ => Kind::Normal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const METADATA: &str = r#"{
      "packages": [
        {"id": "a 1", "name": "a", "license": "MIT", "manifest_path": "/r/a/Cargo.toml", "dependencies": [
          {"name": "b", "kind": null, "optional": false}, {"name": "t", "kind": "dev", "optional": false}]},
        {"id": "b 1", "name": "b", "license": null, "manifest_path": "/r/b/Cargo.toml", "dependencies": [
          {"name": "c", "kind": null, "optional": false}, {"name": "d", "kind": "dev", "optional": false},
          {"name": "o", "kind": null, "optional": true}]},
        {"id": "c 1", "name": "c", "license": "MIT", "manifest_path": "/c/Cargo.toml", "dependencies": []}
      ],
      "workspace_members": ["a 1"]
    }"#;

    #[test]
    fn follows_arrows() {
        let graph = Graph::parse(METADATA).unwrap();
        assert_eq!(graph.members().collect::<Vec<_>>(), ["a"]);
        let check = |from: &str, to: &str, expect: bool| {
            assert_eq!(graph.reaches(from, to), expect, "{from} to {to}")
        };
        check("a", "c", true);
        check("a", "t", true);
        check("a", "d", false);
        check("a", "o", false);
        check("c", "a", false);
    }
}
