//! The header of an incremental file, read off the file.

use std::io::{self, Read};

use pgkeep_format::incremental_file::{
    IncrementalEvent, IncrementalFileError, IncrementalHeader, IncrementalReader,
};

/// Why there is no header.
#[derive(Debug)]
pub enum HeaderError {
    /// It cannot be read.
    Io(io::Error),
    /// It is none.
    Malformed(IncrementalFileError),
    /// The file ends within it.
    Short,
}

/// Reads the header of an incremental file of `length` bytes. Answers where the blocks begin, too.
///
/// # Errors
/// See there.
pub fn read_header(
    file: &mut impl Read,
    length: u64,
    block_size: u32,
    segment_blocks: u32,
) -> Result<(IncrementalHeader, u64), HeaderError> {
    let mut reader = IncrementalReader::new(length, block_size, segment_blocks);
    let mut buffer = vec![0; 16 << 10];
    loop {
        let read = match file.read(&mut buffer) {
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(HeaderError::Io(error)),
        };
        let mut piece = buffer.get(..read).unwrap_or_default();
        while let Some(event) = reader.next(&mut piece).map_err(HeaderError::Malformed)? {
            if let IncrementalEvent::Header(header) = event {
                let begin = header.encode(block_size).len() as u64;
                return Ok((header, begin));
            }
        }
        if read == 0 {
            return Err(HeaderError::Short);
        }
    }
}
