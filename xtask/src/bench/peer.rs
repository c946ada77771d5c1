//! The tools that are compared, and how each makes and restores a full backup with the same codec and level.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use pgkeep_testkit::{Cluster, ServerUser, installation, run_as_server_user};

use super::measure::{Measured, folder_bytes, measure};
use crate::Failure;

/// A tool that makes and restores full backups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Peer {
    Pgkeep,
    PgkeepStream,
    PgkeepCompare,
    PgBasebackup,
    PgBackRest,
}

impl Peer {
    pub(super) fn name(self) -> &'static str {
        match self {
            Peer::Pgkeep => "pgkeep",
            Peer::PgkeepStream => "pgkeep --source stream",
            Peer::PgkeepCompare => "pgkeep --changes compare",
            Peer::PgBasebackup => "pg_basebackup",
            Peer::PgBackRest => "pgBackRest",
        }
    }

    /// Whether it takes part in a long chain of incremental backups.
    pub(super) fn goes_on(self) -> bool {
        matches!(self, Peer::Pgkeep | Peer::PgBackRest)
    }
}

/// The tools that this machine has.
pub(super) fn present(bench: &Workbench<'_>) -> Vec<Peer> {
    let mut peers = vec![Peer::Pgkeep, Peer::PgkeepStream, Peer::PgBasebackup];
    if Command::new("pgbackrest").arg("version").output().is_ok_and(|output| output.status.success()) {
        peers.push(Peer::PgBackRest);
    } else {
        eprintln!("pgBackRest is not here (Debian: apt-get install pgbackrest): left out");
    }
    peers.retain(|peer| *peer != Peer::PgBasebackup || bench.pg_basebackup.exists());
    peers
}

/// One cluster, and the folder where every tool keeps its own repository and target.
#[derive(Debug)]
pub(super) struct Workbench<'a> {
    pub(super) cluster: &'a Cluster,
    pub(super) root: &'a Path,
    /// `zstd:3`, `lz4` or `none`.
    pub(super) compress: &'a str,
    pub(super) data_bytes: u64,
    pub(super) pgkeep: PathBuf,
    pub(super) pg_basebackup: PathBuf,
}

impl Workbench<'_> {
    /// One full backup into a new repository; making the repository is not counted.
    pub(super) fn backup(&self, peer: Peer) -> Result<Measured, Failure> {
        self.forget(peer);
        let repository = self.make_folder(&self.repository(peer))?;
        let conninfo = self.cluster.conninfo();
        let shown = repository.display().to_string();
        let command = match peer {
            Peer::Pgkeep | Peer::PgkeepStream | Peer::PgkeepCompare => {
                let source = if peer == Peer::PgkeepStream { "stream" } else { "local" };
                run(self.command(&self.pgkeep, &["init", "--repo", &shown, "-d", &conninfo]))?;
                let compress = ["--compress", self.compress, "--source", source, "--wal", "include"];
                let arguments =
                    ["backup", "--repo", &shown, "-d", &conninfo, "--jobs", "2", "--checkpoint", "fast"];
                self.command(&self.pgkeep, &[&arguments[..], &compress].concat())
            }
            Peer::PgBasebackup => {
                let method = match self.compress {
                    "none" => "none".to_owned(),
                    other => format!("client-{other}"),
                };
                let arguments =
                    ["-d", &conninfo, "-c", "fast", "-X", "stream", "-Ft", "-Z", &method, "-D", &shown];
                self.command(&self.pg_basebackup, &arguments)
            }
            Peer::PgBackRest => {
                self.write_pgbackrest_configuration()?;
                run(self.pgbackrest(&["stanza-create"]))?;
                self.pgbackrest(&["backup", "--type=full"])
            }
        };
        let mut measured = measure(command, self.cluster.pid())?;
        measured.stored = folder_bytes(&repository);
        Ok(Measured {
            step: "full backup".to_owned(),
            tool: peer.name(),
            handled: self.data_bytes,
            ..measured
        })
    }

    /// Restores that backup into a new directory.
    pub(super) fn restore(&self, peer: Peer) -> Result<Measured, Failure> {
        let repository = self.repository(peer).display().to_string();
        let target = self.make_folder(&self.target(peer))?;
        fs::set_permissions(&target, std::os::unix::fs::PermissionsExt::from_mode(0o700))?;
        let shown = target.display().to_string();
        let command = match peer {
            Peer::Pgkeep | Peer::PgkeepStream | Peer::PgkeepCompare => {
                let arguments = ["restore", "--repo", &repository, "--target", "immediate", &shown];
                self.command(&self.pgkeep, &arguments)
            }
            Peer::PgBasebackup => {
                // What its users do: unpack with tar, then make it durable.
                let unpack = "for archive in \"$1\"/base.tar*; do case $archive in \
                     *.zst) zstd -dc \"$archive\" ;; *.lz4) lz4 -dc \"$archive\" ;; *.gz) gzip -dc \"$archive\" ;; \
                     *) cat \"$archive\" ;; esac | tar -xf - -C \"$2\"; done && sync -f \"$2\"";
                self.command(
                    Path::new("/bin/bash"),
                    &["-o", "pipefail", "-c", unpack, "unpack", &repository, &shown],
                )
            }
            Peer::PgBackRest => {
                let path = format!("--pg1-path={shown}");
                self.pgbackrest(&["restore", &path, "--type=immediate"])
            }
        };
        let measured = measure(command, None)?;
        Ok(Measured { step: "restore".to_owned(), tool: peer.name(), handled: self.data_bytes, ..measured })
    }

    /// Restores it again onto that directory, in which one page in fifty was changed; none where the tool cannot.
    pub(super) fn delta_restore(&self, peer: Peer) -> Option<Result<Measured, Failure>> {
        let target = self.target(peer);
        let repository = self.repository(peer).display().to_string();
        let shown = target.display().to_string();
        let command = match peer {
            Peer::Pgkeep => {
                let arguments =
                    ["restore", "--repo", &repository, "--target", "immediate", "--delta", &shown];
                self.command(&self.pgkeep, &arguments)
            }
            Peer::PgBackRest => {
                let path = format!("--pg1-path={shown}");
                self.pgbackrest(&["restore", &path, "--type=immediate", "--delta"])
            }
            Peer::PgkeepStream | Peer::PgkeepCompare | Peer::PgBasebackup => return None,
        };
        let measured =
            change_pages(&target.join("base")).map_err(Failure::from).and_then(|()| measure(command, None));
        Some(measured.map(|measured| Measured {
            step: "delta restore".to_owned(),
            tool: peer.name(),
            handled: self.data_bytes,
            ..measured
        }))
    }

    /// Removes what the tool left.
    pub(super) fn forget(&self, peer: Peer) {
        for folder in [self.repository(peer), self.target(peer)] {
            // Not there is as good.
            fs::remove_dir_all(folder).unwrap_or(());
        }
    }

    /// Pushes segments one process each, as the archiver does; the figures are of one segment, on average.
    pub(super) fn push_wal(&self, segments: u32) -> Vec<Result<Measured, Failure>> {
        if segments == 0 {
            return Vec::new();
        }
        let names: Vec<String> = (0..segments)
            .map(|_| {
                self.cluster.pgbench_start(1).wait();
                self.cluster.switch_wal()
            })
            .collect();
        let mut results = vec![self.push_with(Peer::Pgkeep, &names)];
        if present(self).contains(&Peer::PgBackRest) {
            results.push(self.push_with(Peer::PgBackRest, &names));
        }
        results
    }

    fn push_with(&self, peer: Peer, names: &[String]) -> Result<Measured, Failure> {
        self.forget(peer);
        let repository = self.make_folder(&self.repository(peer))?;
        let shown = repository.display().to_string();
        if peer == Peer::PgBackRest {
            self.write_pgbackrest_configuration()?;
            run(self.pgbackrest(&["stanza-create"]))?;
        } else {
            run(self.command(&self.pgkeep, &["init", "--repo", &shown, "-d", &self.cluster.conninfo()]))?;
        }
        let before = folder_bytes(&repository);
        let paths =
            names.iter().map(|name| self.cluster.data_dir().join("pg_wal").join(name).display().to_string());
        let mut total: Option<Measured> = None;
        let mut count = 0_u32;
        for path in paths {
            let command = match peer {
                Peer::PgBackRest => self.pgbackrest(&["archive-push", &path]),
                _ => self.command(
                    &self.pgkeep,
                    &["wal", "push", "--repo", &shown, "--compress", self.compress, &path],
                ),
            };
            let one = measure(command, None)?;
            count += 1;
            total = Some(match total {
                None => one,
                Some(sum) => Measured {
                    wall: sum.wall + one.wall,
                    cpu: sum.cpu + one.cpu,
                    peak_kib: sum.peak_kib.max(one.peak_kib),
                    ..sum
                },
            });
        }
        let total = total.ok_or("no segment was pushed")?;
        Ok(Measured {
            step: "wal push, one segment".to_owned(),
            tool: peer.name(),
            wall: total.wall / count,
            cpu: total.cpu / f64::from(count),
            stored: (folder_bytes(&repository) - before) / u64::from(count),
            handled: 16 << 20,
            ..total
        })
    }

    pub(super) fn repository(&self, peer: Peer) -> PathBuf {
        self.root.join(format!("bench-{}-repository", peer as u32))
    }

    fn target(&self, peer: Peer) -> PathBuf {
        self.root.join(format!("bench-{}-target", peer as u32))
    }

    pub(super) fn make_folder(&self, folder: &Path) -> Result<PathBuf, Failure> {
        fs::create_dir_all(folder)?;
        let user = ServerUser::current();
        if user.dropped {
            std::os::unix::fs::chown(folder, Some(user.uid), Some(user.gid))?;
        }
        Ok(folder.to_owned())
    }

    pub(super) fn command(&self, program: &Path, arguments: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.args(arguments).env("LC_ALL", "C").env("TZ", "UTC");
        run_as_server_user(&mut command);
        command
    }

    /// A stock program of the server's version. Of the test installations only 17's has zstd and lz4; it serves older servers
    /// too.
    pub(super) fn stock(&self, program: &str, arguments: &[&str]) -> Command {
        self.command(&installation(self.cluster.major().max(17)).program(program), arguments)
    }

    /// pgkeep as that program.
    pub(super) fn drop_in(&self, program: &str, arguments: &[&str]) -> Command {
        self.command(&self.pgkeep, &[&[program][..], arguments].concat())
    }

    pub(super) fn pgbackrest(&self, arguments: &[&str]) -> Command {
        let configuration = format!("--config={}", self.pgbackrest_configuration().display());
        let mut all = vec!["--stanza=main", &configuration];
        all.extend(arguments);
        self.command(Path::new("pgbackrest"), &all)
    }

    fn pgbackrest_configuration(&self) -> PathBuf {
        self.repository(Peer::PgBackRest).join("pgbackrest.conf")
    }

    fn write_pgbackrest_configuration(&self) -> Result<(), Failure> {
        let repository = self.repository(Peer::PgBackRest).display().to_string();
        let (codec, level) = self.compress.split_once(':').unwrap_or((self.compress, "1"));
        let codec = if codec == "zstd" { "zst" } else { codec };
        let text = format!(
            "[global]\nrepo1-path={repository}/repo\nlog-path={repository}\nlock-path={repository}\nspool-path={repository}\n\
             log-level-console=error\nlog-level-file=off\ncompress-type={codec}\ncompress-level={level}\nprocess-max=2\n\
             start-fast=y\narchive-check=n\nrepo1-bundle=y\n[main]\npg1-path={}\npg1-port={}\npg1-socket-path={}\npg1-user=postgres\n",
            self.cluster.data_dir().display(),
            self.cluster.port(),
            self.cluster.socket_dir().display(),
        );
        Ok(fs::write(self.pgbackrest_configuration(), text)?)
    }
}

/// Runs a command that is not measured.
pub(super) fn run(mut command: Command) -> Result<(), Failure> {
    let output = command.output()?;
    if output.status.success() {
        return Ok(());
    }
    let said = [output.stdout, output.stderr].concat();
    Err(format!("{command:?} ended with {}: {}", output.status, String::from_utf8_lossy(&said).trim()).into())
}

/// Changes one page in fifty of every larger file below a folder, 16 pages at a time.
fn change_pages(folder: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::FileExt;
    const PAGE: u64 = 8192;
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            change_pages(&path)?;
            continue;
        }
        let file = fs::OpenOptions::new().write(true).open(&path)?;
        let pages = file.metadata()?.len() / PAGE;
        for stretch in 0..pages / (50 * 16) {
            for page in stretch * 50 * 16..stretch * 50 * 16 + 16 {
                file.write_all_at(&[0xAB; 64], page * PAGE + 4000)?;
            }
        }
    }
    Ok(())
}
