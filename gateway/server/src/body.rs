//! Bodies of answers: bytes at hand, or a file that is read as the client takes it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tokio::io::{AsyncRead, ReadBuf};

/// Bytes read from a file at once.
const READ_BYTES: usize = 256 << 10;

/// The body of an answer.
pub(crate) enum Body {
    /// Bytes at hand; `None` once they are taken.
    Bytes(Option<Bytes>),
    /// What is left of a file.
    File {
        /// The file.
        file: tokio::fs::File,
        /// Bytes that were promised and not sent yet.
        left: u64,
    },
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        Self::Bytes(Some(bytes).filter(|bytes| !bytes.is_empty()))
    }
}

impl Body {
    /// A file as it is now.
    pub(crate) fn file(file: std::fs::File) -> io::Result<Self> {
        let left = file.metadata()?.len();
        Ok(Self::part(file, left))
    }

    /// So many bytes of a file, from where it stands.
    pub(crate) fn part(file: std::fs::File, left: u64) -> Self {
        Self::File { file: tokio::fs::File::from_std(file), left }
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        match self.get_mut() {
            Self::Bytes(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::File { left: 0, .. } => Poll::Ready(None),
            Self::File { file, left } => {
                let size = usize::try_from(*left).unwrap_or(READ_BYTES).min(READ_BYTES);
                let mut buffer = vec![0; size];
                let mut read = ReadBuf::new(&mut buffer);
                ready!(Pin::new(file).poll_read(cx, &mut read))?;
                let filled = read.filled().len();
                if filled == 0 {
                    let error = io::Error::new(io::ErrorKind::UnexpectedEof, "the file became shorter");
                    return Poll::Ready(Some(Err(error)));
                }
                *left -= filled as u64;
                buffer.truncate(filled);
                Poll::Ready(Some(Ok(Frame::data(buffer.into()))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Bytes(None) | Self::File { left: 0, .. })
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(match self {
            Self::Bytes(bytes) => bytes.as_ref().map_or(0, |bytes| bytes.len() as u64),
            Self::File { left, .. } => *left,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use http_body_util::BodyExt;

    use super::*;

    #[tokio::test]
    async fn a_file_is_sent_whole() {
        for size in [0, 1, READ_BYTES, 3 * READ_BYTES + 5] {
            let mut file = tempfile::tempfile().unwrap();
            let content: Vec<u8> = (0..size).map(|index| (index % 251) as u8).collect();
            file.write_all(&content).unwrap();
            io::Seek::rewind(&mut file).unwrap();
            let body = Body::file(file).unwrap();
            assert_eq!(body.size_hint().exact(), Some(size as u64));
            assert_eq!(body.collect().await.unwrap().to_bytes(), content);
        }
    }

    #[tokio::test]
    async fn a_file_that_shrinks_is_an_error() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"0123456789").unwrap();
        let body = Body::file(file.try_clone().unwrap()).unwrap();
        file.set_len(0).unwrap();
        assert!(body.collect().await.is_err());
    }
}
