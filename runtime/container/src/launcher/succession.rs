//! Replaces the steward of a supervisor when that is killed.

use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rustix::event::epoll;

use super::server::tell;
use crate::steward::{self, Succession};
use crate::sys;

/// A steward that lives shorter than this is replaced only when it could have been that old.
const LIFE_MIN: Duration = Duration::from_secs(1);

/// The steward that is there, or when there will be another one.
pub(super) struct Successor {
    succession: Succession,
    /// When it was forked, if that was here.
    forked: Option<Instant>,
    due: Option<Instant>,
}

impl Successor {
    /// Hears the end of the steward under a token.
    pub(super) fn watch(succession: Succession, epoll: &impl AsFd, token: u64) -> io::Result<Self> {
        listen(&succession, epoll, token)?;
        Ok(Self { succession, forked: None, due: None })
    }

    /// Acts on the end of the steward.
    pub(super) fn on_end(&mut self, epoll: &impl AsFd) {
        let steward = self.succession.steward.as_fd();
        let _ = epoll::delete(epoll, steward);
        // The first one is a child of the program.
        let _ = sys::wait_child(Some(steward), false);
        let soonest = self.forked.map(|forked| forked + LIFE_MIN);
        let now = Instant::now();
        self.due = (!self.succession.post.is_over()).then(|| soonest.map_or(now, |soonest| soonest.max(now)));
    }

    /// How soon another steward is to be forked.
    pub(super) fn due(&self) -> Option<Duration> {
        self.due.map(|due| due.saturating_duration_since(Instant::now()))
    }

    /// Forks another steward if it is time.
    pub(super) fn on_time(&mut self, epoll: &impl AsFd, token: u64) {
        if self.due.is_none_or(|due| Instant::now() < due) {
            return;
        }
        let now = Instant::now();
        (self.forked, self.due) = (Some(now), None);
        let forked = steward::fork(&self.succession.post).map_err(|error| error.to_string());
        let heard = forked.and_then(|steward| {
            self.succession.steward = steward;
            listen(&self.succession, epoll, token).map_err(|error| error.to_string())
        });
        if let Err(error) = heard {
            tell("fork another steward", &error);
            self.due = Some(now + LIFE_MIN);
        }
    }
}

fn listen(succession: &Succession, epoll: &impl AsFd, token: u64) -> io::Result<()> {
    let data = epoll::EventData::new_u64(token);
    Ok(epoll::add(epoll, &succession.steward, data, epoll::EventFlags::IN)?)
}
