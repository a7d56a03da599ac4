//! Limits of how much passes the interfaces of tasks.

use neargate_network::bandwidth::{Bandwidth, render_removal};

use super::report;
use super::router::Network;
use crate::failure::Failure;
use crate::launchpad::Launchpad;

impl Network {
    /// Has no more than this pass a link, each way.
    pub(super) fn limit(
        &mut self,
        link: String,
        bandwidth: Bandwidth,
        launchpad: &Launchpad,
    ) -> Result<(), Failure> {
        let is_current = self.router.as_ref().is_some_and(|router| router.is_current);
        let limited = if is_current { self.load(&bandwidth.render(&link), launchpad) } else { Ok(()) };
        if limited.is_ok() {
            self.picture.limits.insert(link, bandwidth);
        }
        limited
    }

    /// Takes its limit, if it has one, from a link that nobody uses any more.
    pub(super) fn unlimit(&mut self, link: &str, launchpad: &Launchpad) {
        if self.picture.limits.remove(link).is_none() {
            return;
        }
        // What is not current is made anew without it.
        let is_current = self.router.as_ref().is_some_and(|router| router.is_current);
        if is_current && let Err(failure) = self.load(&render_removal(link), launchpad) {
            report("take back the limit of an interface", &failure.into_start());
        }
    }
}
