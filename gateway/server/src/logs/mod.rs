//! Amazon CloudWatch Logs: groups, streams and events over the telemetry store.
//!
//! The store's functions block on the disk, so each runs on a blocking thread.

mod error;

use neargate_model::{Arn, Scope, Timestamp};
use neargate_telemetry::pattern::FilterPattern;
use neargate_telemetry::{
    FilterQuery, GetQuery, GroupInfo, GroupQuery, InputEvent, LogStore, StreamInfo, StreamOrder, StreamQuery,
    StreamSelect,
};
use neargate_wire::logs::{
    CreateLogGroupRequest, CreateLogStreamRequest, DeleteLogGroupRequest, DeleteLogStreamRequest,
    DeleteRetentionPolicyRequest, DescribeLogGroupsRequest, DescribeLogGroupsResponse,
    DescribeLogStreamsRequest, DescribeLogStreamsResponse, FilterLogEventsRequest, FilterLogEventsResponse,
    FilteredLogEvent, GetLogEventsRequest, GetLogEventsResponse, InputLogEvent, LogGroup, LogGroupClass,
    LogStream, Logs, LogsError, OrderBy, OutputLogEvent, PutLogEventsRequest, PutLogEventsResponse,
    PutRetentionPolicyRequest, RejectedLogEventsInfo,
};

use self::error::invalid;
use crate::RequestContext;

/// The CloudWatch Logs API.
pub struct LogsApi {
    store: LogStore,
}

impl LogsApi {
    /// The API over a log store.
    pub fn new(store: LogStore) -> Self {
        Self { store }
    }

    /// Runs a function of the store where it may block.
    async fn blocking<T, E>(
        &self,
        cx: &RequestContext,
        f: impl FnOnce(&LogStore, &Scope) -> Result<T, E> + Send + 'static,
    ) -> Result<T, LogsError>
    where
        T: Send + 'static,
        E: Into<error::Problem> + Send + 'static,
    {
        let (store, scope) = (self.store.clone(), cx.scope.clone());
        match tokio::task::spawn_blocking(move || f(&store, &scope)).await {
            Ok(result) => result.map_err(|error| error::logs(error.into())),
            Err(_) => Err(LogsError::ServiceUnavailable {
                message: "The service cannot complete the request.".to_owned(),
            }),
        }
    }
}

/// The name of a group that is named by its name or by an ARN of it.
fn group_name(
    cx: &RequestContext,
    name: Option<String>,
    identifier: Option<String>,
) -> Result<String, LogsError> {
    match (name, identifier) {
        (Some(name), None) => Ok(name),
        (None, Some(identifier)) if identifier.starts_with("arn:") => {
            let arn =
                Arn::parse(&identifier).ok().filter(|arn| arn.service == "logs" && arn.scope == cx.scope);
            let resource = arn.as_ref().and_then(|arn| arn.resource.strip_prefix("log-group:"));
            let name = resource.map(|name| name.trim_end_matches(":*").to_owned());
            name.ok_or_else(|| {
                invalid("logGroupIdentifier is not an ARN of a log group of this account and region")
            })
        }
        (None, Some(identifier)) => Ok(identifier),
        (Some(_), Some(_)) => Err(invalid("specify either logGroupName or logGroupIdentifier, not both")),
        (None, None) => Err(invalid("logGroupName or logGroupIdentifier is needed")),
    }
}

fn time(ms: Option<i64>) -> Option<Timestamp> {
    ms.map(Timestamp::from_millis)
}

fn limit(limit: Option<i32>) -> Result<Option<usize>, LogsError> {
    limit.map(|limit| usize::try_from(limit).map_err(|_| invalid("limit cannot be negative"))).transpose()
}

fn index(index: Option<usize>) -> Option<i32> {
    index.map(|index| i32::try_from(index).unwrap_or(i32::MAX))
}

fn group_arn(scope: &Scope, name: &str) -> String {
    let resource = format!("log-group:{name}");
    Arn { service: "logs".to_owned(), scope: scope.clone(), resource }.to_string()
}

fn group_to_wire(scope: &Scope, group: GroupInfo) -> LogGroup {
    let arn = group_arn(scope, &group.name);
    LogGroup {
        arn: Some(format!("{arn}:*")),
        log_group_arn: Some(arn),
        log_group_name: Some(group.name),
        creation_time: Some(group.created.as_millis()),
        retention_in_days: group.retention_days.map(|days| i32::try_from(days).unwrap_or(i32::MAX)),
        metric_filter_count: Some(0),
        stored_bytes: Some(i64::try_from(group.stored_bytes).unwrap_or(i64::MAX)),
        log_group_class: Some(LogGroupClass::Standard),
        ..LogGroup::default()
    }
}

fn stream_to_wire(scope: &Scope, group: &str, stream: StreamInfo) -> LogStream {
    let ms = |at: Option<Timestamp>| at.map(Timestamp::as_millis);
    LogStream {
        arn: Some(format!("{}:log-stream:{}", group_arn(scope, group), stream.name)),
        log_stream_name: Some(stream.name),
        creation_time: Some(stream.created.as_millis()),
        first_event_timestamp: ms(stream.first_event),
        last_event_timestamp: ms(stream.last_event),
        last_ingestion_time: ms(stream.last_ingestion),
        // AWS has reported 0 here since 2019.
        stored_bytes: Some(0),
        ..LogStream::default()
    }
}

impl Logs for LogsApi {
    type Context = RequestContext;

    async fn create_log_group(
        &self,
        cx: &RequestContext,
        input: CreateLogGroupRequest,
    ) -> Result<(), LogsError> {
        if input.kms_key_id.is_some() {
            return Err(invalid("kmsKeyId is not supported: log data is not encrypted here"));
        }
        self.blocking(cx, move |store, scope| store.create_group(scope, &input.log_group_name, None)).await
    }

    async fn delete_log_group(
        &self,
        cx: &RequestContext,
        input: DeleteLogGroupRequest,
    ) -> Result<(), LogsError> {
        self.blocking(cx, move |store, scope| store.delete_group(scope, &input.log_group_name)).await
    }

    async fn describe_log_groups(
        &self,
        cx: &RequestContext,
        input: DescribeLogGroupsRequest,
    ) -> Result<DescribeLogGroupsResponse, LogsError> {
        let query = GroupQuery {
            prefix: input.log_group_name_prefix,
            pattern: input.log_group_name_pattern,
            limit: limit(input.limit)?,
            token: input.next_token,
        };
        let page = self.blocking(cx, move |store, scope| store.describe_groups(scope, &query)).await?;
        let groups = page.items.into_iter().map(|group| group_to_wire(&cx.scope, group)).collect();
        Ok(DescribeLogGroupsResponse { log_groups: Some(groups), next_token: page.next_token })
    }

    async fn create_log_stream(
        &self,
        cx: &RequestContext,
        input: CreateLogStreamRequest,
    ) -> Result<(), LogsError> {
        let create = move |store: &LogStore, scope: &Scope| {
            store.create_stream(scope, &input.log_group_name, &input.log_stream_name)
        };
        self.blocking(cx, create).await
    }

    async fn delete_log_stream(
        &self,
        cx: &RequestContext,
        input: DeleteLogStreamRequest,
    ) -> Result<(), LogsError> {
        let delete = move |store: &LogStore, scope: &Scope| {
            store.delete_stream(scope, &input.log_group_name, &input.log_stream_name)
        };
        self.blocking(cx, delete).await
    }

    async fn describe_log_streams(
        &self,
        cx: &RequestContext,
        input: DescribeLogStreamsRequest,
    ) -> Result<DescribeLogStreamsResponse, LogsError> {
        let group = group_name(cx, input.log_group_name, input.log_group_identifier)?;
        let query = StreamQuery {
            prefix: input.log_stream_name_prefix,
            order: match input.order_by {
                Some(OrderBy::LastEventTime) => StreamOrder::LastEventTime,
                Some(OrderBy::LogStreamName | OrderBy::Unlisted(_)) | None => StreamOrder::Name,
            },
            descending: input.descending.unwrap_or(false),
            limit: limit(input.limit)?,
            token: input.next_token,
        };
        let name = group.clone();
        let page =
            self.blocking(cx, move |store, scope| store.describe_streams(scope, &name, &query)).await?;
        let streams = page.items.into_iter().map(|stream| stream_to_wire(&cx.scope, &group, stream));
        Ok(DescribeLogStreamsResponse { log_streams: Some(streams.collect()), next_token: page.next_token })
    }

    async fn put_log_events(
        &self,
        cx: &RequestContext,
        input: PutLogEventsRequest,
    ) -> Result<PutLogEventsResponse, LogsError> {
        let event = |event: InputLogEvent| InputEvent {
            timestamp: Timestamp::from_millis(event.timestamp),
            message: event.message,
        };
        let events: Vec<InputEvent> = input.log_events.into_iter().map(event).collect();
        let (group, stream) = (input.log_group_name, input.log_stream_name);
        let put = move |store: &LogStore, scope: &Scope| store.put_events(scope, &group, &stream, &events);
        let rejected = self.blocking(cx, put).await?;
        let info = RejectedLogEventsInfo {
            too_new_log_event_start_index: index(rejected.too_new_start),
            too_old_log_event_end_index: index(rejected.too_old_end),
            expired_log_event_end_index: index(rejected.expired_end),
        };
        Ok(PutLogEventsResponse {
            // Sequence tokens are accepted and returned but mean nothing any more (API reference).
            next_sequence_token: Some("0".repeat(56)),
            rejected_log_events_info: (info != RejectedLogEventsInfo::default()).then_some(info),
            ..PutLogEventsResponse::default()
        })
    }

    async fn get_log_events(
        &self,
        cx: &RequestContext,
        input: GetLogEventsRequest,
    ) -> Result<GetLogEventsResponse, LogsError> {
        let group = group_name(cx, input.log_group_name, input.log_group_identifier)?;
        let query = GetQuery {
            start: time(input.start_time),
            end: time(input.end_time),
            limit: limit(input.limit)?,
            start_from_head: input.start_from_head.unwrap_or(false),
            token: input.next_token,
        };
        let stream = input.log_stream_name;
        let get = move |store: &LogStore, scope: &Scope| store.get_events(scope, &group, &stream, &query);
        let page = self.blocking(cx, get).await?;
        let event = |event: neargate_telemetry::Event| OutputLogEvent {
            timestamp: Some(event.timestamp.as_millis()),
            ingestion_time: Some(event.ingestion_time.as_millis()),
            message: Some(event.message),
        };
        Ok(GetLogEventsResponse {
            events: Some(page.events.into_iter().map(event).collect()),
            next_forward_token: Some(page.next_forward_token),
            next_backward_token: Some(page.next_backward_token),
        })
    }

    async fn filter_log_events(
        &self,
        cx: &RequestContext,
        input: FilterLogEventsRequest,
    ) -> Result<FilterLogEventsResponse, LogsError> {
        let group = group_name(cx, input.log_group_name, input.log_group_identifier)?;
        let streams = match (input.log_stream_names, input.log_stream_name_prefix) {
            (Some(_), Some(_)) => {
                return Err(invalid("specify either logStreamNames or logStreamNamePrefix, not both"));
            }
            (Some(names), None) => StreamSelect::Names(names),
            (None, Some(prefix)) => StreamSelect::Prefix(prefix),
            (None, None) => StreamSelect::All,
        };
        let pattern = input.filter_pattern.as_deref().filter(|text| !text.is_empty());
        let pattern = pattern.map(FilterPattern::parse).transpose();
        let query = FilterQuery {
            streams,
            pattern: pattern.map_err(|error| invalid(format!("Invalid filter pattern: {error}")))?,
            start: time(input.start_time),
            end: time(input.end_time),
            limit: limit(input.limit)?,
            newest_first: input.start_from_head == Some(false),
            token: input.next_token,
        };
        let page = self.blocking(cx, move |store, scope| store.filter_events(scope, &group, &query)).await?;
        let event = |found: neargate_telemetry::FilteredEvent| FilteredLogEvent {
            log_stream_name: Some(found.stream),
            timestamp: Some(found.event.timestamp.as_millis()),
            ingestion_time: Some(found.event.ingestion_time.as_millis()),
            message: Some(found.event.message),
            event_id: Some(found.id),
        };
        Ok(FilterLogEventsResponse {
            events: Some(page.items.into_iter().map(event).collect()),
            searched_log_streams: Some(Vec::new()),
            next_token: page.next_token,
        })
    }

    async fn put_retention_policy(
        &self,
        cx: &RequestContext,
        input: PutRetentionPolicyRequest,
    ) -> Result<(), LogsError> {
        let days = u32::try_from(input.retention_in_days)
            .map_err(|_| invalid("retentionInDays cannot be negative"))?;
        let group = input.log_group_name;
        self.blocking(cx, move |store, scope| store.put_retention(scope, &group, days)).await
    }

    async fn delete_retention_policy(
        &self,
        cx: &RequestContext,
        input: DeleteRetentionPolicyRequest,
    ) -> Result<(), LogsError> {
        self.blocking(cx, move |store, scope| store.delete_retention(scope, &input.log_group_name)).await
    }
}
