//! Writes one dump: the bytes of its parts into frames and packs, then the manifest that makes the dump exist.
//!
//! What is held in memory is a frame, the part of the open pack that is being gathered, and the compressed lines of the
//! manifest. A writer that is dropped before its commit removes what it wrote; one that is killed leaves packs that no
//! manifest names, which `expire` removes.

use std::io::{self, Write};

use super::manifest::{LINE_FRAMES, frames_line, table_line};
use super::{DumpHeader, DumpId, DumpPart, DumpPartKind, DumpedTable};
use crate::digest::{Hex, finish16};
use crate::error::Result;
use crate::format_version::FORMAT;
use crate::frame::{FrameKind, FrameRef, MAX_BLOCKS_FRAME, MetaEncoder};
use crate::manifest_writer::{LineWriter, assemble, memory};
use crate::pack_set::{PackOrigin, PackSet};
use crate::stanza::Stanza;
use crate::stored_manifest::{self, Packs};
use crate::{Compression, RepoError, key, lease};

/// Plain bytes of a frame. Larger than a backup's: nobody reads single pages of a dump.
const FRAME_BYTES: usize = MAX_BLOCKS_FRAME;

/// A dump that is being written. Bytes are given through [`Write`], between [`DumpWriter::begin_part`] and
/// [`DumpWriter::end_part`].
#[derive(Debug)]
pub struct DumpWriter {
    stanza: Stanza,
    id: DumpId,
    packs: PackSet,
    encoder: MetaEncoder,
    lines: LineWriter,
    parts: Vec<DumpPart>,
    open: Option<OpenPart>,
    /// What the storage said; an [`io::Error`] has no room for it.
    failure: Option<RepoError>,
    settled: bool,
}

#[derive(Debug)]
struct OpenPart {
    kind: DumpPartKind,
    database: Option<String>,
    pending: Vec<u8>,
    frames: Vec<FrameRef>,
    size: u64,
    hasher: Box<blake3::Hasher>,
}

impl DumpWriter {
    pub(super) fn begin(stanza: &Stanza, id: DumpId, compression: Compression) -> Result<DumpWriter> {
        let key = stanza.repository().digest_key();
        Ok(DumpWriter {
            stanza: stanza.clone(),
            id,
            // Block sizes matter for frames of blocks alone, of which a dump has none.
            packs: PackSet::at(PackOrigin::Dump, stanza, id, 8192),
            encoder: MetaEncoder::with(compression, key.clone()),
            lines: LineWriter::new(key).map_err(memory)?,
            parts: Vec::new(),
            open: None,
            failure: None,
            settled: false,
        })
    }

    /// The id that the dump has, or would have had.
    #[must_use]
    pub fn id(&self) -> DumpId {
        self.id
    }

    /// Closes packs at another size than 256 MiB.
    pub fn set_pack_bytes(&mut self, bytes: u64) {
        self.packs.set_pack_bytes(bytes);
    }

    /// Bytes of packs written so far.
    #[must_use]
    pub fn stored_bytes(&self) -> u64 {
        self.packs.stored_bytes()
    }

    /// Begins a part; what is written from now on is of it.
    pub fn begin_part(&mut self, kind: DumpPartKind, database: Option<&str>) {
        self.open = Some(OpenPart {
            kind,
            database: database.map(str::to_owned),
            pending: Vec::with_capacity(FRAME_BYTES),
            frames: Vec::new(),
            size: 0,
            hasher: Box::new(self.stanza.repository().digest_key().dump_hasher()),
        });
    }

    /// Ends the part: its entries, and the tables whose rows it has.
    ///
    /// # Errors
    /// When the storage fails, or no part was begun.
    pub fn end_part(&mut self, entries: u64, tables: &[DumpedTable]) -> Result<()> {
        self.cut()?;
        self.write_frames_line()?;
        let open = self.open.take().ok_or_else(no_part)?;
        let part = self.part_number()?;
        for table in tables {
            self.lines.write(&table_line(part, table))?;
        }
        self.parts.push(DumpPart {
            kind: open.kind,
            database: open.database,
            size: open.size,
            digest: Hex(finish16(&open.hasher).0),
            entries,
            tables: tables.len() as u64,
            rows: tables.iter().filter_map(|table| table.rows).sum(),
        });
        Ok(())
    }

    /// The error behind the [`io::Error`] that writing ended with.
    pub fn take_failure(&mut self) -> Option<RepoError> {
        self.failure.take()
    }

    /// Finishes the packs, checks that nobody declared the dump dead, and stores the manifest: from then on the dump
    /// exists. Returns the header as it was stored.
    ///
    /// # Errors
    /// [`RepoError::Fenced`], or when the storage fails. The packs are removed as far as possible then, unless the manifest
    /// may have been stored in spite of the error.
    pub fn commit(mut self, mut header: DumpHeader) -> Result<DumpHeader> {
        if self.open.is_some() {
            return Err(RepoError::unrepresentable("a dump with a part that was not ended"));
        }
        self.packs.close()?;
        self.packs.wait()?;
        let repository = self.stanza.repository().clone();
        header.format = u32::from(FORMAT);
        header.id = self.id;
        header.epoch = self.id.epoch();
        header.stanza = self.stanza.name().to_string();
        header.parts = std::mem::take(&mut self.parts);
        header.stored_bytes = self.packs.stored_bytes();
        header.packs = self.packs.take_written();
        for pack in &mut header.packs {
            pack.live_bytes = pack.size;
        }
        let digests = repository.digest_key();
        let lines = std::mem::replace(&mut self.lines, LineWriter::new(digests).map_err(memory)?);
        let body = lines.finish().map_err(memory)?;
        let chunks = assemble(&header, header.epoch, body, repository.id_bytes(), digests)?;
        lease::refuse_fenced(&self.stanza, self.id)?;
        let key = key::dump_manifest(self.stanza.name(), self.id);
        let (packs, stored) = stored_manifest::create(&self.stanza, self.id, key, chunks);
        self.settled = packs == Packs::Needed;
        stored.map(|()| header)
    }

    /// Gives up, as dropping does: what was written is removed as far as possible.
    pub fn abandon(self) {
        drop(self);
    }

    fn part_number(&self) -> Result<u32> {
        u32::try_from(self.parts.len())
            .map_err(|_| RepoError::unrepresentable("a dump of more than 4294967295 parts"))
    }

    /// Makes a frame of what waits.
    fn cut(&mut self) -> Result<()> {
        let open = self.open.as_mut().ok_or_else(no_part)?;
        if open.pending.is_empty() {
            return Ok(());
        }
        let frame = self.encoder.encode(FrameKind::Dump, &open.pending);
        open.pending.clear();
        let place = self.packs.append(FrameKind::Dump, frame)?;
        let follows = open.frames.last().is_none_or(|last| {
            (last.pack, last.end()) == (place.pack, place.offset) && open.frames.len() < LINE_FRAMES
        });
        if !follows {
            self.write_frames_line()?;
        }
        self.open.as_mut().ok_or_else(no_part)?.frames.push(place);
        Ok(())
    }

    fn write_frames_line(&mut self) -> Result<()> {
        let part = self.part_number()?;
        let open = self.open.as_mut().ok_or_else(no_part)?;
        let frames = std::mem::take(&mut open.frames);
        let Some(first) = frames.first() else { return Ok(()) };
        // Packs are listed in the order of their numbers, which begin with 1.
        self.lines.write(&frames_line(part, first.pack.saturating_sub(1), &frames))
    }

    fn take_bytes(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            let open = self.open.as_mut().ok_or_else(no_part)?;
            let room = FRAME_BYTES.saturating_sub(open.pending.len());
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            open.pending.extend_from_slice(now);
            open.hasher.update(now);
            open.size += now.len() as u64;
            bytes = later;
            if open.pending.len() >= FRAME_BYTES {
                self.cut()?;
            }
        }
        Ok(())
    }
}

impl Write for DumpWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.take_bytes(bytes) {
            Ok(()) => Ok(bytes.len()),
            Err(error) => {
                let told = io::Error::other(error.to_string());
                self.failure.get_or_insert(error);
                Err(told)
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for DumpWriter {
    fn drop(&mut self) {
        if !self.settled {
            self.packs.discard();
            lease::end(&self.stanza, self.id.epoch());
        }
    }
}

fn no_part() -> RepoError {
    RepoError::unrepresentable("bytes of a dump outside of a part")
}
