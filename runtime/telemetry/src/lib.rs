//! The log store: appends what tasks print, answers the CloudWatch Logs API and `neargate logs`, forgets
//! what has expired.
//!
//! # Shape
//!
//! ```text
//! StreamWriter ─┐                 ┌─ writer thread: one write(2) per group and batch
//! put_events  ──┴─ bounded queue ─┘        │ publishes the index, wakes followers
//!                                     segments ── sync thread: fdatasync once a second, writes indexes
//! get_events, filter_events, Follower ──┘
//! ```
//!
//! **A segment belongs to a group, not to a stream.** Every task makes a stream, most hold a few lines, and
//! tens of thousands may live at once. With a file per stream each would cost an inode, a 4 KiB block, an open
//! descriptor while it is written and a sync of its own. Here it costs one line in the group's stream
//! log, and its events share the writes and syncs of all its neighbours: a thousand tasks that print a line
//! each are one write. The price is that reading one stream passes over its neighbours' blocks: the index
//! is therefore per 64 KiB chunk and lists the streams in it. Deleting one stream only marks it dead;
//! a [sweep](LogStore::sweep) rewrites segments that are mostly dead. Segments are not compressed.
//!
//! # Promises
//!
//! * An appended line is with the kernel within 10 ms of being queued, or sooner once 64 KiB wait; from then
//!   on it survives `kill -9` of this process. [`put_events`](LogStore::put_events) and
//!   [`flush`](LogStore::flush) return only then.
//! * What is with the kernel is on the disk within about a second; a power failure may take that much.
//! * Blocks carry a length and a CRC-32. A torn end is cut when the store is opened, so no half line is ever
//!   returned. Followers see a stream in the order of its appends; pages are ordered by time, and events of
//!   the same millisecond by their appends.
//! * Memory is bounded: by [`queue_bytes`](LogStoreConfig::queue_bytes) twice over for what is not yet
//!   written, by the page for what is read, and by about 400 bytes per stream plus 50 bytes per stream and
//!   segment for the index. Open files: at most 128 for writing, 16 per running search.
//! * A line that does not fit or that the disk refuses is counted, and a [gap](Event::gap) says so in the
//!   stream once writing works again. Nothing waits for a full disk and nothing needs a restart after it.
//!
//! Not here: metric samples, subscription and metric filters, Insights queries.

#![forbid(unsafe_code)]

mod block;
mod config;
mod describe;
mod error;
mod event;
mod follow;
mod group;
pub mod pattern;
mod query;
mod queue;
mod read;
mod rules;
mod segment;
mod store;
mod stream_writer;
mod sweep;
mod token;
mod writer;

pub use config::{
    BATCH_BYTES_MAX, BATCH_EVENTS_MAX, EVENT_OVERHEAD_BYTES, HANDOVER_BYTES, HANDOVER_INTERVAL,
    LINE_BYTES_MAX, LogStoreConfig, RETENTION_DAYS, SYNC_INTERVAL,
};
pub use error::{MetaError, OpenError, PutError, ReadError, What};
pub use event::{
    Event, FilterQuery, FilteredEvent, GetPage, GetQuery, GroupInfo, GroupQuery, InputEvent, Page, Rejected,
    StoreStats, StreamInfo, StreamOrder, StreamQuery, StreamSelect, SweepReport,
};
pub use follow::{FollowFrom, Follower};
pub use pattern::{FilterPattern, InvalidFilterPattern};
pub use queue::Appended;
pub use store::{Create, LogStore};
pub use stream_writer::StreamWriter;
