//! Netlink: batches of requests, and their answers (netlink(7)).

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload, NetlinkSerializable,
};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, netlink, recv, send, socket_with,
};

/// Room for the answers that the kernel has put together.
const ANSWER_BYTES: usize = 64 << 10;
/// What may wait to be read of news.
const NEWS_QUEUE_BYTES: usize = 4 << 20;
/// Room for news, of which the kernel puts no more than this into one datagram (`NLMSG_GOODSIZE`).
const NEWS_BYTES: usize = 8 << 10;
/// Bytes of a netlink message before its payload.
const HEADER_BYTES: usize = 16;
/// An answer that tells whether a request has succeeded.
const ERROR: u16 = 2;
/// Multicast groups (rtnetlink(7), `linux/netfilter/nfnetlink.h`): the first are masks, the last a number.
const RTMGRP_LINK: u32 = 0x1;
const RTMGRP_IPV4_IFADDR: u32 = 0x10;
const RTMGRP_IPV4_ROUTE: u32 = 0x40;
const RTMGRP_IPV6_IFADDR: u32 = 0x100;
const RTMGRP_IPV6_ROUTE: u32 = 0x400;
const NFNLGRP_NFTABLES: u32 = 7;
/// What [`News::Ways`] are told by.
const WAYS: u32 =
    RTMGRP_LINK | RTMGRP_IPV4_IFADDR | RTMGRP_IPV4_ROUTE | RTMGRP_IPV6_IFADDR | RTMGRP_IPV6_ROUTE;
/// Bytes before the attributes of a message of the packet filter (`struct nfgenmsg`).
const NETFILTER_HEADER_BYTES: usize = 4;
/// The attribute with the name of a table, of whatever kind the message is.
const TABLE_NAME: u16 = 1;
/// The end of an answer of many messages.
const DONE: u16 = 3;

/// Which part of the kernel a socket speaks to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subsystem {
    /// Links, addresses, routes and neighbours (rtnetlink(7)).
    Route,
    /// The packet filter.
    Netfilter,
}

/// What a socket can be told without asking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News {
    /// An interface, an address of one or a route has come, changed or gone.
    Ways,
    /// Something of the packet filter has changed.
    Rules,
}

/// A step of a batch that the kernel has refused.
#[derive(Debug, thiserror::Error)]
#[error("{step}")]
pub struct NetlinkError {
    /// What was asked for, for example `add route`.
    pub step: &'static str,
    /// The kernel's reason.
    #[source]
    pub source: io::Error,
}

/// What news were of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// Of what was asked about.
    pub is_told: bool,
    /// Some may have been, but were lost.
    pub is_lost: bool,
}

/// A socket of the network namespace that its maker was in.
#[derive(Debug)]
pub struct Netlink {
    socket: OwnedFd,
}

impl Netlink {
    /// Opens a socket in the caller's network namespace.
    pub fn open(subsystem: Subsystem) -> io::Result<Self> {
        let protocol = match subsystem {
            Subsystem::Route => None,
            Subsystem::Netfilter => Some(netlink::NETFILTER),
        };
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol)?;
        Ok(Self { socket })
    }

    /// Opens a socket that becomes readable when there is news of the caller's network namespace.
    pub fn listen(news: News) -> io::Result<Self> {
        let (subsystem, group) = match news {
            News::Ways => (Subsystem::Route, WAYS),
            News::Rules => (Subsystem::Netfilter, 1 << (NFNLGRP_NFTABLES - 1)),
        };
        let opened = Self::open(subsystem)?;
        // A change of many elements is much news. Without NET_ADMIN on the host it stays as it is.
        let _ = rustix::net::sockopt::set_socket_recv_buffer_size_force(&opened.socket, NEWS_QUEUE_BYTES);
        bind(&opened.socket, &netlink::SocketAddrNetlink::new(0, group))?;
        Ok(opened)
    }

    /// The number by which the kernel names who has asked for a change in what it tells of it (netlink(7)); 0 before
    /// the first request. A process's first socket has the process's id, unless somebody else has that.
    pub fn port(&self) -> u32 {
        let bound = rustix::net::getsockname(&self.socket);
        let address = bound.ok().and_then(|address| netlink::SocketAddrNetlink::try_from(address).ok());
        address.map_or(0, |address| address.pid())
    }

    /// Forgets the news that have come so far; tells whether there were any.
    pub fn drain(&self) -> bool {
        let told = self.take_news(|_, _| true);
        told.is_told || told.is_lost
    }

    /// Takes the news of the packet filter that have come so far; tells whether any is of this table, of changes that
    /// others have asked for than `but`. Every message of a table begins with its name
    /// (`linux/netfilter/nf_tables.h`).
    pub fn tells_of(&self, table: &str, but: Option<u32>) -> Told {
        let is_of = |payload: &[u8]| {
            let attribute = payload.get(NETFILTER_HEADER_BYTES..).unwrap_or_default();
            let word = |at: usize| Some(u16::from_ne_bytes(*attribute.get(at..)?.first_chunk()?));
            // Its length, which covers these two words, its type, and the name with a zero at its end.
            let (length, kind) = (word(0).unwrap_or_default(), word(2).unwrap_or_default());
            let name = attribute.get(4..usize::from(length)).and_then(<[u8]>::split_last);
            kind == TABLE_NAME && name.is_some_and(|(_, name)| name == table.as_bytes())
        };
        self.take_news(|header, payload| but != Some(header.port) && is_of(payload))
    }

    /// Takes the news that have come so far; tells whether any is of interest.
    fn take_news(&self, is_wanted: impl Fn(&Header, &[u8]) -> bool) -> Told {
        let (mut buffer, mut told) = ([0; NEWS_BYTES], Told::default());
        loop {
            match recv(&self.socket, &mut buffer[..], RecvFlags::DONTWAIT | RecvFlags::TRUNC) {
                Ok((taken, length)) => {
                    let mut messages = Messages(&buffer[..taken]);
                    told.is_told |= messages.any(|(header, payload)| is_wanted(&header, payload));
                    told.is_lost |= length > taken;
                }
                // It has overrun the socket.
                Err(rustix::io::Errno::NOBUFS) => told.is_lost = true,
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => return told,
            }
        }
    }

    /// Sends a batch; returns once the kernel has answered every request of it, or with the first refusal. What was
    /// before a refused request is done, except in the packet filter, where all is or nothing.
    pub fn exchange(&self, batch: Batch) -> Result<(), NetlinkError> {
        self.ask(batch, |_, _| {})
    }

    /// As [`Netlink::exchange`], and hands over every answer that is not about success: its type and payload.
    pub(crate) fn ask(&self, batch: Batch, mut told: impl FnMut(u16, &[u8])) -> Result<(), NetlinkError> {
        let Batch { bytes, steps, answers } = batch;
        let first = steps.first().copied().unwrap_or("send nothing");
        let failed = |step, source: rustix::io::Errno| NetlinkError { step, source: source.into() };
        send(&self.socket, &bytes, SendFlags::empty()).map_err(|error| failed(first, error))?;
        let mut buffer = vec![0; ANSWER_BYTES];
        let (mut left, mut refusal) = (answers, None);
        // The kernel has answered when `send` returns; were an answer missing, this must not wait for it.
        while left > 0 {
            let length = match recv(&self.socket, &mut buffer[..], RecvFlags::DONTWAIT) {
                Ok((length, _)) => length,
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => {
                    return Err(refusal.unwrap_or_else(|| failed("read the kernel's answer", error)));
                }
            };
            for (header, payload) in Messages(&buffer[..length]) {
                if header.message_type != ERROR && header.message_type != DONE {
                    told(header.message_type, payload);
                    continue;
                }
                left = left.saturating_sub(1);
                let code = payload
                    .first_chunk()
                    .map_or(-rustix::io::Errno::IO.raw_os_error(), |bytes| i32::from_ne_bytes(*bytes));
                if code != 0 && refusal.is_none() {
                    let step = steps.get(header.sequence_number as usize).copied().unwrap_or(first);
                    refusal = Some(NetlinkError { step, source: io::Error::from_raw_os_error(-code) });
                }
            }
            // A refused batch of the packet filter may leave requests unanswered.
            if refusal.is_some()
                && left > 0
                && recv(&self.socket, &mut buffer[..1], RecvFlags::DONTWAIT | RecvFlags::PEEK).is_err()
            {
                break;
            }
        }
        refusal.map_or(Ok(()), Err)
    }
}

impl Netlink {
    /// What the kernel tells, of one type, to a question that it answers by many messages.
    pub(crate) fn list<M: NetlinkSerializable, T>(
        &self,
        step: &'static str,
        question: M,
        wanted: u16,
        read: impl Fn(&[u8]) -> Option<T>,
    ) -> Result<Vec<T>, NetlinkError> {
        let mut batch = Batch::default();
        batch.push_dump(step, question);
        let mut found = Vec::new();
        self.ask(batch, |message_type, payload| {
            found.extend((message_type == wanted).then(|| read(payload)).flatten());
        })?;
        Ok(found)
    }
}

impl AsFd for Netlink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Requests that are sent together.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    bytes: Vec<u8>,
    /// What each request is for, by its sequence number.
    steps: Vec<&'static str>,
    answers: usize,
}

impl Batch {
    /// Adds a request that the kernel answers.
    pub(crate) fn push<M: NetlinkSerializable>(&mut self, step: &'static str, flags: u16, message: M) {
        self.answers += 1;
        self.add(step, flags | NLM_F_ACK, message);
    }

    /// Adds a question that is answered by many messages.
    fn push_dump<M: NetlinkSerializable>(&mut self, step: &'static str, message: M) {
        self.answers += 1;
        self.add(step, NLM_F_DUMP, message);
    }

    /// Adds a request that is not answered.
    pub(crate) fn push_silent<M: NetlinkSerializable>(&mut self, step: &'static str, message: M) {
        self.add(step, 0, message);
    }

    fn add<M: NetlinkSerializable>(&mut self, step: &'static str, flags: u16, message: M) {
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = u32::try_from(self.steps.len()).unwrap_or(u32::MAX);
        let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
        message.finalize();
        let start = self.bytes.len();
        self.bytes.resize(start + message.buffer_len().next_multiple_of(4), 0);
        message.serialize(&mut self.bytes[start..start + message.buffer_len()]);
        self.steps.push(step);
    }
}

/// The messages of one datagram.
struct Messages<'a>(&'a [u8]);

/// What matters of a message's header.
struct Header {
    message_type: u16,
    sequence_number: u32,
    /// Who has asked for what it tells of.
    port: u32,
}

impl<'a> Iterator for Messages<'a> {
    type Item = (Header, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let header: &[u8; HEADER_BYTES] = self.0.first_chunk()?;
        let word =
            |at: usize| u32::from_ne_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let length = usize::try_from(word(0)).ok().filter(|length| *length >= HEADER_BYTES)?;
        let payload = self.0.get(HEADER_BYTES..length)?;
        let message_type = u16::from_ne_bytes([header[4], header[5]]);
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((Header { message_type, sequence_number: word(8), port: word(12) }, payload))
    }
}
