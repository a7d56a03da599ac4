//! The life of a task, case by case and as properties over arbitrary histories.

use proptest::prelude::*;

use super::testing::{container, depends, spec};
use super::*;
use crate::{Condition, ContainerDefinition, HealthCheck, RestartPolicy, TaskStatus};

/// A task whose owner answers every action at once; containers run until told otherwise.
struct Run {
    spec: TaskSpec,
    state: TaskState,
    now: Timestamp,
    /// Actions that were asked for, in order, timers left out.
    log: Vec<Action>,
    timers: Vec<Timer>,
}

impl Run {
    fn new(containers: Vec<ContainerDefinition>) -> Self {
        Self::of(spec(containers))
    }

    fn of(spec: TaskSpec) -> Self {
        let names: Vec<_> = spec.shape.containers.iter().map(|c| c.name.clone()).collect();
        let state = TaskState::new(TaskStatus::accepted(&names));
        let mut run = Self { spec, state, now: Timestamp(0), log: Vec::new(), timers: Vec::new() };
        run.send(TaskEvent::Assigned);
        run
    }

    fn send(&mut self, event: TaskEvent) -> &mut Self {
        let mut events = vec![event];
        while let Some(event) = events.pop() {
            let (state, actions) = next(&self.spec, self.state.clone(), &event, self.now);
            self.state = state;
            for action in actions {
                match action {
                    Action::PrepareSandbox => events.push(TaskEvent::SandboxReady),
                    Action::FetchImage(container) => {
                        events.push(TaskEvent::ImageReady { container, digest: "sha256:0".to_owned() });
                    }
                    Action::Start(container) => {
                        let runtime_id = format!("r{container}");
                        events.push(TaskEvent::Started { container, runtime_id, host_ports: Vec::new() });
                    }
                    Action::Release => events.push(TaskEvent::Released),
                    Action::Arm(timer, _) => self.timers.push(timer),
                    Action::Signal(_) | Action::Kill(_) | Action::Check(_) => {}
                }
                if !matches!(action, Action::Arm(..)) {
                    self.log.push(action);
                }
            }
        }
        self
    }

    fn exit(&mut self, container: usize, code: i32) -> &mut Self {
        let exit = ContainerExit { code: Some(code), ..ContainerExit::default() };
        self.send(TaskEvent::Exited { container, exit })
    }

    fn after(&mut self, ms: i64) -> &mut Self {
        self.now = Timestamp(self.now.0 + ms);
        self
    }

    fn stop(&mut self) -> &mut Self {
        let stop = Stop { code: StopCode::UserInitiated, reason: "asked".to_owned() };
        self.send(TaskEvent::StopRequested(stop))
    }

    fn check(&self, last: LastStatus, stop: Option<(StopCode, &str)>) {
        assert_eq!(self.state.status.last, last, "{:#?}", self.state);
        let found = self.state.status.stop.as_ref().map(|stop| (stop.code, stop.reason.as_str()));
        assert_eq!(found, stop);
    }

    fn started(&self) -> Vec<usize> {
        let start = |action: &Action| if let Action::Start(c) = action { Some(*c) } else { None };
        self.log.iter().filter_map(start).collect()
    }
}

fn optional(name: &str) -> ContainerDefinition {
    ContainerDefinition { essential: false, ..container(name) }
}

fn checked(name: &str) -> ContainerDefinition {
    let argv = vec!["true".to_owned()];
    let check = HealthCheck { argv, interval_s: 30, timeout_s: 5, retries: 3, start_period_s: 0 };
    ContainerDefinition { health_check: Some(check), ..container(name) }
}

const EXITED: Option<(StopCode, &str)> =
    Some((StopCode::EssentialContainerExited, "Essential container in task exited"));

#[test]
fn runs_and_ends() {
    let mut run = Run::new(vec![container("a")]);
    run.check(LastStatus::Running, None);
    run.exit(0, 3).check(LastStatus::Stopped, EXITED);
    assert_eq!(run.state.status.containers[0].exit_code, Some(3));
    assert!(run.state.status.execution_stopped_at.is_some() && run.state.status.stopped_at.is_some());
}

#[test]
fn stops_when_asked_and_kills_after_the_timeout() {
    let mut run = Run::new(vec![container("a")]);
    run.stop().check(LastStatus::Stopping, Some((StopCode::UserInitiated, "asked")));
    assert_eq!(run.log.last(), Some(&Action::Signal(0)));
    run.send(TaskEvent::TimerFired(Timer::Stop(0)));
    assert_eq!(run.log.last(), Some(&Action::Kill(0)));
    run.exit(0, 137).check(LastStatus::Stopped, Some((StopCode::UserInitiated, "asked")));
}

#[test]
fn a_container_that_cannot_be_killed_does_not_hang_its_task() {
    let mut run = Run::new(vec![container("a")]);
    run.stop().send(TaskEvent::TimerFired(Timer::Stop(0))).send(TaskEvent::TimerFired(Timer::Kill(0)));
    run.check(LastStatus::Stopped, Some((StopCode::UserInitiated, "asked")));
    assert_eq!(run.state.status.containers[0].exit_code, None);
    assert!(run.state.status.containers[0].reason.as_ref().is_some_and(|r| r.contains("SIGKILL")));
}

#[test]
fn a_missing_image_fails_the_start() {
    let spec = spec(vec![container("a"), container("b")]);
    let names: Vec<_> = spec.shape.containers.iter().map(|c| c.name.clone()).collect();
    let state = TaskState::new(TaskStatus::accepted(&names));
    let now = Timestamp(5);
    let (state, _) = next(&spec, state, &TaskEvent::Assigned, now);
    let failed = TaskEvent::ImageFailed { container: 0, reason: "CannotPullContainerError: no".to_owned() };
    let (state, actions) = next(&spec, state, &failed, now);
    assert_eq!(actions, vec![], "the sandbox is still being made");
    let (state, actions) = next(&spec, state, &TaskEvent::SandboxReady, now);
    assert_eq!(actions, vec![Action::Release]);
    let (state, _) = next(&spec, state, &TaskEvent::Released, now);
    assert!(state.is_final());
    let status = &state.status;
    assert_eq!(status.stop.as_ref().map(|s| s.code), Some(StopCode::TaskFailedToStart));
    assert_eq!((status.started_at, status.pull_started_at, status.execution_stopped_at), (None, None, None));
    assert!(status.containers.iter().all(|c| c.last == ContainerLast::Stopped && c.exit_code.is_none()));
}

#[test]
fn a_task_that_pulls_is_pending() {
    let spec = spec(vec![container("a")]);
    let names: Vec<_> = spec.shape.containers.iter().map(|c| c.name.clone()).collect();
    let step = |state, event| next(&spec, state, &event, Timestamp(5));
    let (state, _) = step(TaskState::new(TaskStatus::accepted(&names)), TaskEvent::Assigned);
    assert_eq!(state.status.last, LastStatus::Provisioning);
    let (state, actions) = step(state, TaskEvent::TimerFired(Timer::Pull));
    assert_eq!(
        (state.status.last, state.status.connectivity_at, actions.len()),
        (LastStatus::Pending, None, 0)
    );
    let digest = "sha256:0".to_owned();
    let (state, _) = step(state, TaskEvent::ImageReady { container: 0, digest });
    let (state, actions) = step(state, TaskEvent::SandboxReady);
    assert_eq!((state.status.last, actions), (LastStatus::Pending, vec![Action::Start(0)]));
    assert_eq!(state.status.connectivity_at, Some(Timestamp(5)));
    // Later it says nothing new.
    let version = state.status.version;
    assert_eq!(step(state, TaskEvent::TimerFired(Timer::Pull)).0.status.version, version);
}

#[test]
fn dependencies_order_start_and_stop() {
    let mut run = Run::new(vec![
        depends(container("web"), "init", Condition::Success),
        optional("init"),
        depends(container("side"), "web", Condition::Start),
    ]);
    assert_eq!(run.started(), vec![1]);
    run.check(LastStatus::Pending, None);
    run.exit(1, 0).check(LastStatus::Running, None);
    assert_eq!(run.started(), vec![1, 0, 2]);
    run.stop();
    assert_eq!(run.log.last(), Some(&Action::Signal(2)), "web is needed by side");
    run.exit(2, 0);
    assert_eq!(run.log.last(), Some(&Action::Signal(0)));
}

#[test]
fn a_failed_dependency_fails_the_start() {
    let mut run = Run::new(vec![depends(container("web"), "init", Condition::Success), optional("init")]);
    run.exit(1, 7);
    let reason = "CannotStartContainerError: dependency of container web not met: \
                  container init ended with exit code 7";
    run.check(LastStatus::Stopped, Some((StopCode::TaskFailedToStart, reason)));
    assert_eq!(run.started(), vec![1]);
}

#[test]
fn complete_accepts_any_code() {
    let mut run = Run::new(vec![depends(container("web"), "init", Condition::Complete), optional("init")]);
    run.exit(1, 7).check(LastStatus::Running, None);
}

#[test]
fn healthy_waits_for_the_check_and_start_timeout_bounds_it() {
    let waiting = || vec![depends(container("web"), "db", Condition::Healthy), checked("db")];
    let mut run = Run::new(waiting());
    assert_eq!((run.started(), run.timers.contains(&Timer::Check(1))), (vec![1], true));
    run.send(TaskEvent::TimerFired(Timer::Check(1))).send(TaskEvent::Checked { container: 1, passed: true });
    run.check(LastStatus::Running, None);
    assert_eq!(run.state.status.health, Health::Healthy);

    let mut slow = waiting();
    slow[1].start_timeout_s = Some(2);
    let mut run = Run::new(slow);
    run.send(TaskEvent::TimerFired(Timer::Start(1)));
    assert_eq!(run.state.status.stop.as_ref().map(|s| s.code), Some(StopCode::TaskFailedToStart));
}

#[test]
fn three_failures_make_unhealthy_and_the_early_one_does_not_count() {
    let mut run = Run::new(vec![checked("a")]);
    let mut fail = |expect| {
        run.after(30_000).send(TaskEvent::TimerFired(Timer::Check(0)));
        run.send(TaskEvent::Checked { container: 0, passed: false });
        assert_eq!(run.state.status.health, expect);
    };
    fail(Health::Unknown);
    fail(Health::Unknown);
    fail(Health::Unknown);
    fail(Health::Unhealthy);
    run.check(LastStatus::Running, None);
}

#[test]
fn restarts_what_ran_long_enough() {
    let policy = RestartPolicy { ignored_exit_codes: vec![0], attempt_period_s: 60 };
    let restarting = || vec![ContainerDefinition { restart_policy: Some(policy.clone()), ..container("a") }];
    let mut run = Run::new(restarting());
    run.after(60_000).exit(0, 1).check(LastStatus::Running, None);
    assert_eq!((run.started(), run.state.status.containers[0].restart_count), (vec![0, 0], 1));
    run.after(59_999).exit(0, 1).check(LastStatus::Stopped, EXITED);

    let mut run = Run::new(restarting());
    run.after(60_000).exit(0, 0).check(LastStatus::Stopped, EXITED);
}

#[test]
fn oom_has_its_reason() {
    let mut run = Run::new(vec![container("a")]);
    let exit = ContainerExit { code: Some(137), oom: true, ..ContainerExit::default() };
    run.send(TaskEvent::Exited { container: 0, exit }).check(LastStatus::Stopped, EXITED);
    let reason = run.state.status.containers[0].reason.as_deref();
    assert_eq!(reason, Some("OutOfMemoryError: Container killed due to memory usage"));
}

#[test]
fn a_lost_task_is_cleaned_up() {
    let mut run = Run::new(vec![container("a")]);
    let mut status = run.state.status.clone();
    run.state = TaskState::new(std::mem::replace(&mut status, run.state.status.clone()));
    run.send(TaskEvent::Lost { reason: "gone".to_owned() });
    run.check(LastStatus::Stopped, Some((StopCode::InfrastructureHealth, "gone")));
    assert_eq!(run.log.last(), Some(&Action::Release));
}

fn any_event(containers: usize) -> impl Strategy<Value = TaskEvent> {
    let c = 0..containers;
    let timer = prop_oneof![
        Just(Timer::Pending),
        Just(Timer::Timeout),
        Just(Timer::Pull),
        c.clone().prop_map(Timer::Start),
        c.clone().prop_map(Timer::Check),
        c.clone().prop_map(Timer::Stop),
        c.clone().prop_map(Timer::Kill),
    ];
    let exit = (0..3i32, any::<bool>()).prop_map(|(code, oom)| ContainerExit {
        code: Some(code),
        oom,
        ..ContainerExit::default()
    });
    prop_oneof![
        Just(TaskEvent::Assigned),
        Just(TaskEvent::SandboxReady),
        Just(TaskEvent::SandboxFailed { reason: "no".to_owned() }),
        Just(TaskEvent::Lost { reason: "lost".to_owned() }),
        Just(TaskEvent::Released),
        c.clone().prop_map(|container| TaskEvent::ImageReady { container, digest: "d".to_owned() }),
        c.clone().prop_map(|container| TaskEvent::ImageFailed { container, reason: "no".to_owned() }),
        c.clone().prop_map(|container| TaskEvent::Started {
            container,
            runtime_id: "r".to_owned(),
            host_ports: vec![8080],
        }),
        c.clone().prop_map(|container| TaskEvent::StartFailed {
            container,
            reason: "no".to_owned(),
            shell_code: 127
        }),
        (c.clone(), exit).prop_map(|(container, exit)| TaskEvent::Exited { container, exit }),
        (c, any::<bool>()).prop_map(|(container, passed)| TaskEvent::Checked { container, passed }),
        timer.prop_map(TaskEvent::TimerFired),
        Just(TaskEvent::StopRequested(Stop { code: StopCode::UserInitiated, reason: "u".to_owned() })),
    ]
}

fn sample() -> TaskSpec {
    let mut web = depends(checked("web"), "init", Condition::Success);
    web.restart_policy = Some(RestartPolicy { ignored_exit_codes: vec![], attempt_period_s: 60 });
    spec(vec![web, optional("init"), depends(container("side"), "web", Condition::Healthy)])
}

proptest! {
    #[test]
    fn any_history_keeps_a_task_legal(events in proptest::collection::vec((any_event(3), 0..100_000i64), 0..60)) {
        let spec = sample();
        let names: Vec<_> = spec.shape.containers.iter().map(|c| c.name.clone()).collect();
        let mut state = TaskState::new(TaskStatus::accepted(&names));
        let mut now = Timestamp(0);
        for (event, ms) in events {
            now = Timestamp(now.0 + ms);
            let before = state.clone();
            let (after, actions) = next(&spec, state, &event, now);
            prop_assert!(after.status.last >= before.status.last, "the status moves on");
            prop_assert_eq!(after.status.version > before.status.version, {
                let same = TaskStatus { version: before.status.version, ..after.status.clone() };
                same != before.status
            }, "every change is numbered");
            if before.is_final() {
                prop_assert_eq!(&after, &before, "STOPPED is final");
                prop_assert!(actions.is_empty());
            }
            for action in &actions {
                if let Action::Start(_) = action {
                    prop_assert!(after.status.start_intended && before.status.stop.is_none());
                }
                if let Action::Release = action {
                    prop_assert!(after.status.containers.iter().all(|c| c.last == ContainerLast::Stopped));
                }
            }
            if after.is_final() {
                prop_assert!(after.status.stop.is_some() && after.status.stopped_at.is_some());
            }
            state = after;
        }
    }

    #[test]
    fn every_history_can_be_brought_to_an_end(events in proptest::collection::vec(any_event(3), 0..40)) {
        let spec = sample();
        let names: Vec<_> = spec.shape.containers.iter().map(|c| c.name.clone()).collect();
        let mut state = TaskState::new(TaskStatus::accepted(&names));
        let mut releases = 0;
        let now = Timestamp(0);
        let mut feed = |state: TaskState, event: &TaskEvent| {
            let (state, actions) = next(&spec, state, event, now);
            releases += actions.iter().filter(|action| **action == Action::Release).count();
            state
        };
        state = feed(state, &TaskEvent::Assigned);
        for event in &events {
            state = feed(state, event);
        }
        // What an owner that answers everything would still say.
        let stop = Stop { code: StopCode::UserInitiated, reason: "end".to_owned() };
        state = feed(state, &TaskEvent::StopRequested(stop));
        state = feed(state, &TaskEvent::SandboxReady);
        for _ in 0..3 {
            for container in 0..3 {
                let failed = TaskEvent::StartFailed { container, reason: "no".to_owned(), shell_code: 125 };
                state = feed(state, &failed);
                let exit = ContainerExit { code: Some(137), ..ContainerExit::default() };
                state = feed(state, &TaskEvent::Exited { container, exit });
            }
        }
        state = feed(state, &TaskEvent::Released);
        prop_assert!(state.is_final(), "{:#?}", state);
        prop_assert_eq!(releases, 1, "released exactly once");
    }
}

#[test]
fn a_timeout_stops_a_task_that_runs() {
    let mut run = Run::new(vec![container("a"), container("b")]);
    assert!(!run.timers.contains(&Timer::Timeout), "nobody asked for it");
    run.send(TaskEvent::TimerFired(Timer::Timeout));
    assert_eq!(run.state.status.last, LastStatus::Running);
    let mut limited = spec(vec![container("a"), container("b")]);
    limited.shape.timeout_s = Some(90);
    let mut run = Run::of(limited);
    assert_eq!(run.timers.iter().filter(|timer| **timer == Timer::Timeout).count(), 1, "armed once for all");
    run.send(TaskEvent::TimerFired(Timer::Timeout));
    let stop = run.state.status.stop.clone().unwrap();
    assert_eq!(stop.code, StopCode::UserInitiated);
    assert_eq!(stop.reason, "Task timed out: it ran for longer than its limit of 90 s");
    run.exit(0, 143).exit(1, 143);
    assert_eq!((run.state.status.last, run.state.status.stop), (LastStatus::Stopped, Some(stop)));
}

/// A node that is started anew and finds these.
fn recover(run: &mut Run, containers: Vec<Found>) -> &mut Run {
    run.state = TaskState::new(run.state.status.clone());
    run.log.clear();
    run.send(TaskEvent::Recovered { containers })
}

fn running(container: usize) -> Found {
    Found::Running { runtime_id: format!("r{container}") }
}

#[test]
fn a_task_goes_on_after_a_restart() {
    let mut run = Run::new(vec![container("a"), checked("b")]);
    let before = run.state.status.clone();
    recover(&mut run, vec![running(0), running(1)]);
    assert_eq!(run.state.status, before, "nothing has changed");
    assert_eq!(run.log, [], "nothing is started again");
    assert!(run.timers.contains(&Timer::Check(1)), "its health is looked at again");
    run.stop();
    assert!(run.log.contains(&Action::Signal(0)) && run.log.contains(&Action::Signal(1)));
    run.exit(0, 143).exit(1, 143).check(LastStatus::Stopped, Some((StopCode::UserInitiated, "asked")));
}

#[test]
fn what_happened_meanwhile_counts() {
    let mut run = Run::new(vec![container("a")]);
    recover(&mut run, vec![Found::Ended { runtime_id: "r0".to_owned() }]).exit(0, 3);
    run.check(LastStatus::Stopped, EXITED);
    assert_eq!(run.state.status.containers[0].exit_code, Some(3));
}

#[test]
fn what_cannot_be_found_is_lost() {
    let mut run = Run::new(vec![container("a"), optional("b")]);
    recover(&mut run, vec![running(0), Found::Unknown { reason: "gone".to_owned() }]);
    assert_eq!(run.state.status.last, LastStatus::Running);
    let lost = &run.state.status.containers[1];
    assert_eq!((lost.exit_code, lost.reason.as_deref()), (None, Some("Host lost: gone")));
    recover(&mut run, vec![Found::NeverStarted, Found::NeverStarted]);
    run.check(LastStatus::Stopped, EXITED);
}

#[test]
fn what_had_not_started_is_started_once() {
    let mut run = Run::new(vec![container("a"), depends(container("b"), "a", Condition::Start)]);
    // Killed between the intent to start and the first start, and between the first and the second.
    for found in [vec![Found::NeverStarted, Found::NeverStarted], vec![running(0), Found::NeverStarted]] {
        let started = found.iter().filter(|found| matches!(found, Found::NeverStarted)).count();
        for status in &mut run.state.status.containers {
            *status = TaskStatus::accepted(std::slice::from_ref(&status.name)).containers.remove(0);
        }
        run.state.status.last = LastStatus::Pending;
        recover(&mut run, found);
        assert_eq!(run.log.iter().filter(|action| matches!(action, Action::Start(_))).count(), started);
        assert_eq!(run.state.status.last, LastStatus::Running);
    }
}

#[test]
fn a_due_restart_is_made_up_for() {
    let mut again = container("a");
    again.restart_policy = Some(RestartPolicy { ignored_exit_codes: vec![9], attempt_period_s: 60 });
    let mut run = Run::new(vec![again]);
    run.after(61_000).exit(0, 1);
    // As it was committed before the container ran again.
    let mut status = run.state.status.clone();
    status.containers[0].last = ContainerLast::Stopped;
    (status.containers[0].exit_code, status.containers[0].finished_at) = (Some(1), Some(run.now));
    status.containers[0].started_at = Some(Timestamp(0));
    run.state.status = status.clone();
    recover(&mut run, vec![Found::Ended { runtime_id: "r0".to_owned() }]);
    assert_eq!(run.log, [Action::Start(0)]);
    run.state.status = status;
    recover(&mut run, vec![running(0)]);
    assert_eq!((run.log.len(), run.state.status.containers[0].last), (0, ContainerLast::Running));
}

fn any_found() -> impl Strategy<Value = Found> {
    let runtime_id = || "r".to_owned();
    prop_oneof![
        Just(Found::NeverStarted),
        Just(Found::Running { runtime_id: runtime_id() }),
        Just(Found::Ended { runtime_id: runtime_id() }),
        Just(Found::Unknown { reason: "gone".to_owned() }),
    ]
}

proptest! {
    #[test]
    fn a_restart_at_any_time_can_be_brought_to_an_end(
        events in proptest::collection::vec(any_event(3), 0..40),
        found in proptest::collection::vec(any_found(), 3),
    ) {
        let mut run = Run::of(sample());
        for event in events {
            run.send(event);
        }
        let is_final = run.state.is_final();
        let was = run.state.status.last;
        recover(&mut run, found);
        prop_assert!(run.state.status.last >= was, "the status moves on");
        run.stop();
        for container in (0..3).rev().chain(0..3) {
            run.exit(container, 137);
        }
        prop_assert!(run.state.is_final(), "{:#?}", run.state);
        prop_assert!(is_final || run.log.last() == Some(&Action::Release), "{:?}", run.log);
    }
}
