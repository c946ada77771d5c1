//! The unprivileged user that servers run as: PostgreSQL refuses to run as root, and CI often is root.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

/// `nobody` and `nogroup` on Debian. `initdb` wants the uid to have a name in the password file, and these two
/// are the only unprivileged ones that every machine has.
const NOBODY: u32 = 65_534;

/// Who the servers run as: an unprivileged user when the tests run as root, the current user otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServerUser {
    /// User id of the server processes.
    pub uid: u32,
    /// Group id of the server processes.
    pub gid: u32,
    /// Whether reaching that user takes dropping root's privileges.
    pub dropped: bool,
}

impl ServerUser {
    /// The server user of this process.
    #[must_use]
    pub fn current() -> ServerUser {
        let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
        if uid.is_root() {
            ServerUser { uid: NOBODY, gid: NOBODY, dropped: true }
        } else {
            ServerUser { uid: uid.as_raw(), gid: gid.as_raw(), dropped: false }
        }
    }

    /// Gives `path` (not what is below it) to the server user.
    pub(crate) fn own(self, path: &Path) {
        if self.dropped {
            std::os::unix::fs::lchown(path, Some(self.uid), Some(self.gid))
                .unwrap_or_else(|error| panic!("cannot give {} to the server user: {error}", path.display()));
        }
    }

    /// Gives everything below `path` to the server user, without following symbolic links.
    pub(crate) fn own_tree(self, path: &Path) {
        if self.dropped {
            let status = Command::new("chown")
                .args(["-R", "--no-dereference", &format!("{}:{}", self.uid, self.gid)])
                .arg(path)
                .status()
                .unwrap_or_else(|error| panic!("cannot run chown: {error}"));
            assert!(status.success(), "chown -R {} failed", path.display());
        }
    }
}

/// Makes `command` run as the server user, with root's supplementary groups cleared (the standard library does
/// that when it sets a uid as root) and a home and working directory that this user can enter.
pub fn run_as_server_user(command: &mut Command) {
    let user = ServerUser::current();
    if user.dropped {
        command
            .uid(user.uid)
            .gid(user.gid)
            .env("HOME", "/nonexistent")
            .env("USER", "nobody")
            .env_remove("LOGNAME");
    }
    if command.get_current_dir().is_none() {
        command.current_dir("/");
    }
}
