//! A line on the terminal while something takes long, and nothing where there is no terminal.

use std::io::{IsTerminal, Write};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// What ends sooner needs no word.
const PATIENCE: Duration = Duration::from_millis(500);

/// How often the line is written again.
const TICK: Duration = Duration::from_millis(500);

/// Shows what is being done until it is dropped.
pub(crate) struct Progress {
    ended: Arc<(Mutex<bool>, Condvar)>,
    thread: Option<JoinHandle<()>>,
}

impl Progress {
    /// Begins to show `what` on stderr, if that is a terminal and nobody asked for quiet.
    pub(crate) fn start(what: String, quiet: bool) -> Self {
        let ended = Arc::new((Mutex::new(false), Condvar::new()));
        let shows = !quiet && std::io::stderr().is_terminal();
        let thread = shows.then(|| {
            let ended = ended.clone();
            std::thread::spawn(move || show(&what, &ended))
        });
        Self { ended, thread }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        *self.ended.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.ended.1.notify_all();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn show(what: &str, ended: &(Mutex<bool>, Condvar)) {
    let started = Instant::now();
    let mut is_shown = false;
    let mut wait = PATIENCE;
    loop {
        let guard = ended.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (guard, _) =
            ended.1.wait_timeout_while(guard, wait, |ended| !*ended).unwrap_or_else(PoisonError::into_inner);
        let is_over = *guard;
        drop(guard);
        let mut stderr = std::io::stderr().lock();
        // A terminal that takes nothing any more needs no progress either.
        if is_over {
            if is_shown {
                let _ = write!(stderr, "\r\x1b[K");
            }
            return;
        }
        let _ = write!(stderr, "\r\x1b[K{what}… {:.0} s", started.elapsed().as_secs_f64());
        let _ = stderr.flush();
        is_shown = true;
        wait = TICK;
    }
}
