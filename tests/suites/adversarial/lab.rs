//! The server that all cases share, and the tasks that they run on it.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use neargate_tests::client::Refused;
use neargate_tests::groups::groups_of_tasks;
use neargate_tests::{Client, Server, ServerOptions, eventually, fixtures};
use serde_json::{Value, json};
use tempfile::TempDir;

/// The cluster of all tasks.
pub(crate) const CLUSTER: &str = "adversarial";
/// The image with the intruder and busybox.
pub(crate) const IMAGE: &str = "intruder";
/// No task of the suite takes longer.
pub(crate) const TASK_LIMIT: Duration = Duration::from_secs(60);

static LAB: Mutex<Option<Arc<Lab>>> = Mutex::new(None);

/// A server with the intruder's image, and a directory of the host that its tasks may mount.
pub(crate) struct Lab {
    // Ended before its directories are removed.
    pub(crate) server: Server,
    scratch: TempDir,
    families: AtomicU32,
}

/// The lab, which the first call opens.
pub(crate) fn lab() -> Result<Arc<Lab>> {
    let mut lab = LAB.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(lab) = &*lab {
        return Ok(Arc::clone(lab));
    }
    Ok(Arc::clone(lab.insert(Arc::new(Lab::open()?))))
}

/// Ends the server, and fails where its log holds a warning.
pub(crate) fn close() {
    drop(LAB.lock().unwrap_or_else(PoisonError::into_inner).take());
}

impl Lab {
    fn open() -> Result<Self> {
        Self::open_on(|_| Ok(())).map(|(lab, ())| lab)
    }

    /// A lab of its own, whose operator allows capabilities.
    pub(crate) fn open_allowing(capabilities: &[&str]) -> Result<Self> {
        let policy = |volumes: &Path| -> Result<PathBuf> {
            let file = volumes.join("policy.json");
            fs::write(&file, json!({"capabilities": capabilities}).to_string())
                .context("write the policy")?;
            Ok(file)
        };
        let with = |file: &PathBuf| {
            let arguments = vec!["--policy".to_owned(), file.display().to_string()];
            ServerOptions { arguments, ..ServerOptions::default() }
        };
        Self::open_with(policy, with).map(|(lab, _)| lab)
    }

    /// A lab of its own, for what must be in the directory of volumes before the server starts.
    pub(crate) fn open_on<T>(prepare: impl FnOnce(&Path) -> Result<T>) -> Result<(Self, T)> {
        Self::open_with(prepare, |_| ServerOptions::default())
    }

    /// A lab of its own, whose supervisor a case kills.
    pub(crate) fn open_to_be_harmed() -> Result<Self> {
        let expected_log = &["another one is started"];
        let options = |(): &()| ServerOptions { expected_log, ..ServerOptions::default() };
        Self::open_with(|_| Ok(()), options).map(|(lab, ())| lab)
    }

    fn open_with<T>(
        prepare: impl FnOnce(&Path) -> Result<T>,
        options: impl FnOnce(&T) -> ServerOptions,
    ) -> Result<(Self, T)> {
        let scratch = neargate_tests::server::scratch_directory()?;
        let volumes = scratch.path().join("volumes");
        fs::create_dir(&volumes).context("create the directory of volumes")?;
        let prepared = prepare(&volumes)?;
        let mut options = options(&prepared);
        options.arguments.extend(["--allow-host-path".to_owned(), volumes.display().to_string()]);
        // Nobody answers there: what tasks ask for leaves the machine in no case.
        options.arguments.extend(["--dns-server", "127.0.0.1:1"].map(str::to_owned));
        let server = options.start()?;
        server.client().ecs("CreateCluster", &json!({"clusterName": CLUSTER}))?;
        let lab = Self { server, scratch, families: AtomicU32::new(0) };
        lab.pack(IMAGE, |_| Ok(()))?;
        Ok((lab, prepared))
    }

    /// Below it tasks may mount what is there.
    pub(crate) fn volumes(&self) -> PathBuf {
        self.scratch.path().join("volumes")
    }

    /// Makes an image of the intruder and busybox, changed as a case wants.
    pub(crate) fn pack(&self, name: &str, change: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
        self.server.pack(&self.root(name, change)?, name, "/bin/intruder")
    }

    /// The same by an archive of Docker's kind, whose layer has devices and extended attributes as `tar` writes them;
    /// `neargate image pack` makes no such images.
    pub(crate) fn import(&self, name: &str, change: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
        let root = self.root(name, change)?;
        let archive = self.scratch.path().join(format!("archive-{name}"));
        fs::create_dir(&archive)?;
        let layer = archive.join("layer.tar");
        tool(
            "tar",
            &["--xattrs", "--xattrs-include=*", "-C"],
            &[&root, Path::new("-cf"), &layer, Path::new(".")],
        )?;
        let sum = tool("sha256sum", &[], &[&layer])?;
        let diff_id = format!("sha256:{}", sum.split(' ').next().unwrap_or_default());
        let architecture = if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" };
        let configuration = json!({
            "architecture": architecture, "os": "linux", "rootfs": {"type": "layers", "diff_ids": [diff_id]},
            "config": {"Entrypoint": ["/bin/intruder"]},
        });
        fs::write(archive.join("config.json"), configuration.to_string())?;
        let manifest = json!([{"Config": "config.json", "RepoTags": [format!("{name}:latest")], "Layers": ["layer.tar"]}]);
        fs::write(archive.join("manifest.json"), manifest.to_string())?;
        let file = self.scratch.path().join(format!("{name}.tar"));
        tool("tar", &["-C"], &[&archive, Path::new("-cf"), &file, Path::new(".")])?;
        self.server.import(&file, name)
    }

    fn root(&self, name: &str, change: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
        let root = self.scratch.path().join(format!("root-{name}"));
        tool("cp", &["-a"], &[&fixtures::busybox_root()?, &root])?;
        let program = root.join("bin/intruder");
        fs::copy(fixtures::intruder()?, &program).context("copy the intruder")?;
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).context("make it executable")?;
        change(&root)?;
        Ok(root)
    }

    /// A client of the server.
    pub(crate) fn client(&self) -> Client {
        self.server.client()
    }

    /// A definition of one container that runs the intruder.
    pub(crate) fn definition(&self, arguments: &[&str]) -> Value {
        let family = format!("family-{}", self.families.fetch_add(1, Ordering::Relaxed));
        json!({
            "family": family, "requiresCompatibilities": ["EC2", "FARGATE"], "networkMode": "awsvpc",
            "cpu": "256", "memory": "512",
            "containerDefinitions": [{"name": "main", "image": IMAGE, "command": arguments}],
        })
    }

    /// Registers a definition and runs a task of it.
    pub(crate) fn start(&self, definition: &Value) -> Result<Task<'_>> {
        let mut client = self.client();
        client.ecs("RegisterTaskDefinition", definition)?;
        let mut request = json!({"cluster": CLUSTER, "taskDefinition": definition["family"]});
        if definition["networkMode"] == "awsvpc" {
            request["networkConfiguration"] = client.network()?;
        }
        let answer = client.ecs("RunTask", &request)?;
        let arn = answer["tasks"][0]["taskArn"].as_str().with_context(|| answer.to_string())?;
        Ok(self.task(arn))
    }

    /// A task of this server.
    pub(crate) fn task(&self, arn: &str) -> Task<'_> {
        Task { lab: self, arn: arn.to_owned() }
    }

    /// What the intruder prints, run with these arguments as the only container of a task.
    pub(crate) fn run(&self, arguments: &[&str]) -> Result<String> {
        self.run_with(arguments, |_| {})
    }

    /// The same with another definition of the container.
    pub(crate) fn run_with(&self, arguments: &[&str], change: impl FnOnce(&mut Value)) -> Result<String> {
        let mut definition = self.definition(arguments);
        change(&mut definition["containerDefinitions"][0]);
        self.start(&definition)?.finish()
    }
}

/// How far a definition comes.
#[derive(Debug)]
pub(crate) enum Course {
    /// The API refuses it: the code and the message.
    Refused(String, String),
    /// The task fails to start: the reason.
    Failed(String),
    /// The task runs and ends well: what it printed.
    Ran(String),
}

impl Lab {
    /// Registers a definition and runs a task of it, as far as they let it.
    pub(crate) fn try_run(&self, definition: &Value) -> Result<Course> {
        let task = match self.start(definition) {
            Ok(task) => task,
            Err(error) => {
                let refused = error.downcast::<Refused>()?;
                let message = refused.answer.json()["message"].as_str().unwrap_or_default().to_owned();
                return Ok(Course::Refused(refused.answer.error_code(), message));
            }
        };
        let stopped = task.until_stopped()?;
        if stopped["stopCode"] == "TaskFailedToStart" {
            return Ok(Course::Failed(stopped["stoppedReason"].as_str().unwrap_or_default().to_owned()));
        }
        ensure!(stopped["containers"][0]["exitCode"] == json!(0), "{stopped}\n{}", task.output()?);
        Ok(Course::Ran(task.output()?))
    }
}

/// A task that was started.
pub(crate) struct Task<'a> {
    lab: &'a Lab,
    pub(crate) arn: String,
}

impl Task<'_> {
    /// Its id.
    pub(crate) fn id(&self) -> &str {
        self.arn.rsplit('/').next().unwrap_or_default()
    }

    /// What the API says of it now.
    pub(crate) fn describe(&self) -> Result<Value> {
        let request = json!({"cluster": CLUSTER, "tasks": [self.arn]});
        let answer = self.lab.client().ecs("DescribeTasks", &request)?;
        ensure!(answer["failures"].as_array().is_none_or(Vec::is_empty), "describe {}: {answer}", self.arn);
        Ok(answer["tasks"][0].clone())
    }

    /// What it has written so far.
    pub(crate) fn output(&self) -> Result<String> {
        let finished = self.lab.server.run(&["logs", &self.arn])?;
        ensure!(finished.code == 0, "logs of {}: {}", self.arn, finished.stderr);
        Ok(finished.text())
    }

    /// What one of its containers has written so far.
    pub(crate) fn output_of(&self, container: &str) -> Result<String> {
        let finished = self.lab.server.run(&["logs", "--container", container, &self.arn])?;
        ensure!(finished.code == 0, "logs of {container} of {}: {}", self.arn, finished.stderr);
        Ok(finished.text())
    }

    /// Waits until it has written a line, and returns all that it wrote before.
    pub(crate) fn until_printed(&self, wanted: &str) -> Result<String> {
        let found = eventually(TASK_LIMIT, || {
            let output = self.output().ok()?;
            output.lines().any(|line| line == wanted).then_some(output)
        });
        let lines =
            |output: String| output.lines().take_while(|line| *line != wanted).collect::<Vec<_>>().join("\n");
        match found {
            Some(output) => Ok(lines(output)),
            None => bail!("{} did not print {wanted:?}: {}, {}", self.arn, self.describe()?, self.output()?),
        }
    }

    /// Waits until it has stopped.
    pub(crate) fn until_stopped(&self) -> Result<Value> {
        let stopped = || self.describe().ok().filter(|task| task["lastStatus"] == "STOPPED");
        match eventually(TASK_LIMIT, stopped) {
            Some(task) => Ok(task),
            None => bail!("{} did not stop within {TASK_LIMIT:?}: {}", self.arn, self.describe()?),
        }
    }

    /// Waits until it has ended well, and returns what it wrote.
    pub(crate) fn finish(&self) -> Result<String> {
        let task = self.until_stopped()?;
        let output = self.output()?;
        ensure!(task["containers"][0]["exitCode"] == json!(0), "{task}\n{output}");
        Ok(output)
    }

    /// Asks for its end and waits for it.
    pub(crate) fn stop(&self) -> Result<Value> {
        self.lab.client().ecs("StopTask", &json!({"cluster": CLUSTER, "task": self.arn}))?;
        self.until_stopped()
    }

    /// The ids of its processes as the host knows them.
    pub(crate) fn host_pids(&self) -> Vec<u32> {
        let groups = groups_of_tasks(|task| task == self.id()).into_iter();
        let names: BTreeSet<String> =
            groups.filter_map(|dir| dir.file_name()?.to_str().map(str::to_owned)).collect();
        let pids = fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let is_its = |pid: &u32| {
            let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
            groups.split(['/', '\n']).any(|part| names.contains(part))
        };
        pids.filter(is_its).collect()
    }
}

/// Runs a program of the host and returns what it printed.
fn tool(program: &str, options: &[&str], paths: &[&Path]) -> Result<String> {
    let mut command = std::process::Command::new(program);
    let finished = neargate_tests::process::run(command.args(options).args(paths), b"", TASK_LIMIT)?;
    ensure!(finished.code == 0, "{command:?}: {}", finished.stderr);
    Ok(finished.text())
}
