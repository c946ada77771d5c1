//! BASE_BACKUP: the copy of a whole cluster as tar archives, one for each tablespace (`replication/repl_gram.y`,
//! `backup/basebackup.c`, PostgreSQL 13 to 18).
//!
//! Two forms are unified. Up to 14 every archive is a COPY of its own, in the order of the tablespace list, and the
//! closing zero blocks of the tar are missing; from 15 there is one COPY whose messages say what they carry. The
//! bytes are handed out as they come; nobody here looks into the archives.

use pgkeep_format::{Lsn, TimelineId};

use crate::connection::Connection;
use crate::copy::CopyIn;
use crate::error::WireError;
use crate::message::Fields;
use crate::query::Rows;
use crate::quote::quote_replication_string;
use crate::raw_text::{raw_bytes, raw_text};
use crate::replication::timeline;

/// What to ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseBackupOptions {
    /// Goes into `backup_label`. As [`raw_text`].
    pub label: String,
    /// An immediate checkpoint instead of waiting for the next spread one.
    pub fast: bool,
    /// Sizes in the tablespace list (the server walks all directories for them) and progress events.
    pub progress: bool,
    /// Tablespace links as a `tablespace_map` file instead of symbolic links.
    pub tablespace_map: bool,
    /// Limit in KiB/s, 32 to 1048576.
    pub max_rate_kib: Option<u32>,
    /// Let the server check page checksums; failures come as warnings and an error after all data.
    pub verify_checksums: bool,
    /// Include the WAL that makes the backup consistent.
    pub wal: bool,
    /// Let the server wait until the WAL that the backup needs is archived, where it archives.
    pub waits_for_archive: bool,
    /// Have the server write a `backup_manifest`.
    pub manifest: bool,
    /// All names in the manifest are hex-encoded, not only those that are not UTF-8.
    pub manifest_force_encode: bool,
    /// The checksums of files in the manifest, by the server's name for them; its own default when none.
    pub manifest_checksums: Option<String>,
    /// Only blocks that changed since the backup whose manifest was uploaded before over the same connection
    /// ([`Connection::upload_manifest`]). Servers from 17 with `summarize_wal` on.
    pub incremental: bool,
    /// The server compresses: the method and its details, which the server reads. Servers from 15.
    pub compression: Option<(String, Option<String>)>,
    /// The server keeps the backup, and sends nothing but progress: a kind of target and its details. Servers from 15.
    pub target: Option<(String, Option<String>)>,
}

impl Default for BaseBackupOptions {
    fn default() -> Self {
        BaseBackupOptions {
            label: "pgkeep".to_owned(),
            fast: true,
            progress: false,
            tablespace_map: true,
            max_rate_kib: None,
            verify_checksums: false,
            wal: false,
            waits_for_archive: false,
            manifest: false,
            manifest_force_encode: false,
            manifest_checksums: None,
            incremental: false,
            compression: None,
            target: None,
        }
    }
}

/// One line of the tablespace list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TablespaceInfo {
    /// Its OID; `None` for the data directory itself, which comes last.
    pub oid: Option<u32>,
    /// Its directory on the server, as [`raw_text`]; relative to the data directory when it lies there.
    pub location: Option<String>,
    /// Its size, when progress was asked for.
    pub size_kib: Option<u64>,
}

/// What arrives, in order.
#[derive(Debug, PartialEq, Eq)]
pub enum BaseBackupEvent<'a> {
    /// A tar archive begins (and the one before has ended).
    NewArchive {
        /// The server's name for it: `base.tar`, `16385.tar`, with `.gz`, `.lz4` or `.zst` behind where it compresses.
        name: String,
        /// Which tablespace; `None` for the data directory.
        tablespace: Option<u32>,
    },
    /// Bytes of the current archive. Up to server version 14 the two zero blocks at its end are missing.
    Data(&'a [u8]),
    /// The server says that it has read so many bytes (servers from 15).
    Progress(u64),
    /// The `backup_manifest` begins.
    NewManifest,
    /// Bytes of the manifest.
    Manifest(&'a [u8]),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Position {
    /// Between COPYs: the next archive has this index in the tablespace list (up to 14), or the stream (from 15).
    Between(usize),
    Archive(usize),
    Manifest,
    /// All data seen; the stop position follows.
    End,
    /// An error has ended it.
    Failed,
}

/// A running base backup. Dropping it before [`BaseBackup::finish`] makes the connection unusable, and the server gives
/// the backup up when it notices.
#[derive(Debug)]
pub struct BaseBackup<'a> {
    connection: &'a mut Connection,
    /// The start position: the redo position of the backup's checkpoint.
    pub start: Lsn,
    /// The timeline at the start.
    pub timeline: TimelineId,
    /// All tablespaces, the data directory last.
    pub tablespaces: Vec<TablespaceInfo>,
    one_stream: bool,
    manifest: bool,
    position: Position,
}

/// A server has at most thousands of tablespaces.
const MAX_TABLESPACES: usize = 100_000;

impl Connection {
    /// Starts a base backup; returns when the server's checkpoint is done. Needs a replication session.
    pub fn base_backup(&mut self, options: &BaseBackupOptions) -> Result<BaseBackup<'_>, WireError> {
        let major = self.server_major();
        if options.incremental {
            self.require_incremental()?;
        }
        if major < 15 && (options.target.is_some() || options.compression.is_some()) {
            return Err(WireError::Unsupported(format!(
                "PostgreSQL {major} neither compresses base backups nor keeps them (15 and later do)"
            )));
        }
        self.start_command(raw_bytes(&command(options, major)).as_ref())?;
        let rows = self.result_set("waiting for the checkpoint that begins the backup")?;
        let (start, timeline) = position_of(&rows).inspect_err(|_| self.abandon())?;
        let rows = self.result_set("waiting for the list of tablespaces")?;
        let tablespaces = tablespaces(&rows).inspect_err(|_| self.abandon())?;
        Ok(BaseBackup {
            connection: self,
            start,
            timeline,
            tablespaces,
            one_stream: major >= 15,
            manifest: options.manifest,
            position: Position::Between(0),
        })
    }

    /// Begins to send the manifest of a backup relative to which [`BaseBackupOptions::incremental`] asks for another, over
    /// this connection. Needs a replication session, and a server from 17 on.
    ///
    /// The manifest need not be a server's own: paths, system identifier, WAL ranges and its checksum are all that counts.
    /// One that the server does not like fails [`CopyIn::finish`].
    pub fn upload_manifest(&mut self) -> Result<CopyIn<'_>, WireError> {
        self.require_incremental()?;
        self.copy_in("UPLOAD_MANIFEST")
    }

    fn require_incremental(&self) -> Result<(), WireError> {
        let major = self.server_major();
        if major >= 17 {
            return Ok(());
        }
        Err(WireError::Unsupported(format!(
            "PostgreSQL {major} has no incremental base backups (17 and later have)"
        )))
    }

    /// One result set inside a longer answer, up to its CommandComplete.
    fn result_set(&mut self, during: &'static str) -> Result<Rows, WireError> {
        let mut rows = None;
        loop {
            match self.receive(during)? {
                b'T' if rows.is_none() => {
                    rows = Some(Rows::describe(self.body()).inspect_err(|_| self.abandon())?);
                }
                b'D' => {
                    let Connection { reader, .. } = self;
                    let pushed = match &mut rows {
                        Some(rows) if rows.len() < MAX_TABLESPACES => rows.push(reader.body()),
                        _ => Err(WireError::protocol("rows without end or description")),
                    };
                    pushed.inspect_err(|_| self.abandon())?;
                }
                b'C' => {
                    return rows.ok_or_else(|| {
                        self.abandon();
                        WireError::protocol("the answer lacks a result set")
                    });
                }
                b'E' => return Err(self.fail_command()),
                other => return Err(self.unexpected(other)),
            }
        }
    }
}

fn command(options: &BaseBackupOptions, major: u32) -> String {
    let quoted = |text: &str| quote_replication_string(text);
    let mut words: Vec<String> = vec![format!("LABEL {}", quoted(&options.label))];
    let mut add = |wanted: bool, text: String| {
        if wanted {
            words.push(text);
        }
    };
    let max_rate = options.max_rate_kib.map(|rate| format!("MAX_RATE {rate}"));
    let manifest = match (options.manifest, options.manifest_force_encode) {
        (false, _) => "no",
        (true, false) => "yes",
        (true, true) => "force-encode",
    };
    let checksums = options.manifest_checksums.as_deref().filter(|_| options.manifest);
    let checksums = checksums.map(|algorithm| format!("MANIFEST_CHECKSUMS {}", quoted(algorithm)));
    add(options.progress, "PROGRESS".into());
    add(options.tablespace_map, "TABLESPACE_MAP".into());
    add(max_rate.is_some(), max_rate.unwrap_or_default());
    if major < 15 {
        add(options.fast, "FAST".into());
        add(options.wal, "WAL".into());
        add(!options.waits_for_archive, "NOWAIT".into());
        add(!options.verify_checksums, "NOVERIFY_CHECKSUMS".into());
        add(options.manifest, format!("MANIFEST '{manifest}'"));
        add(checksums.is_some(), checksums.unwrap_or_default());
        return format!("BASE_BACKUP {}", words.join(" "));
    }
    add(true, format!("CHECKPOINT '{}'", if options.fast { "fast" } else { "spread" }));
    add(options.wal, "WAL".into());
    add(!options.waits_for_archive, "WAIT false".into());
    add(!options.verify_checksums, "VERIFY_CHECKSUMS false".into());
    add(true, format!("MANIFEST '{manifest}'"));
    add(checksums.is_some(), checksums.unwrap_or_default());
    add(options.incremental, "INCREMENTAL".into());
    for (name, setting) in [("TARGET", &options.target), ("COMPRESSION", &options.compression)] {
        if let Some((kind, detail)) = setting {
            add(true, format!("{name} {}", quoted(kind)));
            let detail = detail.as_deref().map(|detail| format!("{name}_DETAIL {}", quoted(detail)));
            add(detail.is_some(), detail.unwrap_or_default());
        }
    }
    format!("BASE_BACKUP ({})", words.join(", "))
}

fn position_of(rows: &Rows) -> Result<(Lsn, TimelineId), WireError> {
    let row = rows.one()?;
    let timeline = timeline(&row, "tli")?
        .ok_or_else(|| WireError::UnexpectedResult("no timeline in the answer to BASE_BACKUP".to_owned()))?;
    Ok((row.parse("recptr")?, timeline))
}

fn tablespaces(rows: &Rows) -> Result<Vec<TablespaceInfo>, WireError> {
    let mut list = Vec::new();
    for row in rows.iter() {
        let number = |column| match row.optional(column)? {
            None => Ok(None),
            Some(_) => row.parse::<u64>(column).map(Some),
        };
        let oid = number("spcoid")?
            .map(|oid| u32::try_from(oid).map_err(|_| WireError::protocol("a tablespace's OID is too large")))
            .transpose()?;
        list.push(TablespaceInfo {
            oid,
            location: row.bytes("spclocation")?.map(raw_text),
            size_kib: number("size")?,
        });
    }
    if list.last().is_none_or(|last| last.oid.is_some()) {
        return Err(WireError::protocol("the list of tablespaces does not end with the data directory"));
    }
    Ok(list)
}

impl BaseBackup<'_> {
    /// The next event; `None` after the last archive. After a timeout it can be called again.
    #[allow(clippy::should_implement_trait, reason = "an iterator cannot lend from the read buffer")]
    pub fn next(&mut self) -> Result<Option<BaseBackupEvent<'_>>, WireError> {
        match self.position {
            Position::End => return Ok(None),
            Position::Failed => return Err(WireError::Closed { mid_message: false }),
            _ => {}
        }
        match self.connection.receive("waiting for backup data")? {
            b'E' => {
                self.position = Position::Failed;
                Err(self.connection.fail_command())
            }
            tag if self.one_stream => self.next_in_one_stream(tag),
            tag => self.next_in_many_copies(tag),
        }
    }

    fn next_in_many_copies(&mut self, tag: u8) -> Result<Option<BaseBackupEvent<'_>>, WireError> {
        let count = self.tablespaces.len();
        match (tag, self.position) {
            (b'H', Position::Between(index)) if index < count => {
                self.position = Position::Archive(index);
                let tablespace = self.tablespaces[index].oid;
                let name = tablespace.map_or_else(|| "base.tar".to_owned(), |oid| format!("{oid}.tar"));
                Ok(Some(BaseBackupEvent::NewArchive { name, tablespace }))
            }
            (b'H', Position::Between(_)) if self.manifest => {
                self.position = Position::Manifest;
                Ok(Some(BaseBackupEvent::NewManifest))
            }
            (b'd', Position::Archive(_)) => Ok(Some(BaseBackupEvent::Data(self.connection.body()))),
            (b'd', Position::Manifest) => Ok(Some(BaseBackupEvent::Manifest(self.connection.body()))),
            (b'c', Position::Archive(index)) => {
                self.position = if index + 1 < count || self.manifest {
                    Position::Between(index + 1)
                } else {
                    Position::End
                };
                self.next()
            }
            (b'c', Position::Manifest) => {
                self.position = Position::End;
                Ok(None)
            }
            (other, _) => Err(self.connection.unexpected(other)),
        }
    }

    fn next_in_one_stream(&mut self, tag: u8) -> Result<Option<BaseBackupEvent<'_>>, WireError> {
        match tag {
            b'H' if self.position == Position::Between(0) => {
                self.position = Position::Between(1);
                self.next()
            }
            b'c' if self.position != Position::Between(0) => {
                self.position = Position::End;
                Ok(None)
            }
            b'd' if self.position != Position::Between(0) => self.labelled_data(),
            other => Err(self.connection.unexpected(other)),
        }
    }

    /// A CopyData message of server version 15 and later: its first byte says what it is.
    fn labelled_data(&mut self) -> Result<Option<BaseBackupEvent<'_>>, WireError> {
        let body = self.connection.body();
        match (body.first(), self.position) {
            (Some(b'd'), Position::Archive(_)) => {
                Ok(Some(BaseBackupEvent::Data(&self.connection.body()[1..])))
            }
            (Some(b'd'), Position::Manifest) => {
                Ok(Some(BaseBackupEvent::Manifest(&self.connection.body()[1..])))
            }
            (Some(b'p'), _) => {
                let bytes = Fields(&body[1..]).u64()?;
                Ok(Some(BaseBackupEvent::Progress(bytes)))
            }
            (Some(b'm'), _) => {
                self.position = Position::Manifest;
                Ok(Some(BaseBackupEvent::NewManifest))
            }
            (Some(b'n'), _) => {
                let event = parse_new_archive(&body[1..]);
                let Ok((name, tablespace)) = event else {
                    self.connection.abandon();
                    return Err(WireError::protocol(
                        "an archive of the base backup has a name that is not understood",
                    ));
                };
                self.position = Position::Archive(0);
                Ok(Some(BaseBackupEvent::NewArchive { name, tablespace }))
            }
            _ => {
                self.connection.abandon();
                Err(WireError::protocol("a message of the base backup is not understood"))
            }
        }
    }

    /// Reads what is left and the stop position: the end of the WAL that the backup needs.
    pub fn finish(mut self) -> Result<(Lsn, TimelineId), WireError> {
        while self.next()?.is_some() {}
        let rows = self.connection.result_set("waiting for the end of the backup")?;
        let stop = position_of(&rows).inspect_err(|_| self.connection.abandon())?;
        self.connection.skip_to_ready()?;
        Ok(stop)
    }

    /// Notices so far, such as warnings about pages with a wrong checksum.
    pub fn take_notices(&mut self) -> Vec<crate::error::Notice> {
        self.connection.take_notices()
    }
}

fn parse_new_archive(body: &[u8]) -> Result<(String, Option<u32>), WireError> {
    let unknown = || WireError::protocol("unknown archive");
    let mut fields = Fields(body);
    let name = std::str::from_utf8(fields.c_string()?).map_err(|_| unknown())?;
    fields.c_string()?;
    let (stem, compression) = name.split_once(".tar").ok_or_else(unknown)?;
    if !matches!(compression, "" | ".gz" | ".lz4" | ".zst") {
        return Err(unknown());
    }
    let is_number = stem.bytes().all(|byte| byte.is_ascii_digit());
    let tablespace = match stem {
        "base" => None,
        _ if is_number => Some(stem.parse().map_err(|_| unknown())?),
        _ => return Err(unknown()),
    };
    Ok((name.to_owned(), tablespace))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_follows_the_server_version() {
        let options =
            BaseBackupOptions { label: "it's".into(), max_rate_kib: Some(64), ..Default::default() };
        assert_eq!(
            command(&options, 14),
            "BASE_BACKUP LABEL 'it''s' TABLESPACE_MAP MAX_RATE 64 FAST NOWAIT NOVERIFY_CHECKSUMS"
        );
        assert_eq!(
            command(&options, 17),
            "BASE_BACKUP (LABEL 'it''s', TABLESPACE_MAP, MAX_RATE 64, CHECKPOINT 'fast', WAIT false, VERIFY_CHECKSUMS false, MANIFEST 'no')"
        );
        let incremental = BaseBackupOptions { incremental: true, ..Default::default() };
        assert!(command(&incremental, 17).ends_with("MANIFEST 'no', INCREMENTAL)"));
        let all = BaseBackupOptions {
            manifest: true,
            manifest_force_encode: true,
            manifest_checksums: Some("SHA'1".into()),
            waits_for_archive: true,
            verify_checksums: true,
            compression: Some(("zstd".into(), Some("workers=2".into()))),
            target: Some(("server".into(), Some("/x".into()))),
            ..Default::default()
        };
        assert_eq!(
            command(&all, 14),
            "BASE_BACKUP LABEL 'pgkeep' TABLESPACE_MAP FAST MANIFEST 'force-encode' MANIFEST_CHECKSUMS 'SHA''1'"
        );
        assert_eq!(
            command(&all, 18),
            "BASE_BACKUP (LABEL 'pgkeep', TABLESPACE_MAP, CHECKPOINT 'fast', MANIFEST 'force-encode', \
             MANIFEST_CHECKSUMS 'SHA''1', TARGET 'server', TARGET_DETAIL '/x', COMPRESSION 'zstd', \
             COMPRESSION_DETAIL 'workers=2')"
        );
    }

    #[test]
    fn archive_names_are_checked() {
        assert_eq!(parse_new_archive(b"base.tar\0\0").unwrap(), ("base.tar".to_owned(), None));
        assert_eq!(parse_new_archive(b"16385.tar\0/x\0").unwrap(), ("16385.tar".to_owned(), Some(16385)));
        assert_eq!(parse_new_archive(b"7.tar.zst\0\0").unwrap(), ("7.tar.zst".to_owned(), Some(7)));
        for bad in [
            &b"../x.tar\0\0"[..],
            b"base.tar/x\0\0",
            b"+7.tar\0\0",
            b"base.tar.tar\0\0",
            b"base.tar",
            b"base\0\0",
            b"\xff.tar\0\0",
            b"",
        ] {
            assert!(parse_new_archive(bad).is_err());
        }
    }
}
