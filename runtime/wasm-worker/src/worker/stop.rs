//! How a run learns that it is to end.

use neargate_wasm::protocol::Stop;
use tokio::sync::watch;

/// The server's end.
pub(crate) struct Stopper(watch::Sender<Option<Stop>>);

/// The run's end. Clones see the same.
#[derive(Clone)]
pub(crate) struct Stopping(watch::Receiver<Option<Stop>>);

/// A pair of ends.
pub(crate) fn stopping() -> (Stopper, Stopping) {
    let (sender, receiver) = watch::channel(None);
    (Stopper(sender), Stopping(receiver))
}

impl Stopper {
    /// Asks the run to end. The first request to ask and the first to kill decide the exit code.
    pub(crate) fn stop(&self, stop: Stop) {
        self.0.send_if_modified(|asked| {
            let news = match (&*asked, &stop) {
                (None, _) => true,
                (Some(Stop::Ask { .. }), Stop::Kill { .. }) => true,
                (Some(_), _) => false,
            };
            if news {
                *asked = Some(stop);
            }
            news
        });
    }
}

impl Stopping {
    /// Whether the run has been asked to end.
    pub(crate) fn is_requested(&self) -> bool {
        self.0.borrow().is_some()
    }

    /// Waits until the run is asked to end; for ever when nobody can ask any more.
    pub(crate) async fn requested(&self) {
        self.wait(|_| true).await;
    }

    /// Waits for the end that a guest cannot put off, and returns its exit code. `patient` guests know by
    /// themselves that they were asked, so only [`Stop::Kill`] is one for them.
    pub(super) async fn final_code(&self, patient: bool) -> i32 {
        match self.wait(|stop| !patient || matches!(stop, Stop::Kill { .. })).await {
            Stop::Ask { code } | Stop::Kill { code } => code,
        }
    }

    async fn wait(&self, wanted: impl Fn(&Stop) -> bool) -> Stop {
        let mut receiver = self.0.clone();
        let found =
            receiver.wait_for(|stop| stop.as_ref().is_some_and(&wanted)).await.map(|stop| stop.clone());
        match found {
            Ok(Some(stop)) => stop,
            _ => std::future::pending().await,
        }
    }
}
