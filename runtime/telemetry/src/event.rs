//! What goes into a log store and comes out of it.

use neargate_model::Timestamp;

/// An event as a client sends it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InputEvent {
    /// When it happened.
    pub timestamp: Timestamp,
    /// The raw message, at least one byte.
    pub message: String,
}

/// A stored event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// When it happened.
    pub timestamp: Timestamp,
    /// When the store received it.
    pub ingestion_time: Timestamp,
    /// The raw message.
    pub message: String,
    /// Whether the store itself wrote this event to say that others were lost here.
    pub gap: bool,
}

/// An event found by a search over many streams.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilteredEvent {
    /// 56 digits, unique in the group; the order of events is the order of their ids.
    pub id: String,
    /// The stream it is in.
    pub stream: String,
    /// The event.
    pub event: Event,
}

/// Which events of a batch were refused, as `rejectedLogEventsInfo` has it; the others were stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rejected {
    /// Index of the first event more than two hours in the future.
    pub too_new_start: Option<usize>,
    /// Index after the last event more than 14 days in the past.
    pub too_old_end: Option<usize>,
    /// Index after the last event older than the group's retention.
    pub expired_end: Option<usize>,
}

/// A log group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupInfo {
    /// Its name.
    pub name: String,
    /// When it was created.
    pub created: Timestamp,
    /// For how long events are kept, in days; for ever if absent.
    pub retention_days: Option<u32>,
    /// What its events take on the disk, in bytes.
    pub stored_bytes: u64,
}

/// A log stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamInfo {
    /// Its name.
    pub name: String,
    /// When it was created.
    pub created: Timestamp,
    /// The earliest stored event.
    pub first_event: Option<Timestamp>,
    /// The latest event.
    pub last_event: Option<Timestamp>,
    /// When an event last arrived.
    pub last_ingestion: Option<Timestamp>,
}

/// One page of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page<T> {
    /// The items.
    pub items: Vec<T>,
    /// What to pass to get the next page; absent on the last one.
    pub next_token: Option<String>,
}

/// Which groups to list. The default is the first 50.
#[derive(Clone, Debug, Default)]
pub struct GroupQuery {
    /// Only names that start so.
    pub prefix: Option<String>,
    /// Only names that contain this; not together with `prefix`.
    pub pattern: Option<String>,
    /// Items per page, 1 to 50.
    pub limit: Option<usize>,
    /// From the previous page.
    pub token: Option<String>,
}

/// How to order a listing of streams.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StreamOrder {
    /// By name.
    #[default]
    Name,
    /// By the time of the latest event; not together with a prefix.
    LastEventTime,
}

/// Which streams to list. The default is the first 50 by name.
#[derive(Clone, Debug, Default)]
pub struct StreamQuery {
    /// Only names that start so.
    pub prefix: Option<String>,
    /// The order.
    pub order: StreamOrder,
    /// Whether to reverse the order.
    pub descending: bool,
    /// Items per page, 1 to 50.
    pub limit: Option<usize>,
    /// From the previous page.
    pub token: Option<String>,
}

/// Which events of one stream to get. The default is the latest page.
#[derive(Clone, Debug, Default)]
pub struct GetQuery {
    /// Only events at or after this time.
    pub start: Option<Timestamp>,
    /// Only events before this time.
    pub end: Option<Timestamp>,
    /// Events per page, 1 to 10,000; a page never exceeds 1 MiB either.
    pub limit: Option<usize>,
    /// Without a token: whether to begin at the oldest event.
    pub start_from_head: bool,
    /// From a previous page; it decides the direction.
    pub token: Option<String>,
}

/// A page of one stream's events, oldest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GetPage {
    /// The events.
    pub events: Vec<Event>,
    /// Leads to later events; equal to the token passed in when there were none.
    pub next_forward_token: String,
    /// Leads to earlier events; equal to the token passed in when there were none.
    pub next_backward_token: String,
}

/// Which streams to search.
#[derive(Clone, Debug, Default)]
pub enum StreamSelect {
    /// All of the group.
    #[default]
    All,
    /// Those whose names start so.
    Prefix(String),
    /// These, at most 100; each must exist.
    Names(Vec<String>),
}

/// Which events of a group to find. The default is all, oldest first.
#[derive(Clone, Debug, Default)]
pub struct FilterQuery {
    /// The streams to search.
    pub streams: StreamSelect,
    /// What events must match.
    pub pattern: Option<crate::pattern::FilterPattern>,
    /// Only events at or after this time.
    pub start: Option<Timestamp>,
    /// Only events at or before this time.
    pub end: Option<Timestamp>,
    /// Events per page, 1 to 10,000; a page never exceeds 1 MiB either.
    pub limit: Option<usize>,
    /// Whether to begin at the newest event; a token decides for itself.
    pub newest_first: bool,
    /// From the previous page.
    pub token: Option<String>,
}

/// What a store has done since it was opened, and how large it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreStats {
    /// Events written.
    pub events_written: u64,
    /// Events lost because a queue was full or the disk refused; each loss is also recorded as a gap.
    pub events_dropped: u64,
    /// Writes and syncs that the kernel refused.
    pub write_errors: u64,
    /// Blocks with a wrong checksum found when the store was opened; readers skip such blocks.
    pub corrupt_blocks: u64,
    /// Bytes cut from the ends of segments when the store was opened.
    pub torn_bytes: u64,
    /// Groups whose description could not be read; they are left alone.
    pub unreadable_groups: u64,
    /// Bytes of all segments.
    pub total_bytes: u64,
    /// Bytes that wait for the writer.
    pub queued_bytes: usize,
}

/// What a sweep has removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SweepReport {
    /// Segments in which nothing was alive, or which had to go for the size limit.
    pub segments_removed: u64,
    /// Segments rewritten without what had been deleted or had expired.
    pub segments_rewritten: u64,
    /// How much smaller the store became, in bytes.
    pub bytes_reclaimed: u64,
    /// Segments that the file system refused to remove or rewrite; the next sweep tries again.
    pub errors: u64,
}
