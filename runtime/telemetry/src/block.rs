//! The unit of writing: some consecutive events of one stream, with one checksum.
//!
//! ```text
//! frame   u32 length of body, u32 crc32 of body
//! body    u32 stream, u32 events, u64 first seq, i64 ingested, i64 earliest, i64 latest
//! events  u32 length (highest bit: gap), i64 timestamp, message
//! ```
//!
//! All numbers are little-endian, all times milliseconds since the epoch. Events of a block have
//! consecutive sequence numbers.

pub(crate) const FRAME_BYTES: usize = 8;
const HEADER_BYTES: usize = 40;
const RECORD_BYTES: usize = 12;
const GAP_BIT: u32 = 1 << 31;

/// A block is closed when its body is this long, in bytes; one event more may be added before.
pub(crate) const BODY_BYTES: usize = 64 << 10;

/// No body is longer: one closed block plus the largest event.
const BODY_BYTES_MAX: usize = BODY_BYTES + HEADER_BYTES + RECORD_BYTES + crate::config::BATCH_BYTES_MAX;

/// What a block says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) stream: u32,
    pub(crate) events: u32,
    pub(crate) first_seq: u64,
    pub(crate) ingested: i64,
    pub(crate) min_ts: i64,
    pub(crate) max_ts: i64,
}

impl Header {
    pub(crate) fn last_seq(&self) -> u64 {
        self.first_seq.saturating_add(u64::from(self.events)).saturating_sub(1)
    }
}

/// Appends blocks to a buffer.
pub(crate) struct Encoder<'a> {
    out: &'a mut Vec<u8>,
    start: usize,
    header: Header,
}

impl<'a> Encoder<'a> {
    pub(crate) fn new(out: &'a mut Vec<u8>, stream: u32, first_seq: u64, ingested: i64) -> Self {
        let start = out.len();
        out.resize(start + FRAME_BYTES + HEADER_BYTES, 0);
        let header = Header { stream, events: 0, first_seq, ingested, min_ts: i64::MAX, max_ts: i64::MIN };
        Self { out, start, header }
    }

    pub(crate) fn push(&mut self, timestamp: i64, gap: bool, message: &[u8]) {
        let length = u32::try_from(message.len()).unwrap_or(u32::MAX) & !GAP_BIT;
        let flag = if gap { GAP_BIT } else { 0 };
        self.out.extend_from_slice(&(length | flag).to_le_bytes());
        self.out.extend_from_slice(&timestamp.to_le_bytes());
        self.out.extend_from_slice(message);
        self.header.events += 1;
        self.header.min_ts = self.header.min_ts.min(timestamp);
        self.header.max_ts = self.header.max_ts.max(timestamp);
    }

    pub(crate) fn is_full(&self) -> bool {
        self.out.len() - self.start >= BODY_BYTES
    }

    /// Completes the block; returns its header and its length with the frame.
    pub(crate) fn finish(self) -> (Header, usize) {
        let h = self.header;
        let body_at = self.start + FRAME_BYTES;
        let mut header = Vec::with_capacity(HEADER_BYTES);
        header.extend_from_slice(&h.stream.to_le_bytes());
        header.extend_from_slice(&h.events.to_le_bytes());
        header.extend_from_slice(&h.first_seq.to_le_bytes());
        for time in [h.ingested, h.min_ts, h.max_ts] {
            header.extend_from_slice(&time.to_le_bytes());
        }
        self.out[body_at..body_at + HEADER_BYTES].copy_from_slice(&header);
        let length = u32::try_from(self.out.len() - body_at).unwrap_or(u32::MAX);
        let crc = crc32fast::hash(&self.out[body_at..]);
        self.out[self.start..self.start + 4].copy_from_slice(&length.to_le_bytes());
        self.out[self.start + 4..body_at].copy_from_slice(&crc.to_le_bytes());
        (h, self.out.len() - self.start)
    }
}

/// A block read back, its checksum verified.
#[derive(Debug)]
pub(crate) struct Block<'a> {
    pub(crate) header: Header,
    /// The whole block, frame included.
    pub(crate) bytes: &'a [u8],
}

/// One event of a block.
pub(crate) struct Record<'a> {
    pub(crate) seq: u64,
    pub(crate) timestamp: i64,
    pub(crate) gap: bool,
    pub(crate) message: &'a [u8],
}

impl<'a> Block<'a> {
    pub(crate) fn records(&self) -> impl Iterator<Item = Record<'a>> {
        let mut rest = &self.bytes[FRAME_BYTES + HEADER_BYTES..];
        let mut seq = self.header.first_seq;
        std::iter::from_fn(move || {
            let word = u32::from_le_bytes(take(&mut rest)?);
            let timestamp = i64::from_le_bytes(take(&mut rest)?);
            let (message, after) = rest.split_at_checked((word & !GAP_BIT) as usize)?;
            rest = after;
            let record = Record { seq, timestamp, gap: word & GAP_BIT != 0, message };
            seq = seq.saturating_add(1);
            Some(record)
        })
    }
}

/// What is at some place of a segment.
#[derive(Debug)]
pub(crate) enum Decoded<'a> {
    Block(Block<'a>),
    /// A frame whose body fits but does not have its checksum; the frame is this long.
    Corrupt(usize),
    /// Not a whole frame.
    Torn,
}

/// Reads the block at the start of `bytes`.
pub(crate) fn decode(bytes: &[u8]) -> Decoded<'_> {
    let mut rest = bytes;
    let (Some(length), Some(crc)) = (take(&mut rest), take(&mut rest)) else { return Decoded::Torn };
    let length = u32::from_le_bytes(length) as usize;
    if !(HEADER_BYTES..=BODY_BYTES_MAX).contains(&length) || rest.len() < length {
        return Decoded::Torn;
    }
    let body = &rest[..length];
    let intact = crc32fast::hash(body) == u32::from_le_bytes(crc);
    match decode_header(body) {
        Some(header) if intact => Decoded::Block(Block { header, bytes: &bytes[..FRAME_BYTES + length] }),
        _ => Decoded::Corrupt(FRAME_BYTES + length),
    }
}

fn decode_header(mut body: &[u8]) -> Option<Header> {
    let rest = &mut body;
    Some(Header {
        stream: u32::from_le_bytes(take(rest)?),
        events: u32::from_le_bytes(take(rest)?),
        first_seq: u64::from_le_bytes(take(rest)?),
        ingested: i64::from_le_bytes(take(rest)?),
        min_ts: i64::from_le_bytes(take(rest)?),
        max_ts: i64::from_le_bytes(take(rest)?),
    })
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (head, tail) = rest.split_first_chunk()?;
    *rest = tail;
    Some(*head)
}

/// Calls `visit` for each intact block of `bytes`, with its offset. Returns where the intact blocks end
/// and how many were skipped: a broken block counts as skipped only if an intact one follows it directly,
/// otherwise it is the torn end of an interrupted write.
pub(crate) fn walk<'a>(bytes: &'a [u8], mut visit: impl FnMut(usize, Block<'a>)) -> (usize, u64) {
    let (mut at, mut skipped) = (0, 0);
    loop {
        match decode(&bytes[at..]) {
            Decoded::Block(block) => {
                let length = block.bytes.len();
                visit(at, block);
                at += length;
            }
            Decoded::Corrupt(length) if matches!(decode(&bytes[at + length..]), Decoded::Block(_)) => {
                skipped += 1;
                at += length;
            }
            Decoded::Corrupt(_) | Decoded::Torn => return (at, skipped),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sample(blocks: u32) -> Vec<u8> {
        let mut out = Vec::new();
        for i in 0..blocks {
            let mut encoder = Encoder::new(&mut out, i, u64::from(i) * 2 + 1, 7);
            encoder.push(5, false, b"hello");
            encoder.push(3, true, "w\u{f6}rld".as_bytes());
            let (header, _) = encoder.finish();
            assert_eq!(
                (header.events, header.min_ts, header.max_ts, header.last_seq()),
                (2, 3, 5, u64::from(i) * 2 + 2)
            );
        }
        out
    }

    fn streams(bytes: &[u8]) -> (Vec<u32>, usize, u64) {
        let mut found = Vec::new();
        let (end, skipped) = walk(bytes, |_, block| {
            assert_eq!(block.records().count(), block.header.events as usize);
            found.push(block.header.stream);
        });
        (found, end, skipped)
    }

    #[test]
    fn records_come_back() {
        let bytes = sample(1);
        let Decoded::Block(block) = decode(&bytes) else { panic!("not a block") };
        let records: Vec<_> =
            block.records().map(|r| (r.seq, r.timestamp, r.gap, r.message.to_vec())).collect();
        assert_eq!(
            records,
            [(1, 5, false, b"hello".to_vec()), (2, 3, true, "w\u{f6}rld".as_bytes().to_vec())]
        );
    }

    #[test]
    fn every_torn_end_is_cut() {
        let bytes = sample(3);
        let block = bytes.len() / 3;
        for length in 0..bytes.len() {
            let (found, end, skipped) = streams(&bytes[..length]);
            assert_eq!((found.len(), end, skipped), (length / block, length / block * block, 0), "{length}");
        }
    }

    #[test]
    fn a_broken_block_inside_is_skipped_and_at_the_end_cut() {
        let mut bytes = sample(3);
        let block = bytes.len() / 3;
        bytes[block + 20] ^= 1;
        assert_eq!(streams(&bytes), (vec![0, 2], bytes.len(), 1));
        bytes[block * 2 + 20] ^= 1;
        assert_eq!(streams(&bytes), (vec![0], block, 0));
    }

    proptest! {
        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            streams(&bytes);
        }
    }
}
