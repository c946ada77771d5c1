//! What `pg_combinebackup --help` says. No line is longer than 95 columns.

pub(super) const TEXT: &str = "\
pg_combinebackup makes a full backup out of a full one and the incrementals that follow it.

Usage:
  pg_combinebackup [OPTION]... DIRECTORY...

Options:
  -d, --debug                  tell everything that is done
  -k, --link                   link files instead of copying them
  -n, --dry-run                write nothing
  -N, --no-sync                do not wait until everything is safe on disk
  -o, --output=DIRECTORY       where the backup goes
  -T, --tablespace-mapping=OLDDIR=NEWDIR
                               the tablespace in OLDDIR goes to NEWDIR
      --clone                  clone files (reflink) instead of copying them
      --copy                   copy files (the default)
      --copy-file-range        copy with copy_file_range()
      --manifest-checksums=SHA{224,256,384,512}|CRC32C|NONE
                               checksums in the new manifest
      --no-manifest            make no manifest
      --no-verify-inputs       do not compare the inputs with their manifests
      --sync-method=METHOD     how files are made safe: fsync, syncfs
  -V, --version                print the version, then exit
  -?, --help                   print this help, then exit

A directory may hold a backup in tar format.

This is pg_combinebackup of pgkeep.
";
