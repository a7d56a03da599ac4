//! Values and their bytes.
//!
//! Numbers are little-endian; texts and lists have a 32-bit length before them. Decoding checks every
//! length against what is there, allocates no more than the message is long, refuses trailing bytes, and
//! never panics. All ends are the same executable, so there is no evolution, only a version that they share.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

/// The bytes are not a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed message")]
pub struct Malformed;

/// What is left of a message that is being read.
pub struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let (head, tail) = self.0.split_at_checked(count).ok_or(Malformed)?;
        self.0 = tail;
        Ok(head)
    }
}

/// A value that has a form on the wire.
pub trait Wire: Sized {
    /// Appends the value.
    fn put(&self, out: &mut Vec<u8>);
    /// Reads the value.
    fn get(input: &mut Reader<'_>) -> Result<Self, Malformed>;
}

/// Encodes one value.
pub fn encode(value: &impl Wire) -> Vec<u8> {
    let mut out = Vec::with_capacity(256);
    value.put(&mut out);
    out
}

/// Decodes one value that fills `bytes` exactly.
pub fn decode<T: Wire>(bytes: &[u8]) -> Result<T, Malformed> {
    let mut reader = Reader(bytes);
    let value = T::get(&mut reader)?;
    if reader.0.is_empty() { Ok(value) } else { Err(Malformed) }
}

macro_rules! wire_integer {
    ($($name:ty),*) => {$(
        impl Wire for $name {
            fn put(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_le_bytes());
            }
            fn get(input: &mut Reader<'_>) -> Result<Self, Malformed> {
                let bytes = input.take(size_of::<$name>())?;
                Ok(<$name>::from_le_bytes(bytes.try_into().map_err(|_| Malformed)?))
            }
        }
    )*};
}
wire_integer!(u8, u16, u32, u64, u128, i32, i64);

impl Wire for bool {
    fn put(&self, out: &mut Vec<u8>) {
        out.push(u8::from(*self));
    }
    fn get(input: &mut Reader<'_>) -> Result<Self, Malformed> {
        match u8::get(input)? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Malformed),
        }
    }
}

fn put_length(length: usize, out: &mut Vec<u8>) {
    // A longer field cannot be framed: the frame is bounded far below 4 GiB by `channel`.
    u32::try_from(length).unwrap_or(u32::MAX).put(out);
}

impl Wire for String {
    fn put(&self, out: &mut Vec<u8>) {
        put_length(self.len(), out);
        out.extend_from_slice(self.as_bytes());
    }
    fn get(input: &mut Reader<'_>) -> Result<Self, Malformed> {
        let length = u32::get(input)? as usize;
        std::str::from_utf8(input.take(length)?).map(str::to_owned).map_err(|_| Malformed)
    }
}

impl<T: Wire> Wire for Vec<T> {
    fn put(&self, out: &mut Vec<u8>) {
        put_length(self.len(), out);
        self.iter().for_each(|item| item.put(out));
    }
    fn get(input: &mut Reader<'_>) -> Result<Self, Malformed> {
        let length = u32::get(input)? as usize;
        // Every item takes a byte at least, so a length beyond the rest is a lie.
        if length > input.0.len() {
            return Err(Malformed);
        }
        (0..length).map(|_| T::get(input)).collect()
    }
}

impl<T: Wire> Wire for Option<T> {
    fn put(&self, out: &mut Vec<u8>) {
        self.is_some().put(out);
        if let Some(value) = self {
            value.put(out);
        }
    }
    fn get(input: &mut Reader<'_>) -> Result<Self, Malformed> {
        if bool::get(input)? { T::get(input).map(Some) } else { Ok(None) }
    }
}

impl<T: Wire> Wire for Box<T> {
    fn put(&self, out: &mut Vec<u8>) {
        T::put(self, out);
    }
    fn get(input: &mut Reader<'_>) -> Result<Self, Malformed> {
        T::get(input).map(Self::new)
    }
}

impl<A: Wire, B: Wire> Wire for (A, B) {
    fn put(&self, out: &mut Vec<u8>) {
        self.0.put(out);
        self.1.put(out);
    }
    fn get(input: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok((A::get(input)?, B::get(input)?))
    }
}

/// The version of IP as a tag, then address and port; for IPv6 also flow information and scope.
impl Wire for SocketAddr {
    fn put(&self, out: &mut Vec<u8>) {
        match self {
            Self::V4(address) => {
                4_u8.put(out);
                (address.ip().to_bits(), address.port()).put(out);
            }
            Self::V6(address) => {
                6_u8.put(out);
                (address.ip().to_bits(), address.port()).put(out);
                (address.flowinfo(), address.scope_id()).put(out);
            }
        }
    }
    fn get(input: &mut Reader<'_>) -> Result<Self, Malformed> {
        match u8::get(input)? {
            4 => {
                let (ip, port) = Wire::get(input)?;
                Ok(SocketAddrV4::new(Ipv4Addr::from_bits(ip), port).into())
            }
            6 => {
                let ((ip, port), (flow, scope)) = Wire::get(input)?;
                Ok(SocketAddrV6::new(Ipv6Addr::from_bits(ip), port, flow, scope).into())
            }
            _ => Err(Malformed),
        }
    }
}

/// Implements [`Wire`] for a struct, field by field.
#[macro_export]
macro_rules! wire_fields {
    ($name:ident { $($field:ident),* $(,)? }) => {
        impl $crate::wire::Wire for $name {
            fn put(&self, out: &mut Vec<u8>) {
                $($crate::wire::Wire::put(&self.$field, out);)*
            }
            fn get(input: &mut $crate::wire::Reader<'_>) -> Result<Self, $crate::wire::Malformed> {
                Ok(Self { $($field: $crate::wire::Wire::get(input)?,)* })
            }
        }
    };
}

/// Declares a struct whose fields go over the wire in order.
#[macro_export]
macro_rules! wire_struct {
    ($(#[$doc:meta])* $vis:vis struct $name:ident { $($(#[$field_doc:meta])* $field:ident: $kind:ty),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq)]
        $vis struct $name { $($(#[$field_doc])* $vis $field: $kind),* }
        $crate::wire_fields!($name { $($field),* });
    };
}

/// Declares an enum whose cases go over the wire as a tag byte and their fields.
#[macro_export]
macro_rules! wire_enum {
    ($(#[$doc:meta])* $vis:vis enum $name:ident {
        $($(#[$case_doc:meta])* $tag:literal => $case:ident { $($field:ident: $kind:ty),* $(,)? }),* $(,)?
    }) => {
        $(#[$doc])*
        // A message is decoded where it is used and moved once or twice; a box would cost as much.
        #[allow(clippy::large_enum_variant)]
        #[derive(Clone, Debug, PartialEq, Eq)]
        $vis enum $name { $($(#[$case_doc])* $case { $(#[allow(missing_docs)] $field: $kind),* }),* }
        impl $crate::wire::Wire for $name {
            fn put(&self, out: &mut Vec<u8>) {
                match self {
                    $(Self::$case { $($field),* } => {
                        out.push($tag);
                        $($crate::wire::Wire::put($field, out);)*
                    })*
                }
            }
            fn get(input: &mut $crate::wire::Reader<'_>) -> Result<Self, $crate::wire::Malformed> {
                match <u8 as $crate::wire::Wire>::get(input)? {
                    $($tag => Ok(Self::$case { $($field: $crate::wire::Wire::get(input)?),* }),)*
                    _ => Err($crate::wire::Malformed),
                }
            }
        }
    };
}
