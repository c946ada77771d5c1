#!/usr/bin/env bash
# A Patroni cluster whose method is pgkeep, for real: it is bootstrapped to a point in time, its replicas are made and made
# again out of the repository, it fails over, and the old leader comes back. Takes a minute and a half: Patroni's shortest ttl is 20 s. Needs a built pgkeep, the
# servers of `cargo xtask servers`, and Patroni:
#
#   python3 -m venv VENV && VENV/bin/pip install 'patroni[raft]' 'psycopg[binary]'
#   PATRONI_VENV=VENV PGKEEP=target/debug/pgkeep PG_BIN=…/bin bash xtask/patroni.sh
#
# Run it as a user that PostgreSQL runs as, not as root. Everything is in one directory, which goes away at the end.
set -euo pipefail

venv=${PATRONI_VENV:?where Patroni is installed}
pgkeep=$(realpath "${PGKEEP:?the program}")
bin=$(realpath "${PG_BIN:?the programs of PostgreSQL}")
port=${PATRONI_PORT:-27400}
work=$(mktemp -d "${TMPDIR:-/tmp}/pgkeep-patroni.XXXXXX")
pids=()

stop_all() {
    local status=$?
    trap - EXIT
    for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
    for pid in "${pids[@]}"; do wait "$pid" 2>/dev/null || true; done
    for data in "$work"/n1/data "$work"/n2/data "$work"/old; do
        [ -f "$data/postmaster.pid" ] && "$bin/pg_ctl" -D "$data" -m immediate -w stop >/dev/null 2>&1 || true
    done
    if [ "$status" -ne 0 ]; then
        for log in "$work"/n1/log "$work"/n2/log; do
            [ -f "$log" ] && { echo "--- $log"; tail -n 40 "$log"; }
        done
    fi
    [ -n "${PATRONI_KEEP:-}" ] || rm -rf "$work"
    exit "$status"
}
trap stop_all EXIT

say() { echo "patroni.sh: $*"; }
fail() { say "FAILED: $*"; exit 1; }
# Tries a command until it succeeds.
await() {
    local what=$1 limit=$2; shift 2
    for _ in $(seq $((limit * 5))); do
        if "$@" >/dev/null 2>&1; then return; fi
        sleep 0.2
    done
    fail "no $what within $limit s"
}
sql() { "$bin/psql" -AtXq -v ON_ERROR_STOP=1 -h 127.0.0.1 -p "$1" -U postgres -d postgres -c "$2"; }
is() { [ "$(sql "$1" "$2")" = "$3" ]; }

repo=$work/repo
keep() { "$pgkeep" --repo "$repo" "$@"; }

# ---- the cluster that is lost -------------------------------------------------------------------------------------
"$bin/initdb" -D "$work/old" -U postgres -A trust --no-sync --no-instructions >/dev/null
cat >>"$work/old/postgresql.conf" <<CONF
port = $((port + 9))
listen_addresses = '127.0.0.1'
unix_socket_directories = '$work'
wal_level = replica
archive_mode = on
archive_command = '$pgkeep wal push --repo $repo %p'
fsync = off
CONF
"$bin/pg_ctl" -D "$work/old" -l "$work/old.log" -w start >/dev/null
old=$((port + 9))
keep -q init -h 127.0.0.1 -p $old -U postgres >/dev/null
sql $old "CREATE ROLE replicator LOGIN REPLICATION; CREATE TABLE t AS SELECT generate_series(1, 1000) AS i"
keep -q backup -h 127.0.0.1 -p $old -U postgres >/dev/null
sql $old "INSERT INTO t SELECT generate_series(1001, 2000)"
sql $old "SELECT pg_create_restore_point('good')" >/dev/null
sql $old "DROP TABLE t"
last=$(sql $old "SELECT pg_walfile_name(pg_switch_wal())")
await "archived WAL" 20 is $old "SELECT last_archived_wal >= '$last' FROM pg_stat_archiver" t
"$bin/pg_ctl" -D "$work/old" -m fast -w stop >/dev/null
say "a cluster was backed up, its table dropped, and it was stopped"

# ---- Patroni ------------------------------------------------------------------------------------------------------
member() {
    local name=$1 number=$2
    mkdir -p "$work/$name"
    cat >"$work/$name/patroni.yml" <<YAML
scope: demo
name: $name
restapi:
  listen: 127.0.0.1:$((port + number))
  connect_address: 127.0.0.1:$((port + number))
raft:
  data_dir: $work/$name/raft
  self_addr: 127.0.0.1:$((port + 10 + number))
  partner_addrs: [$(for other in 1 2 3; do [ $other = "$number" ] || printf '127.0.0.1:%s, ' $((port + 10 + other)); done | sed 's/, $//')]
bootstrap:
  method: pgkeep
  pgkeep:
    command: $pgkeep restore --repo $repo --target-name good --target-action promote $work/$name/data
    no_params: true
    keep_existing_recovery_conf: true
  dcs:
    ttl: 20
    loop_wait: 1
    retry_timeout: 3
    postgresql:
      use_pg_rewind: true
      use_slots: true
      parameters:
        archive_mode: 'on'
        archive_command: $pgkeep wal push --repo $repo %p
        wal_log_hints: 'on'
        fsync: 'off'
postgresql:
  listen: 127.0.0.1:$((port + 20 + number))
  connect_address: 127.0.0.1:$((port + 20 + number))
  data_dir: $work/$name/data
  bin_dir: $bin
  pgpass: $work/$name/pgpass
  parameters:
    unix_socket_directories: $work
  recovery_conf:
    restore_command: $pgkeep wal get --repo $repo --standby %f %p
  create_replica_methods: [pgkeep, basebackup]
  pgkeep:
    command: $pgkeep restore --repo $repo --standby --delta $work/$name/data
    keep_data: true
    no_params: true
    no_leader: true
  authentication:
    superuser: {username: postgres}
    replication: {username: replicator}
    rewind: {username: postgres}
YAML
}
start() {
    "$venv/bin/patroni" "$work/$1/patroni.yml" >>"$work/$1/log" 2>&1 &
    pids+=($!)
    eval "pid_$1=$!"
}
state() { curl -fs "http://127.0.0.1:$((port + $1))/$2"; }
ctl() { "$venv/bin/patronictl" -c "$work/n1/patroni.yml" "$@"; }

member n1 1
member n2 2
member arbiter 3
"$venv/bin/patroni_raft_controller" "$work/arbiter/patroni.yml" >"$work/arbiter/log" 2>&1 &
pids+=($!)
start n1
# A second raft member is there from the start: the arbiter.
n1=$((port + 21)) n2=$((port + 22))
await "leader" 40 state 1 leader
is $n1 "SELECT count(*) FROM t" 2000 || fail "the point in time was not reached"
say "bootstrapped to the restore point by pgkeep"

start n2
await "replica" 40 state 2 replica
grep -q "replica has been created using pgkeep" "$work/n2/log" || fail "the replica was not made by pgkeep"
sql $n1 "INSERT INTO t SELECT generate_series(2001, 3000)"
await "streamed rows" 20 is $n2 "SELECT count(*) FROM t" 3000
say "a replica was made by pgkeep, and streams"

ctl reinit demo n2 --force --wait >"$work/ctl" 2>&1 || { cat "$work/ctl"; fail "reinit"; }
await "replica that was made again" 40 state 2 replica
[ "$(grep -c "replica has been created using pgkeep" "$work/n2/log")" -ge 2 ] || fail "reinit did not use pgkeep"
sql $n1 "INSERT INTO t SELECT generate_series(3001, 4000)"
await "streamed rows" 20 is $n2 "SELECT count(*) FROM t" 4000
say "the replica was made again, by --delta"

kill -STOP "$pid_n1"
"$bin/pg_ctl" -D "$work/n1/data" -m immediate -w stop >/dev/null
kill -KILL "$pid_n1"; wait "$pid_n1" 2>/dev/null || true
await "new leader" 60 state 2 leader
await "end of the promotion" 30 is $n2 "SELECT pg_is_in_recovery()" f
sql $n2 "INSERT INTO t SELECT generate_series(4001, 5000)"
start n1
await "old leader as replica" 60 state 1 replica
await "streamed rows" 30 is $n1 "SELECT count(*) FROM t" 5000
say "failed over, and the old leader came back as a replica"

keep backup -q -h 127.0.0.1 -p $n2 -U postgres >/dev/null
keep list | sed 's/^/    /'
say "passed"
