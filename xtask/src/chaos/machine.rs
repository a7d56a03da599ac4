//! The server under chaos: started, armed, killed, started again.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, bail, ensure};
use neargate_failpoint::{FILE_VARIABLE, struck};
use neargate_tests::process::Finished;
use neargate_tests::server::{COMMAND_LIMIT, READY_LIMIT};
use neargate_tests::{Client, Credentials, Server, ServerOptions, eventually, fixtures, leaks, process};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Where all tasks run.
pub(crate) const CLUSTER: &str = "chaos";
/// The volume in which they tell that they ran.
pub(crate) const VOLUME: &str = "witness";
/// Where points are armed, in the scratch directory.
const ORDERS: &str = "orders";
/// Server starts in a row that may end before they are ready: one that a point kills, and one more.
const STARTS_MAX: usize = 3;

/// Where the server is just now; the port changes with every start.
#[derive(Clone)]
pub(crate) struct Site(Arc<Mutex<(String, Credentials)>>);

/// A client that follows the server.
pub(crate) struct Caller {
    site: Site,
    endpoint: String,
    client: Client,
}

/// Which process is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Victim {
    Server,
    Supervisor,
    Both,
    Steward,
    /// The steward, and then the supervisor, for which nobody is there at first.
    Line,
}

/// Ways of killing that a seed chooses from.
pub(crate) const VICTIMS: [Victim; 5] =
    [Victim::Server, Victim::Supervisor, Victim::Both, Victim::Steward, Victim::Line];

/// One data directory, and the server on it.
pub(crate) struct Machine {
    scratch: TempDir,
    program: PathBuf,
    server: Server,
    pub(crate) site: Site,
    /// From when to when there was no server.
    pub(crate) downs: Vec<(SystemTime, SystemTime)>,
    /// ERROR lines of servers that are gone.
    pub(crate) errors: Vec<String>,
}

impl Site {
    /// A client of whatever server there is.
    pub(crate) fn caller(&self) -> Caller {
        let (endpoint, credentials) = self.get();
        Caller { site: self.clone(), client: Client::new(&endpoint, credentials), endpoint }
    }

    fn get(&self) -> (String, Credentials) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, server: &Server) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) =
            (server.endpoint.clone(), server.credentials.clone());
    }
}

impl Caller {
    /// Calls an ECS operation once.
    pub(crate) fn call(&mut self, operation: &str, body: &Value) -> Result<Value> {
        self.client().ecs(operation, body)
    }

    /// What RunTask needs to know of the network of a task.
    pub(crate) fn network(&mut self) -> Result<Value> {
        self.client().network()
    }

    /// A client of the server that there is now.
    fn client(&mut self) -> &mut Client {
        let (endpoint, credentials) = self.site.get();
        if endpoint != self.endpoint {
            self.client = Client::new(&endpoint, credentials);
            self.endpoint = endpoint;
        }
        &mut self.client
    }

    /// Describes tasks, at most 100.
    pub(crate) fn describe(&mut self, arns: &[&str]) -> Result<Vec<Value>> {
        let answer = self.call("DescribeTasks", &json!({"cluster": CLUSTER, "tasks": arns}))?;
        ensure!(answer["failures"].as_array().is_none_or(Vec::is_empty), "describe tasks: {answer}");
        Ok(answer["tasks"].as_array().cloned().unwrap_or_default())
    }
}

impl Machine {
    /// Starts a server of `program` on new data, with a cluster and images.
    pub(crate) fn start(program: &Path) -> Result<Self> {
        let scratch = neargate_tests::server::scratch_directory()?;
        // Whoever is struck renames the order, and the server is not root.
        let orders = scratch.path().join(ORDERS);
        fs::create_dir(&orders).context("make directory for orders")?;
        fs::set_permissions(&orders, Permissions::from_mode(0o777)).context("open directory for orders")?;
        let server = options(scratch.path(), program).start()?;
        let site = Site(Arc::new(Mutex::new((server.endpoint.clone(), server.credentials.clone()))));
        let (downs, errors) = (Vec::new(), Vec::new());
        let machine = Self { scratch, program: program.to_owned(), server, site, downs, errors };
        machine.site.caller().call("CreateCluster", &json!({"clusterName": CLUSTER}))?;
        machine.server.pack(&fixtures::busybox_root()?, "busybox", "/bin/busybox")?;
        machine.server.import(&fixtures::module().context("build the Wasm probe")?, "probe")?;
        Ok(machine)
    }

    /// Where tasks write that they ran: a volume that they share.
    pub(crate) fn witness(&self) -> PathBuf {
        let cluster = format!("volumes/123456789012/us-east-1/{CLUSTER}");
        self.data().join(cluster).join(VOLUME)
    }

    /// A directory for what else is needed.
    pub(crate) fn scratch(&self) -> &Path {
        self.scratch.path()
    }

    /// The server's data.
    pub(crate) fn data(&self) -> PathBuf {
        self.scratch.path().join("data")
    }

    /// From now on, the process that comes to a point for this time is killed there.
    pub(crate) fn arm(&self, point: &str, hits: u64) -> Result<()> {
        let order = order(self.scratch.path());
        let _ = fs::remove_file(struck(&order));
        // Whole or not at all, because processes read it all the time.
        let unfinished = order.with_extension("new");
        fs::write(&unfinished, format!("{point} {hits}\n")).context("write the order")?;
        fs::rename(&unfinished, &order).context("put the order in place")
    }

    /// Takes the order back.
    pub(crate) fn disarm(&self) {
        let order = order(self.scratch.path());
        let _ = fs::remove_file(&order);
        let _ = fs::remove_file(struck(&order));
    }

    /// When the armed point was reached; `None` before.
    pub(crate) fn struck_at(&self) -> Option<SystemTime> {
        let renamed = fs::metadata(struck(&order(self.scratch.path()))).ok()?;
        let since_epoch =
            Duration::new(renamed.ctime().try_into().ok()?, renamed.ctime_nsec().try_into().ok()?);
        Some(SystemTime::UNIX_EPOCH + since_epoch)
    }

    /// Waits until the armed point is reached.
    pub(crate) fn until_struck(&self, limit: Duration) -> Option<SystemTime> {
        eventually(limit, || self.struck_at())
    }

    /// Runs a command of the program on this data. With `armed`, points act in it.
    pub(crate) fn command(&self, arguments: &[&str], armed: bool) -> Result<Finished> {
        let mut command = Command::new(&self.program);
        command.args(arguments).arg("--data").arg(self.data());
        if armed {
            command.env(FILE_VARIABLE, order(self.scratch.path()));
        }
        process::run(&mut command, b"", COMMAND_LIMIT)
    }

    /// Waits until a server that a point has killed is gone.
    pub(crate) fn until_server_has_ended(&mut self) -> Result<()> {
        let ended = eventually(READY_LIMIT, || self.server.has_ended().ok()?.then_some(()));
        ended.context("the server was to be killed and goes on")
    }

    /// Kills, and starts a server again if there is none then; returns when it was done.
    pub(crate) fn kill(&mut self, victim: Victim) -> Result<SystemTime> {
        let at = SystemTime::now();
        match victim {
            Victim::Server => self.server.kill()?,
            Victim::Supervisor => self.kill_supervisor()?,
            Victim::Both => {
                self.server.kill()?;
                self.kill_supervisor()?;
            }
            Victim::Steward => self.kill_steward()?,
            Victim::Line => {
                self.kill_steward()?;
                self.kill_supervisor()?;
            }
        }
        if self.server.has_ended()? {
            self.restart(at)?;
        }
        Ok(at)
    }

    /// Kills the supervisor, unless it is just being replaced.
    pub(crate) fn kill_supervisor(&self) -> Result<()> {
        let supervisor =
            eventually(READY_LIMIT, || self.server.supervisor()).context("find the supervisor")?;
        match kill_process(supervisor, Signal::KILL) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(error) => Err(error).context("kill the supervisor"),
        }
    }

    fn kill_steward(&self) -> Result<()> {
        // One that was killed is the server's child, which does not reap it.
        let has_ended = |pid: &u32| {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with('Z'))
        };
        let found = leaks::descendants(self.server.pid(), "ng-steward").into_iter();
        let steward = found.filter(|pid| !has_ended(pid)).find_map(|pid| Pid::from_raw(pid.cast_signed()));
        kill_process(steward.context("find the steward")?, Signal::KILL).context("kill the steward")
    }

    /// How many descriptors the server and its supervisor have open, without those for tasks to come; `None` while there
    /// is no supervisor.
    pub(crate) fn descriptors(&self) -> Option<[usize; 2]> {
        let server = fs::read_dir(format!("/proc/{}/fd", self.server.pid())).ok()?.count();
        let supervisor = self.server.supervisor()?.as_raw_nonzero().get().cast_unsigned();
        Some([server, leaks::descriptors_in_use(supervisor)?])
    }

    /// Kills the server and leaves it so.
    pub(crate) fn kill_server(&mut self) -> Result<SystemTime> {
        let at = SystemTime::now();
        self.server.kill()?;
        Ok(at)
    }

    /// Starts a server in place of the one that was killed at this time.
    /// Returns how many starts the armed point has cut off.
    pub(crate) fn restart(&mut self, killed_at: SystemTime) -> Result<usize> {
        let mut failed = None;
        for attempt in 0..STARTS_MAX {
            match options(self.scratch.path(), &self.program).start() {
                Ok(server) => {
                    let gone = std::mem::replace(&mut self.server, server);
                    self.keep_errors(&gone);
                    self.site.set(&self.server);
                    self.downs.push((killed_at, SystemTime::now()));
                    return Ok(attempt);
                }
                // The point that kills it may be one of its start.
                Err(error) if self.struck_at().is_some() => failed = Some(error),
                Err(error) => return Err(error),
            }
        }
        match failed {
            Some(error) => Err(error).context("start the server again and again"),
            None => bail!("the server was not started"),
        }
    }

    fn keep_errors(&mut self, server: &Server) {
        let log = server.log();
        self.errors.extend(log.lines().filter(|line| line.contains(" ERROR ")).map(str::to_owned));
    }

    /// Asks the server to end with all tasks.
    pub(crate) fn stop(&mut self) -> Result<()> {
        let status = self.server.stop()?;
        let log = self.server.log();
        self.errors.extend(log.lines().filter(|line| line.contains(" ERROR ")).map(str::to_owned));
        ensure!(status.success(), "the server ended with {status}{}", self.server.log_tail());
        Ok(())
    }

    /// The end of the server's log.
    pub(crate) fn log_tail(&self) -> String {
        self.server.log_tail()
    }
}

/// By which the points of servers on this scratch directory are armed.
fn order(scratch: &Path) -> PathBuf {
    scratch.join(ORDERS).join("order")
}

fn options(scratch: &Path, program: &Path) -> ServerOptions {
    ServerOptions {
        // Memory is promised to many small tasks, which never use it.
        arguments: ["--memory-overcommit", "50"].map(str::to_owned).to_vec(),
        data: Some(scratch.join("data")),
        // Kills leave warnings, as they should; the scoreboard counts errors.
        expected_log: &[""],
        program: Some(program.to_owned()),
        environment: vec![(FILE_VARIABLE.to_owned(), order(scratch))],
    }
}
