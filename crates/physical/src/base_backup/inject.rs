//! An archive that gets more members than the server sent: settings of a standby, or the manifest.
//!
//! What the server sent is passed on byte for byte, owners and times included, but for the member that grows. Only that one
//! is held in memory, up to [`LONGEST_SETTINGS`].

use std::sync::{Arc, Mutex, PoisonError};

use pgkeep_format::tar::{BLOCK, END_OF_ARCHIVE, TarEntry, TarEntryKind, TarEvent, TarReader, padding_of};
use pgkeep_tool::{Result, ToolError};

use super::recovery::{SETTINGS_FILE, SIGNAL_FILE};
use super::sink::{ArchiveSink, CompressedOutput};

/// A file of settings that is longer is none.
const LONGEST_SETTINGS: u64 = 64 << 20;
/// Fields of a header: user, group, size, checksum.
const UID: std::ops::Range<usize> = 108..116;
const GID: std::ops::Range<usize> = 116..124;
const SIZE: std::ops::Range<usize> = 124..136;
const CHECKSUM: std::ops::Range<usize> = 148..156;

/// A member that is known when the archive has come, and before its sink is told so.
#[derive(Debug, Clone)]
pub(super) struct LateMember {
    pub(super) path: &'static str,
    pub(super) contents: Arc<Mutex<Vec<u8>>>,
}

/// Writes an archive again, with members added.
pub(super) struct Injector {
    output: CompressedOutput,
    reader: TarReader,
    /// Bytes that were read and not passed on: the padding of the member before, and what of the next header has come.
    held: Vec<u8>,
    /// How much of `held` is padding.
    padding: usize,
    member: Member,
    /// What is to be written behind the settings, if a standby is made.
    standby: Option<Vec<u8>>,
    settings_written: bool,
    /// One more member, whose contents come after the archive.
    late: Option<LateMember>,
    /// User and group of the last member.
    owner: Option<(Vec<u8>, Vec<u8>)>,
    file_mode: u32,
}

#[derive(Debug)]
enum Member {
    /// Passed on.
    Passed,
    /// Left out.
    Dropped,
    /// Held until it is complete: header and contents.
    Settings { header: Vec<u8>, contents: Vec<u8> },
}

impl Injector {
    /// `standby` is added to the settings, and makes the copy a standby.
    pub(super) fn new(
        output: CompressedOutput,
        standby: Option<Vec<u8>>,
        late: Option<LateMember>,
        file_mode: u32,
    ) -> Injector {
        Injector {
            output,
            reader: TarReader::new(),
            held: Vec::new(),
            padding: 0,
            member: Member::Passed,
            standby,
            settings_written: false,
            late,
            owner: None,
            file_mode,
        }
    }

    fn begin(&mut self, entry: &TarEntry) -> Result<()> {
        let header = self.held.split_off(self.padding);
        self.pass_padding()?;
        if let Some(block) = header.rchunks_exact(BLOCK).next() {
            let field = |range| block.get::<std::ops::Range<usize>>(range).unwrap_or_default().to_vec();
            self.owner = Some((field(UID), field(GID)));
        }
        self.padding = usize::try_from(padding_of(entry.size)).unwrap_or(0);
        let is_file = entry.kind == TarEntryKind::File;
        self.member = if self.standby.is_some() && is_file && entry.path == SIGNAL_FILE.as_bytes() {
            Member::Dropped
        } else if self.standby.is_some() && is_file && entry.path == SETTINGS_FILE.as_bytes() {
            if entry.size > LONGEST_SETTINGS {
                return Err(ToolError::new(format!("\"{SETTINGS_FILE}\" has {} bytes", entry.size)));
            }
            Member::Settings { header, contents: Vec::new() }
        } else {
            self.output.put(&header)?;
            Member::Passed
        };
        Ok(())
    }

    fn end_member(&mut self) -> Result<()> {
        match std::mem::replace(&mut self.member, Member::Passed) {
            Member::Passed => {}
            // Its padding goes as well.
            Member::Dropped => self.member = Member::Dropped,
            Member::Settings { mut header, mut contents } => {
                contents.extend_from_slice(self.standby.as_deref().unwrap_or_default());
                self.settings_written = true;
                set_size(&mut header, contents.len() as u64);
                self.output.put(&header)?;
                self.put_padded(&contents)?;
                self.member = Member::Dropped;
            }
        }
        Ok(())
    }

    /// Passes on the padding of the member before, all of which has come.
    fn pass_padding(&mut self) -> Result<()> {
        if !matches!(self.member, Member::Dropped) {
            self.output.put(self.held.get(..self.padding).unwrap_or(&self.held))?;
        }
        self.held.clear();
        self.padding = 0;
        Ok(())
    }

    fn put_padded(&mut self, contents: &[u8]) -> Result<()> {
        self.output.put(contents)?;
        let padding = usize::try_from(padding_of(contents.len() as u64)).unwrap_or(0);
        self.output.put(END_OF_ARCHIVE.get(..padding).unwrap_or_default())
    }

    fn add(&mut self, path: &str, contents: &[u8]) -> Result<()> {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let entry = TarEntry {
            path: path.as_bytes().to_vec(),
            kind: TarEntryKind::File,
            size: contents.len() as u64,
            mode: self.file_mode,
            mtime: i64::try_from(now.as_secs()).unwrap_or(0),
            link: Vec::new(),
        };
        let mut header = entry.header().map_err(|error| ToolError::new(error.to_string()))?;
        if let (Some((user, group)), Some(block)) = (&self.owner, header.first_chunk_mut::<BLOCK>()) {
            for (range, value) in [(UID, user), (GID, group)] {
                if let Some(field) = block.get_mut(range).filter(|field| field.len() == value.len()) {
                    field.copy_from_slice(value);
                }
            }
            set_checksum(block);
        }
        self.output.put(&header)?;
        self.put_padded(contents)
    }

    /// The archive that came is at its end: adds what is missing, but not the end.
    fn complete(&mut self) -> Result<()> {
        std::mem::take(&mut self.reader).finish().map_err(|error| ToolError::new(error.to_string()))?;
        self.pass_padding()?;
        if let Some(settings) = self.standby.take() {
            if !self.settings_written {
                self.add(SETTINGS_FILE, &settings)?;
            }
            self.add(SIGNAL_FILE, b"")?;
        }
        if let Some(LateMember { path, contents }) = self.late.take() {
            let contents = contents.lock().unwrap_or_else(PoisonError::into_inner);
            self.add(path, &contents)?;
        }
        Ok(())
    }
}

impl ArchiveSink for Injector {
    fn write(&mut self, mut bytes: &[u8]) -> Result<()> {
        loop {
            let before = bytes;
            let had_ended = self.reader.has_ended();
            let event = self.reader.next(&mut bytes).map_err(|error| ToolError::new(error.to_string()))?;
            let taken = before.get(..before.len().saturating_sub(bytes.len())).unwrap_or_default();
            match event {
                None => {
                    if !had_ended {
                        self.held.extend_from_slice(taken);
                    }
                    return Ok(());
                }
                Some(TarEvent::Entry(entry)) => {
                    self.held.extend_from_slice(taken);
                    self.begin(&entry)?;
                }
                Some(TarEvent::Data(data)) => match &mut self.member {
                    Member::Passed => self.output.put(data)?,
                    Member::Dropped => {}
                    Member::Settings { contents, .. } => contents.extend_from_slice(data),
                },
                Some(TarEvent::EndOfEntry) => self.end_member()?,
            }
        }
    }

    fn finish(mut self: Box<Self>) -> Result<()> {
        self.complete()?;
        self.output.put(&END_OF_ARCHIVE)?;
        self.output.end()
    }

    fn file(&self) -> String {
        self.output.path().display().to_string()
    }
}

/// Sets the size in the last of the header blocks.
fn set_size(header: &mut [u8], size: u64) {
    let Some(block) = header.last_chunk_mut::<BLOCK>() else { return };
    if let Some(field) = block.get_mut(SIZE) {
        // Less than 8 GiB, by far.
        field.copy_from_slice(format!("{size:011o}\0").as_bytes());
    }
    set_checksum(block);
}

/// The sum of all bytes, the checksum's own counting as spaces.
fn set_checksum(block: &mut [u8; BLOCK]) {
    block[CHECKSUM].fill(b' ');
    let sum: u32 = block.iter().copied().map(u32::from).sum();
    block[CHECKSUM].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

#[cfg(test)]
mod tests {
    use pgkeep_tool::compress::{Codec, ParallelCompressor};
    use std::io::Write;
    use std::path::Path;

    use super::*;

    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn member(path: &str, contents: &[u8]) -> Vec<u8> {
        let entry = TarEntry {
            path: path.as_bytes().to_vec(),
            kind: TarEntryKind::File,
            size: contents.len() as u64,
            mode: 0o600,
            mtime: 5,
            link: Vec::new(),
        };
        let mut bytes = entry.header().unwrap();
        // As a server's: with an owner.
        bytes[UID].copy_from_slice(b"0001747\0");
        set_checksum(bytes.first_chunk_mut().unwrap());
        bytes.extend_from_slice(contents);
        bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
        bytes
    }

    fn injected(
        archive: &[u8],
        standby: Option<&[u8]>,
        manifest: Option<&[u8]>,
        step: usize,
    ) -> Result<Vec<u8>> {
        let shared = Shared::default();
        let output: Box<dyn Write + Send> = Box::new(shared.clone());
        let output = ParallelCompressor::new(output, Codec::default(), 1).unwrap();
        let output = CompressedOutput::new(Path::new("x"), output);
        let late = manifest.map(|manifest| LateMember {
            path: "backup_manifest",
            contents: Arc::new(Mutex::new(manifest.to_vec())),
        });
        let mut injector = Box::new(Injector::new(output, standby.map(<[u8]>::to_vec), late, 0o640));
        for piece in archive.chunks(step) {
            injector.write(piece)?;
        }
        injector.finish()?;
        let all = shared.0.lock().unwrap().clone();
        Ok(all)
    }

    fn members(mut archive: &[u8]) -> Vec<(String, Vec<u8>)> {
        let mut reader = TarReader::new();
        let mut all: Vec<(String, Vec<u8>)> = Vec::new();
        while let Some(event) = reader.next(&mut archive).unwrap() {
            match event {
                TarEvent::Entry(entry) => all.push((String::from_utf8(entry.path).unwrap(), Vec::new())),
                TarEvent::Data(data) => all.last_mut().unwrap().1.extend_from_slice(data),
                TarEvent::EndOfEntry => {}
            }
        }
        assert!(reader.has_ended());
        all
    }

    fn archive(names: &[&str]) -> Vec<u8> {
        let members: Vec<Vec<u8>> =
            names.iter().map(|name| member(name, format!("{name}\n").as_bytes())).collect();
        members.concat()
    }

    #[test]
    fn settings_grow_and_everything_else_is_passed_on() {
        let (head, tail) = (archive(&["a", "b"]), archive(&["c"]));
        let middle = archive(&[SETTINGS_FILE, SIGNAL_FILE]);
        for (end, step) in
            [(&END_OF_ARCHIVE[..], 1), (&END_OF_ARCHIVE, 700), (&[], 513), (&END_OF_ARCHIVE, 9999)]
        {
            let whole = [&head[..], &middle, &tail, end].concat();
            let out = injected(&whole, Some(b"new\n"), None, step).unwrap();
            assert!(out.starts_with(&head));
            let all = members(&out);
            let names: Vec<&str> = all.iter().map(|(name, _)| name.as_str()).collect();
            assert_eq!(names, ["a", "b", SETTINGS_FILE, "c", SIGNAL_FILE]);
            assert_eq!(all[2].1, b"postgresql.auto.conf\nnew\n");
            assert_eq!(all[4].1, b"");
            // The same owner as all others.
            assert_eq!(&out[head.len()..][UID], b"0001747\0");
        }
    }

    #[test]
    fn what_is_missing_is_added() {
        let whole = [archive(&["a"]), END_OF_ARCHIVE.to_vec(), vec![0; 8192]].concat();
        let out = injected(&whole, Some(b"new\n"), Some(b"{}"), 512).unwrap();
        let all = members(&out);
        let names: Vec<&str> = all.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["a", SETTINGS_FILE, SIGNAL_FILE, "backup_manifest"]);
        assert_eq!(all[3].1, b"{}");
        let unchanged = [archive(&["a"]), END_OF_ARCHIVE.to_vec()].concat();
        assert_eq!(injected(&unchanged, None, None, 100).unwrap(), unchanged);
    }

    #[test]
    fn an_archive_that_is_cut_is_refused() {
        let whole = archive(&["a", SETTINGS_FILE]);
        for length in [1, 511, 513, 1100, 1537] {
            assert!(injected(&whole[..length], Some(b"x"), None, 64).is_err(), "{length}");
        }
    }
}
