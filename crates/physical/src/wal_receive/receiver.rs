//! What `pg_receivewal` does: WAL into a directory, for as long as nobody says stop.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use pgkeep_format::{Lsn, TimelineId};
use pgkeep_tool::compress::Codec;
use pgkeep_tool::server_text::server_words;
use pgkeep_tool::{Reporter, Result, ToolError};
use pgkeep_wire::{Connection, WireError};

use super::directory::{DirectoryOptions, DirectorySink};
use super::existing::{StreamingStart, streaming_start};
use super::stream::{Progress, StreamError, StreamOptions, follow};

/// How long to wait before the server is tried again.
const RECONNECT_AFTER: Duration = Duration::from_secs(5);
const LOOK: Duration = Duration::from_millis(100);

/// What to receive.
#[derive(Debug, Clone)]
pub struct ReceiveRequest {
    /// Where to.
    pub directory: PathBuf,
    /// The slot that keeps WAL on the server.
    pub slot: Option<String>,
    /// Where to stop; none: never.
    pub end: Option<Lsn>,
    /// How segments are compressed.
    pub codec: Codec,
    /// Files are flushed.
    pub is_durable: bool,
    /// Files are flushed, and the server told, as soon as WAL has arrived.
    pub is_synchronous: bool,
    /// How often the server is told unasked.
    pub status_every: Option<Duration>,
    /// A server that is lost is tried again.
    pub reconnects: bool,
    /// Whether to tell about each segment.
    pub is_verbose: bool,
}

impl ReceiveRequest {
    /// Refuses a directory that is not there, or may not be read.
    ///
    /// # Errors
    /// When it is so.
    pub fn check_directory(&self) -> Result<()> {
        std::fs::read_dir(&self.directory)
            .map(drop)
            .map_err(|error| ToolError::could_not("open directory", self.directory.display(), &error))
    }
}

/// Receives WAL until the end, or until `interrupted`. The first session is open already; `connect` makes others.
///
/// # Errors
/// When the directory cannot be read; without reconnecting also when anything else fails.
pub fn receive(
    request: &ReceiveRequest,
    first: Connection,
    connect: &mut dyn FnMut() -> Result<Connection>,
    interrupted: &dyn Fn() -> bool,
    reporter: &dyn Reporter,
) -> Result<()> {
    request.check_directory()?;
    let mut next = Some(first);
    loop {
        let attempt = match next.take() {
            Some(connection) => Ok(connection),
            None => connect(),
        }
        .and_then(|connection| receive_once(request, connection, interrupted, reporter));
        match attempt {
            Ok(()) => return Ok(()),
            Err(_) if interrupted() => return Ok(()),
            Err(error) if !request.reconnects => {
                reporter.error(&error.message);
                return Err(ToolError::new("disconnected"));
            }
            Err(error) => reporter.error(&error.message),
        }
        reporter.info(&format!("disconnected; waiting {} seconds to try again", RECONNECT_AFTER.as_secs()));
        let since = Instant::now();
        while since.elapsed() < RECONNECT_AFTER {
            if interrupted() {
                return Ok(());
            }
            std::thread::sleep(LOOK);
        }
    }
}

fn receive_once(
    request: &ReceiveRequest,
    mut connection: Connection,
    interrupted: &dyn Fn() -> bool,
    reporter: &dyn Reporter,
) -> Result<()> {
    let tell = |text: String| {
        if request.is_verbose {
            reporter.info(&text);
        }
    };
    let identity = connection.identify_system().map_err(|error| command_failed("IDENTIFY_SYSTEM", &error))?;
    let segment_size = connection.wal_segment_size().map_err(|error| command_failed("SHOW", &error))?;
    let mode = file_mode(&mut connection)?;
    let found = match streaming_start(&request.directory, segment_size, reporter)? {
        Some(found) => Some(found),
        None => start_of_slot(request, &mut connection, identity.timeline)?,
    };
    let StreamingStart { position, timeline } =
        found.unwrap_or(StreamingStart { position: identity.flush, timeline: identity.timeline });
    let start = segment_size.start_of(segment_size.segment_at(position));
    tell(format!("starting log streaming at {start} (timeline {timeline})"));

    let options = DirectoryOptions {
        segment_size,
        codec: request.codec,
        marks_partial: true,
        marks_done: false,
        is_durable: request.is_durable,
        mode,
    };
    let mut sink = DirectorySink::new(&request.directory, options, reporter);
    let stream = StreamOptions {
        slot: request.slot.as_deref(),
        segment_size,
        status_every: request.status_every,
        reports_flush: request.slot.is_some() || request.is_synchronous,
        synchronous: request.is_synchronous,
    };
    let mut before: Option<(TimelineId, Lsn)> = None;
    let mut stop = |Progress { position, timeline, segment_finished }| {
        if segment_finished {
            tell(format!("finished segment at {position} (timeline {timeline})"));
        }
        if request.end.is_some_and(|end| end < position) {
            tell(format!("stopped log streaming at {position} (timeline {timeline})"));
            return true;
        }
        if let Some((_, switch)) = before.filter(|(former, _)| *former != timeline) {
            // Where WAL of the former ended; the new one is taken from the beginning of its segment.
            tell(format!("switched to timeline {timeline} at {switch}"));
        }
        before = Some((timeline, position));
        if interrupted() {
            tell("received interrupt signal, exiting".to_owned());
            return true;
        }
        false
    };
    follow(&mut connection, &stream, start, timeline, &mut sink, &mut stop)?;
    Ok(())
}

/// Where the slot stands, on servers that tell (from 15 on).
fn start_of_slot(
    request: &ReceiveRequest,
    connection: &mut Connection,
    current: TimelineId,
) -> Result<Option<StreamingStart>> {
    let Some(slot) = request.slot.as_deref().filter(|_| connection.server_major() >= 15) else {
        return Ok(None);
    };
    let position = connection
        .read_slot(slot)
        .map_err(|error| command_failed("READ_REPLICATION_SLOT", &error))?
        .ok_or_else(|| ToolError::new(format!("replication slot \"{slot}\" does not exist")))?;
    Ok(position.restart_lsn.map(|restart| StreamingStart {
        position: restart,
        timeline: position.restart_timeline.unwrap_or(current),
    }))
}

/// The permissions of files, which are those of the server's own.
fn file_mode(connection: &mut Connection) -> Result<u32> {
    let shown = connection.show("data_directory_mode").map_err(|error| command_failed("SHOW", &error))?;
    let lets_group_read = u32::from_str_radix(&shown, 8).is_ok_and(|mode| mode & 0o050 == 0o050);
    Ok(if lets_group_read { 0o640 } else { 0o600 })
}

fn command_failed(command: &str, error: &WireError) -> ToolError {
    ToolError::new(format!("could not send replication command \"{command}\": {}", server_words(error)))
}

impl From<StreamError<ToolError>> for ToolError {
    fn from(error: StreamError<ToolError>) -> ToolError {
        match error {
            StreamError::Start(error) => command_failed("START_REPLICATION", &error),
            StreamError::History(error) => command_failed("TIMELINE_HISTORY", &error),
            StreamError::Broken(error) if error.server_error().is_some() => ToolError::new(format!(
                "unexpected termination of replication stream: {}",
                server_words(&error)
            )),
            StreamError::Broken(error) => {
                ToolError::new(format!("could not receive data from WAL stream: {}", server_words(&error)))
            }
            StreamError::Unfit(text) => ToolError::new(text),
            StreamError::ServerEnded(_) => {
                ToolError::new("replication stream was terminated before stop point")
            }
            StreamError::Sink(error) => error,
        }
    }
}
