//! Queries whose answers are needed later, run meanwhile by another session in the same snapshot.
//!
//! In a large database most of what definitions cost is the server's time to put texts together, and one session is one
//! core. An answer is the same whoever asks, so nothing but time is lost when the other session fails: the question is
//! then asked again in the dump's own session, which also reports what is wrong.

use std::collections::HashMap;
use std::sync::mpsc::{Receiver, Sender, channel};

use pgkeep_tool::Result;
use pgkeep_wire::Rows;

use super::session::Session;

type Answer = Result<Rows>;

/// The other session, and what it was asked.
#[derive(Debug)]
pub(super) struct Ahead {
    questions: Sender<(String, Sender<Answer>)>,
    /// By the text of the query.
    answers: HashMap<String, Receiver<Answer>>,
}

impl Ahead {
    /// Queries will run in `session`, one after the other.
    pub(super) fn new(mut session: Session) -> Ahead {
        let (questions, asked) = channel::<(String, Sender<Answer>)>();
        std::thread::spawn(move || {
            for (sql, answer) in asked {
                // Nobody waits when the dump has failed meanwhile.
                if answer.send(session.query(&sql)).is_err() {
                    return;
                }
            }
        });
        Ahead { questions, answers: HashMap::new() }
    }

    /// Has a query run whose answer is wanted later.
    pub(super) fn ask(&mut self, sql: String) {
        let (sender, answer) = channel();
        if self.questions.send((sql.clone(), sender)).is_ok() {
            self.answers.insert(sql, answer);
        }
    }

    /// The answer to a query, when it was asked and answered well. Waits for it.
    pub(super) fn take(&mut self, sql: &str) -> Option<Rows> {
        self.answers.remove(sql)?.recv().ok()?.ok()
    }
}
