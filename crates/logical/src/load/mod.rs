//! Loading: chosen objects of an archive into a database, under other names where asked, with several sessions, and again
//! after an interruption.
//!
//! ```text
//! archive ─► select: which entries ─► rename, roles: other names ─► plan: steps, needs, locks ─► run: sessions ─► report
//!                                          facts of the server ──────┘                            └─ journal, in the database
//! ```
//!
//! What is made is what a restore by stock's programs makes, but for the order and for intermediate forms: keys are built as
//! indexes, foreign keys are added first and validated later. Every step is one transaction together with its line in the
//! journal, so an interrupted load goes on where it was, whatever was killed.
//!
//! A set of databases is loaded one after the other: [`member`] is what differs then, [`globals`] what belongs to no database.
//!
//! An archive is SQL of its author: it runs with the rights of the role that connects. Nothing of it is run in any other way.

mod error;
mod globals;
mod journal;
mod lexer;
mod member;
mod observe;
mod parallel;
mod plan;
mod prepare;
mod rename;
mod report;
mod request;
mod roles;
mod run;
mod schedule;
mod select;
mod session;
mod source;
mod statements;
mod target;

pub use error::{LoadError, LoadErrorKind, LoadResult};
pub use globals::{GlobalsFailure, GlobalsPart, GlobalsReport, GlobalsRequest, GlobalsScript};
pub use member::{LastJournal, MemberState, SetMember, forget, load_member, member_state};
pub use observe::{LoadEvent, LoadObserver};
pub use plan::{LoadPlan, PlannedTable};
pub use report::{LoadFailure, LoadOutcome, LoadReport, LoadedTable};
pub use request::{LoadRequest, LoadSelection};
pub use run::load;
pub use source::LoadSource;
