//! Which process wrote a lease, so exactly that another process on the same machine can tell that it is gone.
//!
//! A process id alone says nothing: it may be of another machine, another container or, used again, of another
//! program. So the identity also names the boot of the machine, the namespace of process ids and the moment at which
//! the process began (Linux: `/proc/sys/kernel/random/boot_id`, `/proc/self/ns/pid`, field 22 of `/proc/PID/stat`).
//! Where any of that is not known, nobody is ever declared gone.

use rustix::io::Errno;
use rustix::process::{Pid, test_kill_process};
use serde::{Deserialize, Serialize};

/// A process, told from all others of all machines.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProcessIdentity {
    /// The boot of the machine.
    boot: String,
    /// The namespace in which `pid` counts.
    namespace: String,
    /// The process id there.
    pid: i32,
    /// When it began, in clock ticks since the boot.
    began: u64,
}

impl ProcessIdentity {
    /// This process; none where the system does not tell.
    pub(crate) fn current() -> Option<ProcessIdentity> {
        let pid = rustix::process::getpid().as_raw_nonzero().get();
        Some(ProcessIdentity { boot: boot()?, namespace: namespace()?, pid, began: began(pid)? })
    }

    /// Whether the process has certainly ended. `false` also means "cannot tell".
    pub(crate) fn is_certainly_gone(&self) -> bool {
        let is_here = boot().as_ref() == Some(&self.boot) && namespace().as_ref() == Some(&self.namespace);
        // The number comes from storage; `from_raw` panics at a negative one.
        if !is_here || self.pid <= 0 {
            return false;
        }
        let Some(pid) = Pid::from_raw(self.pid) else { return false };
        match test_kill_process(pid) {
            Err(Errno::SRCH) => true,
            // Somebody has the number; only the moment of its beginning tells whether it is the same process.
            _ => began(self.pid).is_some_and(|began| began != self.began),
        }
    }
}

fn boot() -> Option<String> {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(text.trim().to_owned()).filter(|boot| !boot.is_empty())
}

fn namespace() -> Option<String> {
    std::fs::read_link("/proc/self/ns/pid").ok()?.into_os_string().into_string().ok()
}

/// Field 22 of `stat`; the name in field 2 may hold blanks and parentheses, so fields are counted from its end.
fn began(pid: i32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, after_name) = stat.rsplit_once(')')?;
    after_name.split_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_not_gone() {
        let this = ProcessIdentity::current().unwrap();
        assert!(!this.is_certainly_gone());
    }

    #[test]
    fn a_process_that_ended_is_gone_and_one_that_has_its_number_is_another() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        child.wait().unwrap();
        let this = ProcessIdentity::current().unwrap();
        assert!(ProcessIdentity { pid, ..this.clone() }.is_certainly_gone());
        assert!(ProcessIdentity { began: this.began + 1, ..this }.is_certainly_gone());
    }

    #[test]
    fn nothing_is_known_of_other_machines_boots_and_containers() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        child.wait().unwrap();
        let gone_here = ProcessIdentity { pid, ..ProcessIdentity::current().unwrap() };
        assert!(!ProcessIdentity { boot: "another".into(), ..gone_here.clone() }.is_certainly_gone());
        assert!(!ProcessIdentity { namespace: "pid:[1]".into(), ..gone_here.clone() }.is_certainly_gone());
        assert!(!ProcessIdentity { pid: -1, ..gone_here }.is_certainly_gone());
    }
}
