//! The loop that takes WAL off a server and hands it to a sink, from one timeline to the next.

use std::time::{Duration, Instant};

use pgkeep_format::{Lsn, TimelineId, WalSegmentName, WalSegmentSize};
use pgkeep_wire::{Connection, WalEvent, WalStream, WireError};

/// The longest wait for the server between two questions whether to stop.
const LOOK: Duration = Duration::from_millis(200);

/// Where WAL goes, segment after segment.
pub trait WalSink {
    /// What goes wrong with it.
    type Error;

    /// Whether the history of a timeline is there, so that the server need not be asked for it.
    ///
    /// # Errors
    /// When that cannot be found out.
    fn has_history(&mut self, timeline: TimelineId) -> Result<bool, Self::Error>;

    /// Takes the history of a timeline. Durable when this returns, as far as the sink makes anything durable.
    ///
    /// # Errors
    /// When it cannot be kept.
    fn put_history(
        &mut self,
        timeline: TimelineId,
        file_name: &str,
        content: &[u8],
    ) -> Result<(), Self::Error>;

    /// A segment begins. No other one is open.
    ///
    /// # Errors
    /// When there is no place for it.
    fn begin(&mut self, segment: WalSegmentName) -> Result<(), Self::Error>;

    /// Takes the bytes that follow in the open segment; never more than it has room for.
    ///
    /// # Errors
    /// When they cannot be kept.
    fn write(&mut self, bytes: &[u8]) -> Result<(), Self::Error>;

    /// The open segment is whole. Durable when this returns, as far as the sink makes anything durable.
    ///
    /// # Errors
    /// When it cannot be kept.
    fn complete(&mut self) -> Result<(), Self::Error>;

    /// The open segment stays unfinished: its timeline ends, or streaming does.
    ///
    /// # Errors
    /// When it cannot be kept.
    fn leave(&mut self) -> Result<(), Self::Error>;

    /// Makes durable what was written, as far as this sink does that before a segment is whole, and answers up to where
    /// WAL is durable. `written` is the end of what was written.
    ///
    /// # Errors
    /// When the storage fails: then nothing more may be reported as flushed.
    fn flush(&mut self, written: Lsn) -> Result<Lsn, Self::Error>;
}

/// How to stream.
#[derive(Debug, Clone, Copy)]
pub struct StreamOptions<'a> {
    /// The slot that keeps WAL on the server.
    pub slot: Option<&'a str>,
    /// Bytes of a segment on this server.
    pub segment_size: WalSegmentSize,
    /// How often the server is told where we are, though it does not ask; none: only when it asks.
    pub status_every: Option<Duration>,
    /// Tell the server what is durable: it then frees the slot's WAL, and counts us as a synchronous standby.
    pub reports_flush: bool,
    /// Make WAL durable, and say so, as soon as nothing more has arrived.
    pub synchronous: bool,
}

/// Where streaming stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// The end of what was written.
    pub position: Lsn,
    /// The timeline.
    pub timeline: TimelineId,
    /// A segment was just finished.
    pub segment_finished: bool,
}

/// How a timeline's stream ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimelineEnd {
    /// We were told to stop, at this position.
    Stopped(Lsn),
    /// The timeline ended; WAL goes on on another one.
    Switched {
        /// The end of what was written.
        position: Lsn,
        /// The timeline that follows.
        next: TimelineId,
        /// Where it begins.
        start: Lsn,
    },
    /// The server ended the stream, since it shuts down.
    ServerEnded(Lsn),
}

/// Why streaming failed.
#[derive(Debug)]
pub enum StreamError<E> {
    /// The stream could not be begun.
    Start(WireError),
    /// The history of a timeline could not be had.
    History(WireError),
    /// The stream broke off.
    Broken(WireError),
    /// What arrived does not fit to what came before.
    Unfit(String),
    /// The server ended the stream before we were told to stop.
    ServerEnded(Lsn),
    /// The sink failed.
    Sink(E),
}

/// Asked now and then, and after each segment: whether to stop.
pub type StopCheck<'a> = &'a mut dyn FnMut(Progress) -> bool;

/// Streams from `start`, the beginning of a segment, and on from timeline to timeline, until `stop` says so. Answers the
/// end of what was written.
///
/// # Errors
/// When the server, the connection or the sink fails; [`StreamError::ServerEnded`] when the server shuts down.
pub fn follow<S: WalSink>(
    connection: &mut Connection,
    options: &StreamOptions<'_>,
    mut start: Lsn,
    mut timeline: TimelineId,
    sink: &mut S,
    stop: StopCheck<'_>,
) -> Result<Lsn, StreamError<S::Error>> {
    loop {
        match stream_timeline(connection, options, start, timeline, sink, stop)? {
            TimelineEnd::Stopped(position) => return Ok(position),
            TimelineEnd::Switched { position, next, start: begins } => {
                check_switch(timeline, position, next, begins).map_err(StreamError::Unfit)?;
                timeline = next;
                start = options.segment_size.start_of(options.segment_size.segment_at(begins));
            }
            TimelineEnd::ServerEnded(position) => {
                if stop(Progress { position, timeline, segment_finished: false }) {
                    return Ok(position);
                }
                return Err(StreamError::ServerEnded(position));
            }
        }
    }
}

/// Whether a server's words about the next timeline can be true.
fn check_switch(timeline: TimelineId, position: Lsn, next: TimelineId, begins: Lsn) -> Result<(), String> {
    if next <= timeline {
        return Err(format!(
            "server reported unexpected next timeline {next}, following timeline {timeline}"
        ));
    }
    if begins > position {
        return Err(format!(
            "server stopped streaming timeline {timeline} at {position}, but reported next timeline {next} to begin at {begins}"
        ));
    }
    Ok(())
}

/// Streams one timeline from `start`, the beginning of a segment. Its history is fetched where the sink lacks it.
///
/// # Errors
/// When the server, the connection or the sink fails.
pub fn stream_timeline<S: WalSink>(
    connection: &mut Connection,
    options: &StreamOptions<'_>,
    start: Lsn,
    timeline: TimelineId,
    sink: &mut S,
    stop: StopCheck<'_>,
) -> Result<TimelineEnd, StreamError<S::Error>> {
    if timeline != TimelineId::FIRST && !sink.has_history(timeline).map_err(StreamError::Sink)? {
        let history = connection.timeline_history(timeline).map_err(StreamError::History)?;
        if let Some((file_name, content)) = history {
            sink.put_history(timeline, &file_name, &content).map_err(StreamError::Sink)?;
        }
    }
    if stop(Progress { position: start, timeline, segment_finished: false }) {
        return Ok(TimelineEnd::Stopped(start));
    }
    let stream = connection.start_replication(options.slot, start, timeline).map_err(StreamError::Start)?;
    let reception = Reception {
        options,
        timeline,
        sink,
        stop,
        position: start,
        flushed: start,
        is_open: false,
        reported: Instant::now(),
    };
    reception.run(stream)
}

/// One timeline that is being received.
struct Reception<'a, S> {
    options: &'a StreamOptions<'a>,
    timeline: TimelineId,
    sink: &'a mut S,
    stop: StopCheck<'a>,
    /// The end of what was written.
    position: Lsn,
    /// Up to where WAL is durable.
    flushed: Lsn,
    /// The sink has an unfinished segment.
    is_open: bool,
    /// When the server was told last.
    reported: Instant,
}

impl<S: WalSink> Reception<'_, S> {
    fn run(mut self, mut stream: WalStream<'_>) -> Result<TimelineEnd, StreamError<S::Error>> {
        let ended = self.receive(&mut stream);
        // What has arrived is kept also where the connection broke; the first error counts.
        let left = if self.is_open { self.sink.leave().map_err(StreamError::Sink) } else { Ok(()) };
        let ended = ended?;
        left?;
        if matches!(ended, TimelineEnd::Stopped(_)) {
            self.flush()?;
            self.report(&mut stream)?;
            // Nothing is lost when the server has gone meanwhile: all that counts was told.
            drop(stream.stop());
        }
        Ok(ended)
    }

    fn receive(&mut self, stream: &mut WalStream<'_>) -> Result<TimelineEnd, StreamError<S::Error>> {
        loop {
            if self.is_told_to_stop(false) {
                return Ok(TimelineEnd::Stopped(self.position));
            }
            let is_caught_up = !stream.has_more();
            if self.options.synchronous && is_caught_up && self.flushed < self.position {
                self.flush()?;
                self.report(stream)?;
            }
            let due = self.options.status_every.map(|every| every.saturating_sub(self.reported.elapsed()));
            if due == Some(Duration::ZERO) {
                self.flush_to_report()?;
                self.report(stream)?;
            }
            let wait = due.filter(|due| !due.is_zero()).map_or(LOOK, |due| due.min(LOOK));
            match stream.next(Some(wait)).map_err(StreamError::Broken)? {
                WalEvent::Data { start, bytes } => {
                    if self.take(start, bytes)? {
                        return Ok(TimelineEnd::Stopped(self.position));
                    }
                }
                WalEvent::Keepalive { reply_requested: true, .. } => {
                    // A server that shuts down waits until all is flushed.
                    self.flush_to_report()?;
                    self.report(stream)?;
                }
                WalEvent::Keepalive { .. } | WalEvent::Timeout => {}
                WalEvent::EndOfTimeline { next, start } => {
                    return Ok(TimelineEnd::Switched { position: self.position, next, start });
                }
                WalEvent::EndOfStream => return Ok(TimelineEnd::ServerEnded(self.position)),
            }
        }
    }

    /// Writes what arrived; true when we are told to stop at the end of a segment.
    fn take(&mut self, start: Lsn, mut bytes: &[u8]) -> Result<bool, StreamError<S::Error>> {
        if start != self.position {
            return Err(StreamError::Unfit(format!(
                "the server sent WAL of {start} where that of {} was due",
                self.position
            )));
        }
        let size = self.options.segment_size;
        while !bytes.is_empty() {
            if !self.is_open {
                let segment = WalSegmentName::at(self.timeline, self.position, size);
                self.sink.begin(segment).map_err(StreamError::Sink)?;
                self.is_open = true;
            }
            let room = size.bytes() - size.offset_of(self.position);
            let (now, later) = bytes.split_at(bytes.len().min(usize::try_from(room).unwrap_or(usize::MAX)));
            self.sink.write(now).map_err(StreamError::Sink)?;
            bytes = later;
            self.position = self.position.saturating_add(now.len() as u64);
            if size.offset_of(self.position) == 0 {
                self.is_open = false;
                self.sink.complete().map_err(StreamError::Sink)?;
                self.flush()?;
                if self.is_told_to_stop(true) {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    fn is_told_to_stop(&mut self, segment_finished: bool) -> bool {
        (self.stop)(Progress { position: self.position, timeline: self.timeline, segment_finished })
    }

    /// Flushes where the server is told about it.
    fn flush_to_report(&mut self) -> Result<(), StreamError<S::Error>> {
        if self.options.reports_flush && self.flushed < self.position { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), StreamError<S::Error>> {
        self.flushed = self.sink.flush(self.position).map_err(StreamError::Sink)?.min(self.position);
        Ok(())
    }

    /// Tells the server. What is applied is never said: nothing is.
    fn report(&mut self, stream: &mut WalStream<'_>) -> Result<(), StreamError<S::Error>> {
        let flushed = if self.options.reports_flush { self.flushed } else { Lsn::INVALID };
        stream.send_status(self.position, flushed, Lsn::INVALID, false).map_err(StreamError::Broken)?;
        self.reported = Instant::now();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tli(number: u32) -> TimelineId {
        TimelineId::new(number).unwrap()
    }

    /// Remembers what was done.
    #[derive(Default)]
    struct Record(Vec<String>);

    impl WalSink for Record {
        type Error = String;

        fn has_history(&mut self, _: TimelineId) -> Result<bool, String> {
            Ok(true)
        }
        fn put_history(&mut self, _: TimelineId, _: &str, _: &[u8]) -> Result<(), String> {
            Ok(())
        }
        fn begin(&mut self, segment: WalSegmentName) -> Result<(), String> {
            self.0.push(format!("begin {}", segment.number));
            Ok(())
        }
        fn write(&mut self, bytes: &[u8]) -> Result<(), String> {
            self.0.push(format!("write {}", bytes.len()));
            Ok(())
        }
        fn complete(&mut self) -> Result<(), String> {
            self.0.push("complete".to_owned());
            Ok(())
        }
        fn leave(&mut self) -> Result<(), String> {
            self.0.push("leave".to_owned());
            Ok(())
        }
        fn flush(&mut self, _: Lsn) -> Result<Lsn, String> {
            // Claims more than there is, which must not be believed.
            Ok(Lsn(u64::MAX))
        }
    }

    const MIB: u64 = 1 << 20;

    fn options() -> StreamOptions<'static> {
        StreamOptions {
            slot: None,
            segment_size: WalSegmentSize::try_from(1 << 20).unwrap(),
            status_every: None,
            reports_flush: true,
            synchronous: false,
        }
    }

    fn take(pieces: &[(u64, usize)]) -> (Vec<String>, Lsn, Result<(), String>) {
        let options = options();
        let mut record = Record::default();
        let mut reception = Reception {
            options: &options,
            timeline: tli(1),
            sink: &mut record,
            stop: &mut |_| false,
            position: Lsn(MIB),
            flushed: Lsn(MIB),
            is_open: false,
            reported: Instant::now(),
        };
        let mut outcome = Ok(());
        for (start, length) in pieces {
            if let Err(StreamError::Unfit(why)) = reception.take(Lsn(*start), &vec![7; *length]) {
                outcome = Err(why);
            }
        }
        let flushed = reception.flushed;
        (record.0, flushed, outcome)
    }

    #[test]
    fn bytes_are_cut_where_segments_end() {
        let (done, flushed, outcome) = take(&[(MIB, 100), (MIB + 100, 2 * MIB as usize)]);
        let rest = MIB - 100;
        assert_eq!(
            done,
            [
                "begin 1".to_owned(),
                "write 100".to_owned(),
                format!("write {rest}"),
                "complete".to_owned(),
                "begin 2".to_owned(),
                format!("write {MIB}"),
                "complete".to_owned(),
                "begin 3".to_owned(),
                "write 100".to_owned(),
            ]
        );
        assert_eq!(outcome, Ok(()));
        assert_eq!(flushed, Lsn(3 * MIB), "no more than was written");
    }

    #[test]
    fn a_hole_or_an_overlap_is_refused() {
        for start in [MIB + 99, MIB + 101, 0] {
            let (done, _, outcome) = take(&[(MIB, 100), (start, 10)]);
            assert_eq!(done.len(), 2, "{start}");
            assert!(outcome.unwrap_err().contains("was due"));
        }
    }

    #[test]
    fn a_next_timeline_that_cannot_be_is_refused() {
        assert!(check_switch(tli(1), Lsn(9), tli(2), Lsn(9)).is_ok());
        assert!(check_switch(tli(1), Lsn(9), tli(2), Lsn(8)).is_ok());
        assert!(check_switch(tli(2), Lsn(9), tli(2), Lsn(9)).is_err());
        assert!(check_switch(tli(1), Lsn(9), tli(2), Lsn(10)).is_err());
    }
}
