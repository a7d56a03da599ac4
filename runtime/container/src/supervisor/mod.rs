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
//! nothing but the messages of `protocol`.
//!
//! A supervisor with a socket of its own (`neargate run`) kills and removes everything and ends when the server is
//! gone. One with a [`Seat`] (`neargate serve`) goes on, and the next server finds all containers there. When *it* is
//! gone, the next supervisor finds them by its [`journal`]; [`adopt`] tells how.
//!
//! Its one helper is the factory of [`cells`], which makes ahead of need what a task's first container has.

mod adopt;
mod allow;
mod bandwidth;
mod bounds;
mod bridge;
mod cells;
mod dual;
mod exec;
mod factory;
mod filter;
mod forwarding;
mod host;
mod host_ports;
mod inside;
mod journal;
mod lend;
mod link_local;
mod nft;
mod ordinary;
mod pause;
mod router;
mod router_holder;
mod sandbox;
mod seat;
mod sockets;
mod start;
mod tunnels;
mod uplink;

use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};

use crate::failure::Failure;
use crate::peer::Outbox;
use crate::protocol::{Allowed, Request, Response, Setup, VERSION};
use crate::spawn::Tenure;
use crate::sys;
use bounds::Bounds;
use host::{Event, Host};
pub(crate) use journal::containers_of;
use neargate_ipc::channel::{self, Frame};
use neargate_ipc::wire::{decode, encode};
pub(crate) use router_holder::{is_router, router_of};
use seat::Seat;
pub(crate) use seat::{connect, holder};

/// How long a supervisor without a server waits for its containers to die; what is left then hangs in the
/// kernel and is removed by the next start-up.
const FAREWELL: Duration = Duration::from_secs(10);
/// How long a supervisor that has nothing to look after waits for a next server.
const IDLE: Duration = Duration::from_secs(10);
/// Its name among threads and processes (`/proc/PID/comm`).
const NAME: &str = "ng-supervisor";
/// Keeps the kernel from choosing the supervisor when memory runs out.
const OOM_SCORE_ADJ: &str = "-999";

/// The loop's own tokens; processes have higher ones.
const SOCKET: u64 = 0;
const SIGNALS: u64 = 1;
const FACTORY: u64 = 2;
const LISTENER: u64 = 3;
/// Beyond those of all processes.
const NETWORK: u64 = u64::MAX;

/// How a supervisor meets its server.
pub(crate) enum Meeting {
    /// Over a socket that it was started with; it ends with the server.
    Socket(OwnedFd),
    /// Over a socket in a directory; it outlives the server.
    Directory {
        /// The directory.
        directory: PathBuf,
        /// The rest.
        tenure: Tenure,
    },
}

enum State {
    /// The set-up message has not come yet.
    New,
    /// Containers cannot be run here; every request is answered with the reason.
    Refusing(Failure),
    Ready(Box<Host>),
}

struct Supervisor {
    /// The server's end, while there is a server.
    socket: Option<OwnedFd>,
    seat: Option<Seat>,
    /// Whether the server is root and has not said that it is no more.
    is_trusted: bool,
    epoll: Rc<OwnedFd>,
    state: State,
    /// Responses that the socket had no room for.
    outbox: Outbox,
    closing: Option<Instant>,
    /// Since when there is no server.
    alone_since: Instant,
}

/// Serves until it is to end; never returns.
pub(crate) fn run(meeting: Meeting) -> ! {
    // Kept to the end, which closes its descriptors faster than one after the other.
    let ended = match Supervisor::new(meeting) {
        Ok(supervisor) => Box::leak(Box::new(supervisor)).serve(),
        Err(error) => Err(error),
    };
    if let Err(error) = &ended {
        report("serve", error);
    }
    std::process::exit(i32::from(ended.is_err()))
}

/// Tells a person about something that no response can carry.
pub(super) fn report(what: &str, error: &dyn std::fmt::Display) {
    // Without a standard error there is nobody to tell.
    let _ = writeln!(io::stderr(), "neargate-supervisor: {what}: {error}");
}

impl Supervisor {
    fn new(meeting: Meeting) -> io::Result<Self> {
        harden();
        let signals = [libc::SIGTERM, libc::SIGINT, libc::SIGHUP];
        sys::set_blocked(&signals, libc::SIG_BLOCK);
        let signal_fd = sys::signalfd(&signals)?;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        watch(&epoll, signal_fd.as_fd(), SIGNALS)?;
        // Lives as long as the process.
        std::mem::forget(signal_fd);
        let (socket, seat) = match meeting {
            Meeting::Socket(socket) => {
                watch(&epoll, socket.as_fd(), SOCKET)?;
                (Some(socket), None)
            }
            Meeting::Directory { directory, tenure } => {
                let seat = Seat::take(directory, tenure)?;
                watch(&epoll, seat.listener.as_fd(), LISTENER)?;
                (None, Some(seat))
            }
        };
        let (epoll, state, outbox) = (Rc::new(epoll), State::New, Outbox::default());
        // Over a socket of its own it serves the process that has started it, with that one's rights.
        let is_trusted = seat.is_none();
        Ok(Self {
            socket,
            seat,
            is_trusted,
            epoll,
            state,
            outbox,
            closing: None,
            alone_since: Instant::now(),
        })
    }

    fn serve(&mut self) -> io::Result<()> {
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
                    LISTENER => self.on_listener(),
                    NETWORK => self.with_host(Host::on_network),
                    token => self.with_host(|host| host.on_event(Event::of(token))),
                }
            }
            self.with_host(|host| host.on_time(Instant::now()));
            neargate_failpoint::reach("container::answer::before");
            self.flush()?;
            neargate_failpoint::reach("container::answer::after");
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
        let idle = self.is_idle().then_some(self.alone_since + IDLE);
        let until = host.into_iter().chain(self.closing).chain(idle).min()?;
        Timespec::try_from(until.saturating_duration_since(now)).ok()
    }

    /// Whether nobody needs it: there is no server and nothing to look after.
    fn is_idle(&self) -> bool {
        let has_work = matches!(&self.state, State::Ready(host) if !host.is_empty());
        self.socket.is_none() && !has_work
    }

    /// Takes the next server in place of the one before, which is gone or will not be heard any more.
    fn on_listener(&mut self) {
        let Some(seat) = &self.seat else { return };
        match seat.accept() {
            Ok(Some((socket, is_root))) => {
                self.lose_server();
                self.is_trusted = is_root;
                match watch(&self.epoll, socket.as_fd(), SOCKET) {
                    Ok(()) => self.socket = Some(socket),
                    Err(error) => report("listen to the server", &error),
                }
            }
            Ok(None) => report("accept", &"a connection of somebody who is not the server was refused"),
            Err(error) => report("accept", &error),
        }
    }

    /// Goes on without a server.
    fn lose_server(&mut self) {
        let Some(socket) = self.socket.take() else { return };
        unwatch(&self.epoll, socket.as_fd());
        leave_standard_error();
        self.outbox = Outbox::default();
        self.alone_since = Instant::now();
        self.with_host(Host::detach);
    }

    fn on_socket(&mut self, flags: epoll::EventFlags, buffer: &mut Vec<u8>) -> io::Result<()> {
        if !flags.intersects(epoll::EventFlags::IN | epoll::EventFlags::HUP | epoll::EventFlags::ERR) {
            return Ok(());
        }
        let Some(socket) = &self.socket else { return Ok(()) };
        // One request a turn: starts take long enough for exits to be looked at in between.
        match channel::receive(socket.as_fd(), buffer, false) {
            Ok(Some(frame)) => self.on_frame(frame),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Ok(None) | Err(_) if self.seat.is_some() => self.lose_server(),
            Ok(None) => self.begin_farewell(),
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn on_frame(&mut self, frame: Frame) {
        let Frame { id, message, mut fds } = frame;
        let Ok(request) = decode::<Request>(&message) else {
            // Both ends are one binary, so this is a bug or an attack; the sender gets an answer.
            let failure = Failure::System { step: "read request".to_owned(), errno: libc::EBADMSG };
            return self.answer(id, Response::Failed { failure });
        };
        match (request, &mut self.state) {
            (Request::Setup { setup }, _) => {
                if let Some(stderr) = fds.pop() {
                    let _ = sys::dup2(stderr.as_fd(), libc::STDERR_FILENO);
                }
                self.set_up(id, setup);
            }
            (Request::Farewell {}, _) => self.begin_farewell(),
            (Request::Resign { server_uid, allowed }, _) => self.resign(server_uid, allowed),
            (Request::Renew { .. }, _) if !self.is_trusted => {
                let failure = bounds::refused("another program as supervisor");
                self.answer(id, Response::Failed { failure });
            }
            (Request::Renew { build }, _) => {
                let failure = self.renew(&build, fds.pop());
                self.answer(id, Response::Failed { failure });
            }
            // There is nothing to release where nothing could be made.
            (Request::Release { .. }, State::Refusing(_)) => self.answer(id, Response::Done {}),
            (_, State::Refusing(failure)) => {
                let failure = failure.clone();
                self.answer(id, Response::Failed { failure });
            }
            (request, State::Ready(_)) => match self.check(&request) {
                Ok(()) => self.with_host(|host| host.on_request(id, request, fds)),
                Err(failure) => self.answer(id, Response::Failed { failure }),
            },
            (_, State::New) => self.answer(id, disagreement()),
        }
    }

    /// Hears from a server that is root that it is going to be another user's, and what that one may do.
    fn resign(&mut self, server_uid: u32, allowed: Allowed) {
        if let (true, Some(seat)) = (self.is_trusted, &mut self.seat) {
            let tenure = &mut seat.tenure;
            tenure.server_uid = server_uid;
            tenure.allowed = allowed;
        }
        self.is_trusted = false;
    }

    /// How far the server reaches, if it is not trusted.
    fn bounds(&self) -> Option<Bounds<'_>> {
        let seat = self.seat.as_ref().filter(|_| !self.is_trusted)?;
        Some(Bounds { data: seat.directory.parent()?, allowed: &seat.tenure.allowed })
    }

    /// Refuses a request that reaches further.
    fn check(&self, request: &Request) -> Result<(), Failure> {
        match (request, self.bounds()) {
            (Request::Start { plan }, Some(bounds)) => bounds.check_start(plan),
            _ => Ok(()),
        }
    }

    /// Takes a server's first message, and tells it what there is already.
    fn set_up(&mut self, id: u64, setup: Setup) {
        if setup.version != VERSION {
            return self.answer(id, disagreement());
        }
        if let Some(Err(failure)) = self.bounds().map(|bounds| bounds.check_setup(&setup)) {
            return self.answer(id, Response::Failed { failure });
        }
        match &mut self.state {
            State::Ready(host) if !host.serves(&setup) => return self.answer(id, disagreement()),
            State::Ready(host) => host.serve_by(setup),
            State::New | State::Refusing(_) => {
                self.state = match Host::open(setup, self.seat.as_ref(), Rc::clone(&self.epoll)) {
                    Ok(host) => State::Ready(Box::new(host)),
                    Err(failure) => State::Refusing(failure),
                };
            }
        }
        if let State::Refusing(failure) = &self.state {
            let failure = failure.clone();
            return self.answer(id, Response::Failed { failure });
        }
        self.with_host(Host::tell_all);
        let build = self.seat.as_ref().map(|seat| seat.tenure.build.clone()).unwrap_or_default();
        self.answer(id, Response::Attached { build });
    }

    /// Executes another program in place of this one; returns only on failure. Containers stay its children, and the
    /// journal tells it about them.
    fn renew(&mut self, build: &str, program: Option<OwnedFd>) -> Failure {
        let (Some(seat), Some(program)) = (&self.seat, program) else {
            return Failure::System { step: "execute another supervisor".to_owned(), errno: libc::EINVAL };
        };
        if let State::Ready(host) = &mut self.state
            && let Err(failure) = host.make_ready_to_renew()
        {
            return failure;
        }
        let error = seat.execute(&program, build);
        let step = "execute another supervisor".to_owned();
        Failure::System { step, errno: error.raw_os_error().unwrap_or(libc::EIO) }
    }

    fn answer(&mut self, id: u64, response: Response) {
        self.outbox.push(id, encode(&response), Vec::new());
    }

    fn flush(&mut self) -> io::Result<()> {
        let registration = self.closing.is_none().then_some((&*self.epoll, SOCKET));
        match &self.socket {
            Some(socket) => self.outbox.flush(socket, registration),
            None => {
                self.outbox = Outbox::default();
                Ok(())
            }
        }
    }

    /// Starts killing everything; the loop ends when it is gone.
    fn begin_farewell(&mut self) {
        if self.closing.is_some() {
            return;
        }
        self.closing = Some(Instant::now() + FAREWELL);
        // A closed socket would be readable for ever.
        if let Some(socket) = &self.socket {
            unwatch(&self.epoll, socket.as_fd());
        }
        if let Some(seat) = &self.seat {
            unwatch(&self.epoll, seat.listener.as_fd());
            seat.leave();
        }
        self.with_host(Host::release_all);
    }

    fn is_done(&mut self) -> bool {
        let is_idle = self.is_idle() && self.alone_since + IDLE <= Instant::now();
        if self.closing.is_none() && is_idle {
            self.begin_farewell();
        }
        let Some(until) = self.closing else { return false };
        match &mut self.state {
            State::Ready(host) if host.is_empty() => {
                host.close();
                true
            }
            State::Ready(_) => until <= Instant::now(),
            _ => true,
        }
    }
}

/// Lets go of the standard error of a server that is gone: whoever reads it waits for its end.
fn leave_standard_error() {
    if let Ok(null) = std::fs::File::options().write(true).open("/dev/null") {
        let _ = sys::dup2(null.as_fd(), libc::STDERR_FILENO);
    }
}

fn disagreement() -> Response {
    let step = "agree on protocol".to_owned();
    Response::Failed { failure: Failure::System { step, errno: libc::EPROTO } }
}

/// Makes the supervisor harder to disturb. None of it is needed to work, so failures are no errors: an
/// unprivileged supervisor lives on to say why it can do nothing.
fn harden() {
    sys::reset_inherited_signals();
    let _ = rustix::process::setsid();
    if let Ok(name) = std::ffi::CString::new(NAME) {
        let _ = rustix::thread::set_name(&name);
    }
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
