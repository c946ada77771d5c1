//! `target_session_attrs`: is this the kind of server that was asked for?
//!
//! Servers from 14 on say so unasked; 13 is asked with SHOW, which replication sessions understand too.

use crate::connection::Connection;
use crate::error::WireError;
use crate::settings::TargetSession;

pub(crate) fn fits(connection: &mut Connection, wanted: TargetSession) -> Result<bool, WireError> {
    Ok(match wanted {
        TargetSession::Any => true,
        TargetSession::ReadWrite => !is_read_only(connection)?,
        TargetSession::ReadOnly => is_read_only(connection)?,
        TargetSession::Primary => !in_recovery(connection)?,
        TargetSession::Standby | TargetSession::PreferStandby => in_recovery(connection)?,
    })
}

/// Servers from 14 report both facts unasked. On 13 recovery is asked for with SHOW, which a replication session
/// understands too; a primary whose default is read-only cannot be told from a standby that way.
fn in_recovery(connection: &mut Connection) -> Result<bool, WireError> {
    match connection.parameter("in_hot_standby") {
        Some(value) => Ok(value == "on"),
        None => Ok(connection.show("transaction_read_only")? == "on"),
    }
}

fn is_read_only(connection: &mut Connection) -> Result<bool, WireError> {
    match (connection.parameter("in_hot_standby"), connection.parameter("default_transaction_read_only")) {
        (Some(standby), Some(read_only)) => Ok(standby == "on" || read_only == "on"),
        _ => Ok(connection.show("transaction_read_only")? == "on"),
    }
}
