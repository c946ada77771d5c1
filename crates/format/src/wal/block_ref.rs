//! References from a record to the blocks that it changes (`access/xlogrecord.h`, `XLogRecordBlockHeader`, 13 to 18).
//!
//! The flags of page images got new meanings in 15, so parsing needs the version. Only lengths and places are read;
//! images are never decompressed. Every length is checked against the record's end before it is believed.

use super::cursor::Cursor;
use super::page::WalVersion;
use crate::relation::{Fork, RelFileLocator};

const HAS_IMAGE: u8 = 0x10;
const HAS_DATA: u8 = 0x20;
const WILL_INIT: u8 = 0x40;
const SAME_RELATION: u8 = 0x80;
const IMAGE_HAS_HOLE: u8 = 1;

/// How a page image in a record is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ImageCompression {
    /// There is no image, or it is stored as it is.
    #[default]
    None,
    /// PostgreSQL's own LZ.
    Pglz,
    /// LZ4 (15 and later).
    Lz4,
    /// Zstandard (15 and later).
    Zstd,
}

/// One block that a record changes, with what the record carries for it.
///
/// The block's image and data lie in the record in the order of the references, each image before its data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockRef {
    /// The number by which the record's replay code knows the block.
    pub id: u8,
    /// The fork.
    pub fork: Fork,
    /// The relation.
    pub locator: RelFileLocator,
    /// The block within the fork.
    pub block: u32,
    /// Bytes of the page image in the record; 0 if there is none.
    pub image_length: u16,
    /// Where zeros were cut out of the image.
    pub hole_offset: u16,
    /// How many zeros were cut out, where the record says so; otherwise what is missing to a block.
    pub hole_length: Option<u16>,
    /// How the image is compressed.
    pub compression: ImageCompression,
    /// Whether replay restores the image (an image that only serves consistency checks is not applied).
    pub applies_image: bool,
    /// Whether replay starts from an empty page.
    pub will_init: bool,
    /// Bytes of data in the record that belong to the block.
    pub data_length: u16,
}

impl BlockRef {
    /// How many bytes of the record belong to the block.
    #[must_use]
    pub const fn payload_length(&self) -> usize {
        self.image_length as usize + self.data_length as usize
    }

    /// Reads the reference whose id byte was just read. None if it contradicts itself or the bytes end.
    #[inline]
    pub(super) fn parse(
        id: u8,
        cursor: &mut Cursor<'_>,
        version: WalVersion,
        previous: Option<RelFileLocator>,
    ) -> Option<BlockRef> {
        let [flags, low, high] = *cursor.array::<3>()?;
        let data_length = u16::from_le_bytes([low, high]);
        let fork = match flags & 0x0F {
            0 => Fork::Main,
            1 => Fork::Fsm,
            2 => Fork::Vm,
            3 => Fork::Init,
            _ => return None,
        };
        if (flags & HAS_DATA != 0) != (data_length != 0) {
            return None;
        }
        let image = if flags & HAS_IMAGE != 0 { Image::parse(cursor, version)? } else { Image::default() };
        let locator = if flags & SAME_RELATION != 0 {
            previous?
        } else {
            RelFileLocator { tablespace: cursor.u32()?, database: cursor.u32()?, number: cursor.u32()? }
        };
        Some(BlockRef {
            id,
            fork,
            locator,
            block: cursor.u32()?,
            image_length: image.length,
            hole_offset: image.hole_offset,
            hole_length: image.hole_length,
            compression: image.compression,
            applies_image: image.applies,
            will_init: flags & WILL_INIT != 0,
            data_length,
        })
    }
}

#[derive(Default)]
struct Image {
    length: u16,
    hole_offset: u16,
    hole_length: Option<u16>,
    compression: ImageCompression,
    applies: bool,
}

impl Image {
    fn parse(cursor: &mut Cursor<'_>, version: WalVersion) -> Option<Image> {
        let length = cursor.u16()?;
        let hole_offset = cursor.u16()?;
        let info = cursor.u8()?;
        // 15 moved the bits: what meant "compressed" now means "apply".
        let (compression, applies) = if version < WalVersion::V15 {
            let compression = if info & 2 != 0 { ImageCompression::Pglz } else { ImageCompression::None };
            (compression, info & 4 != 0)
        } else {
            let compression = match info & 0x1C {
                0 => ImageCompression::None,
                4 => ImageCompression::Pglz,
                8 => ImageCompression::Lz4,
                0x10 => ImageCompression::Zstd,
                _ => return None,
            };
            (compression, info & 2 != 0)
        };
        let has_hole = info & IMAGE_HAS_HOLE != 0;
        let hole_length =
            if has_hole && compression != ImageCompression::None { Some(cursor.u16()?) } else { None };
        Some(Image { length, hole_offset, hole_length, compression, applies })
    }
}
