//! Assignments that a shell reads.

use clap::ValueEnum;

/// A family of shells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Shell {
    /// sh, bash, zsh, dash and others of POSIX.
    Posix,
    /// fish.
    Fish,
}

impl Shell {
    /// A line that sets a variable for this shell and what it starts.
    pub(crate) fn export(self, name: &str, value: &str) -> String {
        match self {
            Self::Posix => format!("export {name}={}\n", self.quote(value)),
            Self::Fish => format!("set -gx {name} {};\n", self.quote(value)),
        }
    }

    /// A line that forgets a variable.
    pub(crate) fn unset(self, name: &str) -> String {
        match self {
            Self::Posix => format!("unset {name}\n"),
            Self::Fish => format!("set -e {name};\n"),
        }
    }

    /// The value as one word. In POSIX nothing is special between single quotes but the quote itself (XCU 2.2.2); in
    /// fish a backslash is, too.
    fn quote(self, value: &str) -> String {
        let value = match self {
            Self::Posix => value.replace('\'', r"'\''"),
            Self::Fish => value.replace('\\', r"\\").replace('\'', r"\'"),
        };
        format!("'{value}'")
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    const VALUES: [&str; 6] = ["plain", "", "a b", "it's", r"\ ' $HOME `id` $(id)", "two\nlines\"*?"];

    #[test]
    fn a_posix_shell_reads_back_every_value() {
        for value in VALUES {
            let script = format!("{}printf %s \"$X\"", Shell::Posix.export("X", value));
            let output = Command::new("sh").args(["-c", &script]).output().unwrap();
            assert_eq!(String::from_utf8(output.stdout).unwrap(), value);
        }
    }

    #[test]
    fn fish_is_quoted_by_its_own_rules() {
        assert_eq!(Shell::Fish.export("X", r"it's \"), "set -gx X 'it\\'s \\\\';\n");
        assert_eq!(Shell::Fish.unset("X"), "set -e X;\n");
        assert_eq!(Shell::Posix.unset("X"), "unset X\n");
    }
}
