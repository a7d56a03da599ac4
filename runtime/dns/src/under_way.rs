//! Questions that others are being asked: who has the same one waits for that answer.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::message::{Answer, Question};

/// The questions, as many as the meters give out at most.
#[derive(Debug, Default)]
pub(crate) struct UnderWay(Mutex<HashMap<Question, watch::Receiver<Option<Arc<Answer>>>>>);

/// What somebody with a question does.
pub(crate) enum Turn<'a> {
    /// Asks.
    First(First<'a>),
    /// Waits.
    Later(Later),
}

/// Asks in the place of all. When it is dropped without an answer another one has to.
pub(crate) struct First<'a> {
    under_way: &'a UnderWay,
    question: Question,
    answer: watch::Sender<Option<Arc<Answer>>>,
}

/// Waits for what another one is told.
pub(crate) struct Later(watch::Receiver<Option<Arc<Answer>>>);

impl UnderWay {
    fn questions(&self) -> MutexGuard<'_, HashMap<Question, watch::Receiver<Option<Arc<Answer>>>>> {
        // Every critical section is one call, so a panic elsewhere spoils nothing.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Who comes first asks, and others wait.
    pub(crate) fn take_turn(&self, question: &Question) -> Turn<'_> {
        let mut questions = self.questions();
        if let Some(answer) = questions.get(question) {
            return Turn::Later(Later(answer.clone()));
        }
        let (answer, told) = watch::channel(None);
        questions.insert(question.clone(), told);
        Turn::First(First { under_way: self, question: question.clone(), answer })
    }
}

impl First<'_> {
    /// Tells those who wait.
    pub(crate) fn tell(self, answer: &Arc<Answer>) {
        self.answer.send_replace(Some(answer.clone()));
    }
}

impl Drop for First<'_> {
    fn drop(&mut self) {
        self.under_way.questions().remove(&self.question);
    }
}

impl Later {
    /// The answer; `None` if who asked has gone.
    pub(crate) async fn wait(mut self) -> Option<Arc<Answer>> {
        self.0.wait_for(Option::is_some).await.ok()?.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{Code, Kind};
    use crate::name::Name;

    #[tokio::test]
    async fn who_waits_is_told_or_asks() {
        let under_way = UnderWay::default();
        let question = Question { name: Name::from_text("a").unwrap(), kind: Kind::A };
        let Turn::First(first) = under_way.take_turn(&question) else { panic!("nobody asks yet") };
        let Turn::Later(later) = under_way.take_turn(&question) else { panic!("somebody asks") };
        let Turn::Later(other) = under_way.take_turn(&question) else { panic!("somebody asks") };
        drop(first);
        assert_eq!(later.wait().await, None);
        assert_eq!(other.wait().await, None);
        let Turn::First(first) = under_way.take_turn(&question) else { panic!("it is nobody's") };
        let Turn::Later(later) = under_way.take_turn(&question) else { panic!("somebody asks") };
        let answer = Arc::new(Answer::bare(Code::OK));
        first.tell(&answer);
        assert_eq!(later.wait().await, Some(answer));
        assert!(matches!(under_way.take_turn(&question), Turn::First(_)), "and nothing is left");
    }
}
