//! An archive that the server compressed, decompressed for the sink that wants to look into it.
//!
//! Decoders pull, connections push, so each archive has a thread; between it and the connection are at most [`WAITING`]
//! pieces.

use std::io::{self, BufReader, Read};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use pgkeep_format::archive::Compression;
use pgkeep_tool::compress::{Framing, reader};
use pgkeep_tool::{Result, ToolError, system_text};

use super::sink::ArchiveSink;

/// Pieces that wait for the thread; a server's are some 32 KiB.
const WAITING: usize = 32;
/// How much is decompressed at a time.
const BUFFER: usize = 128 << 10;

/// Hands compressed bytes to a thread that has the sink for the plain ones.
pub(super) struct Decompressing {
    name: String,
    /// A piece, or none for the end: an archive that is given up must not pass for one that ended.
    pieces: SyncSender<Option<Vec<u8>>>,
    /// None once its outcome was asked for.
    thread: Option<JoinHandle<Result<()>>>,
}

impl Decompressing {
    /// `name` is the archive's, for messages.
    pub(super) fn start(
        name: String,
        compression: Compression,
        sink: Box<dyn ArchiveSink>,
    ) -> Result<Decompressing> {
        let (pieces, arriving) = sync_channel(WAITING);
        let archive = name.clone();
        let thread = std::thread::Builder::new()
            .name("decompress".to_owned())
            .spawn(move || decompress(&archive, arriving, compression, sink))
            .map_err(|error| ToolError::new(format!("could not create thread: {}", system_text(&error))))?;
        Ok(Decompressing { name, pieces, thread: Some(thread) })
    }

    fn outcome(&mut self) -> Result<()> {
        let thread = self.thread.take();
        thread.map_or_else(|| Err(lost()), |thread| thread.join().unwrap_or_else(|_| Err(lost())))
    }
}

/// What is given up writes nothing any more when this is gone: the directory can be removed.
impl Drop for Decompressing {
    fn drop(&mut self) {
        // Without a sender there is an end.
        self.pieces = sync_channel(0).0;
        if self.thread.is_some() {
            drop(self.outcome());
        }
    }
}

impl ArchiveSink for Decompressing {
    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        if self.pieces.send(Some(bytes.to_vec())).is_ok() {
            return Ok(());
        }
        // The thread has ended, and knows why.
        self.outcome().and_then(|()| Err(lost()))
    }

    fn finish(mut self: Box<Self>) -> Result<()> {
        // Nobody takes it where the thread has failed.
        drop(self.pieces.send(None));
        self.outcome()
    }

    fn file(&self) -> String {
        self.name.clone()
    }
}

fn lost() -> ToolError {
    ToolError::new("a decompressing thread has ended early").hint("this is a defect of pgkeep: report it")
}

fn decompress(
    name: &str,
    arriving: Receiver<Option<Vec<u8>>>,
    compression: Compression,
    mut sink: Box<dyn ArchiveSink>,
) -> Result<()> {
    let damaged = |error: io::Error| ToolError::could_not("decompress data of", name, &error);
    let arriving = Arriving { pieces: arriving, piece: Vec::new(), taken: 0 };
    let mut plain =
        reader(BufReader::with_capacity(BUFFER, arriving), compression, Framing::File).map_err(damaged)?;
    let mut buffer = vec![0; BUFFER];
    loop {
        match plain.read(&mut buffer).map_err(damaged)? {
            0 => break,
            read => sink.write(buffer.get(..read).unwrap_or_default())?,
        }
    }
    drop(plain);
    sink.finish()
}

/// What comes over a channel, as a reader.
struct Arriving {
    pieces: Receiver<Option<Vec<u8>>>,
    piece: Vec<u8>,
    taken: usize,
}

impl Read for Arriving {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.taken >= self.piece.len() {
            match self.pieces.recv() {
                Ok(Some(piece)) => (self.piece, self.taken) = (piece, 0),
                // No more comes.
                Ok(None) => return Ok(0),
                Err(_) => return Err(io::Error::other("the backup was given up")),
            }
        }
        let mut rest = self.piece.get(self.taken..).unwrap_or_default();
        let read = rest.read(buffer)?;
        self.taken += read;
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use pgkeep_tool::compress::{Codec, ParallelCompressor};

    use super::*;

    #[derive(Clone, Default)]
    struct Collected(Arc<Mutex<Vec<u8>>>);

    impl ArchiveSink for Collected {
        fn write(&mut self, bytes: &[u8]) -> Result<()> {
            let mut all = self.0.lock().unwrap();
            all.extend_from_slice(bytes);
            if all.len() > 1 << 20 { Err(ToolError::new("full")) } else { Ok(()) }
        }
        fn finish(self: Box<Self>) -> Result<()> {
            self.0.lock().unwrap().push(b'!');
            Ok(())
        }
        fn file(&self) -> String {
            String::new()
        }
    }

    fn run(plain: &[u8], compression: Compression, cut: usize) -> (Result<()>, Vec<u8>) {
        let mut compressor = ParallelCompressor::new(Vec::new(), Codec::of(compression), 1).unwrap();
        compressor.write_all(plain).unwrap();
        let bytes = compressor.finish().unwrap();
        let collected = Collected::default();
        let mut sink =
            Box::new(Decompressing::start("x".into(), compression, Box::new(collected.clone())).unwrap());
        let whole = &bytes[..bytes.len() - cut];
        let outcome = whole.chunks(1000).try_for_each(|piece| sink.write(piece)).and_then(|()| sink.finish());
        let all = collected.0.lock().unwrap().clone();
        (outcome, all)
    }

    #[test]
    fn plain_bytes_arrive_and_failures_come_back() {
        for compression in [Compression::Gzip, Compression::Lz4, Compression::Zstd] {
            let plain: Vec<u8> = (0..300_000_u32).map(|n| (n.wrapping_mul(n) >> 7) as u8).collect();
            let (outcome, all) = run(&plain, compression, 0);
            outcome.unwrap();
            assert!(all[..plain.len()] == plain && all.len() == plain.len() + 1, "finished once");
            let (outcome, all) = run(&plain, compression, 5);
            assert!(outcome.unwrap_err().message.contains("could not decompress"), "{compression:?}");
            assert_ne!(all.last(), Some(&b'!'), "not finished");
            // Given up where the stream is at its end: it is not finished either.
            let collected = Collected::default();
            let compressed = ParallelCompressor::new(Vec::new(), Codec::of(compression), 1).unwrap().finish();
            let sink = Box::new(collected.clone());
            let mut abandoned = Decompressing::start("x".into(), compression, sink).unwrap();
            abandoned.write(&compressed.unwrap()).unwrap();
            drop(abandoned);
            assert!(collected.0.lock().unwrap().is_empty());
            let (outcome, _) = run(&vec![7; 4 << 20], compression, 0);
            assert_eq!(outcome.unwrap_err().message, "full");
        }
    }
}
