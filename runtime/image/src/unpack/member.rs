//! Reads the members of a tar archive: ustar, GNU and PAX, as written by every image builder.
//!
//! The fields of a header are decoded by the `tar` crate; the sequence of headers is read here because that
//! crate keeps PAX and long-name members of any size in memory and splits PAX records at newlines, which
//! breaks `security.capability` values that hold one. Where archives can be read in two ways (CVE-2025-62518 and
//! its family) the archive is refused instead.

use std::io::{self, Read};

use super::stream::{OverLimit, over_limit};
use super::{Reason, UnpackError};

const BLOCK: usize = 512;
/// The largest PAX header or GNU long name; Go's archive/tar, which Docker uses, allows 1 MiB as well.
const METADATA_BYTES_MAX: u64 = 1 << 20;

/// What a member is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    Directory,
    Symlink,
    HardLink,
    Fifo,
    Device,
}

/// One member, without its data.
#[derive(Clone, Debug)]
pub(crate) struct Member {
    /// The path as it is in the archive.
    pub(crate) path: Vec<u8>,
    /// Target of a symbolic or hard link.
    pub(crate) link: Vec<u8>,
    pub(crate) kind: Kind,
    /// Bytes of data that follow; zero for all but files.
    pub(crate) size: u64,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Seconds and nanoseconds since the epoch.
    pub(crate) mtime: (i64, u32),
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Member {
    /// The path for people: lossy and cut to 256 characters.
    pub(crate) fn display(&self) -> String {
        display(&self.path)
    }

    pub(crate) fn refuse(&self, reason: Reason) -> UnpackError {
        UnpackError::Member { member: self.display(), reason }
    }
}

pub(crate) fn display(path: &[u8]) -> String {
    String::from_utf8_lossy(path).chars().take(256).collect()
}

/// What PAX and GNU headers say about the member that follows them.
#[derive(Default)]
struct Overrides {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
    mtime: Option<(i64, u32)>,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    seen_pax: bool,
}

/// The members of an archive in order; also the [`Read`] of the current member's data.
pub(crate) struct Members<R> {
    reader: R,
    /// Data of the current member that has not been read.
    remaining: u64,
    /// Zeros after the data, up to the next block.
    padding: u64,
    last: String,
}

impl<R: Read> Members<R> {
    pub(crate) fn new(reader: R) -> Self {
        Self { reader, remaining: 0, padding: 0, last: String::new() }
    }

    pub(crate) fn into_inner(self) -> R {
        self.reader
    }

    /// The next member; what is left of the current one's data is skipped.
    pub(crate) fn next(&mut self) -> Result<Option<Member>, UnpackError> {
        let mut overrides = Overrides::default();
        let mut is_described = false;
        loop {
            self.skip_data()?;
            let Some(header) = self.read_header()? else {
                return if is_described { Err(self.refuse(Reason::NoMember)) } else { Ok(None) };
            };
            let size = header.entry_size().map_err(|_| self.refuse(Reason::Header))?;
            match header.entry_type().as_byte() {
                b'x' => self.read_pax(size, &mut overrides)?,
                b'g' => self.check_global_pax(size)?,
                b'L' => {
                    let name = self.read_name(size)?;
                    self.set_once(&mut overrides.path, name)?;
                }
                b'K' => {
                    let name = self.read_name(size)?;
                    self.set_once(&mut overrides.link, name)?;
                }
                _ => return self.member(&header, size, overrides).map(Some),
            }
            is_described |= header.entry_type().as_byte() != b'g';
        }
    }

    fn member(&mut self, header: &tar::Header, size: u64, o: Overrides) -> Result<Member, UnpackError> {
        let path = o.path.unwrap_or_else(|| header.path_bytes().into_owned());
        self.last = display(&path);
        let link = o.link.or_else(|| header.link_name_bytes().map(|l| l.into_owned())).unwrap_or_default();
        let kind = match header.entry_type().as_byte() {
            b'\0' | b'0' | b'7' if path.ends_with(b"/") => Kind::Directory,
            b'\0' | b'0' | b'7' => Kind::File,
            b'1' => Kind::HardLink,
            b'2' => Kind::Symlink,
            b'3' | b'4' => Kind::Device,
            b'5' => Kind::Directory,
            b'6' => Kind::Fifo,
            _ => return Err(self.refuse(Reason::MemberType)),
        };
        // GNU tar and Go take a hard link's size for zero whatever the header says; on the others they differ.
        let size = if kind == Kind::HardLink { 0 } else { o.size.unwrap_or(size) };
        if kind != Kind::File && size != 0 {
            return Err(self.refuse(Reason::DataWithoutFile));
        }
        let id = |value: io::Result<u64>| {
            value.ok().and_then(|v| u32::try_from(v).ok()).filter(|v| *v != u32::MAX)
        };
        let uid = id(o.uid.map_or_else(|| header.uid(), Ok)).ok_or_else(|| self.refuse(Reason::Owner))?;
        let gid = id(o.gid.map_or_else(|| header.gid(), Ok)).ok_or_else(|| self.refuse(Reason::Owner))?;
        let mode = header.mode().map_err(|_| self.refuse(Reason::Header))? & 0o7777;
        let mtime =
            o.mtime.unwrap_or_else(|| (header.mtime().map_or(0, |s| i64::try_from(s).unwrap_or(0)), 0));
        self.expect_data(size)?;
        Ok(Member { path, link, kind, size, mode, uid, gid, mtime, xattrs: o.xattrs })
    }

    fn expect_data(&mut self, size: u64) -> Result<(), UnpackError> {
        if size > i64::MAX as u64 {
            return Err(self.refuse(Reason::Header));
        }
        self.remaining = size;
        self.padding = size.next_multiple_of(BLOCK as u64) - size;
        Ok(())
    }

    fn skip_data(&mut self) -> Result<(), UnpackError> {
        let wanted = self.remaining + self.padding;
        let skipped = io::copy(&mut (&mut self.reader).take(wanted), &mut io::sink());
        match skipped {
            Ok(n) if n == wanted => {
                (self.remaining, self.padding) = (0, 0);
                Ok(())
            }
            Ok(_) => Err(self.read_error(io::ErrorKind::UnexpectedEof.into())),
            Err(source) => Err(self.read_error(source)),
        }
    }

    /// A header, or `None` at the end of the archive: two zero blocks, or the end of the stream.
    fn read_header(&mut self) -> Result<Option<tar::Header>, UnpackError> {
        let Some(block) = self.read_block()? else { return Ok(None) };
        if block.iter().all(|b| *b == 0) {
            return match self.read_block()? {
                Some(second) if second.iter().any(|b| *b != 0) => Err(self.refuse(Reason::LoneZeroBlock)),
                _ => Ok(None),
            };
        }
        let header = tar::Header::from_byte_slice(&block).clone();
        // The checksum field itself counts as eight spaces (POSIX pax, "ustar Interchange Format").
        let sum: u32 = block
            .iter()
            .enumerate()
            .map(|(i, b)| if (148..156).contains(&i) { 32 } else { u32::from(*b) })
            .sum();
        if header.cksum().ok() != Some(sum) {
            return Err(self.refuse(Reason::Checksum));
        }
        Ok(Some(header))
    }

    fn read_block(&mut self) -> Result<Option<[u8; BLOCK]>, UnpackError> {
        let mut block = [0; BLOCK];
        let mut length = 0;
        while length < BLOCK {
            match self.reader.read(&mut block[length..]) {
                Ok(0) if length == 0 => return Ok(None),
                Ok(0) => return Err(self.read_error(io::ErrorKind::UnexpectedEof.into())),
                Ok(n) => length += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(self.read_error(source)),
            }
        }
        Ok(Some(block))
    }

    fn read_metadata(&mut self, size: u64) -> Result<Vec<u8>, UnpackError> {
        if size > METADATA_BYTES_MAX {
            return Err(UnpackError::TooLarge { what: "bytes of member header", limit: METADATA_BYTES_MAX });
        }
        self.expect_data(size)?;
        let mut bytes = Vec::new();
        (&mut *self).take(size).read_to_end(&mut bytes).map_err(|source| self.read_error(source))?;
        Ok(bytes)
    }

    fn read_name(&mut self, size: u64) -> Result<Vec<u8>, UnpackError> {
        let mut name = self.read_metadata(size)?;
        name.truncate(name.iter().position(|b| *b == 0).unwrap_or(name.len()));
        Ok(name)
    }

    fn set_once(&self, slot: &mut Option<Vec<u8>>, value: Vec<u8>) -> Result<(), UnpackError> {
        if slot.replace(value).is_some() { Err(self.refuse(Reason::TwoNames)) } else { Ok(()) }
    }

    fn read_pax(&mut self, size: u64, o: &mut Overrides) -> Result<(), UnpackError> {
        if o.seen_pax || o.path.is_some() || o.link.is_some() {
            return Err(self.refuse(Reason::TwoNames));
        }
        o.seen_pax = true;
        let bytes = self.read_metadata(size)?;
        let wrong = || UnpackError::Member { member: self.last.clone(), reason: Reason::Pax };
        for record in PaxRecords(&bytes) {
            let (key, value) = record.ok_or_else(wrong)?;
            let number =
                || std::str::from_utf8(value).ok().and_then(|v| v.parse::<u64>().ok()).ok_or_else(wrong);
            match key {
                b"path" => o.path = Some(value.to_vec()),
                b"linkpath" => o.link = Some(value.to_vec()),
                b"size" => o.size = Some(number()?),
                b"uid" => o.uid = Some(number()?),
                b"gid" => o.gid = Some(number()?),
                b"mtime" => o.mtime = Some(parse_time(value).ok_or_else(wrong)?),
                _ if key.starts_with(b"GNU.sparse.") => return Err(self.refuse(Reason::Sparse)),
                _ => {
                    if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                        o.xattrs.push((name.to_vec(), value.to_vec()));
                    }
                }
            }
        }
        Ok(())
    }

    /// Go ignores global headers and GNU tar obeys them; only one that changes nothing is let through.
    fn check_global_pax(&mut self, size: u64) -> Result<(), UnpackError> {
        let bytes = self.read_metadata(size)?;
        let is_harmless =
            |r: Option<(&[u8], &[u8])>| r.is_some_and(|(key, _)| matches!(key, b"comment" | b"charset"));
        if PaxRecords(&bytes).all(is_harmless) { Ok(()) } else { Err(self.refuse(Reason::GlobalPax)) }
    }

    fn refuse(&self, reason: Reason) -> UnpackError {
        UnpackError::Member { member: self.last.clone(), reason }
    }

    pub(crate) fn read_error(&self, source: io::Error) -> UnpackError {
        match over_limit(&source) {
            Some(OverLimit { what, limit }) => UnpackError::TooLarge { what, limit },
            None => UnpackError::Read { member: self.last.clone(), source },
        }
    }
}

impl<R: Read> Read for Members<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = buffer.len().min(usize::try_from(self.remaining).unwrap_or(usize::MAX));
        let n = self.reader.read(&mut buffer[..wanted])?;
        if n == 0 && wanted > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.remaining -= n as u64;
        Ok(n)
    }
}

/// The records `"%d %s=%s\n"` of a PAX header; `None` for a malformed one, after which there are no more.
struct PaxRecords<'a>(&'a [u8]);

impl<'a> Iterator for PaxRecords<'a> {
    type Item = Option<(&'a [u8], &'a [u8])>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let record = self.split_record();
        if record.is_none() {
            self.0 = &[];
        }
        Some(record)
    }
}

impl<'a> PaxRecords<'a> {
    fn split_record(&mut self) -> Option<(&'a [u8], &'a [u8])> {
        let space = self.0.iter().take(20).position(|b| *b == b' ')?;
        let length: usize = std::str::from_utf8(&self.0[..space]).ok()?.parse().ok()?;
        let (record, rest) = self.0.split_at_checked(length)?;
        let body = record.get(space + 1..)?.strip_suffix(b"\n")?;
        let equals = body.iter().position(|b| *b == b'=')?;
        self.0 = rest;
        Some((&body[..equals], &body[equals + 1..]))
    }
}

/// Decimal seconds with an optional fraction, also before the epoch.
fn parse_time(value: &[u8]) -> Option<(i64, u32)> {
    let text = std::str::from_utf8(value).ok()?;
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    if !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let nanos: u32 = format!("{:0<9.9}", fraction).parse().ok()?;
    let whole: i64 = seconds.parse().ok()?;
    if seconds.starts_with('-') && nanos > 0 {
        return Some((whole.checked_sub(1)?, 1_000_000_000 - nanos));
    }
    Some((whole, nanos))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pax_records() {
        let check = |bytes: &[u8], expect: Option<Vec<(&str, &[u8])>>| {
            let records: Option<Vec<_>> = PaxRecords(bytes).collect();
            let expect = expect.map(|e| e.into_iter().map(|(k, v)| (k.as_bytes(), v)).collect::<Vec<_>>());
            assert_eq!(records, expect, "{:?}", String::from_utf8_lossy(bytes));
        };
        check(b"", Some(vec![]));
        check(b"9 path=a\n", Some(vec![("path", b"a")]));
        check(b"12 path=a\nb\n", Some(vec![("path", b"a\nb")]));
        check(b"6 k=v\n7 x==y\n", Some(vec![("k", b"v"), ("x", b"=y")]));
        check(b"5 k=v\n", None);
        check(b"99 k=v\n", None);
        check(b"18446744073709551616 k=v\n", None);
        check(b"-6 k=v\n", None);
        check(b"2 ", None);
        check(b"6 kvv\n", None);
    }

    #[test]
    fn times() {
        let check = |text: &str, expect| assert_eq!(parse_time(text.as_bytes()), expect, "{text}");
        check("0", Some((0, 0)));
        check("12.5", Some((12, 500_000_000)));
        check("12.123456789123", Some((12, 123_456_789)));
        check("-1.25", Some((-2, 750_000_000)));
        check("1.-5", None);
        check("nan", None);
        check("99999999999999999999", None);
    }
}
