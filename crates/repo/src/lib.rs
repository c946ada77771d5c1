//! The repository: where backups and WAL are kept, as objects that are written once and never changed.
//!
//! [`Store`] is the storage beneath, [`Repository`] and [`Stanza`] name what is in it. A [`BackupWriter`] turns frames
//! (made by [`BlockEncoder`]s) into packs and commits a manifest; a [`BackupReader`] gives files, block maps and, by
//! [`FrameFetcher`], proved bytes. [`WalArchive`] keeps WAL files, a [`DumpWriter`] and a [`DumpReader`] dumps of databases. [`Removal`] takes away what nothing needs. The bytes are specified in `docs/format/`.
//!
//! Invariants: nothing is overwritten or renamed; a backup exists when its manifest does, and the manifest is written
//! after everything that it needs; stored bytes are checked before they are believed. A crash at any point leaves a
//! valid repository, and at most objects that no manifest names.

mod backup_id;
mod backup_reader;
mod backup_writer;
mod block_map;
mod bytes;
mod codec;
mod condemnation;
mod digest;
mod dump;
mod error;
mod format_version;
mod frame;
mod frame_fetcher;
#[doc(hidden)]
pub mod fuzzing;
mod hold;
mod journal;
mod key;
mod lease;
mod leftovers;
mod manifest;
mod manifest_writer;
mod map_leaves;
mod map_writer;
mod pack;
mod pack_check;
mod pack_set;
mod parent_map;
mod process_identity;
mod removal;
mod report;
mod repository;
mod stanza;
mod store;
mod stored_manifest;
mod wal_archive;
mod wal_object;
mod wal_tail;

pub use backup_id::{BackupId, ParseBackupIdError};
pub use backup_reader::{BackupReader, BlockMap, Files};
pub use backup_writer::BackupWriter;
pub use block_map::{BlockMapBuilder, BlockRun, PieceRef, RunTarget};
pub use codec::{Codec, Compression, ParseCompressionError};
pub use condemnation::{Condemned, PackName, WalRange};
pub use digest::{BlockDigest, Digest16, Digest32, DigestKey, is_zero_block};
pub use dump::{
    DumpHeader, DumpId, DumpInventory, DumpListing, DumpPart, DumpPartKind, DumpPartReader, DumpReader,
    DumpWriter, DumpedTable, PartHasher,
};
pub use error::{RepoError, Result};
pub use format_version::FORMAT;
pub use frame::{
    BlockEncoder, EncodedFrame, FRAME_HEADER_LEN, FrameDecoder, FrameKind, FrameRef, MAX_BLOCKS_FRAME,
};
pub use frame_fetcher::{FrameFetcher, StoredFrame};
pub use hold::Hold;
pub use journal::PlacedBlocks;
pub use key::StanzaName;
pub use lease::{Lease, LeaseInfo};
pub use leftovers::{LeftBlock, Leftovers};
pub use manifest::{
    BackupKind, BadPages, BadPagesOfFile, ExternalFile, FileEntry, FileKind, FileMeta, ManifestHeader,
    PackEntry, Tablespace, Totals, WalMode, WalNeeded,
};
pub use map_leaves::{MapLeaf, MapLeaves};
pub use pack::{IndexEntry, PackHeader};
pub use pack_check::{PackCheck, PackContents};
pub use parent_map::{ParentLeaf, ParentMap, Scatter};
pub use removal::{Inventory, Removal, RemovalStep, RemovalSteps, StoredPack, UnlistedPack};
pub use report::ReportName;
pub use repository::Repository;
pub use stanza::{BackupListing, ClusterRecord, Stanza};
pub use store::{ObjectInfo, PART_SIZE, Store, Upload};
pub use wal_archive::{PutWal, WalArchive};
pub use wal_object::{WalFacts, WalFile, WalHeader, WalKind, WalObject};
pub use wal_tail::WalTail;
