//! All points. `cargo xtask chaos` goes through them; a test of it compares them with the source.

/// Which process comes to a point, and is killed there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// `neargate serve`, at work.
    Server,
    /// `neargate serve`, while it starts on what another one has left.
    NextServer,
    /// The supervisor of containers, at work.
    Supervisor,
    /// The supervisor, while it starts on what another one has left.
    NextSupervisor,
    /// The supervisor's child that makes namespaces ahead of need.
    Factory,
    /// The steward that starts supervisors.
    Steward,
    /// `neargate image import` and `neargate image rm`.
    ImageCommand,
}

/// A point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Point {
    /// The crate, the step, and on which side of it.
    pub name: &'static str,
    /// Who comes to it.
    pub role: Role,
    /// Whether the short run has it: one for each kind of loss.
    pub short: bool,
}

const fn point(name: &'static str, role: Role) -> Point {
    Point { name, role, short: false }
}

const fn short(name: &'static str, role: Role) -> Point {
    Point { name, role, short: true }
}

/// All points, in the order in which a task comes to them.
pub const POINTS: &[Point] = &[
    // The store: one SQLite transaction for a group of commits; COMMIT writes and syncs.
    short("store::commit::before", Role::Server),
    short("store::commit::after", Role::Server),
    point("store::answer::after", Role::Server),
    // Control: what is durable, and what the node is told.
    short("control::assign::before", Role::Server),
    point("control::assign::after", Role::Server),
    point("control::report::before", Role::Server),
    point("control::report::after", Role::Server),
    point("control::stop::before", Role::Server),
    point("control::stop::after", Role::Server),
    // The node: the steps of one task.
    point("node::image::after", Role::Server),
    point("node::sandbox::before", Role::Server),
    point("node::sandbox::after", Role::Server),
    point("node::intent::before", Role::Server),
    short("node::intent::after", Role::Server),
    point("node::scratch::after", Role::Server),
    point("node::start::before", Role::Server),
    short("node::start::after", Role::Server),
    short("node::exit::before", Role::Server),
    point("node::release::before", Role::Server),
    short("node::release::sandbox", Role::Server),
    point("node::release::after", Role::Server),
    // Logs: a stream is known, its lines are written, and synced.
    point("telemetry::stream::before", Role::Server),
    point("telemetry::stream::after", Role::Server),
    point("telemetry::append::before", Role::Server),
    point("telemetry::append::after", Role::Server),
    point("telemetry::sync::before", Role::Server),
    point("telemetry::sync::after", Role::Server),
    // A server that starts, and finds what runs.
    point("container::attach::before", Role::NextServer),
    point("container::attach::after", Role::NextServer),
    point("node::recover::before", Role::NextServer),
    short("node::recover::after", Role::NextServer),
    // The supervisor: a sandbox.
    point("container::cell::after", Role::Supervisor),
    point("container::router::noted", Role::Supervisor),
    point("container::router::after", Role::Supervisor),
    point("container::rules::before", Role::Supervisor),
    point("container::rules::after", Role::Supervisor),
    point("container::link::before", Role::Supervisor),
    point("container::link::after", Role::Supervisor),
    point("container::element::after", Role::Supervisor),
    point("container::unlink::before", Role::Supervisor),
    // A container under bridge, which has a link of its own and ports of the host.
    point("container::place::before", Role::Supervisor),
    point("container::place::linked", Role::Supervisor),
    point("container::place::entered", Role::Supervisor),
    short("container::place::published", Role::Supervisor),
    point("container::place::withdrawn", Role::Supervisor),
    point("container::cgroup::task", Role::Supervisor),
    short("container::journal::before", Role::Supervisor),
    point("container::journal::after", Role::Supervisor),
    // A container, from its group to its program.
    point("container::cgroup::container", Role::Supervisor),
    point("container::overlay::before", Role::Supervisor),
    point("container::overlay::after", Role::Supervisor),
    point("container::clone::before", Role::Supervisor),
    short("container::clone::after", Role::Supervisor),
    point("container::gate::before", Role::Supervisor),
    short("container::gate::after", Role::Supervisor),
    point("container::exec::after", Role::Supervisor),
    // Its end.
    short("container::exit::before", Role::Supervisor),
    short("container::exit::after", Role::Supervisor),
    point("container::answer::before", Role::Supervisor),
    point("container::answer::after", Role::Supervisor),
    point("container::removal::before", Role::Supervisor),
    point("container::removal::after", Role::Supervisor),
    short("container::release::before", Role::Supervisor),
    point("container::release::after", Role::Supervisor),
    // The next supervisor takes the seat, and adopts what the one before has left.
    point("container::seat::before", Role::NextSupervisor),
    point("container::seat::after", Role::NextSupervisor),
    point("container::renewal::before", Role::NextSupervisor),
    point("container::renewal::after", Role::NextSupervisor),
    short("container::adoption::before", Role::NextSupervisor),
    point("container::adoption::task", Role::NextSupervisor),
    point("container::adoption::after", Role::NextSupervisor),
    // Its helpers.
    point("container::factory::before", Role::Factory),
    point("container::factory::after", Role::Factory),
    point("container::steward::before", Role::Steward),
    short("container::steward::after", Role::Steward),
    point("container::orphan::before", Role::Steward),
    short("container::orphan::after", Role::Steward),
    // Images.
    short("image::layer::before", Role::ImageCommand),
    point("image::layer::after", Role::ImageCommand),
    point("image::blob::before", Role::ImageCommand),
    point("image::blob::after", Role::ImageCommand),
    point("image::record::before", Role::ImageCommand),
    point("image::record::after", Role::ImageCommand),
    point("image::name::after", Role::ImageCommand),
    point("image::collect::layer", Role::ImageCommand),
    short("image::collect::blob", Role::ImageCommand),
];
