//! Filters: a name, values, and how they are compared.

use neargate_wire::servicediscovery::{FilterCondition, ServiceDiscoveryError};

use super::error::invalid;

/// One filter, with the name that it has in its list.
pub(super) struct Filter<'a> {
    pub(super) name: &'a str,
    pub(super) condition: Option<&'a FilterCondition>,
    pub(super) values: &'a [String],
}

/// How values are compared.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Compared {
    /// With one.
    Equal,
    /// With one of several.
    In,
    /// With what they begin with.
    BeginsWith,
}

impl Filter<'_> {
    /// How it compares, if that is one of these.
    pub(super) fn compared(&self, allowed: &[Compared]) -> Result<Compared, ServiceDiscoveryError> {
        let (compared, most) = match self.condition {
            None | Some(FilterCondition::Eq) => (Compared::Equal, 1),
            Some(FilterCondition::In) => (Compared::In, usize::MAX),
            Some(FilterCondition::BeginsWith) => (Compared::BeginsWith, 1),
            Some(other) => return Err(self.refuse(other.as_str())),
        };
        if !allowed.contains(&compared) {
            return Err(self.refuse(self.condition.map_or("EQ", FilterCondition::as_str)));
        }
        if self.values.is_empty() || self.values.len() > most {
            return Err(invalid(format!("The filter {} has one value.", self.name)));
        }
        Ok(compared)
    }

    fn refuse(&self, condition: &str) -> ServiceDiscoveryError {
        invalid(format!("The condition {condition} is not supported for the filter {}.", self.name))
    }

    /// Whether a value passes.
    pub(super) fn passes(&self, compared: Compared, value: &str) -> bool {
        self.values.iter().any(|wanted| match compared {
            Compared::Equal | Compared::In => value == wanted,
            Compared::BeginsWith => value.starts_with(wanted.as_str()),
        })
    }
}
