//! Reading the header and the table of contents, and the numbers and texts that they are made of.
//!
//! Nothing is allocated on the word of a length: texts and lists grow with the bytes that arrive.

use std::io::{self, Read};

use super::{
    ArchiveError, ArchiveFormat, ArchiveHeader, ArchiveVersion, CatalogId, Compression, DataLocation, DumpId,
    LocalTime, Section, Text, TocEntry,
};

/// The bytes that every archive begins with.
pub const MAGIC: &[u8; 5] = b"PGDMP";
/// The longest text: what a server takes as one command.
pub const MAX_TEXT_LENGTH: u64 = 1 << 30;
/// The widest integer that a header may announce.
const MAX_INT_SIZE: u8 = 32;

/// Reads from an archive and counts the bytes.
#[derive(Debug)]
pub struct ArchiveDecoder<R> {
    input: R,
    position: u64,
    int_size: u8,
    offset_size: u8,
}

impl<R: Read> ArchiveDecoder<R> {
    /// A decoder at the start of an archive.
    pub fn new(input: R) -> ArchiveDecoder<R> {
        ArchiveDecoder { input, position: 0, int_size: 4, offset_size: 8 }
    }

    /// How many bytes were read.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Says that the input was moved to another place.
    pub fn set_position(&mut self, position: u64) {
        self.position = position;
    }

    /// The input.
    pub fn get_mut(&mut self) -> &mut R {
        &mut self.input
    }

    /// The input, given back.
    pub fn into_inner(self) -> R {
        self.input
    }

    /// Reads the header of an archive of this format.
    ///
    /// # Errors
    /// When there is none, when its version is not known, or when it announces another format.
    pub fn header(&mut self, format: ArchiveFormat) -> Result<ArchiveHeader, ArchiveError> {
        let mut magic = [0; 5];
        match self.bytes(&mut magic) {
            Ok(()) if magic == *MAGIC => {}
            Ok(()) => return Err(ArchiveError::NotAnArchive),
            Err(other) => return Err(other),
        }
        let version = ArchiveVersion { major: self.byte()?, minor: self.byte()?, revision: self.byte()? };
        if version.major != 1 || !(12..=16).contains(&version.minor) {
            return Err(ArchiveError::UnsupportedVersion(version));
        }
        self.int_size = self.byte()?;
        if self.int_size > MAX_INT_SIZE {
            return Err(ArchiveError::IntegerSize(self.int_size));
        }
        self.offset_size = self.byte()?;
        let found = self.byte()?;
        let expected = format_number(format);
        if found != expected {
            return Err(ArchiveError::Format { expected, found });
        }
        let (compression, compression_level) = if version.is_at_least(ArchiveVersion::V1_15) {
            let compression = match self.byte()? {
                0 => Compression::None,
                1 => Compression::Gzip,
                2 => Compression::Lz4,
                3 => Compression::Zstd,
                other => return Err(ArchiveError::Compression(other)),
            };
            (compression, None)
        } else {
            let level = self.int()?;
            (if level == 0 { Compression::None } else { Compression::Gzip }, Some(level))
        };
        let created = LocalTime {
            second: self.int()?,
            minute: self.int()?,
            hour: self.int()?,
            day: self.int()?,
            month0: self.int()?,
            year_since_1900: self.int()?,
            is_dst: self.int()?,
        };
        Ok(ArchiveHeader {
            version,
            int_size: self.int_size,
            offset_size: self.offset_size,
            format,
            compression,
            compression_level,
            created,
            database: self.text()?,
            server_version: self.text()?,
            dump_version: self.text()?,
        })
    }

    /// Reads the table of contents that follows the header.
    ///
    /// # Errors
    /// When it is cut short or not one.
    pub fn table(&mut self, header: &ArchiveHeader) -> Result<Vec<TocEntry>, ArchiveError> {
        let count = self.int()?;
        let mut entries = Vec::new();
        for _ in 0..count {
            entries.push(self.entry(header)?);
        }
        Ok(entries)
    }

    fn entry(&mut self, header: &ArchiveHeader) -> Result<TocEntry, ArchiveError> {
        let dump_id = self.int()?;
        let dump_id = match u32::try_from(dump_id) {
            Ok(id) if id > 0 => DumpId(id),
            _ => return Err(ArchiveError::DumpId(dump_id.into())),
        };
        let had_dumper = self.int()? != 0;
        let catalog_id =
            CatalogId { table_oid: self.decimal("catalog OID")?, oid: self.decimal("object OID")? };
        let tag = self.required_text("entry without a name")?;
        let desc = self.required_text("entry without a description")?;
        let section = match self.int()? {
            1 => Section::None,
            2 => Section::PreData,
            3 => Section::Data,
            4 => Section::PostData,
            _ => return Err(self.invalid("section")),
        };
        let mut entry = TocEntry::new(dump_id, desc, tag, section);
        entry.had_dumper = had_dumper;
        entry.catalog_id = catalog_id;
        entry.definition = self.text()?;
        entry.drop_statement = self.text()?;
        entry.copy_statement = self.text()?;
        entry.namespace = self.text()?;
        entry.tablespace = self.text()?;
        if header.version.is_at_least(ArchiveVersion::V1_14) {
            entry.table_access_method = self.text()?;
        }
        if header.version.is_at_least(ArchiveVersion::V1_16) {
            let relkind = self.int()?;
            entry.relkind = u8::try_from(relkind).map_err(|_| self.invalid("kind of relation"))?;
        }
        entry.owner = self.text()?;
        entry.with_oids = self.required_text("WITH OIDS flag")? == "true";
        while let Some(dependency) = self.text()? {
            let id = leading_number(&dependency).filter(|id| *id <= DumpId::MAX.0);
            entry.dependencies.push(DumpId(id.ok_or_else(|| self.invalid("dependency"))?));
        }
        entry.data = self.location(header.format)?;
        Ok(entry)
    }

    fn location(&mut self, format: ArchiveFormat) -> Result<DataLocation, ArchiveError> {
        if format != ArchiveFormat::Custom {
            return Ok(match self.text()? {
                Some(file) if !file.is_empty() => DataLocation::File(file),
                _ => DataLocation::None,
            });
        }
        let flag = self.byte()?;
        let offset = self.offset()?;
        match flag {
            1 => Ok(DataLocation::Unknown),
            2 => Ok(DataLocation::Offset(offset)),
            3 => Ok(DataLocation::None),
            _ => Err(self.invalid("data offset flag")),
        }
    }

    /// A byte.
    ///
    /// # Errors
    /// At the end of the input.
    pub fn byte(&mut self) -> Result<u8, ArchiveError> {
        let mut byte = [0];
        self.bytes(&mut byte)?;
        let [byte] = byte;
        Ok(byte)
    }

    /// A byte; none at the end of the input.
    ///
    /// # Errors
    /// When reading fails.
    pub fn byte_or_end(&mut self) -> Result<Option<u8>, ArchiveError> {
        match self.byte() {
            Ok(byte) => Ok(Some(byte)),
            Err(ArchiveError::Truncated { .. }) => Ok(None),
            Err(other) => Err(other),
        }
    }

    /// An integer: a sign byte, then the magnitude, least byte first.
    ///
    /// # Errors
    /// At the end of the input, and when the number does not fit into 32 bits.
    pub fn int(&mut self) -> Result<i32, ArchiveError> {
        let (negative, magnitude) = if self.int_size == 4 {
            // Nearly always. Uncompressed archives have one for each row.
            let mut bytes = [0; 5];
            self.bytes(&mut bytes)?;
            let [sign, magnitude @ ..] = bytes;
            (sign != 0, u64::from(u32::from_le_bytes(magnitude)))
        } else {
            (self.byte()? != 0, self.magnitude(self.int_size)?)
        };
        let out_of_range = ArchiveError::Number { position: self.position };
        let magnitude = i64::try_from(magnitude).map_err(|_| out_of_range)?;
        i32::try_from(if negative { -magnitude } else { magnitude })
            .map_err(|_| ArchiveError::Number { position: self.position })
    }

    fn offset(&mut self) -> Result<u64, ArchiveError> {
        self.magnitude(self.offset_size)
    }

    /// Bytes of a number, the least one first; those beyond the eighth must be zero.
    fn magnitude(&mut self, size: u8) -> Result<u64, ArchiveError> {
        let mut value = 0_u64;
        for index in 0..u32::from(size) {
            let byte = u64::from(self.byte()?);
            if index < 8 {
                value |= byte << (8 * index);
            } else if byte != 0 {
                return Err(ArchiveError::Number { position: self.position });
            }
        }
        Ok(value)
    }

    /// A text; none for NULL.
    ///
    /// # Errors
    /// At the end of the input, and when it is longer than [`MAX_TEXT_LENGTH`].
    pub fn text(&mut self) -> Result<Option<Text>, ArchiveError> {
        let Ok(length) = u64::try_from(self.int()?) else { return Ok(None) };
        if length > MAX_TEXT_LENGTH {
            return Err(self.invalid("length of a text"));
        }
        let mut bytes = Vec::new();
        let read = (&mut self.input).take(length).read_to_end(&mut bytes);
        self.position = self.position.saturating_add(bytes.len() as u64);
        read.map_err(|source| self.read_error(source))?;
        if (bytes.len() as u64) < length {
            return Err(ArchiveError::Truncated { position: self.position });
        }
        // C programs see the text up to its first NUL.
        if let Some(end) = bytes.iter().position(|byte| *byte == 0) {
            bytes.truncate(end);
        }
        Ok(Some(bytes.into()))
    }

    fn required_text(&mut self, what: &'static str) -> Result<Text, ArchiveError> {
        self.text()?.ok_or_else(|| self.invalid(what))
    }

    /// A text that begins with a decimal number.
    fn decimal(&mut self, what: &'static str) -> Result<u32, ArchiveError> {
        let text = self.required_text(what)?;
        leading_number(&text).ok_or_else(|| self.invalid(what))
    }

    /// Fills the slice.
    ///
    /// # Errors
    /// At the end of the input.
    pub fn bytes(&mut self, buffer: &mut [u8]) -> Result<(), ArchiveError> {
        let mut filled = 0;
        while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match self.input.read(rest) {
                Ok(0) => return Err(ArchiveError::Truncated { position: self.position }),
                Ok(read) => {
                    filled += read;
                    self.position = self.position.saturating_add(read as u64);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(self.read_error(source)),
            }
        }
        Ok(())
    }

    fn invalid(&self, what: &'static str) -> ArchiveError {
        ArchiveError::Invalid { what, position: self.position }
    }

    fn read_error(&self, source: io::Error) -> ArchiveError {
        if source.kind() == io::ErrorKind::UnexpectedEof {
            return ArchiveError::Truncated { position: self.position };
        }
        ArchiveError::Read { position: self.position, source }
    }
}

/// The number of a format in the header. Directories call themselves tar archives.
pub(super) fn format_number(format: ArchiveFormat) -> u8 {
    match format {
        ArchiveFormat::Custom => 1,
        ArchiveFormat::Directory | ArchiveFormat::Tar => 3,
    }
}

fn leading_number(text: &[u8]) -> Option<u32> {
    let end = text.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(text.len());
    std::str::from_utf8(text.get(..end)?).ok()?.parse().ok()
}
