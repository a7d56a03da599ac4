//! How much may pass the interface of a task, each way.
//!
//! A limit is kept in the router by dropping what is more (a token bucket), where no right over its own network helps a
//! task; TCP settles just below it. It is known by the link, so that it holds for whatever addresses the task has. What
//! the router itself answers, names and metadata, is not counted.

use std::fmt::Write as _;

use crate::rules::TABLE;

/// The maps from links to what they may send and receive.
const SENT: &str = "sent";
const RECEIVED: &str = "received";
/// Bytes beyond a second's worth that may pass at once (the kernel's bucket holds both, `nft_limit_init`): one packet as
/// large as the kernel makes them until they leave the machine (`GSO_LEGACY_MAX_SIZE`), which otherwise would never pass
/// where a second's worth is less.
const BURST_BYTES: u32 = 64 << 10;
/// Bytes in a megabit.
const MEGABIT_BYTES: u64 = 1_000_000 / 8;

/// What may pass an interface in a second, each way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bandwidth {
    bytes_per_s: u64,
}

impl Bandwidth {
    /// So many megabits a second.
    pub fn from_mbps(mbps: u32) -> Self {
        Self { bytes_per_s: u64::from(mbps) * MEGABIT_BYTES }
    }

    /// What has the router keep it, at a link that has none.
    pub fn render(self, link: &str) -> String {
        let (mut text, rate) = (String::new(), self.bytes_per_s);
        for map in [SENT, RECEIVED] {
            let limit = format!("{map}_{link}");
            let bucket = format!("rate over {rate} bytes/second burst {BURST_BYTES} bytes");
            let _ = writeln!(text, "add limit inet {TABLE} {limit} {{ {bucket} ; }}");
            let _ = writeln!(text, "add element inet {TABLE} {map} {{ \"{link}\" : \"{limit}\" }}");
        }
        text
    }
}

/// What takes the limit from a link.
pub fn render_removal(link: &str) -> String {
    let removal = |map| {
        format!(
            "delete element inet {TABLE} {map} {{ \"{link}\" }}\ndelete limit inet {TABLE} {map}_{link}\n"
        )
    };
    [SENT, RECEIVED].map(removal).concat()
}

/// The part of the router's table that keeps limits; before the rules of groups, which let through whatever belongs to a
/// known connection.
pub(crate) fn chain() -> String {
    format!(
        r#"    map {SENT} {{ type ifname : limit; }}
    map {RECEIVED} {{ type ifname : limit; }}
    chain bandwidth {{
        type filter hook forward priority filter - 1; policy accept;
        limit name iifname map @{SENT} drop
        limit name oifname map @{RECEIVED} drop
    }}
"#
    )
}
