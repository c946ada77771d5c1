//! What `pg_receivewal --help` says. No line is longer than 95 columns.

pub(super) const TEXT: &str = "\
pg_receivewal takes the WAL of a running PostgreSQL server and writes it to files.

Usage:
  pg_receivewal [OPTION]...

Options:
  -D, --directory=DIR          where the files go; the directory must exist
  -E, --endpos=LSN             end when this position is passed
  --if-not-exists              with --create-slot: a slot of that name is fine
  -n, --no-loop                end when the server is lost, instead of trying again
  --no-sync                    do not wait until files are safe on disk
  -s, --status-interval=SECS   how often the server is told what arrived (10; 0: when it asks)
  -S, --slot=SLOTNAME          the replication slot that keeps WAL on the server
  --synchronous                make WAL safe, and say so, as soon as it has arrived
  -v, --verbose                tell about each file
  -V, --version                print the version, then exit
  -Z, --compress=METHOD[:DETAIL]
                               compress files: none, gzip or lz4, perhaps with a level
  -?, --help                   print this help, then exit

Connection options:
  -d, --dbname=CONNSTR         connection string; its database does not count
  -h, --host=HOSTNAME          server, or directory of its socket
  -p, --port=PORT              port of the server
  -U, --username=NAME          connect as this user
  -w, --no-password            never ask for a password
  -W, --password               ask for a password

Instead of receiving:
  --create-slot                make the slot that --slot names, then exit
  --drop-slot                  remove the slot that --slot names, then exit

This is pg_receivewal of pgkeep.
";
