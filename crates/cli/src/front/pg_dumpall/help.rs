//! What `pg_dumpall --help` says. No line is longer than 95 columns.

pub(super) const TEXT: &str = "\
pg_dumpall makes an SQL script of a cluster: roles, tablespaces, and all databases.

Usage:
  pg_dumpall [OPTION]...

General options:
  -f, --file=FILENAME          output file
  -v, --verbose                tell what is done
  -V, --version                print the version, then exit
  --lock-wait-timeout=TIMEOUT  wait no longer than this for the lock of a table
  -?, --help                   print this help, then exit

What is dumped and how:
  -a, --data-only              data only, no definitions
  -c, --clean                  drop databases, roles and tablespaces before they are created
  -E, --encoding=ENCODING      encoding of the dump
  -g, --globals-only           roles and tablespaces, no databases
  -O, --no-owner               leave objects with the user who restores
  -r, --roles-only             roles, no databases or tablespaces
  -s, --schema-only            definitions only, no data
  -S, --superuser=NAME         superuser who disables triggers
  -t, --tablespaces-only       tablespaces, no databases or roles
  -x, --no-privileges          no GRANT and REVOKE
  --binary-upgrade             for pg_upgrade (supported with -g, -r and -t)
  --column-inserts             INSERT commands with names of columns
  --disable-dollar-quoting     quote as the SQL standard has it
  --disable-triggers           without triggers, when only data is restored
  --exclude-database=PATTERN   not these databases
  --extra-float-digits=NUM     the server's setting of that name
  --filter=FILENAME            leave out the databases that this file says
  --if-exists                  drop what exists only
  --inserts                    rows as INSERT commands
  --load-via-partition-root    load partitions through their root
  --no-comments                no comments
  --no-data                    no data
  --no-policies                no row security policies
  --no-publications            no publications
  --no-role-passwords          no passwords of roles
  --no-schema                  no definitions
  --no-security-labels         no security labels
  --no-statistics              no statistics
  --no-subscriptions           no subscriptions
  --no-sync                    do not wait until the file is safe on disk
  --no-table-access-method     no table access methods
  --no-tablespaces             no tablespaces
  --no-toast-compression       no compression methods of columns
  --no-unlogged-table-data     no rows of unlogged tables
  --on-conflict-do-nothing     INSERT commands that pass over conflicts
  --quote-all-identifiers      quote all names
  --restrict-key=RESTRICT_KEY  key of psql's \\restrict
  --rows-per-insert=NROWS      so many rows in each INSERT command
  --sequence-data              with positions of sequences
  --statistics                 statistics (not supported yet)
  --statistics-only            statistics only (not supported yet)
  --use-set-session-authorization
                               set owners by SET SESSION AUTHORIZATION

Connection options:
  -d, --dbname=CONNSTR     connection string; its database does not count
  -h, --host=HOSTNAME      server, or directory of its socket
  -l, --database=DBNAME    where to read roles and tablespaces (postgres, else template1)
  -p, --port=PORT          port of the server
  -U, --username=NAME      connect as this user
  -w, --no-password        never ask for a password
  -W, --password           ask for a password
  --role=ROLENAME          SET ROLE to this role first

Without -f the script goes to the standard output.

This is pg_dumpall of pgkeep.
";
