//! The packets of tasks: links, addresses, routes, and who may talk to whom.
//!
//! ```text
//!   task's namespace          router's namespace            host's namespace
//!   ┌──────────────┐   veth   ┌──────────────────┐   veth   ┌──────────────┐
//!   │ eth0  /32 ───┼──────────┼─ ng…   filter ───┼──────────┼─ ngu…        │──▶ elsewhere
//!   └──────────────┘          │  table "neargate"│          │  masquerade  │
//!   ┌──────────────┐          │                  │          └──────────────┘
//!   │ eth0  /32 ───┼──────────┼─ ng…             │
//!   └──────────────┘          └──────────────────┘
//! ```
//!
//! Every server has a router: a network namespace that belongs to nobody's user namespace but the host's, into which
//! each task's interface is routed, and in which security groups are enforced ([`rules`]). So a task that has every
//! right over its own network cannot touch what holds it, an administrator's `nft flush ruleset` on the host removes
//! nothing of it, and two servers never meet.
//!
//! Nothing here keeps state or starts a task: the supervisor of containers calls, and owns what it made. The kernel is
//! spoken to in batches ([`netlink`]), each of which is answered before the call returns.

#![forbid(unsafe_code)]

pub mod bandwidth;
pub mod bridge;
mod conntrack;
pub mod elements;
pub mod family;
pub mod link;
pub mod netlink;
pub mod rules;
pub mod traffic;
pub mod tunnel;
