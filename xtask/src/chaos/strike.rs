//! One fault after the other: done, recovered from, judged.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result, ensure};
use neargate_failpoint::{Point, Role};
use neargate_tests::{eventually, fixtures};
use serde_json::json;

use super::Fault;
use super::checks::{self, Invariant, Violation};
use super::load::{self, HEARTBEAT_CODE, Job, Kind, Load};
use super::machine::{CLUSTER, Caller, Machine, Victim};
use super::score::{Board, Row};
use super::watch::{self, Watch};

/// A point is reached within this under load.
const STRUCK_LIMIT: Duration = Duration::from_secs(10);
/// Between two kills of supervisors, so that one comes to look after its containers.
const STRIKE_PAUSE: Duration = Duration::from_millis(500);
/// A task that is submitted after a kill has ended within this.
const WORKS_LIMIT: Duration = Duration::from_secs(20);
/// What the descriptors of server and supervisor differ by at rest: connections of clients, segments of logs. A row has
/// more tasks than that, so that one left by each shows at the server; at the supervisor the rows together do.
const DESCRIPTORS_MORE: usize = 24;
/// Those of networks that a supervisor keeps for the next tasks: of 32 the namespace and a socket in it, and one more for
/// each of as many that are parts of cells.
const DESCRIPTORS_KEPT: usize = 3 * 32;
/// How the task that shows that all works ends.
const CANARY_CODE: i64 = 9;

/// Everything that a fault happens to.
struct Scene {
    machine: Machine,
    load: Load,
    watch: Watch,
    caller: Caller,
    /// When heartbeats were looked at last, in seconds since the machine's boot.
    looked_s: f64,
    /// All tasks that were accepted, and their ends known.
    done: Vec<Job>,
    /// Descriptors of server and supervisor when they were counted first.
    descriptors: Option<[usize; 2]>,
}

/// Does all faults on one server, and tells each row as soon as it is there.
pub(crate) fn all(program: &Path, faults: &[Fault], tell: impl Fn(&Row)) -> Result<Board> {
    let mut scene = Scene::open(program)?;
    let mut board = Board::default();
    for fault in faults {
        let row = scene.one(*fault).with_context(|| format!("{fault:?}{}", scene.machine.log_tail()))?;
        tell(&row);
        board.rows.push(row);
    }
    let (row, errors) = scene.close()?;
    tell(&row);
    board.rows.push(row);
    board.errors = errors;
    Ok(board)
}

impl Scene {
    fn open(program: &Path) -> Result<Self> {
        let machine = Machine::start(program)?;
        let load = Load::start(&machine.site, &machine.witness())?;
        let watch = Watch::start(&machine.site, load.heartbeats.iter().map(|job| job.arn.clone()).collect());
        let caller = machine.site.caller();
        Ok(Self { machine, load, watch, caller, looked_s: uptime_s()?, done: Vec::new(), descriptors: None })
    }

    fn one(&mut self, fault: Fault) -> Result<Row> {
        let mut row = Row { fault: name(fault), ..Row::default() };
        let hog = self.load.start_waiting(&mut self.caller, Kind::Hog)?;
        let struck_at = match fault {
            Fault::At(point, _) if point.role == Role::ImageCommand => {
                row.violations = self.strike_image(point)?;
                self.machine.struck_at()
            }
            Fault::At(point, hits) => self.strike(point, hits)?,
            Fault::Kill(victim, after) => {
                std::thread::sleep(after);
                Some(self.machine.kill(victim)?)
            }
        };
        self.machine.disarm();
        row.is_struck = struck_at.is_some();
        if let Some(at) = struck_at {
            self.recover(at, &mut row)?;
        }
        self.make_whole(fault)?;
        self.load.let_go(&hog)?;
        self.judge(&mut row)?;
        Ok(row)
    }

    /// Arms a point, has the process that it is for come to it, and starts a server again if that was killed.
    fn strike(&mut self, point: &Point, hits: u64) -> Result<Option<SystemTime>> {
        self.machine.arm(point.name, hits)?;
        let mut cut_off = 0;
        match point.role {
            Role::NextServer => {
                let killed_at = self.machine.kill_server()?;
                cut_off = self.machine.restart(killed_at)?;
            }
            Role::NextSupervisor => self.machine.kill_supervisor()?,
            Role::Steward => self.kill_supervisors_until_struck()?,
            Role::Server | Role::Supervisor | Role::Factory | Role::ImageCommand => {}
        }
        let Some(at) = self.machine.until_struck(STRUCK_LIMIT) else { return Ok(None) };
        match point.role {
            Role::Server | Role::NextServer if cut_off == 0 => {
                self.machine.until_server_has_ended()?;
                self.machine.restart(at)?;
            }
            _ => {}
        }
        Ok(Some(at))
    }

    /// What a supervisor leaves has to end before the next one, for its steward to come to some points.
    fn kill_supervisors_until_struck(&mut self) -> Result<()> {
        let until = Instant::now() + STRUCK_LIMIT;
        while Instant::now() < until {
            self.machine.kill_supervisor()?;
            if self.machine.until_struck(STRIKE_PAUSE).is_some() {
                break;
            }
        }
        Ok(())
    }

    /// Kills what goes on without something that was killed, so that the next fault finds all as it was.
    fn make_whole(&mut self, fault: Fault) -> Result<()> {
        match fault {
            // The supervisors of the launcher's stewards know of no points.
            Fault::Kill(Victim::Steward | Victim::Line, _)
            | Fault::At(Point { role: Role::Steward, .. }, _) => self.machine.kill(Victim::Both).map(drop),
            Fault::At(Point { role: Role::Factory, .. }, _) => {
                self.machine.kill(Victim::Supervisor).map(drop)
            }
            Fault::At(..) | Fault::Kill(..) => Ok(()),
        }
    }

    /// Measures until the API answers, and until a task that is submitted now has ended.
    fn recover(&mut self, at: SystemTime, row: &mut Row) -> Result<()> {
        let ms = |until: SystemTime| until.duration_since(at).unwrap_or_default().as_secs_f64() * 1e3;
        let canary = self.load.submit_until_accepted(&mut self.caller, Kind::Exit(CANARY_CODE))?;
        let ended = eventually(WORKS_LIMIT, || {
            let task = self.caller.describe(&[&canary.arn]).ok()?.pop()?;
            (task["lastStatus"] == "STOPPED").then(SystemTime::now)
        });
        row.works_ms = ended.map(ms);
        row.answers_ms = eventually(WORKS_LIMIT, || self.watch.answered_after(at)).map(ms);
        Ok(())
    }

    /// Lets all tasks end, and looks at everything.
    fn judge(&mut self, row: &mut Row) -> Result<()> {
        let witness = self.machine.witness();
        let quiet = self.load.pause();
        let jobs = self.load.take_accepted();
        let left = checks::drain(&mut self.caller, &self.load, &jobs);
        let mine = |arn: &String| jobs.iter().any(|job| job.arn == *arn);
        // Those of ours are judged below; a task that nobody was promised must end as well.
        let others = left.iter().filter(|arn| !mine(arn));
        row.violations.extend(others.map(|arn| (Invariant::Kept, format!("{arn} does not end"))));
        let runs = load::runs(&witness)?;
        let (violations, unknown) = checks::judge(&mut self.caller, &jobs, &runs)?;
        row.violations.extend(violations);
        row.unknown = unknown;
        row.violations.extend(checks::leaks_of(&self.machine.data(), &jobs));
        row.tasks = jobs.len();
        let most = self.descriptors.map_or([usize::MAX; 2], |[server, supervisor]| {
            [server + DESCRIPTORS_MORE, supervisor + DESCRIPTORS_MORE + DESCRIPTORS_KEPT]
        });
        let (counts, grown) = checks::descriptors(|| self.machine.descriptors(), most);
        row.descriptors = counts;
        self.descriptors = self.descriptors.or(counts);
        row.violations.extend(grown);
        let (calls, wrong) = self.watch.judge(&self.machine.downs);
        row.calls = calls;
        row.violations.extend(wrong.into_iter().map(|what| (Invariant::Answering, what)));
        drop(quiet);
        self.done.extend(jobs);
        self.judge_heartbeats(row)
    }

    fn judge_heartbeats(&mut self, row: &mut Row) -> Result<()> {
        let arns: Vec<&str> = self.load.heartbeats.iter().map(|job| job.arn.as_str()).collect();
        for (job, task) in self.load.heartbeats.iter().zip(self.caller.describe(&arns)?) {
            if task["lastStatus"] != "RUNNING" {
                row.violations.push((Invariant::Kept, format!("a running task is lost: {task}")));
            } else if matches!(job.kind, Kind::Bridged(_))
                && let Err(error) = load::reach(&task)
            {
                row.violations.push((Invariant::Undisturbed, format!("{}: {error:#}", job.arn)));
            }
        }
        let now_s = uptime_s()?;
        for job in &self.load.heartbeats {
            let gap_s = watch::longest_gap_s(
                &load::beats(&self.machine.witness(), job.number)?,
                self.looked_s,
                now_s,
            );
            row.gap_s = row.gap_s.max(gap_s);
            if watch::is_disturbed(gap_s) {
                row.violations.push((Invariant::Undisturbed, format!("{} paused for {gap_s:.2} s", job.arn)));
            }
        }
        self.looked_s = now_s;
        Ok(())
    }

    /// An image is made, used and removed; one of these steps is cut off and done again.
    fn strike_image(&mut self, point: &Point) -> Result<Vec<Violation>> {
        let images = self.machine.data().join("images");
        let before = checks::files(&images);
        let image = point.name.replace("::", "-");
        let root = self.machine.scratch().join(&image);
        fs::create_dir_all(root.join("bin")).context("create the root of an image")?;
        fs::copy(fixtures::busybox_root()?.join("bin/busybox"), root.join("bin/busybox"))
            .context("copy busybox")?;
        // A layer that no other image has.
        fs::write(root.join("name"), &image).context("write into the root of an image")?;
        let root = root.display().to_string();
        let pack = ["image", "pack", &root, "--name", &image, "--entrypoint", "/bin/busybox"];
        self.machine.arm(point.name, 1)?;
        self.machine.command(&pack, true)?;
        let packed = self.machine.command(&pack, false)?;
        ensure!(packed.code == 0, "an image cannot be made again after it was cut off: {}", packed.stderr);
        self.run_image(&image)?;
        self.machine.command(&["image", "rm", &image], true)?;
        // The name may be gone already.
        self.machine.command(&["image", "rm", &image], false)?;
        let pruned = self.machine.command(&["image", "prune"], false)?;
        ensure!(
            pruned.code == 0,
            "images cannot be collected after a removal was cut off: {}",
            pruned.stderr
        );
        let after = checks::files(&images);
        let left = after.difference(&before);
        Ok(left
            .map(|path| (Invariant::Clean, format!("left in the image store: {}", path.display())))
            .collect())
    }

    fn run_image(&mut self, image: &str) -> Result<()> {
        let definition = json!({
            "family": image, "requiresCompatibilities": ["EC2"], "networkMode": "awsvpc", "cpu": "256", "memory": "512",
            "containerDefinitions": [{"name": "main", "image": image, "command": ["true"]}],
        });
        self.caller.call("RegisterTaskDefinition", &definition)?;
        let arn = load::run(&mut self.caller, image, &["cat", "/name"])?;
        let task = eventually(WORKS_LIMIT, || {
            let task = self.caller.describe(&[&arn]).ok()?.pop()?;
            (task["lastStatus"] == "STOPPED").then_some(task)
        });
        let task = task.with_context(|| format!("{arn} of {CLUSTER} does not end"))?;
        ensure!(task["containers"][0]["exitCode"] == 0, "a task of an image that was cut off fails: {task}");
        Ok(())
    }

    /// Ends the heartbeats and the server, and looks at what is left of all. A task that starts too many processes has
    /// been found again by then.
    fn close(mut self) -> Result<(Row, Vec<String>)> {
        let mut row = Row { fault: "end of all".to_owned(), is_struck: true, ..Row::default() };
        let crowd = self.load.start_waiting(&mut self.caller, Kind::Crowd)?;
        self.machine.kill(Victim::Both)?;
        self.load.let_go(&crowd)?;
        self.load.end();
        self.judge(&mut row)?;
        let heartbeats = self.load.heartbeats.clone();
        let groups = heartbeats.iter().flat_map(|job| checks::groups_of_server(job.id())).collect();
        for job in &heartbeats {
            self.caller.call("StopTask", &json!({"cluster": CLUSTER, "task": job.arn}))?;
        }
        for job in &heartbeats {
            let code = eventually(WORKS_LIMIT, || {
                let task = self.caller.describe(&[&job.arn]).ok()?.pop()?;
                (task["lastStatus"] == "STOPPED").then(|| task["containers"][0]["exitCode"].clone())
            });
            if code.as_ref() != Some(&json!(HEARTBEAT_CODE)) {
                row.violations
                    .push((Invariant::Honest, format!("a heartbeat ended with {code:?}: {}", job.arn)));
            }
        }
        row.tasks += heartbeats.len();
        let runs = load::runs(&self.machine.witness())?;
        row.violations.extend(checks::ran_twice(&runs));
        // All of them are still known, and as they were.
        row.violations.extend(checks::judge(&mut self.caller, &self.done, &runs)?.0);
        let Self { mut machine, load, watch, .. } = self;
        drop((load, watch));
        machine.stop()?;
        row.violations.extend(checks::remains_of(&machine.data(), &groups));
        Ok((row, std::mem::take(&mut machine.errors)))
    }
}

fn name(fault: Fault) -> String {
    match fault {
        Fault::At(point, 1) => point.name.to_owned(),
        Fault::At(point, hits) => format!("{} #{hits}", point.name),
        Fault::Kill(victim, after) => {
            format!("kill {victim:?} after {} ms", after.as_millis()).to_lowercase()
        }
    }
}

fn uptime_s() -> Result<f64> {
    let text = fs::read_to_string("/proc/uptime").context("read the time since boot")?;
    let first = text.split_whitespace().next().and_then(|word| word.parse().ok());
    first.context("read the time since boot")
}
