//! Reading through the store: pages of one stream, searches in a group, and following.

use std::collections::HashMap;
use std::sync::Arc;

use neargate_model::Scope;

use crate::config::BATCH_EVENTS_MAX;
use crate::error::ReadError;
use crate::event::{FilterQuery, FilteredEvent, GetPage, GetQuery, Page, StreamSelect};
use crate::follow::{FollowFrom, Follower};
use crate::group::{Group, Stream};
use crate::query::{self, Found, Search};
use crate::store::{LogStore, find_stream};
use crate::token::{Direction, Position, Token, event_id};

/// How many streams a search may name.
const STREAM_NAMES_MAX: usize = 100;

impl LogStore {
    /// Reads a page of one stream by the rules of `GetLogEvents`.
    pub fn get_events(
        &self,
        scope: &Scope,
        group: &str,
        stream: &str,
        query: &GetQuery,
    ) -> Result<GetPage, ReadError> {
        let found = self.core().group(scope, group)?;
        let stream = find_stream(found.lock().streams.get(stream), stream)?;
        let limit = check_limit(query.limit)?;
        let token = query.token.as_deref().map(|token| read_token(token, stream.id)).transpose()?;
        let (direction, from) = match token {
            Some(token) => (token.direction, token.at),
            None if query.start_from_head => (Direction::Forward, Position::START),
            None => (Direction::Backward, Position::END),
        };
        let search = Search {
            streams: &HashMap::from([(stream.id, stream.clone())]),
            pattern: None,
            direction,
            from,
            start: self.start_of(&found, query.start.map(|t| t.as_millis())),
            end: query.end.map_or(i64::MAX, |t| t.as_millis()),
            limit,
            scan_bytes_max: u64::MAX,
        };
        let mut hits = run(&found, group, &search)?.hits;
        if direction == Direction::Backward {
            hits.reverse();
        }
        let (forward, backward) = match (hits.first(), hits.last(), token) {
            (Some(first), Some(last), _) => (last.at, first.at),
            (_, _, None) => (Position::START, Position::START),
            (_, _, Some(Token { direction: Direction::Forward, at, .. })) => (at, at.next()),
            (_, _, Some(Token { direction: Direction::Backward, at, .. })) => (at.previous(), at),
        };
        let encode = |direction, at| Token { direction, stream: stream.id, at }.encode();
        Ok(GetPage {
            events: hits.into_iter().map(|hit| hit.event).collect(),
            next_forward_token: encode(Direction::Forward, forward),
            next_backward_token: encode(Direction::Backward, backward),
        })
    }

    /// Searches the streams of a group by the rules of `FilterLogEvents`, their events interleaved by time.
    /// A page may be short or empty and still have a next token.
    pub fn filter_events(
        &self,
        scope: &Scope,
        group: &str,
        query: &FilterQuery,
    ) -> Result<Page<FilteredEvent>, ReadError> {
        let found = self.core().group(scope, group)?;
        let streams = select(&found, &query.streams)?;
        let limit = check_limit(query.limit)?;
        let token = query.token.as_deref().map(|token| read_token(token, 0)).transpose()?;
        let (direction, from) = match token {
            Some(token) => (token.direction, token.at),
            None if query.newest_first => (Direction::Backward, Position::END),
            None => (Direction::Forward, Position::START),
        };
        let search = Search {
            streams: &streams,
            pattern: query.pattern.as_ref(),
            direction,
            from,
            start: self.start_of(&found, query.start.map(|t| t.as_millis())),
            end: query.end.map_or(i64::MAX, |t| t.as_millis().saturating_add(1)),
            limit,
            scan_bytes_max: self.core().config.scan_bytes_max,
        };
        let Found { hits, resume } = run(&found, group, &search)?;
        let items = hits.into_iter().filter_map(|hit| {
            let stream = streams.get(&hit.stream)?.name.to_string();
            Some(FilteredEvent { id: event_id(hit.stream, hit.at), stream, event: hit.event })
        });
        let next_token = resume.map(|at| Token { direction, stream: 0, at }.encode());
        Ok(Page { items: items.collect(), next_token })
    }

    /// Follows a stream, for `logs -f` and live tail.
    pub fn follow(
        &self,
        scope: &Scope,
        group: &str,
        stream: &str,
        from: FollowFrom,
    ) -> Result<Follower, ReadError> {
        let found = self.core().group(scope, group)?;
        let target = find_stream(found.lock().streams.get(stream), stream)?;
        let follower = Follower::new(found.clone(), target.clone(), self.core().queue.is_closing());
        let start = self.start_of(&found, None);
        match from {
            FollowFrom::Oldest => Ok(follower.starting(0, start)),
            FollowFrom::Since(time) => Ok(follower.starting(0, start.max(time.as_millis()))),
            FollowFrom::Newest | FollowFrom::Last(0) => {
                let latest = follower.latest();
                Ok(follower.starting(latest, i64::MIN))
            }
            FollowFrom::Last(events) => {
                let latest = follower.latest();
                let search = Search {
                    streams: &HashMap::from([(target.id, target)]),
                    pattern: None,
                    direction: Direction::Backward,
                    from: Position::END,
                    start,
                    end: i64::MAX,
                    limit: events.min(BATCH_EVENTS_MAX),
                    scan_bytes_max: u64::MAX,
                };
                let hits = run(&found, group, &search)?.hits;
                let first = hits.iter().map(|hit| hit.at.seq).min();
                Ok(follower.starting(first.map_or(latest, |seq| seq - 1), start))
            }
        }
    }

    /// The earliest time to read: what was asked for, or what retention leaves.
    fn start_of(&self, group: &Group, asked: Option<i64>) -> i64 {
        let cutoff = group.lock().meta.cutoff((self.core().config.clock)());
        asked.unwrap_or(i64::MIN).max(cutoff)
    }
}

fn run(group: &Group, name: &str, search: &Search<'_>) -> Result<Found, ReadError> {
    query::run(group, search).map_err(|source| ReadError::Io { group: name.to_owned(), source })
}

fn check_limit(limit: Option<usize>) -> Result<usize, ReadError> {
    match limit.unwrap_or(BATCH_EVENTS_MAX) {
        limit @ 1..=BATCH_EVENTS_MAX => Ok(limit),
        _ => Err(ReadError::InvalidParameter { parameter: "limit", rule: "a page has 1 to 10,000 events" }),
    }
}

fn read_token(text: &str, stream: u32) -> Result<Token, ReadError> {
    let token = Token::decode(text).filter(|token| token.stream == stream);
    token.ok_or(ReadError::InvalidParameter {
        parameter: "nextToken",
        rule: "a token is one that this operation has returned for the same stream or group",
    })
}

fn select(group: &Group, streams: &StreamSelect) -> Result<HashMap<u32, Arc<Stream>>, ReadError> {
    let state = group.lock();
    match streams {
        StreamSelect::All => Ok(state.by_id.clone()),
        StreamSelect::Prefix(prefix) => {
            Ok(state.named(prefix, None).map(|stream| (stream.id, stream.clone())).collect())
        }
        StreamSelect::Names(names) => {
            if names.is_empty() || names.len() > STREAM_NAMES_MAX {
                let rule = "a search names 1 to 100 streams";
                return Err(ReadError::InvalidParameter { parameter: "logStreamNames", rule });
            }
            let found = names.iter().map(|name| find_stream(state.streams.get(name.as_str()), name));
            Ok(found.map(|stream| stream.map(|s| (s.id, s))).collect::<Result<_, _>>()?)
        }
    }
}
