//! Port numbers that no other test process takes.
//!
//! The number matters even without TCP: it is part of the socket's file name. Numbers come from below the
//! kernel's ephemeral range, so that no outgoing connection sits on them; a locked file per number keeps test
//! processes apart, and the kernel drops the lock with the process.

use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

const FIRST: u32 = 20_000;
const COUNT: u32 = 12_000;

/// A port number held until dropped.
#[derive(Debug)]
pub(crate) struct Port {
    pub(crate) number: u16,
    _lock: File,
}

impl Port {
    /// Takes a free number.
    pub(crate) fn take() -> Port {
        let folder = PathBuf::from("/tmp/pgkeep-test-ports");
        if fs::create_dir(&folder).is_ok() {
            // Open to every user who runs tests on this machine; failing to widen it only hurts the others.
            drop(fs::set_permissions(&folder, fs::Permissions::from_mode(0o1777)));
        }
        let start = std::process::id().wrapping_mul(37);
        for step in 0..COUNT {
            let number = u16::try_from(FIRST + start.wrapping_add(step) % COUNT).expect("below 65536");
            let Ok(lock) = File::create(folder.join(number.to_string())) else { continue };
            if lock.try_lock().is_ok() && TcpListener::bind((Ipv4Addr::LOCALHOST, number)).is_ok() {
                return Port { number, _lock: lock };
            }
        }
        panic!("no free port between {FIRST} and {}", FIRST + COUNT);
    }
}
