//! What `pg_dump --help` says. No line is longer than 95 columns.

pub(super) const TEXT: &str = "\
pg_dump makes an SQL script or an archive of a database.

Usage:
  pg_dump [OPTION]... [DBNAME]

General options:
  -f, --file=FILENAME          output file, or directory (of format d)
  -F, --format=c|d|t|p         custom, directory, tar, or plain text (default)
  -j, --jobs=NUM               so many sessions at once (format d)
  -v, --verbose                tell what is done
  -V, --version                print the version, then exit
  -Z, --compress=METHOD[:DETAIL]
                               gzip, lz4, zstd or none, and the level
  --lock-wait-timeout=TIMEOUT  wait no longer than this for the lock of a table
  --no-sync                    do not wait until files are safe on disk
  --sync-method=METHOD         how files are made safe (fsync)
  -?, --help                   print this help, then exit

What is dumped and how:
  -a, --data-only              data only, no definitions
  -b, --large-objects          with large objects
  --blobs                      (the same)
  -B, --no-large-objects       without large objects
  --no-blobs                   (the same)
  -c, --clean                  drop objects before they are created
  -C, --create                 create the database, too
  -e, --extension=PATTERN      only these extensions
  -E, --encoding=ENCODING      encoding of the dump
  -n, --schema=PATTERN         only these schemas
  -N, --exclude-schema=PATTERN not these schemas
  -O, --no-owner               leave objects with the user who restores (plain text)
  -s, --schema-only            definitions only, no data
  -S, --superuser=NAME         superuser who disables triggers (plain text)
  -t, --table=PATTERN          only these tables
  -T, --exclude-table=PATTERN  not these tables
  -x, --no-privileges          no GRANT and REVOKE
  --binary-upgrade             for pg_upgrade (not supported)
  --column-inserts             INSERT commands with names of columns
  --disable-dollar-quoting     quote as the SQL standard has it
  --disable-triggers           without triggers, when only data is restored
  --enable-row-security        only rows that the user may see
  --exclude-extension=PATTERN  not these extensions
  --exclude-table-and-children=PATTERN
                               not these tables, their children and partitions
  --exclude-table-data=PATTERN no rows of these tables
  --exclude-table-data-and-children=PATTERN
                               no rows of these tables, their children and partitions
  --extra-float-digits=NUM     the server's setting of that name
  --filter=FILENAME            include and exclude what this file says
  --if-exists                  drop objects only if they exist
  --include-foreign-data=PATTERN
                               with data of foreign tables on these servers
  --inserts                    rows as INSERT commands
  --load-via-partition-root    load partitions through their root
  --no-comments                no comments
  --no-data                    no data
  --no-policies                no row security policies
  --no-publications            no publications
  --no-schema                  no definitions
  --no-security-labels         no security labels
  --no-statistics              no statistics
  --no-subscriptions           no subscriptions
  --no-table-access-method     no table access methods
  --no-tablespaces             no tablespaces
  --no-toast-compression       no compression methods of columns
  --no-unlogged-table-data     no rows of unlogged tables
  --on-conflict-do-nothing     INSERT commands that pass over conflicts
  --quote-all-identifiers      quote all names
  --restrict-key=RESTRICT_KEY  key of psql's \\restrict in scripts
  --rows-per-insert=NROWS      so many rows in each INSERT command
  --section=SECTION            this section (pre-data, data, or post-data)
  --sequence-data              with positions of sequences
  --serializable-deferrable    wait for a snapshot without anomalies
  --snapshot=SNAPSHOT          use this snapshot
  --statistics                 statistics (not supported yet)
  --statistics-only            statistics only (not supported yet)
  --strict-names               fail if a pattern matches nothing
  --table-and-children=PATTERN only these tables, their children and partitions
  --use-set-session-authorization
                               set owners by SET SESSION AUTHORIZATION

Options that only pgkeep has:
  --archive-version=1.14|1.15|1.16  for pg_restore of PostgreSQL 12, 16 or 17 and later
  --copy-format=text|binary    how rows stand in an archive
  --force                      try a server that is newer than 18, and warn
  --parallel=NUM               use this many parallel jobs to dump, in every format

Connection options:
  -d, --dbname=DBNAME      database, or a connection string
  -h, --host=HOSTNAME      server, or directory of its socket
  -p, --port=PORT          port of the server
  -U, --username=NAME      connect as this user
  -w, --no-password        never ask for a password
  -W, --password           ask for a password
  --role=ROLENAME          SET ROLE to this role first

Without DBNAME the variable PGDATABASE names the database.

This is pg_dump of pgkeep.
";
