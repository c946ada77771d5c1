//! What `pg_verifybackup --help` says. No line is longer than 95 columns.

pub(super) const TEXT: &str = "\
pg_verifybackup checks a backup against its manifest.

Usage:
  pg_verifybackup [OPTION]... BACKUPDIR

Options:
  -e, --exit-on-error          stop at the first error
  -F, --format=p|t             what the backup is: plain (a directory), tar
  -i, --ignore=RELATIVE_PATH   this path and what is beneath it does not count
  -j, --jobs=NUM               so many threads (as many as there are processors)
  -m, --manifest-path=PATH     where the manifest is
  -n, --no-parse-wal           do not read WAL
  -P, --progress               show how far it is
  -q, --quiet                  print nothing but errors
  -s, --skip-checksums         compare no checksums
  -w, --wal-directory=PATH     where the WAL is
  -V, --version                print the version, then exit
  -?, --help                   print this help, then exit

WAL is read from archives, too: from pg_wal.tar, or from base.tar.

This is pg_verifybackup of pgkeep.
";
