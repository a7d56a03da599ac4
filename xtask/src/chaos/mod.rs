//! `cargo xtask chaos`: processes are killed under load, at every step that must not be lost half-way and at random
//! times, and what must hold is checked after each (`docs/chaos.md`).

mod checks;
mod load;
mod machine;
mod score;
mod strike;
mod watch;

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use neargate_failpoint::{POINTS, Point, Role};
use neargate_tests::{is_root, target_directory};

use self::machine::{VICTIMS, Victim};
use crate::setup;
use crate::shell::{cargo, run};

/// Names a program that is to be used as it is.
const PROGRAM_VARIABLE: &str = "NEARGATE_CHAOS_BIN";
/// Random kills of a whole run and of a short one.
const ROUNDS: u64 = 40;
const ROUNDS_SHORT: u64 = 4;
/// Longest time before a random kill; a task takes some twenty milliseconds.
const DELAY_MS_MAX: u64 = 400;
/// A point acts when it is reached for at most this time, so that tasks are in different steps.
const HITS_MAX: u64 = 4;

/// What is done to the server.
#[derive(Clone, Copy, Debug)]
enum Fault {
    /// A process is killed when it comes to a point for the given time.
    At(&'static Point, u64),
    /// A process is killed after a while.
    Kill(Victim, Duration),
}

/// What the command line says.
struct Options {
    seed: u64,
    points: Vec<&'static Point>,
    rounds: u64,
    victims: Vec<Victim>,
    json: Option<PathBuf>,
}

impl Options {
    fn parse(arguments: &[&str]) -> Result<Self> {
        let is_short = arguments.contains(&"--short");
        let mut options = Self {
            seed: 1,
            points: POINTS.iter().filter(|point| point.short || !is_short).collect(),
            rounds: if is_short { ROUNDS_SHORT } else { ROUNDS },
            victims: VICTIMS.to_vec(),
            json: None,
        };
        let mut words = arguments.iter().filter(|word| **word != "--short");
        while let Some(option) = words.next() {
            let value = *words.next().with_context(|| format!("{option} needs a value"))?;
            match *option {
                "--seed" => options.seed = value.parse().context("read --seed")?,
                "--rounds" => options.rounds = value.parse().context("read --rounds")?,
                "--json" => options.json = Some(value.into()),
                "--faults" => options.points = points(value)?,
                "--victims" => options.victims = victims(value)?,
                _ => bail!(
                    "{option} is not an option; they are --seed, --faults, --rounds, --victims, --short and --json"
                ),
            }
        }
        Ok(options)
    }
}

/// The points whose names contain one of the words, which commas separate; none for `none`.
fn points(words: &str) -> Result<Vec<&'static Point>> {
    let words: Vec<&str> = words.split(',').collect();
    let found = POINTS.iter().filter(|point| words.iter().any(|word| point.name.contains(word))).collect();
    if let Some(unknown) = words.iter().find(|word| !POINTS.iter().any(|point| point.name.contains(**word)))
        && words != ["none"]
    {
        let names: Vec<&str> = POINTS.iter().map(|point| point.name).collect();
        bail!("no point's name contains {unknown}; the points are {}", names.join(", "));
    }
    Ok(found)
}

/// The processes that are killed at random times, by their names.
fn victims(words: &str) -> Result<Vec<Victim>> {
    let victim = |word| VICTIMS.into_iter().find(|victim| format!("{victim:?}").eq_ignore_ascii_case(word));
    let unknown = |word| {
        format!("{word} is not among the victims; they are server, supervisor, both, steward and line")
    };
    words.split(',').map(|word| victim(word).with_context(|| unknown(word))).collect()
}

/// Builds the program with its points, does all faults, and fails if anything did not hold.
pub(crate) fn chaos(arguments: &[&str]) -> Result<()> {
    let options = Options::parse(arguments)?;
    ensure!(is_root(), "chaos needs root: it kills supervisors of containers");
    setup::setup()?;
    if let Some(mut build) = build_command() {
        run(&mut build)?;
    }
    println!("seed {}\n{}", options.seed, score::head());
    let board = strike::all(&program(), &plan(&options), |row| println!("{}", row.shown()))?;
    println!("{}", board.summary());
    if let Some(file) = &options.json {
        let text = board.to_json(options.seed).to_string();
        fs::write(file, text).with_context(|| format!("write {}", file.display()))?;
    }
    let (missed, violations) = board.failures();
    ensure!(missed + violations == 0, "{violations} violations, {missed} points not reached");
    Ok(())
}

/// The command that builds the program under chaos, unless `NEARGATE_CHAOS_BIN` names one. It shares everything below
/// our own crates with the release.
pub(crate) fn build_command() -> Option<std::process::Command> {
    if std::env::var_os(PROGRAM_VARIABLE).is_some() {
        return None;
    }
    let mut build = cargo(&["build", "--release", "--locked", "--package", "neargate"]);
    build.args(["--features", "failpoints", "--bin", "neargate-chaos"]);
    Some(build)
}

fn program() -> PathBuf {
    std::env::var_os(PROGRAM_VARIABLE)
        .map_or_else(|| target_directory().join("release/neargate-chaos"), PathBuf::from)
}

fn plan(options: &Options) -> Vec<Fault> {
    let mut random = Random(options.seed);
    let mut faults: Vec<Fault> = Vec::new();
    for point in &options.points {
        // What starts, or is asked for once, does not come to its point again and again.
        let is_repeated = matches!(point.role, Role::Server | Role::Supervisor);
        faults.push(Fault::At(point, if is_repeated { 1 + random.below(HITS_MAX) } else { 1 }));
    }
    for _ in 0..options.rounds {
        let victim = options.victims[random.below(options.victims.len() as u64) as usize];
        faults.push(Fault::Kill(victim, Duration::from_millis(random.below(DELAY_MS_MAX))));
    }
    faults
}

/// SplitMix64 (Steele, Lea and Flood 2014): the same seed makes the same faults.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use neargate_tests::repository;

    use super::*;

    fn sources(directory: &Path, found: &mut Vec<String>) {
        for entry in fs::read_dir(directory).unwrap().flatten() {
            let path = entry.path();
            if path.is_dir() {
                sources(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(fs::read_to_string(path).unwrap());
            }
        }
    }

    #[test]
    fn the_points_are_those_of_the_source() {
        let mut texts = Vec::new();
        for entry in fs::read_dir(repository().join("runtime")).unwrap().flatten() {
            if entry.file_name() != "failpoint" {
                sources(&entry.path().join("src"), &mut texts);
            }
        }
        let mut reached = BTreeSet::new();
        for text in &texts {
            for rest in text.split("neargate_failpoint::reach(\"").skip(1) {
                let name = rest.split('"').next().unwrap().to_owned();
                assert!(reached.insert(name.clone()), "{name} stands in two places");
            }
        }
        let listed: BTreeSet<String> = POINTS.iter().map(|point| point.name.to_owned()).collect();
        assert_eq!(reached, listed);
        assert_eq!(listed.len(), POINTS.len(), "a point is listed twice");
    }

    #[test]
    fn a_seed_makes_the_same_faults() {
        let shown = |seed: &str| {
            let options = Options::parse(&["--short", "--seed", seed]).unwrap();
            format!("{:?}", plan(&options))
        };
        assert_eq!(shown("7"), shown("7"));
        assert_ne!(shown("7"), shown("8"));
    }

    #[test]
    fn reads_the_command_line() {
        let count = |arguments: &[&str]| Options::parse(arguments).map(|options| options.points.len()).ok();
        assert_eq!(count(&[]), Some(POINTS.len()));
        assert!(count(&["--short"]).unwrap() < POINTS.len());
        assert_eq!(count(&["--faults", "store::commit"]), Some(2));
        assert_eq!(count(&["--faults", "none"]), Some(0));
        assert_eq!(count(&["--faults", "surprise"]), None);
        assert_eq!(count(&["--seed"]), None);
        assert_eq!(count(&["--fast", "1"]), None);
    }
}
