//! What goes over a connection once `POST /v1/tasks/{id}/exec` was answered with 101: the streams of a command.
//!
//! A frame is its kind (one byte), the length of its payload (four bytes, big-endian), and the payload. Both
//! sides may send at any time.
//!
//! | kind | from | payload |
//! |---|---|---|
//! | 0 | client | bytes for standard input, or typed at the terminal |
//! | 1 | client | none: standard input is at its end |
//! | 2 | client | rows and columns of the terminal, two bytes each |
//! | 3 | client | the number of a signal, one byte |
//! | 16 | server | bytes of standard output, or of the terminal |
//! | 17 | server | bytes of standard error |
//! | 18 | server | how many bytes of standard input the command has taken, four bytes |
//! | 19 | server | the exit code, four bytes, and a text that says more about an abnormal end; the last frame |
//!
//! A client may have [`INPUT_WINDOW_BYTES`] of standard input under way that the server has not reported as
//! taken. So a command that does not read holds up its standard input, and never a signal behind it. Output needs no
//! such count: a client that does not read it holds up the command, as it should.

/// The name of the protocol in the header `Upgrade`.
pub const PROTOCOL: &str = "neargate-exec/1";

/// The most bytes in the payload of a frame.
pub const PAYLOAD_BYTES_MAX: usize = 32 << 10;

/// The most bytes of standard input that are sent and not yet taken.
pub const INPUT_WINDOW_BYTES: usize = 64 << 10;

/// The length of what comes before the payload.
pub const HEAD_BYTES: usize = 5;

/// What a client sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FromClient {
    /// Bytes for standard input.
    Input(Vec<u8>),
    /// Standard input is at its end.
    InputEnd,
    /// The terminal has another size.
    Resize {
        /// Lines.
        rows: u16,
        /// Characters in a line.
        columns: u16,
    },
    /// A signal for the command.
    Signal(u8),
}

/// What a server sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FromServer {
    /// Bytes of standard output or of the terminal.
    Output(Vec<u8>),
    /// Bytes of standard error.
    Errors(Vec<u8>),
    /// So many bytes of standard input were taken.
    InputTaken(u32),
    /// The command has ended; the last frame.
    Ended {
        /// The exit code as a shell shows it.
        code: i32,
        /// More about an abnormal end, for people; empty otherwise.
        reason: String,
    },
}

/// Bytes that are no frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MalformedFrame {
    /// The payload is longer than [`PAYLOAD_BYTES_MAX`].
    #[error("a frame of {bytes} bytes is over the limit of {PAYLOAD_BYTES_MAX}")]
    TooLong {
        /// Its length.
        bytes: u32,
    },
    /// No frame of this kind is sent in this direction, or its payload is not of its kind.
    #[error("a frame of kind {kind} with a payload of {bytes} bytes is not understood")]
    Unknown {
        /// Its kind.
        kind: u8,
        /// The length of its payload.
        bytes: usize,
    },
}

/// Kind and payload length of a frame.
pub fn read_head(head: [u8; HEAD_BYTES]) -> Result<(u8, usize), MalformedFrame> {
    let [kind, length @ ..] = head;
    let bytes = u32::from_be_bytes(length);
    match usize::try_from(bytes) {
        Ok(length) if length <= PAYLOAD_BYTES_MAX => Ok((kind, length)),
        _ => Err(MalformedFrame::TooLong { bytes }),
    }
}

fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    debug_assert!(payload.len() <= PAYLOAD_BYTES_MAX);
    let mut frame = Vec::with_capacity(HEAD_BYTES + payload.len());
    frame.push(kind);
    frame.extend_from_slice(&u32::try_from(payload.len()).unwrap_or(u32::MAX).to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

impl FromClient {
    /// The frame.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Input(bytes) => frame(0, bytes),
            Self::InputEnd => frame(1, &[]),
            Self::Resize { rows, columns } => frame(2, &[rows.to_be_bytes(), columns.to_be_bytes()].concat()),
            Self::Signal(number) => frame(3, &[*number]),
        }
    }

    /// Reads a frame of which the head was read.
    pub fn decode(kind: u8, payload: Vec<u8>) -> Result<Self, MalformedFrame> {
        match (kind, payload.as_slice()) {
            (0, _) => Ok(Self::Input(payload)),
            (1, []) => Ok(Self::InputEnd),
            (2, [a, b, c, d]) => {
                Ok(Self::Resize { rows: u16::from_be_bytes([*a, *b]), columns: u16::from_be_bytes([*c, *d]) })
            }
            (3, [number]) => Ok(Self::Signal(*number)),
            _ => Err(MalformedFrame::Unknown { kind, bytes: payload.len() }),
        }
    }
}

impl FromServer {
    /// The frame.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Output(bytes) => frame(16, bytes),
            Self::Errors(bytes) => frame(17, bytes),
            Self::InputTaken(bytes) => frame(18, &bytes.to_be_bytes()),
            Self::Ended { code, reason } => {
                let reason = &reason.as_bytes()[..reason.floor_char_boundary(PAYLOAD_BYTES_MAX - 4)];
                frame(19, &[&code.to_be_bytes()[..], reason].concat())
            }
        }
    }

    /// Reads a frame of which the head was read.
    pub fn decode(kind: u8, payload: Vec<u8>) -> Result<Self, MalformedFrame> {
        match (kind, payload.as_slice()) {
            (16, _) => Ok(Self::Output(payload)),
            (17, _) => Ok(Self::Errors(payload)),
            (18, [a, b, c, d]) => Ok(Self::InputTaken(u32::from_be_bytes([*a, *b, *c, *d]))),
            (19, [a, b, c, d, reason @ ..]) => {
                let code = i32::from_be_bytes([*a, *b, *c, *d]);
                Ok(Self::Ended { code, reason: String::from_utf8_lossy(reason).into_owned() })
            }
            _ => Err(MalformedFrame::Unknown { kind, bytes: payload.len() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn split(frame: &[u8]) -> (u8, Vec<u8>) {
        let (kind, length) = read_head(frame[..HEAD_BYTES].try_into().unwrap()).unwrap();
        assert_eq!(frame.len(), HEAD_BYTES + length);
        (kind, frame[HEAD_BYTES..].to_vec())
    }

    proptest! {
        #[test]
        fn frames_of_clients_come_back(bytes in any::<Vec<u8>>(), rows: u16, columns: u16, number: u8) {
            let frames =
                [FromClient::Input(bytes), FromClient::InputEnd, FromClient::Resize { rows, columns }, FromClient::Signal(number)];
            for sent in frames {
                let (kind, payload) = split(&sent.encode());
                prop_assert_eq!(FromClient::decode(kind, payload.clone()), Ok(sent));
                prop_assert!(FromServer::decode(kind, payload).is_err());
            }
        }

        #[test]
        fn frames_of_servers_come_back(bytes in any::<Vec<u8>>(), taken: u32, code: i32, reason: String) {
            let frames = [
                FromServer::Output(bytes.clone()),
                FromServer::Errors(bytes),
                FromServer::InputTaken(taken),
                FromServer::Ended { code, reason },
            ];
            for sent in frames {
                let (kind, payload) = split(&sent.encode());
                prop_assert_eq!(FromServer::decode(kind, payload.clone()), Ok(sent));
                prop_assert!(FromClient::decode(kind, payload).is_err());
            }
        }
    }

    #[test]
    fn what_is_too_long_or_odd_is_refused() {
        assert_eq!(read_head([0, 0, 0, 0x80, 0]), Ok((0, PAYLOAD_BYTES_MAX)));
        assert_eq!(read_head([0, 0, 0, 0x80, 1]), Err(MalformedFrame::TooLong { bytes: 0x8001 }));
        assert_eq!(read_head([0, 255, 255, 255, 255]), Err(MalformedFrame::TooLong { bytes: u32::MAX }));
        for (kind, payload) in [(1, vec![0]), (2, vec![0; 3]), (3, vec![]), (4, vec![])] {
            assert!(FromClient::decode(kind, payload).is_err(), "{kind}");
        }
        for (kind, payload) in [(18, vec![0; 3]), (19, vec![0; 3]), (20, vec![])] {
            assert!(FromServer::decode(kind, payload).is_err(), "{kind}");
        }
        let reason = "ü".repeat(PAYLOAD_BYTES_MAX);
        let (_, payload) = split(&FromServer::Ended { code: 1, reason }.encode());
        assert_eq!(payload.len(), PAYLOAD_BYTES_MAX);
    }
}
