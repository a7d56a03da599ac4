//! What has passed an interface.
//!
//! The kernel counts from the making of a link on, and no request sets its counters back. Where a link gets another user,
//! what they show then is kept with it as its alias (ip-link(8), `alias`), and subtracted.

use netlink_packet_core::Parseable as _;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkMessage};

use crate::link::NEW_LINK;
use crate::netlink::{Batch, Netlink, NetlinkError};

/// What has been received and sent by an interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkTraffic {
    /// What came in.
    pub received: Counters,
    /// What went out.
    pub sent: Counters,
}

/// Counters of one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Bytes.
    pub bytes: u64,
    /// Packets.
    pub packets: u64,
    /// Packets that were damaged.
    pub errors: u64,
    /// Packets that there was no room for.
    pub dropped: u64,
}

impl Netlink {
    /// What has passed an interface of the socket's namespace since it was counted anew, or since it was made; `None`
    /// where the kernel does not count.
    pub fn traffic_of(&self, index: u32) -> Result<Option<LinkTraffic>, NetlinkError> {
        let (seen, earlier) = self.counters_of(index)?;
        Ok(seen.map(|seen| seen.since(earlier)))
    }

    /// Has what has passed an interface so far not be counted any more.
    pub fn count_anew(&self, index: u32) -> Result<(), NetlinkError> {
        let (Some(seen), earlier) = self.counters_of(index)? else { return Ok(()) };
        if seen == earlier {
            return Ok(());
        }
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.attributes.push(LinkAttribute::IfAlias(seen.to_text()));
        let mut batch = Batch::default();
        batch.push("count the traffic of an interface anew", 0, RouteNetlinkMessage::SetLink(message));
        self.exchange(batch)
    }

    /// The kernel's counters, and what they were when the interface was counted anew.
    fn counters_of(&self, index: u32) -> Result<(Option<LinkTraffic>, LinkTraffic), NetlinkError> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        let mut batch = Batch::default();
        batch.push("read the counters of an interface", 0, RouteNetlinkMessage::GetLink(message));
        let (mut seen, mut earlier) = (None, LinkTraffic::default());
        self.ask(batch, |message_type, payload| {
            let message = (message_type == NEW_LINK).then(|| LinkMessage::parse(payload).ok()).flatten();
            for attribute in message.into_iter().flat_map(|message| message.attributes) {
                match attribute {
                    LinkAttribute::Stats64(stats) => {
                        let received = [stats.rx_bytes, stats.rx_packets, stats.rx_errors, stats.rx_dropped];
                        let sent = [stats.tx_bytes, stats.tx_packets, stats.tx_errors, stats.tx_dropped];
                        seen = Some(LinkTraffic { received: received.into(), sent: sent.into() });
                    }
                    LinkAttribute::IfAlias(text) => earlier = LinkTraffic::of_text(&text),
                    _ => {}
                }
            }
        })?;
        Ok((seen, earlier))
    }
}

impl LinkTraffic {
    fn since(self, earlier: Self) -> Self {
        Self { received: self.received.since(earlier.received), sent: self.sent.since(earlier.sent) }
    }

    /// At most 167 characters, of 255 that an alias may have.
    fn to_text(self) -> String {
        let numbers = [<[u64; 4]>::from(self.received), self.sent.into()].concat();
        numbers.iter().map(u64::to_string).collect::<Vec<_>>().join(" ")
    }

    /// Nothing for what is no text of such numbers, which somebody else may have written.
    fn of_text(text: &str) -> Self {
        let numbers: Option<Vec<u64>> = text.split(' ').map(|number| number.parse().ok()).collect();
        match numbers.as_deref() {
            Some(&[a, b, c, d, e, f, g, h]) => {
                Self { received: [a, b, c, d].into(), sent: [e, f, g, h].into() }
            }
            _ => Self::default(),
        }
    }
}

impl Counters {
    fn since(self, earlier: Self) -> Self {
        Self {
            bytes: self.bytes.saturating_sub(earlier.bytes),
            packets: self.packets.saturating_sub(earlier.packets),
            errors: self.errors.saturating_sub(earlier.errors),
            dropped: self.dropped.saturating_sub(earlier.dropped),
        }
    }
}

impl From<[u64; 4]> for Counters {
    fn from([bytes, packets, errors, dropped]: [u64; 4]) -> Self {
        Self { bytes, packets, errors, dropped }
    }
}

impl From<Counters> for [u64; 4] {
    fn from(counters: Counters) -> Self {
        [counters.bytes, counters.packets, counters.errors, counters.dropped]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_read_back() {
        let traffic = LinkTraffic { received: [1, 2, 3, 4].into(), sent: [u64::MAX; 4].into() };
        assert_eq!(LinkTraffic::of_text(&traffic.to_text()), traffic);
        assert!(traffic.to_text().len() < 256);
        for text in ["", "uplink", "1 2 3 4 5 6 7", "1 2 3 4 5 6 7 8 9", "1 2 3 4 5 6 7 -8"] {
            assert_eq!(LinkTraffic::of_text(text), LinkTraffic::default(), "{text}");
        }
        // Never less than nothing, whatever somebody has written.
        assert_eq!(LinkTraffic::default().since(traffic), LinkTraffic::default());
    }
}
