//! What tasks are told of private names.

use std::net::IpAddr;

/// The records that are asked for of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RecordKind {
    /// Addresses of IPv4.
    A,
    /// Addresses of IPv6.
    Aaaa,
    /// Where a service is, with ports.
    Srv,
    /// The name that this one stands for.
    Cname,
    /// The name of an address.
    Ptr,
    /// Others, of which no private name has any.
    Other,
}

/// What is said of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PrivateAnswer {
    /// It is in no private zone of whoever asks.
    Elsewhere,
    /// These records, of the kind that was asked for or an alias.
    Found(Vec<PrivateRecord>),
    /// The name is there and has no such record.
    NoSuchRecord(PrivateZone),
    /// There is no such name in this zone.
    NoSuchName(PrivateZone),
}

/// A record of a private name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrivateRecord {
    /// For how many seconds it may be kept.
    pub ttl_s: u32,
    /// What it says.
    pub data: PrivateData,
}

/// What a record says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PrivateData {
    /// An address of the name.
    Address(IpAddr),
    /// Where a service is (RFC 2782).
    Service {
        /// The lowest is tried first.
        priority: u16,
        /// Its share among those of one priority.
        weight: u16,
        /// The port.
        port: u16,
        /// The name whose address it has.
        target: String,
    },
    /// The name that this one stands for.
    Alias(String),
    /// The name of the address that this one is.
    Pointer(String),
}

/// A zone in which a name is not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrivateZone {
    /// Its name.
    pub name: String,
    /// For how many seconds it may be kept that a name is not there.
    pub ttl_s: u32,
}
