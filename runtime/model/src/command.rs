//! A command that somebody runs inside a running container.

/// The size of a terminal, in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Lines.
    pub rows: u16,
    /// Characters in a line.
    pub columns: u16,
}

/// What is to be run, as whom, and what it is connected to.
///
/// Everything else (namespaces, cgroup, limits, capabilities, working directory) is the container's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// Program and arguments.
    pub argv: Vec<String>,
    /// Variables added to the container's environment.
    pub env: Vec<(String, String)>,
    /// `user[:group]`, by name or number; the container's own when there is none.
    pub user: Option<String>,
    /// Whether standard input is connected; else it is at its end from the start.
    pub stdin: bool,
    /// A terminal of this size in place of three streams.
    pub window: Option<Window>,
}
