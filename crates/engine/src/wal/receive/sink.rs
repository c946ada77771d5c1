//! The stream's end of the spool.

use pgkeep_format::{Lsn, TimelineId, WalSegmentName};
use pgkeep_physical::wal_receive::WalSink;
use pgkeep_repo::{ClusterRecord, WalArchive};

use super::spool::{ReceiveSpool, SpoolFile};
use super::uploader::Shared;
use crate::event::{Event, Observer};
use crate::wal::store::put_history;
use crate::{Error, ErrorKind, Result};

/// Writes WAL into the spool, and histories into the archive.
pub(super) struct SpoolSink<'a> {
    spool: &'a ReceiveSpool,
    shared: &'a Shared,
    archive: &'a WalArchive,
    record: &'a ClusterRecord,
    observer: &'a dyn Observer,
    open: Option<(WalSegmentName, SpoolFile)>,
}

impl<'a> SpoolSink<'a> {
    pub(super) fn new(
        spool: &'a ReceiveSpool,
        shared: &'a Shared,
        archive: &'a WalArchive,
        record: &'a ClusterRecord,
        observer: &'a dyn Observer,
    ) -> SpoolSink<'a> {
        SpoolSink { spool, shared, archive, record, observer, open: None }
    }

    fn open(&mut self) -> Result<&mut (WalSegmentName, SpoolFile)> {
        self.open.as_mut().ok_or_else(|| {
            Error::new(ErrorKind::Internal, "no segment is open")
                .hint("this is a defect of pgkeep: report it")
        })
    }
}

impl WalSink for SpoolSink<'_> {
    type Error = Error;

    fn has_history(&mut self, timeline: TimelineId) -> Result<bool> {
        Ok(self.archive.history(timeline)?.is_some())
    }

    fn put_history(&mut self, timeline: TimelineId, _: &str, content: &[u8]) -> Result<()> {
        put_history(self.archive, self.record, timeline, content)?;
        self.observer.event(Event::Note { text: format!("timeline {timeline} began") });
        Ok(())
    }

    fn begin(&mut self, segment: WalSegmentName) -> Result<()> {
        // Before there is a file, so that the uploader never takes it for one that was left.
        self.shared.began(segment);
        let file = self.spool.open_partial(segment)?;
        self.open = Some((segment, file));
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let (segment, file) = self.open()?;
        let segment = *segment;
        if let Some(aside) = file.write(bytes)? {
            let name = segment.file_name(self.archive.segment_size());
            self.observer.event(Event::Warning {
                text: format!("the server sends other WAL in {name} than it, or another server, sent before"),
                hint: Some(format!(
                    "what was received before is kept as `{}`; after a crash of this machine its end may be rubbish, else two servers write one timeline",
                    aside.display()
                )),
            });
        }
        Ok(())
    }

    fn complete(&mut self) -> Result<()> {
        let Some((segment, file)) = self.open.take() else { return self.open().map(drop) };
        self.spool.finish(segment, &file)?;
        self.shared.completed();
        Ok(())
    }

    fn leave(&mut self) -> Result<()> {
        let Some((_, file)) = self.open.take() else { return self.open().map(drop) };
        file.flush()
    }

    fn flush(&mut self, written: Lsn) -> Result<Lsn> {
        if let Some((_, file)) = &self.open {
            file.flush()?;
        }
        self.shared.flushed(written);
        Ok(written)
    }
}
