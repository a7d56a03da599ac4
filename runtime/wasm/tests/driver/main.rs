//! The driver over fake processes that speak its protocol, well or badly.

#![allow(clippy::unwrap_used)]

mod bench;
mod fake;

mod containers;
mod images;
mod loss;
mod messages;
mod placement;
