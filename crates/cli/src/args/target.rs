//! The recovery target, as the options of `restore` and of a drill name it.

use pgkeep_engine::restore::RecoveryTarget;
use pgkeep_engine::{Error, ErrorKind, Lsn, Result};

/// What was given; the grammar lets at most one of them be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TargetChoice<'a> {
    /// `--target-time`.
    pub(crate) time: Option<&'a str>,
    /// `--target-lsn`.
    pub(crate) lsn: Option<Lsn>,
    /// `--target-xid`.
    pub(crate) xid: Option<u64>,
    /// `--target-name`.
    pub(crate) name: Option<&'a str>,
    /// `--target immediate`.
    pub(crate) immediate: bool,
    /// `--target-exclusive`.
    pub(crate) exclusive: bool,
}

impl TargetChoice<'_> {
    /// The target; the end of the archive where none was given.
    pub(crate) fn read(self) -> Result<RecoveryTarget> {
        let target = if let Some(time) = self.time {
            RecoveryTarget::Time(time.to_owned())
        } else if let Some(lsn) = self.lsn {
            RecoveryTarget::Lsn(lsn)
        } else if let Some(xid) = self.xid {
            RecoveryTarget::Xid(xid)
        } else if let Some(name) = self.name {
            RecoveryTarget::Name(name.to_owned())
        } else if self.immediate {
            RecoveryTarget::Immediate
        } else {
            RecoveryTarget::Latest
        };
        let has_moment =
            matches!(target, RecoveryTarget::Time(_) | RecoveryTarget::Lsn(_) | RecoveryTarget::Xid(_));
        if self.exclusive && !has_moment {
            return Err(Error::new(ErrorKind::Usage, "`--target-exclusive` has nothing to exclude")
                .cause("it applies to `--target-time`, `--target-lsn` and `--target-xid`")
                .hint("add one of these targets, or leave `--target-exclusive` out"));
        }
        Ok(target)
    }
}
