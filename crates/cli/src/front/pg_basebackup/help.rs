//! What `pg_basebackup --help` says. No line is longer than 95 columns.

pub(super) const TEXT: &str = "\
pg_basebackup copies the cluster of a running PostgreSQL server.

Usage:
  pg_basebackup [OPTION]...

What is made and where:
  -D, --pgdata=DIRECTORY       where the backup goes: absent or empty; - is standard output
  -F, --format=p|t             a data directory (plain), or tar archives
  -i, --incremental=MANIFEST   only what changed since the backup with this manifest
  -r, --max-rate=RATE          no more than this a second, in kB, or with a suffix k or M
  -R, --write-recovery-conf    set the copy up as a standby
  -t, --target=TARGET[:DETAIL] the server keeps the backup: server:DIRECTORY, blackhole
  -T, --tablespace-mapping=OLDDIR=NEWDIR
                               put the tablespace at OLDDIR into NEWDIR
  --waldir=WALDIR              where pg_wal lies (plain)
  -X, --wal-method=none|fetch|stream
                               how the WAL that the copy needs gets into it
  -z, --gzip                   compress archives
  -Z, --compress=[client|server-]METHOD[:DETAIL]
                               compress here or on the server: none, gzip, lz4, zstd
  -Z, --compress=none          do not compress

How:
  -c, --checkpoint=fast|spread an immediate checkpoint, or one that spares the server
  -C, --create-slot            make the slot that --slot names
  -l, --label=LABEL            label of the backup
  -n, --no-clean               leave what is there after an error
  -N, --no-sync                do not wait until the files are safe on disk
  -P, --progress               tell how far it is
  -S, --slot=SLOTNAME          slot that keeps WAL for streaming
  -v, --verbose                tell what is done
  -V, --version                print the version, then exit
  --manifest-checksums=SHA{224,256,384,512}|CRC32C|NONE
                               checksums of files in the manifest
  --manifest-force-encode      file names in the manifest in hexadecimal
  --no-estimate-size           do not let the server find out the size first
  --no-manifest                no manifest
  --no-slot                    no temporary slot
  --no-verify-checksums        let the server not check pages
  --sync-method=METHOD         how files are flushed: fsync, syncfs
  -?, --help                   print this help, then exit

Connection options:
  -d, --dbname=CONNSTR         connection string
  -h, --host=HOSTNAME          server, or directory of its socket
  -p, --port=PORT              port of the server
  -s, --status-interval=INTERVAL
                               seconds between two messages to the server about streamed WAL
  -U, --username=NAME          connect as this user
  -w, --no-password            never ask for a password
  -W, --password               ask for a password

This is pg_basebackup of pgkeep.
";
