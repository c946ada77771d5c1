//! Restoring archives: as a script, or into a server.
