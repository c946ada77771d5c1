//! How the server is reached: the options of libpq's own programs.

use clap::Args;

/// The server. What is not given comes from `PG*` variables, `.pgpass` and the service file, as for psql.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Connection")]
pub(crate) struct ConnectionArgs {
    /// Database name, `key=value` string or postgresql:// URI
    #[arg(short = 'd', long, value_name = "CONNINFO", visible_alias = "dbname")]
    pub(crate) conninfo: Option<String>,
    /// Server's host name, or directory of its socket
    #[arg(short = 'h', long, value_name = "HOST")]
    pub(crate) host: Option<String>,
    /// Server's port
    #[arg(short = 'p', long, value_name = "PORT")]
    pub(crate) port: Option<String>,
    /// Role to connect as
    #[arg(short = 'U', long, value_name = "ROLE")]
    pub(crate) username: Option<String>,
}
