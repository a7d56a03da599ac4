//! Clusters and account settings.

use serde::{Deserialize, Serialize};

use crate::{ClusterName, Tags, Timestamp};

/// A named group of tasks and services.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cluster {
    /// Its name.
    pub name: ClusterName,
    /// Whether it may be used.
    pub status: ClusterStatus,
    /// Tags.
    pub tags: Tags,
    /// When it was created.
    pub created_at: Timestamp,
    /// Settings, configuration and capacity providers as the API that accepted them writes them; opaque
    /// to everyone else.
    pub face: String,
}

impl Cluster {
    /// The tag by which a cluster asks for something of Neargate's own.
    pub const ISOLATION_TAG: &'static str = "neargate:isolation";

    /// The value of [`Cluster::ISOLATION_TAG`] that keeps its Wasm tasks out of the worker processes of
    /// other clusters.
    pub const OWN_WORKERS: &'static str = "own-workers";

    /// Whether its Wasm tasks share worker processes with each other only.
    pub fn has_own_workers(&self) -> bool {
        self.tags.get(Self::ISOLATION_TAG).is_some_and(|value| value == Self::OWN_WORKERS)
    }
}

/// Whether a cluster may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ClusterStatus {
    /// It may be used.
    Active,
    /// It was deleted; kept for a while so that its name still explains itself.
    Inactive,
}

/// One account setting of one principal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccountSetting {
    /// The setting's name, for example `containerInsights`.
    pub name: String,
    /// Its value.
    pub value: String,
    /// Whom it is for: an ARN, or the account's root for the default of everybody.
    pub principal: String,
}

impl AccountSetting {
    /// Whether it is on, in either of the two words that there are for it.
    pub fn is_on(&self) -> bool {
        ["enabled", "on"].contains(&self.value.as_str())
    }
}
