//! The packet filter of a network namespace, and whether somebody else changes our table in it.
//!
//! The kernel tells of every change, also of our own, before the request for it returns. So whatever it tells at any other
//! time is somebody else's doing, be it a table that is gone or one element of a set.

use std::os::fd::{AsFd, BorrowedFd};

use neargate_network::netlink::{Batch, Netlink, NetlinkError, News, Subsystem};

use crate::failure::{Failure, Step};

/// Our table in a namespace.
pub(super) struct Filter {
    kernel: Netlink,
    news: Netlink,
    table: String,
    /// Whether somebody else has changed it.
    is_changed: bool,
}

impl Filter {
    /// Of the namespace that the caller is in.
    pub(super) fn open(table: &str) -> Result<Self, Failure> {
        const STEP: &str = "open netlink";
        let kernel = Netlink::open(Subsystem::Netfilter).step(STEP)?;
        let news = Netlink::listen(News::Rules).step(STEP)?;
        Ok(Self { kernel, news, table: table.to_owned(), is_changed: false })
    }

    /// The name of the table.
    pub(super) fn table(&self) -> &str {
        &self.table
    }

    /// Changes what is in the table.
    pub(super) fn exchange(&mut self, batch: Batch) -> Result<(), NetlinkError> {
        self.change(|kernel| kernel.exchange(batch))
    }

    /// Does something that changes the table.
    pub(super) fn change<T>(&mut self, act: impl FnOnce(&Netlink) -> T) -> T {
        self.listen();
        let done = act(&self.kernel);
        self.news.drain();
        done
    }

    /// The socket to ask without changing anything.
    pub(super) fn kernel(&self) -> &Netlink {
        &self.kernel
    }

    fn listen(&mut self) {
        self.is_changed |= self.news.tells_of(&self.table);
    }

    /// Whether somebody else has changed the table since this was asked last.
    pub(super) fn take_change(&mut self) -> bool {
        self.listen();
        std::mem::take(&mut self.is_changed)
    }

    /// Whether that is known already, so that nothing will tell of it any more.
    pub(super) fn is_changed(&self) -> bool {
        self.is_changed
    }
}

impl AsFd for Filter {
    /// Readable when there may be news.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.news.as_fd()
    }
}
