//! A compressor with several threads whose output is what one compressor would write: one gzip member, one Zstandard
//! frame, LZ4 frames. PostgreSQL's own programs read no more than one member of gzip.
//!
//! gzip and LZ4 are cut into pieces of [`PIECE`] bytes, which threads compress apart; they are written in order. Zstandard
//! brings threads of its own. At most two pieces for each thread are held, whatever the input's size.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use flate2::Crc;
use pgkeep_format::archive::Compression;

use super::piece::LAST_BLOCK;
use super::{Codec, Compressor, Framing, PieceCompressor};

/// Bytes that a thread compresses at a time: what is lost at the borders, where matches end, does not count then.
const PIECE: usize = 1 << 20;
/// Pieces on their way for each thread: one that is being compressed, and one that waits.
const PIECES_FOR_EACH: usize = 2;
/// More threads than this gain nothing, and each costs memory.
const MOST_THREADS: usize = 64;

/// A gzip member of deflated data, with nothing said about where it comes from.
const GZIP_HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];

/// A writer that compresses into `sink`; [`ParallelCompressor::finish`] ends it.
#[derive(Debug)]
pub struct ParallelCompressor<W: Write>(Inner<W>);

#[derive(Debug)]
enum Inner<W: Write> {
    /// One thread, or those of the codec.
    Stream(Compressor<W>),
    Pieces(Pieces<W>),
}

impl<W: Write> ParallelCompressor<W> {
    /// A compressor with so many threads beside the caller's; with one or none, the caller's own does the work.
    ///
    /// # Errors
    /// When the codec refuses the level or number of threads, or a thread cannot be started.
    pub fn new(sink: W, codec: Codec, threads: usize) -> io::Result<ParallelCompressor<W>> {
        let threads = threads.min(MOST_THREADS);
        let by_itself = matches!(codec.compression, Compression::None | Compression::Zstd);
        if threads > 1 && !by_itself {
            return Ok(ParallelCompressor(Inner::Pieces(Pieces::start(sink, codec, threads)?)));
        }
        let mut compressor = Compressor::new(sink, codec, Framing::File)?;
        if let Compressor::Zstd(encoder) = &mut compressor
            && threads > 1
        {
            encoder.multithread(u32::try_from(threads).unwrap_or(1))?;
        }
        Ok(ParallelCompressor(Inner::Stream(compressor)))
    }

    /// Ends the stream and gives the sink back.
    ///
    /// # Errors
    /// When compressing or writing fails.
    pub fn finish(self) -> io::Result<W> {
        match self.0 {
            Inner::Stream(compressor) => compressor.finish(),
            Inner::Pieces(pieces) => pieces.finish(),
        }
    }
}

impl<W: Write> Write for ParallelCompressor<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.0 {
            Inner::Stream(compressor) => compressor.write(bytes),
            Inner::Pieces(pieces) => pieces.write(bytes),
        }
    }

    /// Hands what is ready to the sink; pieces that are not full wait on.
    fn flush(&mut self) -> io::Result<()> {
        match &mut self.0 {
            Inner::Stream(compressor) => compressor.flush(),
            Inner::Pieces(pieces) => pieces.sink.flush(),
        }
    }
}

/// What a thread is given.
struct Job {
    plain: Vec<u8>,
    answer: SyncSender<io::Result<Piece>>,
}

/// What it gives back.
struct Piece {
    compressed: Vec<u8>,
    /// Of what the piece holds.
    checksum: Crc,
}

struct Pieces<W> {
    sink: W,
    compression: Compression,
    plain: Vec<u8>,
    checksum: Crc,
    /// None when no more come.
    jobs: Option<SyncSender<Job>>,
    /// Answers in the order of the pieces.
    answers: VecDeque<Receiver<io::Result<Piece>>>,
    threads: Vec<JoinHandle<()>>,
}

impl<W> std::fmt::Debug for Pieces<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pieces").field("threads", &self.threads.len()).finish_non_exhaustive()
    }
}

impl<W: Write> Pieces<W> {
    fn start(mut sink: W, codec: Codec, count: usize) -> io::Result<Pieces<W>> {
        let (jobs, inbox) = sync_channel(count * PIECES_FOR_EACH);
        let inbox = Arc::new(Mutex::new(inbox));
        let mut threads = Vec::with_capacity(count);
        for _ in 0..count {
            let inbox = Arc::clone(&inbox);
            let thread = std::thread::Builder::new().name("compress".to_owned());
            threads.push(thread.spawn(move || work(&inbox, codec))?);
        }
        if codec.compression == Compression::Gzip {
            sink.write_all(&GZIP_HEADER)?;
        }
        Ok(Pieces {
            sink,
            compression: codec.compression,
            plain: Vec::new(),
            checksum: Crc::new(),
            jobs: Some(jobs),
            answers: VecDeque::new(),
            threads,
        })
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.plain.capacity() == 0 {
            self.plain.reserve_exact(PIECE);
        }
        let room = PIECE.saturating_sub(self.plain.len());
        let (now, _) = bytes.split_at(room.min(bytes.len()));
        self.plain.extend_from_slice(now);
        if self.plain.len() >= PIECE {
            self.hand_out()?;
        }
        Ok(now.len())
    }

    fn hand_out(&mut self) -> io::Result<()> {
        while self.answers.len() >= self.threads.len() * PIECES_FOR_EACH {
            self.write_next()?;
        }
        let (answer, receiver) = sync_channel(1);
        let job = Job { plain: std::mem::take(&mut self.plain), answer };
        let is_taken = self.jobs.as_ref().is_some_and(|jobs| jobs.send(job).is_ok());
        if !is_taken {
            return Err(lost());
        }
        self.answers.push_back(receiver);
        Ok(())
    }

    /// Waits for the oldest piece and writes it.
    fn write_next(&mut self) -> io::Result<()> {
        let Some(answer) = self.answers.pop_front() else { return Ok(()) };
        let piece = answer.recv().map_err(|_| lost())??;
        self.checksum.combine(&piece.checksum);
        self.sink.write_all(&piece.compressed)
    }

    fn finish(mut self) -> io::Result<W> {
        // LZ4 needs a frame, also where there is nothing.
        let is_empty = self.checksum.amount() == 0 && self.answers.is_empty();
        if !self.plain.is_empty() || (is_empty && self.compression == Compression::Lz4) {
            self.hand_out()?;
        }
        while !self.answers.is_empty() {
            self.write_next()?;
        }
        if self.compression == Compression::Gzip {
            self.sink.write_all(&LAST_BLOCK)?;
            self.sink.write_all(&self.checksum.sum().to_le_bytes())?;
            self.sink.write_all(&self.checksum.amount().to_le_bytes())?;
        }
        self.jobs = None;
        for thread in self.threads {
            thread.join().map_err(|_| lost())?;
        }
        Ok(self.sink)
    }
}

fn work(inbox: &Mutex<Receiver<Job>>, codec: Codec) {
    loop {
        // Held only while waiting: whoever has the lock gets the next job.
        let job = inbox.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(Job { plain, answer }) = job else { return };
        // Whoever waited may have given up.
        drop(answer.send(compress(&plain, codec)));
    }
}

fn compress(plain: &[u8], codec: Codec) -> io::Result<Piece> {
    let mut checksum = Crc::new();
    // Pieces of gzip are raw deflate, as those of a zlib stream are.
    let framing = if codec.compression == Compression::Gzip {
        checksum.update(plain);
        Framing::Chunks
    } else {
        Framing::File
    };
    let mut compressor = PieceCompressor::new(codec, framing)?;
    compressor.write(plain)?;
    Ok(Piece { compressed: compressor.finish()?, checksum })
}

fn lost() -> io::Error {
    io::Error::other("a compressing thread has ended early")
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;
    use crate::compress::buffered_reader;

    fn text(length: usize) -> Vec<u8> {
        let lines =
            (0_u32..).flat_map(|number| format!("{}\t", number.wrapping_mul(2_654_435_761)).into_bytes());
        lines.take(length).collect()
    }

    fn compressed(plain: &[u8], codec: Codec, threads: usize) -> Vec<u8> {
        let mut compressor = ParallelCompressor::new(Vec::new(), codec, threads).unwrap();
        for part in plain.chunks(70_001) {
            compressor.write_all(part).unwrap();
        }
        compressor.finish().unwrap()
    }

    #[test]
    fn every_codec_is_read_back_with_any_number_of_threads() {
        let most = text(3 * PIECE + 17);
        for compression in [Compression::None, Compression::Gzip, Compression::Lz4, Compression::Zstd] {
            for threads in [0, 1, 2, 5] {
                for length in [0, 1, PIECE, PIECE + 1, most.len()] {
                    let plain = &most[..length];
                    let bytes = compressed(plain, Codec::of(compression), threads);
                    let mut read = Vec::new();
                    buffered_reader(&bytes[..], compression, Framing::File)
                        .unwrap()
                        .read_to_end(&mut read)
                        .unwrap();
                    assert!(read == plain, "{compression:?} {threads} {length}");
                }
            }
        }
    }

    #[test]
    fn gzip_is_one_member() {
        let plain = text(2 * PIECE + 5);
        let bytes = compressed(&plain, Codec { level: Some(1), ..Codec::of(Compression::Gzip) }, 3);
        let mut decoder = flate2::bufread::GzDecoder::new(&bytes[..]);
        let mut read = Vec::new();
        decoder.read_to_end(&mut read).unwrap();
        assert!(read == plain);
        assert!(decoder.into_inner().is_empty(), "nothing behind the member");
    }

    #[test]
    fn a_sink_that_fails_ends_it() {
        struct Full;
        impl Write for Full {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                if bytes.len() > 10 { Err(io::ErrorKind::StorageFull.into()) } else { Ok(bytes.len()) }
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let mut compressor = ParallelCompressor::new(Full, Codec::of(Compression::Gzip), 2).unwrap();
        let outcome = compressor.write_all(&text(8 * PIECE)).and_then(|()| compressor.finish().map(drop));
        assert_eq!(outcome.unwrap_err().kind(), io::ErrorKind::StorageFull);
    }
}
