//! Logical backups: databases as SQL and rows, in the archives of `pg_dump`.
//!
//! [`dump`] makes them; [`dumpall`] makes a script of a whole cluster; [`restore`] reads archives of every format and makes a
//! script of them, or restores them into a server; [`load`] is the verb of our own that restores: chosen objects, under other
//! names, faster, and again after an interruption.
//!
//! Nothing here prints, reads the environment, or knows of repositories.

pub mod dump;
pub mod dumpall;
pub mod filter;
pub mod load;
pub mod quote;
pub mod restore;
pub mod restrict_key;
