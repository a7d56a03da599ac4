//! The supervisor role: one thread, one epoll, root.
//!
//! ```text
//!             requests, descriptors                 clone3
//!   server ───────────────────────────▶ supervisor ─────────▶ first process of a container
//!          ◀───────────────────────────            ◀─────────  failure, or end of file at exec
//!             responses, exits                      ◀─────────  pidfd readable at exit
//! ```
//!
//! It is executed from a sealed copy of the binary before the server has threads, and never has a second
//! thread itself: that is what makes cloning, and entering other namespaces for a moment, safe. It parses
//! nothing but the messages of `protocol`. When the server is gone it kills and removes all containers
//! and ends.
//!
//! Its one helper is the factory of [`cells`], which makes namespaces ahead of need.

mod cells;
mod exec;
mod host;
mod lend;
mod start;

use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};

use crate::failure::Failure;
use crate::peer::Outbox;
use crate::protocol::{Request, Response, VERSION};
use crate::sys;
use host::{Event, Host};
use neargate_ipc::channel::{self, Frame};
use neargate_ipc::wire::{decode, encode};

/// How long a supervisor without a server waits for its containers to die; what is left then hangs in the
/// kernel and is removed by the next start-up.
const FAREWELL: Duration = Duration::from_secs(10);
/// Keeps the kernel from choosing the supervisor when memory runs out.
const OOM_SCORE_ADJ: &str = "-999";

/// The loop's own tokens; processes have higher ones.
const SOCKET: u64 = 0;
const SIGNALS: u64 = 1;
const FACTORY: u64 = 2;

enum State {
    /// The set-up message has not come yet.
    New,
    /// Containers cannot be run here; every request is answered with the reason.
    Refusing(Failure),
    Ready(Box<Host>),
}

struct Supervisor {
    socket: OwnedFd,
    epoll: Rc<OwnedFd>,
    state: State,
    /// Responses that the socket had no room for.
    outbox: Outbox,
    closing: Option<Instant>,
}

/// Serves the socket until the server is gone; never returns.
pub(crate) fn run(socket: OwnedFd) -> ! {
    let code = match Supervisor::new(socket).and_then(Supervisor::serve) {
        Ok(()) => 0,
        Err(error) => {
            report("serve", &error);
            1
        }
    };
    std::process::exit(code)
}

/// Tells a person about something that no response can carry.
pub(super) fn report(what: &str, error: &dyn std::fmt::Display) {
    // Without a standard error there is nobody to tell.
    let _ = writeln!(io::stderr(), "neargate-supervisor: {what}: {error}");
}

impl Supervisor {
    fn new(socket: OwnedFd) -> io::Result<Self> {
        harden();
        let signals = [libc::SIGTERM, libc::SIGINT, libc::SIGHUP];
        sys::set_blocked(&signals, libc::SIG_BLOCK);
        let signal_fd = sys::signalfd(&signals)?;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, &socket, epoll::EventData::new_u64(SOCKET), epoll::EventFlags::IN)?;
        epoll::add(&epoll, &signal_fd, epoll::EventData::new_u64(SIGNALS), epoll::EventFlags::IN)?;
        // Lives as long as the process.
        std::mem::forget(signal_fd);
        let epoll = Rc::new(epoll);
        Ok(Self { socket, epoll, state: State::New, outbox: Outbox::default(), closing: None })
    }

    fn serve(mut self) -> io::Result<()> {
        let mut events = Vec::with_capacity(64);
        let mut buffer = Vec::new();
        loop {
            events.clear();
            let timeout = self.timeout();
            match epoll::wait(&*self.epoll, spare_capacity(&mut events), timeout.as_ref()) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            for event in &events {
                match event.data.u64() {
                    SOCKET => self.on_socket(event.flags, &mut buffer)?,
                    SIGNALS => self.begin_farewell(),
                    FACTORY => self.with_host(Host::on_factory),
                    token => self.with_host(|host| host.on_event(Event::of(token))),
                }
            }
            self.with_host(|host| host.on_time(Instant::now()));
            self.flush()?;
            // After the answers are out: nobody waits for this, except those who released a sandbox.
            self.with_host(Host::clean_up);
            self.flush()?;
            if self.is_done() {
                return Ok(());
            }
        }
    }

    fn with_host(&mut self, act: impl FnOnce(&mut Host)) {
        if let State::Ready(host) = &mut self.state {
            act(host);
            for (id, response) in host.responses.drain(..) {
                self.outbox.push(id, encode(&response), Vec::new());
            }
            for (id, response, fds) in host.lendings.drain(..) {
                self.outbox.push(id, encode(&response), fds);
            }
        }
    }

    fn timeout(&mut self) -> Option<Timespec> {
        let now = Instant::now();
        let host = if let State::Ready(host) = &mut self.state { host.deadline() } else { None };
        let until = host.into_iter().chain(self.closing).min()?;
        Timespec::try_from(until.saturating_duration_since(now)).ok()
    }

    fn on_socket(&mut self, flags: epoll::EventFlags, buffer: &mut Vec<u8>) -> io::Result<()> {
        if !flags.intersects(epoll::EventFlags::IN | epoll::EventFlags::HUP | epoll::EventFlags::ERR) {
            return Ok(());
        }
        // One request a turn: starts take long enough for exits to be looked at in between.
        match channel::receive(self.socket.as_fd(), buffer, false) {
            Ok(Some(frame)) => self.on_frame(frame),
            Ok(None) => self.begin_farewell(),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn on_frame(&mut self, frame: Frame) {
        let Frame { id, message, fds } = frame;
        let Ok(request) = decode::<Request>(&message) else {
            // Both ends are one binary, so this is a bug or an attack; the sender gets an answer.
            let failure = Failure::System { step: "read request".to_owned(), errno: libc::EBADMSG };
            return self.answer(id, Response::Failed { failure });
        };
        match (request, &mut self.state) {
            (Request::Setup { setup }, State::New) => {
                let opened = if setup.version == VERSION {
                    Host::open(setup, Rc::clone(&self.epoll))
                } else {
                    Err(Failure::System { step: "agree on protocol".to_owned(), errno: libc::EPROTO })
                };
                let response = match &opened {
                    Ok(_) => Response::Done {},
                    Err(failure) => Response::Failed { failure: failure.clone() },
                };
                self.state = match opened {
                    Ok(host) => State::Ready(Box::new(host)),
                    Err(failure) => State::Refusing(failure),
                };
                self.answer(id, response);
            }
            // There is nothing to release where nothing could be made.
            (Request::Release { .. }, State::Refusing(_)) => self.answer(id, Response::Done {}),
            (_, State::Refusing(failure)) => {
                let failure = failure.clone();
                self.answer(id, Response::Failed { failure });
            }
            (request, State::Ready(_)) => self.with_host(|host| host.on_request(id, request, fds)),
            (_, State::New) => {
                let failure = Failure::System { step: "agree on protocol".to_owned(), errno: libc::EPROTO };
                self.answer(id, Response::Failed { failure });
            }
        }
    }

    fn answer(&mut self, id: u64, response: Response) {
        self.outbox.push(id, encode(&response), Vec::new());
    }

    fn flush(&mut self) -> io::Result<()> {
        let registration = self.closing.is_none().then_some((&*self.epoll, SOCKET));
        self.outbox.flush(&self.socket, registration)
    }

    /// Starts killing everything; the loop ends when it is gone.
    fn begin_farewell(&mut self) {
        if self.closing.is_some() {
            return;
        }
        self.closing = Some(Instant::now() + FAREWELL);
        // A closed socket would be readable for ever.
        let _ = epoll::delete(&*self.epoll, &self.socket);
        self.with_host(Host::release_all);
    }

    fn is_done(&self) -> bool {
        let Some(until) = self.closing else { return false };
        match &self.state {
            State::Ready(host) if host.is_empty() => {
                host.close();
                true
            }
            State::Ready(_) => until <= Instant::now(),
            _ => true,
        }
    }
}

/// Makes the supervisor harder to disturb. None of it is needed to work, so failures are no errors: an
/// unprivileged supervisor lives on to say why it can do nothing.
fn harden() {
    sys::reset_inherited_signals();
    let _ = rustix::process::setsid();
    let _ = rustix::thread::set_name(c"ng-supervisor");
    // Not dumpable, and so are the children that it clones until they exec: nobody but host root can attach
    // to them or read their memory, which has a copy of every running plan.
    let _ = sys::prctl(libc::PR_SET_DUMPABLE, 0);
    let _ = sys::prctl(libc::PR_SET_CHILD_SUBREAPER, 1);
    let _ = sys::join_new_session_keyring();
    let _ = std::fs::write("/proc/self/oom_score_adj", OOM_SCORE_ADJ);
    let _ = rustix::process::chdir(c"/");
}

/// Registers a descriptor for reading.
fn watch(epoll: &OwnedFd, fd: BorrowedFd<'_>, token: u64) -> rustix::io::Result<()> {
    epoll::add(epoll, fd, epoll::EventData::new_u64(token), epoll::EventFlags::IN)
}

/// Ends a registration before the descriptor is closed: children that have not exec'd yet hold copies,
/// which would keep it alive.
fn unwatch(epoll: &OwnedFd, fd: BorrowedFd<'_>) {
    let _ = epoll::delete(epoll, fd);
}
