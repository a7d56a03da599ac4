//! From a task's message to its answer.

use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::cache::Cache;
use crate::message::{Answer, Code, Kind, Query, Question, Record, Request, Told};
use crate::meter::{Held, Meters, Thing};
use crate::name::Name;
use crate::private::{self, Private};
use crate::servers::Servers;
use crate::under_way::{Turn, UnderWay};
use crate::{PrivateNames, guard, upstream};

/// Aliases that are followed from one name to its addresses.
const LINKS_MAX: usize = 16;

/// What answers. The sockets are those of [`serve`](crate::serve).
pub struct Resolver {
    names: Arc<dyn PrivateNames>,
    servers: Servers,
    cache: Mutex<Cache>,
    under_way: UnderWay,
    pub(crate) meters: Meters,
}

/// How far a message can be answered at once.
pub(crate) enum Step {
    /// It has no answer.
    Silence,
    /// This is its answer.
    Answer(Reply),
    /// Others have to be asked.
    Ask(Asking),
}

/// An answer, and to what.
pub(crate) struct Reply {
    query: Query,
    told: Told,
}

/// A question for others.
pub(crate) struct Asking {
    query: Query,
    /// What was asked, or what that name stands for.
    question: Question,
    /// The aliases that led there.
    aliases: Vec<Record>,
    _held: Held,
}

impl Reply {
    /// The message over UDP, and over TCP.
    pub(crate) fn datagram(&self) -> Vec<u8> {
        self.query.answer(&self.told, self.query.udp_bytes_max())
    }

    /// What is answered, for somebody who wants no message.
    pub(crate) fn into_told(self) -> Told {
        self.told
    }

    pub(crate) fn segment(&self) -> Vec<u8> {
        self.query.answer(&self.told, u16::MAX.into())
    }
}

impl Resolver {
    /// Answers with these names, and asks these servers for others.
    pub fn new(names: Arc<dyn PrivateNames>, servers: Servers) -> Self {
        Self {
            names,
            servers,
            cache: Mutex::default(),
            under_way: UnderWay::default(),
            meters: Meters::default(),
        }
    }

    /// What others have said, of those whom the host asks now: other servers may know other names.
    fn cache(&self) -> MutexGuard<'_, Cache> {
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        cache.begin_anew_for(self.servers.generation());
        cache
    }

    /// Whether an address is a task's.
    pub(crate) fn knows(&self, client: Ipv4Addr) -> bool {
        self.names.knows(client)
    }

    /// Answers what can be answered without asking others.
    pub(crate) fn begin(&self, client: Ipv4Addr, message: &[u8], now: Instant) -> Step {
        if !self.knows(client) || !self.meters.admit(client, now) {
            return Step::Silence;
        }
        let (query, question) = match Request::read(message) {
            Request::Nothing => return Step::Silence,
            Request::Refuse(query, code) => return refuse(query, code),
            Request::Ask(query, question) => (query, question),
        };
        self.look_up(client, query, question, now)
    }

    /// The same of a question that came without a message.
    pub(crate) fn begin_direct(&self, client: Ipv4Addr, question: Question, now: Instant) -> Step {
        match self.knows(client) && self.meters.admit(client, now) {
            true => self.look_up(client, Query::none(), question, now),
            false => Step::Silence,
        }
    }

    fn look_up(&self, client: Ipv4Addr, query: Query, mut question: Question, now: Instant) -> Step {
        let mut aliases = Vec::new();
        for _ in 0..LINKS_MAX {
            let mut answer = match private::look_up(&*self.names, client, &question) {
                Private::Ours(answer) => answer,
                Private::Elsewhere => return self.look_elsewhere(client, query, question, aliases, now),
            };
            let target = answer.records.first().and_then(Record::target);
            answer.records.splice(0..0, aliases.iter().cloned());
            match target.filter(|_| question.kind != Kind::CNAME) {
                Some(target) => {
                    aliases = answer.records;
                    question = Question { name: target, ..question };
                }
                None => return Step::Answer(Reply { query, told: answer.into() }),
            }
        }
        refuse(query, Code::FAILED)
    }

    fn look_elsewhere(
        &self,
        client: Ipv4Addr,
        query: Query,
        question: Question,
        aliases: Vec<Record>,
        now: Instant,
    ) -> Step {
        if let Some((answer, age_s)) = self.cache().get(&question, now) {
            return Step::Answer(Reply { query, told: told(aliases, answer, age_s) });
        }
        match self.meters.hold(client, Thing::Question, now) {
            Some(held) => Step::Ask(Asking { query, question, aliases, _held: held }),
            None => refuse(query, Code::FAILED),
        }
    }

    /// Asks others, or waits for who asks them the same already.
    pub(crate) async fn ask(&self, asking: Asking) -> Reply {
        let Asking { query, question, aliases, _held } = asking;
        let answer = loop {
            match self.under_way.take_turn(&question) {
                Turn::First(turn) => {
                    let asked = self.servers.generation();
                    let answer = Arc::new(self.ask_others(&question).await);
                    if self.servers.generation() == asked {
                        self.cache().put(&question, &answer, Instant::now());
                    }
                    turn.tell(&answer);
                    break answer;
                }
                Turn::Later(others) => {
                    // Who was first may have gone; then another one asks.
                    if let Some(answer) = others.wait().await {
                        break answer;
                    }
                }
            }
        };
        Reply { query, told: told(aliases, answer, 0) }
    }

    async fn ask_others(&self, question: &Question) -> Answer {
        let answer = match upstream::ask(&self.servers, question).await {
            Ok(answer) => checked(&question.name, answer),
            Err(error) => {
                tracing::debug!(%error, name = ?question.name, "a name is not resolved");
                None
            }
        };
        answer.unwrap_or_else(|| Answer::bare(Code::FAILED))
    }
}

impl Answer {
    /// Without a record.
    pub(crate) fn bare(code: Code) -> Self {
        Self { code, is_authoritative: false, records: Vec::new(), authority: Vec::new() }
    }
}

fn refuse(query: Query, code: Code) -> Step {
    Step::Answer(Reply { query, told: Answer::bare(code).into() })
}

/// An answer that says nothing of the name leaves nothing of what led there either.
fn told(aliases: Vec<Record>, answer: Arc<Answer>, age_s: u32) -> Told {
    let aliases = if answer.code == Code::FAILED { Vec::new() } else { aliases };
    Told { aliases, answer, age_s }
}

/// What of another's answer a task is told; `None` if it makes no sense.
fn checked(asked: &Name, answer: Answer) -> Option<Answer> {
    let mut records = guard::follow(asked, answer.records, LINKS_MAX)?;
    if guard::strip(&mut records) {
        tracing::debug!(name = ?asked, "addresses that a task must not be sent to are left out of an answer");
    }
    // Of what is beside an answer only the start of the zone is of use, and only where there is nothing else.
    let mut authority = answer.authority;
    authority.retain(|record| record.kind == Kind::SOA);
    authority.truncate(usize::from(records.is_empty() || answer.code == Code::NO_NAME));
    Some(Answer { code: answer.code, is_authoritative: false, records, authority })
}
