//! Answers to tasks that ask for addresses without a message: those whose programs have no socket of their own.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Instant;

use crate::guard;
use crate::message::{Code, Kind, Question, Told};
use crate::name::Name;
use crate::resolver::{Resolver, Step};

impl Resolver {
    /// The addresses of a name, as a task is told them that asks by two messages, and counted as those: empty if it has
    /// none, and `None` if nobody could say.
    pub async fn addresses(&self, client: Ipv4Addr, name: &str) -> Option<Vec<IpAddr>> {
        let Some(name) = Name::from_text(name) else { return Some(Vec::new()) };
        let (v4, v6) =
            tokio::join!(self.records(client, &name, Kind::A), self.records(client, &name, Kind::AAAA));
        match (v4, v6) {
            (None, None) => None,
            // Where one sort is known to be none, the other decides.
            (None, Some(found)) | (Some(found), None) => Some(found).filter(|found| !found.is_empty()),
            (Some(v4), Some(v6)) => Some(v4.into_iter().chain(v6).collect()),
        }
    }

    async fn records(&self, client: Ipv4Addr, name: &Name, kind: Kind) -> Option<Vec<IpAddr>> {
        let question = Question { name: name.clone(), kind };
        let reply = match self.begin_direct(client, question, Instant::now()) {
            Step::Silence => return None,
            Step::Answer(reply) => reply,
            Step::Ask(asking) => self.ask(asking).await,
        };
        let Told { aliases, answer, .. } = reply.into_told();
        let records = aliases.iter().chain(&answer.records).filter(|record| record.kind == kind);
        match answer.code {
            Code::OK => Some(records.filter_map(guard::addresses).flatten().collect()),
            Code::NO_NAME => Some(Vec::new()),
            _ => None,
        }
    }
}
