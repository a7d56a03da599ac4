//! One store: what a guest is given, its limits, and the linked code that runs in it.

mod context;
mod link;
mod state;

pub(crate) use context::{Directory, RunContext, RunParts, RunStdio};
pub(crate) use link::{Code, Linkers};
pub(crate) use state::State;

/// Why a guest was ended from outside; the error that its call returns.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum Ended {
    /// Its run or its task has used up its CPU time.
    #[error("CPU budget exceeded: the {whose} may use {} ms of CPU time", budget.as_millis())]
    CpuBudget {
        /// `container` or `task`.
        whose: &'static str,
        /// The budget.
        budget: std::time::Duration,
    },
    /// It asked for what its task definition does not grant.
    #[error("{what} is not granted to this container; the label neargate.wasm.grants names what is")]
    Denied {
        /// For people: the interface.
        what: String,
    },
}
