//! Parts of bodies, on the account of the run for which they are held.
//!
//! A part counts from when the worker has it until the last of it was read by the guest or taken by the client. What
//! is held at a time is bounded by the buffers that it waits in, so that a limit refuses none of it: the guest can
//! grow by so much less.

use bytes::Bytes;
use hyper::body::Frame;

use crate::budget::Account;

/// A part that is on an account.
struct Charged {
    bytes: Bytes,
    account: Account,
}

impl AsRef<[u8]> for Charged {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Charged {
    fn drop(&mut self) {
        self.account.give_back(self.bytes.len() as u64);
    }
}

/// Bytes that are on the account until their last copy is gone.
pub(super) fn charged(bytes: Bytes, account: &Account) -> Bytes {
    if bytes.is_empty() {
        return bytes;
    }
    account.charge(bytes.len() as u64);
    Bytes::from_owner(Charged { bytes, account: account.clone() })
}

/// The same for a part of a body; trailers cost nothing.
pub(super) fn charged_frame(frame: Frame<Bytes>, account: &Account) -> Frame<Bytes> {
    frame.map_data(|bytes| charged(bytes, account))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use neargate_wasm::protocol::RunLimits;

    use super::*;
    use crate::budget::Budget;

    #[test]
    fn bytes_count_until_the_last_of_them_is_gone() {
        let budget = || Arc::new(Budget::new(&RunLimits::default()));
        let account = Account { container: budget(), task: budget() };
        let used = || (account.container.memory(), account.task.memory());
        let mut part = charged(Bytes::from(vec![7; 1000]), &account);
        assert_eq!(used(), (1000, 1000));
        let copy = part.split_to(10);
        drop(part);
        assert_eq!(used(), (1000, 1000), "the memory is one piece");
        assert_eq!(copy, vec![7; 10]);
        drop(copy);
        assert_eq!(used(), (0, 0));
        drop(charged(Bytes::new(), &account));
        assert_eq!((used(), account.container.memory_peak()), ((0, 0), 1000));
    }
}
