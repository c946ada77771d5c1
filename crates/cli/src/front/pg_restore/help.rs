//! What `pg_restore --help` says. No line is longer than 95 columns.

pub(super) const TEXT: &str = "\
pg_restore makes a database, or an SQL script, of an archive that pg_dump wrote.

Usage:
  pg_restore [OPTION]... [FILE]

General options:
  -d, --dbname=NAME        restore into this database
  -f, --file=FILENAME      write a script, or the list of -l, to this file (- for stdout)
  -F, --format=c|d|t       format of the archive (is found out unless given)
  -l, --list               list the archive's table of contents
  -v, --verbose            tell what is done; more comments in scripts
  -V, --version            print the version, then exit
  -?, --help               print this help, then exit

What is restored and how:
  -a, --data-only              data only, no definitions
  -c, --clean                  drop objects before they are created
  -C, --create                 create the database
  -e, --exit-on-error          stop at the first error
  -I, --index=NAME             this index
  -j, --jobs=NUM               so many sessions at once
  -L, --use-list=FILENAME      what this list (of -l) names, in its order
  -n, --schema=NAME            only objects of this schema
  -N, --exclude-schema=NAME    no objects of this schema
  -O, --no-owner               leave objects with the user who restores
  -P, --function=NAME(args)    this function
  -s, --schema-only            definitions only, no data
  -S, --superuser=NAME         superuser who disables triggers
  -t, --table=NAME             this relation (table, view, ...)
  -T, --trigger=NAME           this trigger
  -x, --no-privileges          no GRANT and REVOKE
  -1, --single-transaction     everything in one transaction
  --disable-triggers           without triggers, when only data is restored
  --enable-row-security        with row security on
  --filter=FILENAME            include and exclude what this file says
  --if-exists                  drop objects only if they exist
  --no-comments                no comments
  --no-data                    no data
  --no-data-for-failed-tables  no data of tables that could not be created
  --no-policies                no row security policies
  --no-publications            no publications
  --no-schema                  no definitions
  --no-security-labels         no security labels
  --no-statistics              no statistics
  --no-subscriptions           no subscriptions
  --no-table-access-method     no table access methods
  --no-tablespaces             no tablespaces
  --restrict-key=RESTRICT_KEY  key of psql's \\restrict in scripts
  --section=SECTION            this section (pre-data, data, or post-data)
  --statistics                 statistics
  --statistics-only            statistics only, no definitions or data
  --strict-names               fail if a given name matches nothing
  --transaction-size=N         commit after every N objects
  --use-set-session-authorization
                               set owners by SET SESSION AUTHORIZATION

Connection options:
  -h, --host=HOSTNAME      server, or directory of its socket
  -p, --port=PORT          port of the server
  -U, --username=NAME      connect as this user
  -w, --no-password        never ask for a password
  -W, --password           ask for a password
  --role=ROLENAME          SET ROLE to this role first

-I, -n, -N, -P, -t, -T, and --section can be combined and given several times.

Without FILE the archive is read from standard input.

This is pg_restore of pgkeep.
";
