//! Limits, and the few of them that an owner may choose.

use std::time::{Duration, SystemTime};

use neargate_model::Timestamp;

/// Appended events reach the kernel at the latest this long after the first of them was queued…
pub const HANDOVER_INTERVAL: Duration = Duration::from_millis(10);

/// …or as soon as this many bytes are queued.
pub const HANDOVER_BYTES: usize = 64 << 10;

/// What reached the kernel is synced to the disk this often; the loss window of a power failure.
pub const SYNC_INTERVAL: Duration = Duration::from_secs(1);

/// The longest event of a log pump in bytes; longer lines are split, as the `awslogs` driver does.
pub const LINE_BYTES_MAX: usize = 256 << 10;

/// What one event counts in a batch or page beyond its message, in bytes (`PutLogEvents`).
pub const EVENT_OVERHEAD_BYTES: usize = 26;

/// The largest batch or page in bytes (`PutLogEvents`, `GetLogEvents`).
pub const BATCH_BYTES_MAX: usize = 1_048_576;

/// The largest batch or page in events.
pub const BATCH_EVENTS_MAX: usize = 10_000;

/// The retention periods that `PutRetentionPolicy` accepts, in days.
pub const RETENTION_DAYS: [u32; 22] =
    [1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1096, 1827, 2192, 2557, 2922, 3288, 3653];

/// What the owner of a [`LogStore`](crate::LogStore) chooses.
#[derive(Clone, Debug)]
pub struct LogStoreConfig {
    /// A segment is sealed when it is this long, in bytes. Retention removes whole segments and a restart
    /// reads each group's last one, so large segments waste space and start slowly; small ones cost files.
    pub segment_bytes: u64,
    /// How much may wait for the writer thread, in bytes; a batch of the same size may be in its hands.
    pub queue_bytes: usize,
    /// How much of the queue one stream may take, in bytes, so that a flood drowns only itself.
    pub stream_queue_bytes: usize,
    /// When set, [`sweep`](crate::LogStore::sweep) removes the oldest segments while the store is larger.
    pub total_bytes_max: Option<u64>,
    /// How much one page of `filter_events` may read before it returns what it has, in bytes.
    pub scan_bytes_max: u64,
    /// Where the time of ingestion and expiry comes from.
    pub clock: fn() -> Timestamp,
}

impl Default for LogStoreConfig {
    fn default() -> Self {
        Self {
            segment_bytes: 16 << 20,
            queue_bytes: 16 << 20,
            stream_queue_bytes: 2 << 20,
            total_bytes_max: None,
            scan_bytes_max: 256 << 20,
            clock: || SystemTime::now().into(),
        }
    }
}
