//! The options of `neargate run` that only containers have.

use anyhow::{Result, bail};
use clap::Args;
use neargate_model::{ContainerDefinition, Tmpfs, TmpfsOptions, UlimitSetting};

/// Options that only containers have.
#[derive(Args, Debug)]
#[command(next_help_heading = "Containers")]
pub(crate) struct ContainerArgs {
    /// Size of its /dev/shm, in MiB; 64 otherwise.
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u32).range(1..))]
    shm_size: Option<u32>,
    /// An empty file system in memory; may be repeated. What it holds counts as memory of the task.
    #[arg(long, value_name = "GUEST:MIB")]
    tmpfs: Vec<String>,
    /// How much it may write to its root file system, in GiB; it is ended when it has written more.
    #[arg(long, value_name = "GIB", value_parser = clap::value_parser!(u32).range(1..=1024))]
    storage: Option<u32>,
    /// A limit of setrlimit(2), for example nofile=1024; may be repeated.
    #[arg(long, value_name = "NAME=SOFT[:HARD]")]
    ulimit: Vec<String>,
    /// For an ordinary user: run although nothing enforces --cpu and --memory.
    #[arg(long)]
    without_limits: bool,
}

impl ContainerArgs {
    /// The first option that was given, if any.
    pub(crate) fn given(&self) -> Option<&'static str> {
        let given = [
            ("--shm-size", self.shm_size.is_some()),
            ("--tmpfs", !self.tmpfs.is_empty()),
            ("--storage", self.storage.is_some()),
            ("--ulimit", !self.ulimit.is_empty()),
            ("--without-limits", self.without_limits),
        ];
        given.iter().find(|(_, is_given)| *is_given).map(|(option, _)| *option)
    }

    /// Whether it runs although nothing enforces its limits.
    pub(crate) fn without_limits(&self) -> bool {
        self.without_limits
    }

    /// How much it may write, in GiB.
    pub(crate) fn storage_gib(&self) -> Option<u32> {
        self.storage
    }

    /// Writes the options into a definition.
    pub(crate) fn apply(&self, definition: &mut ContainerDefinition) -> Result<()> {
        definition.shared_memory_mib = self.shm_size;
        definition.tmpfs = self.tmpfs.iter().map(|text| tmpfs(text)).collect::<Result<_>>()?;
        definition.ulimits = self.ulimit.iter().map(|text| ulimit(text)).collect::<Result<_>>()?;
        Ok(())
    }
}

fn tmpfs(text: &str) -> Result<Tmpfs> {
    let parts = text.rsplit_once(':').map(|(guest, mib)| (guest, mib.parse::<u32>()));
    match parts {
        Some((guest, Ok(size_mib))) if guest.starts_with('/') && size_mib > 0 => Ok(Tmpfs {
            container_path: guest.to_owned(),
            size_mib,
            read_only: false,
            options: TmpfsOptions::default(),
        }),
        _ => bail!("--tmpfs {text}: say GUEST:MIB, GUEST being an absolute path and MIB a size above 0"),
    }
}

fn ulimit(text: &str) -> Result<UlimitSetting> {
    let parts = text.split_once('=').and_then(|(name, values)| {
        let (soft, hard) = values.split_once(':').unwrap_or((values, values));
        Some((name, limit(soft)?, limit(hard)?))
    });
    match parts {
        Some((name, soft, hard)) if !name.is_empty() => {
            Ok(UlimitSetting { name: name.to_owned(), soft, hard })
        }
        _ => bail!("--ulimit {text}: say NAME=SOFT or NAME=SOFT:HARD, in numbers or as `unlimited`"),
    }
}

fn limit(text: &str) -> Option<i64> {
    if text == "unlimited" { Some(-1) } else { text.parse().ok().filter(|value| *value >= 0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_limits() {
        let found = tmpfs("/a:b:64").unwrap();
        assert_eq!((found.container_path.as_str(), found.size_mib), ("/a:b", 64));
        for bad in ["/a", "a:64", "/a:0", "/a:x", ":64", ""] {
            assert!(tmpfs(bad).unwrap_err().to_string().contains("say GUEST:MIB"), "{bad}");
        }
        let read = |text: &str| ulimit(text).map(|limit| (limit.name, limit.soft, limit.hard)).ok();
        assert_eq!(read("nofile=100"), Some(("nofile".to_owned(), 100, 100)));
        assert_eq!(read("core=0:unlimited"), Some(("core".to_owned(), 0, -1)));
        for bad in ["nofile", "=1", "nofile=", "nofile=-1", "nofile=1:", "nofile=1:2:3"] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }
}
