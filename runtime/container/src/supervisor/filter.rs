//! The packet filter of a network namespace, and whether somebody else changes our table in it.
//!
//! The kernel tells of every change, be it a table that is gone or one element of a set, and who has asked for it: the
//! number of a socket, which is ours or that of the `nft` that we have run. Whatever else it tells is somebody else's
//! doing.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::Instant;

use neargate_network::netlink::{Batch, Netlink, NetlinkError, News, Subsystem};

use super::nft::Nft;
use crate::failure::{Failure, Step};
use crate::launchpad::Launchpad;

/// Our table in a namespace.
pub(super) struct Filter {
    kernel: Netlink,
    news: Netlink,
    table: String,
    /// When it was seen that somebody else has changed it.
    changed_at: Option<Instant>,
    /// Whether news of our last change were lost.
    has_lost: bool,
}

impl Filter {
    /// Of the namespace that the caller is in.
    pub(super) fn open(table: &str) -> Result<Self, Failure> {
        const STEP: &str = "open netlink";
        let kernel = Netlink::open(Subsystem::Netfilter).step(STEP)?;
        let news = Netlink::listen(News::Rules).step(STEP)?;
        Ok(Self { kernel, news, table: table.to_owned(), changed_at: None, has_lost: false })
    }

    /// The name of the table.
    pub(super) fn table(&self) -> &str {
        &self.table
    }

    /// Changes what is in the table.
    pub(super) fn exchange(&mut self, batch: Batch) -> Result<(), NetlinkError> {
        self.listen();
        let changed = self.kernel.exchange(batch);
        self.listen_after(self.kernel.port());
        changed
    }

    /// Has `nft` carry out a text in the filter's namespace, all of it or nothing.
    pub(super) fn load(
        &mut self,
        text: &str,
        namespace: BorrowedFd<'_>,
        launchpad: &Launchpad,
    ) -> Result<(), Failure> {
        self.listen();
        let nft = Nft::start(text, namespace, launchpad)?;
        let port = nft.port();
        let ended = nft.end();
        self.listen_after(port);
        ended
    }

    /// The socket to ask without changing anything.
    pub(super) fn kernel(&self) -> &Netlink {
        &self.kernel
    }

    fn listen(&mut self) {
        let told = self.news.tells_of(&self.table, None);
        self.note(told.is_told || told.is_lost);
    }

    /// Hears of what others have changed while we did. Where news were lost somebody else's may have been, and all is
    /// made once more; but not for ever, if it is that which is too much news.
    fn listen_after(&mut self, port: u32) {
        let told = self.news.tells_of(&self.table, Some(port));
        self.note(told.is_told || (told.is_lost && !self.has_lost));
        self.has_lost = told.is_lost;
    }

    fn note(&mut self, is_changed: bool) {
        if is_changed {
            self.changed_at.get_or_insert_with(Instant::now);
        }
    }

    /// Whether somebody else has changed the table since this was asked last.
    pub(super) fn take_change(&mut self) -> bool {
        self.listen();
        self.changed_at.take().is_some()
    }

    /// When that was seen, if it was already, so that nothing will tell of it any more.
    pub(super) fn changed_at(&self) -> Option<Instant> {
        self.changed_at
    }
}

impl AsFd for Filter {
    /// Readable when there may be news.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.news.as_fd()
    }
}
