//! No commit that a client was told of is lost, whatever is killed: a primary waits for `wal receive --synchronous`, clients
//! commit, and primary and receiver are killed at random moments. Then the spool is stored without any server, the cluster
//! is restored from the repository, and every row whose commit was acknowledged is looked for.
//!
//! What is needed afterwards: the repository and the receiver's spool. The primary's disk is never read.
//! A few rounds run always; `PGKEEP_RECEIVE_ROUNDS` and `PGKEEP_RECEIVE_SEED` make a campaign of it.
#![allow(clippy::unwrap_used, reason = "tests fail loudly")]

mod common;
mod receiver_support;

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use pgkeep_engine::ConnectionRequest;
use pgkeep_engine::restore::RecoveryTarget;
use pgkeep_testkit::{Cluster, StopMode, wait_until};
use pgkeep_wire::Connection;

use common::{LIMIT, Site};
use receiver_support::{Receiver, store_spool};

/// A new cluster and repository after so many rounds, so that restores stay short.
const ROUNDS_OF_A_CLUSTER: u64 = 20;

/// xorshift: small, and the same everywhere.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }

    fn pause(&mut self, most: u64) {
        std::thread::sleep(Duration::from_millis(self.below(most)));
    }
}

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Rows that are being committed, and those of which that is known.
#[derive(Default)]
struct Ledger {
    next: AtomicU64,
    acknowledged: Mutex<BTreeSet<u64>>,
    is_over: AtomicBool,
}

impl Ledger {
    /// Commits rows until the connection breaks, again and again.
    fn work(&self, cluster: &Cluster) {
        let request =
            ConnectionRequest { conninfo: Some(cluster.conninfo()), ..ConnectionRequest::default() };
        while !self.is_over.load(Ordering::SeqCst) {
            let Ok(mut connection) = request.connect() else {
                std::thread::sleep(Duration::from_millis(10));
                continue;
            };
            while !self.is_over.load(Ordering::SeqCst) {
                let row = self.next.fetch_add(1, Ordering::SeqCst);
                if !commit(&mut connection, row) {
                    break;
                }
                self.acknowledged.lock().unwrap().insert(row);
            }
        }
    }
}

/// Whether the server said that the row is committed, and that it waited for the receiver.
fn commit(connection: &mut Connection, row: u64) -> bool {
    let done = connection.execute(&format!("INSERT INTO t VALUES ({row}, repeat('x', 300))"));
    // A server that shuts down gives up waiting, and says so.
    done.is_ok() && connection.take_notices().is_empty()
}

struct Setting {
    site: Site,
    cluster: Cluster,
    ledger: Ledger,
}

impl Setting {
    fn new(major: u32) -> Setting {
        let site = Site::new();
        let cluster = Cluster::builder(major)
            .wal_segment_mib(1)
            .conf("wal_keep_size", "64MB")
            .conf("synchronous_standby_names", "pgkeep_main")
            .conf("synchronous_commit", "local")
            .start();
        site.init(&cluster);
        cluster.sql("CREATE TABLE t (n bigint PRIMARY KEY, filler text)");
        let receiver = receiver(&site, &cluster);
        wait_for_receiver(&cluster);
        site.backup(&cluster, &["--source", "stream"]);
        receiver.kill();
        cluster.alter_system("synchronous_commit", "on");
        Setting { site, cluster, ledger: Ledger::default() }
    }

    /// Kills, restores, compares; what was killed is told.
    fn round(&self, random: &mut Random) -> &'static str {
        let Setting { site, cluster, ledger } = self;
        ledger.is_over.store(false, Ordering::SeqCst);
        let mut receiver = receiver(site, cluster);
        let killed = std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| ledger.work(cluster));
            }
            wait_for_receiver(cluster);
            random.pause(400);
            let killed = match random.below(4) {
                0 => {
                    // The receiver alone: commits wait until it is there again.
                    receiver.kill();
                    random.pause(200);
                    receiver = receiver_support::Receiver::start(site, &cluster.conninfo(), &ARGUMENTS);
                    wait_for_receiver(cluster);
                    random.pause(400);
                    end(cluster, random);
                    random.pause(50);
                    receiver.kill();
                    "receiver, primary, receiver"
                }
                1 => {
                    receiver.kill();
                    random.pause(50);
                    end(cluster, random);
                    "receiver, primary"
                }
                2 => {
                    end(cluster, random);
                    receiver.kill();
                    "primary, receiver"
                }
                _ => {
                    // The primary alone, which recovers and goes on.
                    end(cluster, random);
                    cluster.start();
                    wait_for_receiver(cluster);
                    random.pause(400);
                    end(cluster, random);
                    receiver.kill();
                    "primary, primary, receiver"
                }
            };
            ledger.is_over.store(true, Ordering::SeqCst);
            killed
        });
        store_spool(site);
        self.compare();
        cluster.start();
        killed
    }

    /// Restores without the primary, and looks for every acknowledged row.
    fn compare(&self) {
        let restored = self.site.bring_back(self.cluster.major(), &self.site.request(RecoveryTarget::Latest));
        let rows = restored.sql("SELECT n FROM t ORDER BY n");
        let found: BTreeSet<u64> = rows.lines().map(|line| line.parse().unwrap()).collect();
        let acknowledged = self.ledger.acknowledged.lock().unwrap();
        let lost: Vec<&u64> = acknowledged.difference(&found).collect();
        assert!(
            lost.is_empty(),
            "{} of {} acknowledged rows are lost: {lost:?}",
            lost.len(),
            acknowledged.len()
        );
    }
}

const ARGUMENTS: [&str; 3] = ["--synchronous", "--partial-every", "1"];

fn receiver(site: &Site, cluster: &Cluster) -> Receiver {
    Receiver::start(site, &cluster.conninfo(), &ARGUMENTS)
}

fn wait_for_receiver(cluster: &Cluster) {
    wait_until("the synchronous receiver", LIMIT, || {
        cluster.sql("SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'") == "1"
    });
}

fn end(cluster: &Cluster, random: &mut Random) {
    if random.below(2) == 0 { cluster.crash() } else { cluster.stop(StopMode::Immediate) }
}

#[test]
fn every_acknowledged_commit_is_restored() {
    let rounds = number("PGKEEP_RECEIVE_ROUNDS", 3);
    let seed = number("PGKEEP_RECEIVE_SEED", 20_261_125);
    let mut random = Random(seed | 1);
    let (mut done, mut acknowledged, mut cluster_number) = (0, 0, 0);
    while done < rounds {
        let setting = Setting::new([18, 17, 16, 15, 14][cluster_number % 5]);
        cluster_number += 1;
        for _ in 0..ROUNDS_OF_A_CLUSTER.min(rounds - done) {
            let killed = setting.round(&mut random);
            done += 1;
            let so_far = setting.ledger.acknowledged.lock().unwrap().len();
            eprintln!("round {done} on {}: {killed}; {so_far} commits acknowledged", setting.cluster.major());
        }
        acknowledged += setting.ledger.acknowledged.lock().unwrap().len();
        drop(setting);
    }
    assert!(acknowledged > 0);
    eprintln!("{done} rounds with seed {seed}: {acknowledged} acknowledged commits, all restored");
}
