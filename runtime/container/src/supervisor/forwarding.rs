//! Whether the host forwards packets, which it has to for tasks.
//!
//! Where it has forwarded none of a version of the protocol, it is to forward none but those of tasks, and none once the
//! last server has gone. A file for each version tells that to the next supervisor.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use neargate_network::family::Family;

use super::dual::SETTINGS;
use crate::failure::{Failure, Step};

const STEP: &str = "let the host forward packets of tasks";

pub(super) struct Forwarding {
    /// Where the files are; without one nothing is taken back.
    directory: Option<PathBuf>,
}

impl Forwarding {
    pub(super) fn new(directory: Option<&Path>) -> Self {
        Self { directory: directory.map(Path::to_owned) }
    }

    /// Those of which nobody but Neargate wants the host to forward packets.
    pub(super) fn alone(&self) -> BTreeSet<Family> {
        Family::ALL
            .into_iter()
            .filter(|family| self.note(*family).is_some_and(|note| note.exists()))
            .collect()
    }

    /// Of these, those of which the host forwards nothing yet. Notes it, so that the host's rules can say so before it
    /// begins.
    pub(super) fn missing(&self, families: &[Family]) -> Result<Vec<Family>, Failure> {
        let mut missing = Vec::new();
        for family in families {
            if fs::read_to_string(setting(*family)).step(STEP)?.trim() == "0" {
                self.note(*family).map_or(Ok(()), |note| fs::write(note, "")).step(STEP)?;
                missing.push(*family);
            }
        }
        Ok(missing)
    }

    /// Has the host forward packets.
    pub(super) fn begin(&self, family: Family) -> Result<(), Failure> {
        if family == Family::V6 {
            keep_listening_to_routers()?;
        }
        fs::write(setting(family), "1").step(STEP)
    }

    /// Takes that back where nobody else wanted it, if no other server needs it.
    pub(super) fn end(&self, is_last: bool) {
        for family in self.alone() {
            if is_last {
                let _ = fs::write(setting(family), "0");
            }
            let _ = self.note(family).map(fs::remove_file);
        }
    }

    fn note(&self, family: Family) -> Option<PathBuf> {
        let name = match family {
            Family::V4 => "forwarding",
            Family::V6 => "forwarding6",
        };
        self.directory.as_ref().map(|directory| directory.join(name))
    }
}

fn setting(family: Family) -> String {
    match family {
        Family::V4 => "/proc/sys/net/ipv4/ip_forward".to_owned(),
        Family::V6 => format!("{SETTINGS}/all/forwarding"),
    }
}

/// A host that forwards no longer hears of routers, and forgets what it has heard, unless it is told that it shall
/// (`accept_ra` of 2): it would lose its own way out.
fn keep_listening_to_routers() -> Result<(), Failure> {
    for interface in fs::read_dir(SETTINGS).step(STEP)?.flatten() {
        let path = interface.path().join("accept_ra");
        // One that has just gone needs nothing.
        if interface.file_name() != "all" && fs::read_to_string(&path).is_ok_and(|value| value.trim() == "1")
        {
            let _ = fs::write(&path, "2");
        }
    }
    Ok(())
}
