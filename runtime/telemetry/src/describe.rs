//! Listings of groups and streams, page by page.
//!
//! A token holds the last item of its page, so a page stays right while items come and go.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError};

use neargate_model::{Scope, Timestamp};

use crate::error::MetaError;
use crate::event::{GroupInfo, GroupQuery, Page, StreamInfo, StreamOrder, StreamQuery};
use crate::group::{Group, Stream};
use crate::store::LogStore;

/// The largest page of groups or streams.
const DESCRIBE_LIMIT_MAX: usize = 50;

impl LogStore {
    /// Lists groups by name.
    pub fn describe_groups(&self, scope: &Scope, query: &GroupQuery) -> Result<Page<GroupInfo>, MetaError> {
        if query.prefix.is_some() && query.pattern.is_some() {
            let rule = "a prefix and a pattern exclude each other";
            return Err(MetaError::InvalidParameter { parameter: "logGroupNamePattern", rule });
        }
        let limit = check_limit(query.limit)?;
        let after = query.token.as_deref().map(|token| name_token(token, 'n')).transpose()?;
        let prefix = query.prefix.as_deref().unwrap_or_default();
        let pattern = query.pattern.as_deref().unwrap_or_default();
        let mut matching: Vec<Arc<Group>> = {
            let groups = self.core().groups.read().unwrap_or_else(PoisonError::into_inner);
            groups
                .range((scope.clone(), prefix.to_owned())..)
                .take_while(|((of, name), _)| of == scope && name.starts_with(prefix))
                .filter(|((_, name), _)| {
                    name.contains(pattern) && after.is_none_or(|after| name.as_str() > after)
                })
                .map(|(_, group)| group.clone())
                .take(limit + 1)
                .collect()
        };
        let more = matching.len() > limit;
        matching.truncate(limit);
        let items: Vec<GroupInfo> = matching.iter().map(|group| describe_group(group)).collect();
        let next_token = items.last().filter(|_| more).map(|group| format!("n/{}", group.name));
        Ok(Page { items, next_token })
    }

    /// Lists the streams of a group.
    pub fn describe_streams(
        &self,
        scope: &Scope,
        group: &str,
        query: &StreamQuery,
    ) -> Result<Page<StreamInfo>, MetaError> {
        if query.prefix.is_some() && query.order == StreamOrder::LastEventTime {
            let rule = "streams ordered by LastEventTime cannot be selected by prefix";
            return Err(MetaError::InvalidParameter { parameter: "logStreamNamePrefix", rule });
        }
        let limit = check_limit(query.limit)?;
        let group = self.core().group(scope, group)?;
        match query.order {
            StreamOrder::Name => streams_by_name(&group, query, limit),
            StreamOrder::LastEventTime => streams_by_time(&group, query, limit),
        }
    }
}

fn check_limit(limit: Option<usize>) -> Result<usize, MetaError> {
    match limit.unwrap_or(DESCRIBE_LIMIT_MAX) {
        limit @ 1..=DESCRIBE_LIMIT_MAX => Ok(limit),
        _ => Err(MetaError::InvalidParameter { parameter: "limit", rule: "a page has 1 to 50 items" }),
    }
}

/// Reads a token `<kind>/<rest>`.
fn name_token(token: &str, kind: char) -> Result<&str, MetaError> {
    let rest = token.strip_prefix(kind).and_then(|rest| rest.strip_prefix('/'));
    rest.ok_or(MetaError::InvalidParameter {
        parameter: "nextToken",
        rule: "the token is not of this listing",
    })
}

fn describe_group(group: &Group) -> GroupInfo {
    let state = group.lock();
    GroupInfo {
        name: state.meta.name.clone(),
        created: state.meta.created,
        retention_days: state.meta.retention_days,
        stored_bytes: state.stored_bytes(),
    }
}

fn describe_stream(stream: &Stream) -> StreamInfo {
    let times = *stream.times();
    StreamInfo {
        name: stream.name.to_string(),
        created: stream.created,
        first_event: times.first_event.map(Timestamp),
        last_event: times.last_event.map(Timestamp),
        last_ingestion: times.last_ingestion.map(Timestamp),
    }
}

fn streams_by_name(group: &Group, query: &StreamQuery, limit: usize) -> Result<Page<StreamInfo>, MetaError> {
    let after = query.token.as_deref().map(|token| name_token(token, 'n')).transpose()?;
    let prefix = query.prefix.as_deref().unwrap_or_default();
    let state = group.lock();
    let mut page: Vec<&Arc<Stream>> = if query.descending {
        let earlier = |stream: &&Arc<Stream>| after.is_none_or(|after| &*stream.name < after);
        let mut all: Vec<_> = state.named(prefix, None).take_while(earlier).collect();
        all.reverse();
        all.truncate(limit + 1);
        all
    } else {
        state.named(prefix, after).take(limit + 1).collect()
    };
    let more = page.len() > limit;
    page.truncate(limit);
    let next_token = page.last().filter(|_| more).map(|stream| format!("n/{}", stream.name));
    Ok(Page { items: page.into_iter().map(|stream| describe_stream(stream)).collect(), next_token })
}

/// Streams without events come first, as those whose last event is longest ago.
fn streams_by_time(group: &Group, query: &StreamQuery, limit: usize) -> Result<Page<StreamInfo>, MetaError> {
    let malformed =
        MetaError::InvalidParameter { parameter: "nextToken", rule: "the token is not of this listing" };
    let after = match query.token.as_deref().map(|token| name_token(token, 't')).transpose()? {
        None => None,
        Some(token) => {
            let (time, name) = token.split_once('/').ok_or(malformed)?;
            Some((time.parse::<i64>().ok(), name.to_owned()))
        }
    };
    let mut keys: HashMap<Arc<str>, Option<i64>> = HashMap::new();
    let state = group.lock();
    let mut page: Vec<&Arc<Stream>> = state.streams.values().collect();
    // Read once: the writer may change a time while we sort.
    for stream in &page {
        keys.insert(stream.name.clone(), stream.times().last_event);
    }
    let key = |stream: &Arc<Stream>| (keys.get(&stream.name).copied().flatten(), stream.name.to_string());
    if let Some(after) = after {
        page.retain(|stream| if query.descending { key(stream) < after } else { key(stream) > after });
    }
    page.sort_by_cached_key(|stream| key(stream));
    if query.descending {
        page.reverse();
    }
    let more = page.len() > limit;
    page.truncate(limit);
    let token = |stream: &&Arc<Stream>| match key(stream) {
        (Some(time), name) => format!("t/{time}/{name}"),
        (None, name) => format!("t//{name}"),
    };
    let next_token = page.last().filter(|_| more).map(token);
    Ok(Page { items: page.into_iter().map(|stream| describe_stream(stream)).collect(), next_token })
}
