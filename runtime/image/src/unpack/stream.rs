//! From the compressed bytes of a layer to its tar stream: decompression chosen by magic number, hashed and
//! counted on the way, with an end to every bomb.

use std::cell::Cell;
use std::io::{self, BufRead, BufReader, Read};
use std::rc::Rc;

use neargate_model::image::Digest;
use sha2::{Digest as _, Sha256};

use super::Limits;

/// A gzip bomb is not judged before this many bytes have come out of it, so that a small, very regular layer
/// passes.
const RATIO_FREE_BYTES: u64 = 64 << 20;
/// zstd may keep a window of at most 2^27 bytes (128 MiB) in memory, its own command line's limit.
const ZSTD_WINDOW_LOG_MAX: u32 = 27;
const BUFFER_BYTES: usize = 128 << 10;

/// A limit that a stream went over; travels inside an [`io::Error`].
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("more than {limit} {what}")]
pub(crate) struct OverLimit {
    pub(crate) what: &'static str,
    pub(crate) limit: u64,
}

impl From<OverLimit> for io::Error {
    fn from(over: OverLimit) -> Self {
        io::Error::new(io::ErrorKind::FileTooLarge, over)
    }
}

/// The limit that `error` stands for, if it does.
pub(crate) fn over_limit(error: &io::Error) -> Option<OverLimit> {
    error.get_ref()?.downcast_ref::<OverLimit>().copied()
}

/// Decompresses `reader` if its first bytes are those of gzip or zstd; several members or frames in a row are
/// one stream (RFC 1952 §2.2, RFC 8878 §3). bzip2 and xz are refused, anything else is passed through.
pub(crate) fn decompress<'a>(reader: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    let mut reader = BufReader::with_capacity(BUFFER_BYTES, reader);
    let mut head = [0; 6];
    let mut length = 0;
    while length < head.len() {
        let n = reader.read(&mut head[length..])?;
        if n == 0 {
            break;
        }
        length += n;
    }
    let head = &head[..length];
    let whole = io::Cursor::new(head.to_vec()).chain(reader);
    let is_zstd_skippable = head.len() >= 4 && head[0] & 0xf0 == 0x50 && head[1..4] == [0x2a, 0x4d, 0x18];
    if head.starts_with(&[0x1f, 0x8b]) {
        Ok(Box::new(flate2::bufread::MultiGzDecoder::new(whole)))
    } else if head.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) || is_zstd_skippable {
        let mut decoder = zstd::stream::read::Decoder::with_buffer(whole)?;
        decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
        Ok(Box::new(decoder))
    } else if head.starts_with(b"BZh") || head.starts_with(b"\xfd7zXZ\0") {
        let text = "it is compressed with bzip2 or xz; use gzip, zstd or no compression";
        Err(io::Error::new(io::ErrorKind::Unsupported, text))
    } else {
        Ok(Box::new(whole))
    }
}

struct Counted<R> {
    inner: R,
    count: Rc<Cell<u64>>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.count.set(self.count.get() + n as u64);
        Ok(n)
    }
}

/// The tar stream of a layer. Reading fails once it is larger than the limits allow.
pub(crate) struct LayerStream<'a> {
    inner: BufReader<Box<dyn Read + 'a>>,
    consumed: Rc<Cell<u64>>,
    produced: u64,
    hash: Sha256,
    limits: Limits,
}

impl<'a> LayerStream<'a> {
    pub(crate) fn new(reader: impl Read + 'a, limits: &Limits) -> io::Result<Self> {
        let consumed = Rc::new(Cell::new(0));
        let inner = decompress(Counted { inner: reader, count: consumed.clone() })?;
        let inner = BufReader::with_capacity(BUFFER_BYTES, inner);
        Ok(Self { inner, consumed, produced: 0, hash: Sha256::new(), limits: *limits })
    }

    /// Reads to the end, so that what follows the archive is hashed and limited too, and returns the digest of
    /// the whole uncompressed stream: the layer's diffID.
    pub(crate) fn finish(mut self) -> io::Result<Digest> {
        io::copy(&mut self, &mut io::sink())?;
        Ok(Digest::from_bytes(self.hash.finalize().into()))
    }

    fn account(&mut self, n: usize) -> io::Result<()> {
        self.produced += n as u64;
        if self.produced > self.limits.bytes {
            return Err(OverLimit { what: "bytes unpacked", limit: self.limits.bytes }.into());
        }
        let allowed = self.consumed.get().saturating_mul(self.limits.ratio).max(RATIO_FREE_BYTES);
        if self.produced > allowed {
            return Err(OverLimit { what: "times its compressed size", limit: self.limits.ratio }.into());
        }
        Ok(())
    }
}

impl Read for LayerStream<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let available = self.inner.fill_buf()?;
        let n = available.len().min(buffer.len());
        buffer[..n].copy_from_slice(&available[..n]);
        self.hash.update(&buffer[..n]);
        self.inner.consume(n);
        self.account(n)?;
        Ok(n)
    }
}
