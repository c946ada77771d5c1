//! `load` of a dump in the repository: of one database, or of the set that a dump of a cluster is.
//!
//! What loads is `pgkeep_logical::load`, which knows of archives and servers. Here are the two things that it does not know:
//! archives that lie in a repository ([`part`]), and the order of a set ([`set`]). Archives are read out of the frames, at
//! any place, by every session of a load; nothing is copied anywhere.

mod part;
mod set;

use pgkeep_logical::load::{LoadError, LoadErrorKind, LoadObserver, LoadReport, LoadRequest, load};

use crate::Location;
use crate::dump::{choose_part, find};
use crate::error::{Error, ErrorKind, Result};
use part::Part;
pub use set::{DatabaseOfSet, SetLoadReport, SetLoadRequest, StateOfDatabase, load_set};

/// A load of one database of a dump.
#[derive(Clone, Debug)]
pub struct DumpLoadRequest {
    /// Where the dump is.
    pub location: Location,
    /// The dump: an id, an unambiguous beginning of one, or `latest`.
    pub id: String,
    /// Which database; none where there is but one.
    pub database: Option<String>,
    /// Into what, and how.
    pub load: LoadRequest,
}

/// Loads one database of a dump.
pub fn load_dump(request: &DumpLoadRequest, observer: &dyn LoadObserver) -> Result<LoadReport> {
    let DumpLoadRequest { location, id, database, load: how } = request;
    let run = || {
        let stanza = location.open_stanza()?;
        let dump = stanza.dump(find(&stanza, id)?)?;
        let part = Part::open(&dump, choose_part(&dump, database.as_deref(), false)?)?;
        load(&part.source(), how, observer).map_err(|error| part.failure(error))
    };
    run().map_err(|error: Error| {
        error.while_doing(format!("cannot load dump `{id}` of `{}`", location.stanza))
    })
}

/// The library's errors in the form of the verbs.
pub fn failure(error: LoadError) -> Error {
    let kind = match error.kind {
        LoadErrorKind::Usage => ErrorKind::Usage,
        LoadErrorKind::Connect => ErrorKind::Connect,
        LoadErrorKind::Auth => ErrorKind::Auth,
        LoadErrorKind::NotFound => ErrorKind::NotFound,
        LoadErrorKind::Mismatch => ErrorKind::Mismatch,
        LoadErrorKind::Destination => ErrorKind::Destination,
        LoadErrorKind::Corrupt => ErrorKind::Corrupt,
        LoadErrorKind::Locked => ErrorKind::Locked,
        LoadErrorKind::Interrupted => ErrorKind::Interrupted,
    };
    Error { kind, message: error.message, causes: error.causes, hints: error.hints }
}
