//! Which worker of a group takes a run.

/// What is known of a worker when a run is placed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Candidate {
    /// Runs in it, and on their way to it.
    pub(super) seats: u32,
    pub(super) stage: Stage,
    /// Whether it has the run's image loaded.
    pub(super) has_image: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    Ready,
    Starting,
    Empty,
    /// It keeps ending and is not started again at once.
    Paused,
}

/// The candidate with the fewest runs; of equal ones one that has the image, then the first.
///
/// A worker that is ready is preferred even when it is busier than one that would have to be started: sharing
/// a core for a while costs less than waiting for a process, and meanwhile a spare one is started.
pub(super) fn choose(candidates: &[Candidate], runs_max: u32) -> Option<usize> {
    let fits = |(_, candidate): &(usize, &Candidate)| candidate.seats < runs_max;
    let rank = |(index, candidate): &(usize, &Candidate)| {
        let wait = match candidate.stage {
            Stage::Ready => 0,
            Stage::Starting | Stage::Empty => 1,
            Stage::Paused => 2,
        };
        // An empty one has no runs and so comes before one that is starting for another run.
        (wait, candidate.seats, !candidate.has_image, *index)
    };
    candidates.iter().enumerate().filter(fits).min_by_key(rank).map(|(index, _)| index)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fewest_runs_then_the_image_then_the_first() {
        use Stage::{Empty, Paused, Ready, Starting};
        let check = |candidates: &[(u32, Stage, bool)], expect: Option<usize>| {
            let candidates: Vec<_> = candidates
                .iter()
                .map(|(seats, stage, has_image)| Candidate {
                    seats: *seats,
                    stage: *stage,
                    has_image: *has_image,
                })
                .collect();
            assert_eq!(choose(&candidates, 10), expect, "{candidates:?}");
        };
        check(&[], None);
        check(&[(0, Empty, false), (0, Empty, false)], Some(0));
        check(&[(1, Starting, false), (0, Empty, false)], Some(1));
        check(&[(1, Starting, false), (1, Starting, false)], Some(0));
        check(&[(3, Ready, false), (1, Ready, false)], Some(1));
        check(&[(1, Ready, false), (1, Ready, true)], Some(1));
        check(&[(2, Ready, true), (1, Ready, false)], Some(1));
        check(&[(2, Ready, true), (0, Empty, false)], Some(0));
        check(&[(10, Ready, true), (0, Empty, false)], Some(1));
        check(&[(10, Ready, true), (10, Ready, false)], None);
        check(&[(0, Paused, false), (1, Starting, false)], Some(1));
        check(&[(0, Paused, false)], Some(0));
    }
}
