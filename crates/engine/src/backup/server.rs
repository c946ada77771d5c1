//! What a backup must know of the server, and the two calls that frame it.
//!
//! Only the non-exclusive low-level API is used (`pg_backup_start`/`stop`, until 14 `pg_start_backup(…, false)`): the label
//! comes back as text, nothing is written into the live data directory, and losing the session ends the backup on the
//! server by itself. Sources: `xlogfuncs.c`, `xlogbackup.c`, PostgreSQL 14 to 18.

use std::path::PathBuf;

use jiff::Timestamp;
use pgkeep_format::{Lsn, TimelineId, WalSegmentSize};
use pgkeep_wire::{Connection, quote_literal};

use super::Checkpoint;
use crate::changed_blocks::ClusterShape;
use crate::error::{Error, ErrorKind, Result};

/// The oldest major version that pgkeep backs up. 13 speaks as 14 does; it was not to be had for tests.
pub const OLDEST_MAJOR: u32 = 13;
/// The newest major version that pgkeep was proved against.
pub const NEWEST_MAJOR: u32 = 18;

/// A tablespace outside the data directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tablespace {
    /// Its OID, the name of its link in `pg_tblspc`.
    pub oid: u32,
    /// The directory.
    pub location: String,
}

/// What the server says of itself.
#[derive(Clone, Debug)]
pub struct ServerFacts {
    /// The cluster's identity.
    pub system_identifier: u64,
    /// `server_version_num`.
    pub version: u32,
    /// The catalog's version, part of tablespace directory names.
    pub catalog_version: u32,
    /// The control file's version.
    pub control_version: u32,
    /// Bytes of a block.
    pub block_size: u32,
    /// Blocks of a relation segment file.
    pub relation_segment_blocks: u32,
    /// Bytes of a WAL segment.
    pub wal_segment_size: WalSegmentSize,
    /// Whether pages carry checksums.
    pub checksums: bool,
    /// Whether this is a standby.
    pub standby: bool,
    /// `wal_level`.
    pub wal_level: String,
    /// `archive_mode`.
    pub archive_mode: String,
    /// `archive_command`, where the role may see it.
    pub archive_command: Option<String>,
    /// `data_directory`, where the role may see it.
    pub data_directory: Option<PathBuf>,
    /// Configuration files, where the role may see them.
    pub config_files: Vec<PathBuf>,
    /// When the server was started, in seconds since 1970.
    pub started: i64,
    /// `port`.
    pub port: u32,
    /// `timezone`: how the server reads a time without a zone.
    pub time_zone: String,
    /// Tablespaces outside the data directory.
    pub tablespaces: Vec<Tablespace>,
}

impl ServerFacts {
    /// The major version.
    pub const fn major(&self) -> u32 {
        self.version / 10_000
    }

    /// The directory that holds this version's files in every tablespace.
    pub fn tablespace_directory(&self) -> String {
        format!("PG_{}_{}", self.major(), self.catalog_version)
    }

    /// What must be the same in a parent whose blocks are kept unread.
    pub fn shape(&self) -> ClusterShape {
        ClusterShape {
            system_identifier: self.system_identifier,
            catalog_version: self.catalog_version,
            control_version: self.control_version,
            block_size: self.block_size,
            relation_segment_blocks: self.relation_segment_blocks,
            wal_segment_size: u32::from(self.wal_segment_size),
            checksums: self.checksums,
        }
    }

    /// Asks the server.
    pub fn read(connection: &mut Connection) -> Result<ServerFacts> {
        let version = connection.server_version_num();
        let major = version / 10_000;
        if major < OLDEST_MAJOR {
            return Err(Error::new(ErrorKind::Unsupported, format!("PostgreSQL {major} is not supported"))
                .hint(format!(
                    "pgkeep backs up PostgreSQL {OLDEST_MAJOR} to {NEWEST_MAJOR}; upgrade the server"
                )));
        }
        if major > NEWEST_MAJOR {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!("PostgreSQL {major} is not supported yet"),
            )
            .hint(format!(
                "pgkeep knows the file formats of PostgreSQL {OLDEST_MAJOR} to {NEWEST_MAJOR}; upgrade pgkeep"
            )));
        }
        let rows = connection.query(
            "select s.system_identifier, s.catalog_version_no, s.pg_control_version, i.database_block_size, \
             i.blocks_per_segment, i.bytes_per_wal_segment, i.data_page_checksum_version, \
             pg_is_in_recovery() as standby, current_setting('wal_level') as wal_level, \
             current_setting('archive_mode') as archive_mode, current_setting('TimeZone') as time_zone, \
             current_setting('port') as port, \
             extract(epoch from pg_postmaster_start_time())::bigint as started \
             from pg_control_system() s, pg_control_init() i",
        )?;
        let row = rows.first().ok_or_else(|| {
            Error::new(ErrorKind::Internal, "the server described itself with no row").hint("report this")
        })?;
        let wal_segment_size =
            WalSegmentSize::try_from(row.parse::<u32>("bytes_per_wal_segment")?).map_err(|error| {
                Error::new(ErrorKind::Unsupported, error.to_string()).hint("report this server")
            })?;
        let mut facts = ServerFacts {
            system_identifier: row.parse::<i64>("system_identifier")?.cast_unsigned(),
            version,
            catalog_version: row.parse("catalog_version_no")?,
            control_version: row.parse("pg_control_version")?,
            block_size: row.parse("database_block_size")?,
            relation_segment_blocks: row.parse("blocks_per_segment")?,
            wal_segment_size,
            checksums: row.parse::<u32>("data_page_checksum_version")? == 1,
            standby: row.text("standby")? == "t",
            wal_level: row.text("wal_level")?.to_owned(),
            archive_mode: row.text("archive_mode")?.to_owned(),
            archive_command: None,
            data_directory: None,
            config_files: Vec::new(),
            started: row.parse("started")?,
            port: row.parse("port")?,
            time_zone: row.text("time_zone")?.to_owned(),
            tablespaces: Vec::new(),
        };
        // Without pg_read_all_settings these rows are simply not there: less is known, nothing fails.
        let settings = connection.query(
            "select name, setting from pg_settings where name in \
             ('data_directory', 'archive_command', 'config_file', 'hba_file', 'ident_file') order by name",
        )?;
        for row in settings.iter() {
            let value = row.optional("setting")?.unwrap_or_default();
            match row.text("name")? {
                "data_directory" if !value.is_empty() => facts.data_directory = Some(value.into()),
                "archive_command" => facts.archive_command = Some(value.to_owned()),
                _ if !value.is_empty() => facts.config_files.push(value.into()),
                _ => {}
            }
        }
        let spaces = connection.query(
            "select oid, pg_tablespace_location(oid) as location from pg_tablespace \
             where oid not in (1663, 1664) order by oid",
        )?;
        for row in spaces.iter() {
            let location = row.text("location")?;
            // An in-place tablespace is a real directory in pg_tblspc: its location is relative and walked as such.
            if location.starts_with('/') {
                facts.tablespaces.push(Tablespace { oid: row.parse("oid")?, location: location.to_owned() });
            }
        }
        Ok(facts)
    }
}

/// What the server gave back when the backup ended.
#[derive(Clone, Debug)]
pub struct StoppedBackup {
    /// Where the backup becomes consistent.
    pub stop: Lsn,
    /// The `backup_label` file, to the letter.
    pub label: String,
    /// The `tablespace_map` file, to the letter; empty without tablespaces.
    pub tablespace_map: String,
}

/// Begins a backup in this session; answers where replay will start.
pub fn start(connection: &mut Connection, label: &str, checkpoint: Checkpoint) -> Result<Lsn> {
    let label = quote_literal(label);
    let fast = checkpoint == Checkpoint::Fast;
    let call = if connection.server_major() >= 15 {
        format!("select pg_backup_start({label}, {fast}) as lsn")
    } else {
        format!("select pg_start_backup({label}, {fast}, false) as lsn")
    };
    lsn_of(connection, &call)
}

/// Ends the backup that this session began. Does not wait for the archiver: the caller proves the WAL itself.
pub fn stop(connection: &mut Connection) -> Result<StoppedBackup> {
    let call = if connection.server_major() >= 15 {
        "select lsn, labelfile, spcmapfile from pg_backup_stop(false)"
    } else {
        "select lsn, labelfile, spcmapfile from pg_stop_backup(false, false)"
    };
    let rows = connection.query(call)?;
    let row = rows.first().ok_or_else(|| Error::new(ErrorKind::Internal, "the backup ended with no row"))?;
    Ok(StoppedBackup {
        stop: row.parse("lsn")?,
        label: row.text("labelfile")?.to_owned(),
        tablespace_map: row.optional("spcmapfile")?.unwrap_or_default().to_owned(),
    })
}

/// The server's clock, in microseconds.
pub fn clock(connection: &mut Connection) -> Result<Timestamp> {
    let rows =
        connection.query("select (extract(epoch from clock_timestamp()) * 1000000)::bigint as micros")?;
    let row = rows.first().ok_or_else(|| Error::new(ErrorKind::Internal, "the server has no clock"))?;
    Timestamp::from_microsecond(row.parse("micros")?).map_err(|error| {
        Error::new(ErrorKind::Config, "the server's clock is out of all range")
            .caused_by(&error)
            .hint("set the clock of the server's machine")
    })
}

/// The timeline that the server writes or replays.
pub fn timeline(connection: &mut Connection) -> Result<TimelineId> {
    let rows = connection.query("select timeline_id from pg_control_checkpoint()")?;
    let row = rows.first().ok_or_else(|| Error::new(ErrorKind::Internal, "no checkpoint row"))?;
    TimelineId::new(row.parse("timeline_id")?)
        .ok_or_else(|| Error::new(ErrorKind::Internal, "the server named timeline 0").hint("report this"))
}

fn lsn_of(connection: &mut Connection, call: &str) -> Result<Lsn> {
    let rows = connection.query(call)?;
    let row =
        rows.first().ok_or_else(|| Error::new(ErrorKind::Internal, "a position was asked for, none came"))?;
    Ok(row.parse("lsn")?)
}

/// Reads a part of a file through the server; in words why it cannot, most often for want of a privilege.
pub fn read_server_file(
    session: &mut Connection,
    path: &str,
    offset: u64,
    length: u64,
) -> std::result::Result<Vec<u8>, String> {
    let query = format!(
        "select encode(pg_read_binary_file({}, {offset}, {length}), 'hex') as bytes",
        quote_literal(path)
    );
    let rows = session.query(&query).map_err(|error| error.to_string())?;
    let text = rows.first().and_then(|row| row.optional("bytes").ok().flatten()).unwrap_or_default();
    text.as_bytes()
        .chunks_exact(2)
        .map(|pair| std::str::from_utf8(pair).ok().and_then(|digits| u8::from_str_radix(digits, 16).ok()))
        .collect::<Option<Vec<u8>>>()
        .ok_or_else(|| "the server sent no hexadecimal digits".to_owned())
}
