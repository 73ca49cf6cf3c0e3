//! Streams that are hashed on the way, on threads of their own: inflating, hashing and writing files one after another in
//! one thread costs the sum of the three.

use std::collections::VecDeque;
use std::io::{self, BufRead, Read, Write};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use sha2::{Digest as _, Sha256};

use super::{At as _, LayerError, next_data};
use crate::Digest;

/// What came of a stream.
pub(super) struct Hashed {
    pub(super) digest: Digest,
    /// The state at each [mark](HashingWriter::mark).
    pub(super) marks: Vec<Sha256>,
}

enum Queued {
    Chunk(Arc<Vec<u8>>),
    Mark,
}

fn died() -> io::Error {
    io::Error::other("the hashing thread died")
}

fn hash_all(mut hash: Sha256, mut marks: Vec<Sha256>, receiver: &Receiver<Queued>) -> Hashed {
    for queued in receiver {
        match queued {
            Queued::Chunk(chunk) => hash.update(chunk.as_slice()),
            Queued::Mark => marks.push(hash.clone()),
        }
    }
    Hashed { digest: Digest::from_bytes(hash.finalize().into()), marks }
}

/// The way to the hashing thread, with the buffers that came back from it. It starts with the first chunk: a stream that
/// has less is hashed where it comes from.
struct HashQueue {
    hasher: Hasher,
    buffers: Buffers,
}

enum Hasher {
    Here { hash: Sha256, marks: Vec<Sha256> },
    Thread { sender: SyncSender<Queued>, thread: JoinHandle<Hashed> },
}

impl HashQueue {
    /// Goes on behind what `hash` has seen.
    fn new(hash: Sha256) -> Self {
        Self { hasher: Hasher::Here { hash, marks: Vec::new() }, buffers: Buffers::default() }
    }

    /// Hands a chunk to the hasher; the caller may go on reading it.
    fn push(&mut self, chunk: Arc<Vec<u8>>) -> io::Result<()> {
        if let Hasher::Here { hash, marks } = &mut self.hasher {
            let (hash, marks) = (hash.clone(), std::mem::take(marks));
            let (sender, receiver) = sync_channel(QUEUE_CHUNKS);
            // Not joined where something fails: it ends with the queue.
            let thread = std::thread::Builder::new()
                .name("kiln-layer-digest".to_owned())
                .spawn(move || hash_all(hash, marks, &receiver))?;
            self.hasher = Hasher::Thread { sender, thread };
        }
        self.send(Queued::Chunk(chunk))
    }

    /// Hashes what is less than a chunk; `true` when that was done here and now.
    fn has_hashed(&mut self, bytes: &[u8]) -> bool {
        match &mut self.hasher {
            Hasher::Here { hash, .. } => {
                hash.update(bytes);
                true
            }
            Hasher::Thread { .. } => false,
        }
    }

    /// Has the state kept behind what was handed over so far.
    fn mark(&mut self) -> io::Result<()> {
        match &mut self.hasher {
            Hasher::Here { hash, marks } => {
                marks.push(hash.clone());
                Ok(())
            }
            Hasher::Thread { .. } => self.send(Queued::Mark),
        }
    }

    fn send(&self, queued: Queued) -> io::Result<()> {
        match &self.hasher {
            Hasher::Thread { sender, .. } if sender.send(queued).is_ok() => Ok(()),
            _ => Err(died()),
        }
    }

    /// Waits until all is hashed.
    fn finish(self) -> io::Result<Hashed> {
        match self.hasher {
            Hasher::Here { hash, marks } => {
                Ok(Hashed { digest: Digest::from_bytes(hash.finalize().into()), marks })
            }
            Hasher::Thread { sender, thread } => {
                drop(sender);
                thread.join().map_err(|_| died())
            }
        }
    }
}

/// Chunks that were handed to other threads, to be filled again once those have done with them.
#[derive(Default)]
struct Buffers {
    lent: VecDeque<Arc<Vec<u8>>>,
}

impl Buffers {
    /// Remembers a chunk that somebody else reads.
    fn lend(&mut self, chunk: Arc<Vec<u8>>) {
        self.lent.push_back(chunk);
    }

    /// One that nobody reads any more if there is any: what is in it is of no use.
    fn take(&mut self) -> Vec<u8> {
        if self.lent.front().is_some_and(|chunk| Arc::strong_count(chunk) == 1)
            && let Some(chunk) = self.lent.pop_front()
            && let Ok(buffer) = Arc::try_unwrap(chunk)
        {
            return buffer;
        }
        Vec::with_capacity(CHUNK_BYTES)
    }
}

/// The bytes of files on their way to [`digest_listed`](super::digest_listed), from whoever has them in hand anyway.
pub struct Feed {
    sender: SyncSender<Arc<Vec<u8>>>,
    buffers: Buffers,
}

/// Where the bytes of a [`Feed`] come out.
pub struct Fed(Receiver<Arc<Vec<u8>>>);

impl Feed {
    /// A feed and its other end.
    pub fn new() -> (Self, Fed) {
        let (sender, receiver) = sync_channel(FED_CHUNKS);
        (Self { sender, buffers: Buffers::default() }, Fed(receiver))
    }

    /// An empty buffer with room for as many bytes as are best sent at once.
    pub fn buffer(&mut self) -> Vec<u8> {
        let mut buffer = self.buffers.take();
        buffer.clear();
        buffer
    }

    /// Sends what comes next, waiting while there is more than enough. Where nobody wants it any more it is dropped.
    pub fn send(&mut self, bytes: Vec<u8>) {
        let chunk = Arc::new(bytes);
        if self.sender.send(Arc::clone(&chunk)).is_ok() {
            self.buffers.lend(chunk);
        }
    }
}

/// Reads `input` to its end in this thread, while a second one hashes all of it and a third one runs `body` on it. At most
/// `limit` bytes are read; one more is an error of kind [`io::ErrorKind::FileTooLarge`]. `body` has to read to the end, and
/// meets the errors of `input` where it reads.
pub(super) fn read_hashed<T: Send>(
    input: impl Read,
    limit: u64,
    body: impl FnOnce(ChunkReader) -> Result<T, LayerError> + Send,
) -> Result<(T, Digest), LayerError> {
    let mut queue = HashQueue::new(Sha256::new());
    let result = std::thread::scope(|scope| {
        let (sender, receiver) = sync_channel(QUEUE_CHUNKS);
        let reader = ChunkReader { receiver, chunk: Arc::default(), position: 0 };
        let body = std::thread::Builder::new()
            .name("kiln-layer-files".to_owned())
            .spawn_scoped(scope, move || body(reader))
            .at(b"layer thread")?;
        feed(input, limit, &mut queue, sender);
        body.join().map_err(|_| io::Error::other("the layer thread died")).at(b"layer thread")?
    })?;
    Ok((result, queue.finish().at(b"hashing thread")?.digest))
}

/// Runs `body` on what a thread of its own reads from `input`, which may read further than `body` does and stops soon after
/// that has ended. Where reading costs something, verifying and keeping a copy, that no longer adds to what `body` costs.
///
/// # Errors
/// Those of `body`, which meets those of `input` where it reads.
pub fn read_ahead<T>(
    input: &mut (impl Read + Send),
    body: impl FnOnce(&mut dyn Read) -> Result<T, LayerError>,
) -> Result<T, LayerError> {
    std::thread::scope(|scope| {
        let (sender, receiver) = sync_channel(QUEUE_CHUNKS);
        std::thread::Builder::new()
            .name("kiln-layer-input".to_owned())
            .spawn_scoped(scope, move || {
                let mut buffers = Buffers::default();
                loop {
                    let mut buffer = buffers.take();
                    let read = fill(input, &mut buffer);
                    let is_end = buffer.is_empty() || read.is_err();
                    let chunk = Arc::new(buffer);
                    // What came before an error is whole.
                    let has_ended = !chunk.is_empty() && sender.send(Ok(Arc::clone(&chunk))).is_err();
                    if let Err(error) = read {
                        drop(sender.send(Err(error)));
                    }
                    if is_end || has_ended {
                        return;
                    }
                    buffers.lend(chunk);
                }
            })
            .at(b"layer thread")?;
        body(&mut ChunkReader { receiver, chunk: Arc::default(), position: 0 })
    })
}

/// Writes all of `input` to `out`, while a second thread hashes it. Returns how many bytes there were, and their digest.
pub(crate) fn copy_hashed(mut input: impl Read, out: &mut dyn Write) -> io::Result<(u64, Digest)> {
    let mut queue = HashQueue::new(Sha256::new());
    let mut copied = 0;
    loop {
        let mut buffer = queue.buffers.take();
        fill(&mut input, &mut buffer)?;
        copied += buffer.len() as u64;
        if buffer.len() < CHUNK_BYTES && queue.has_hashed(&buffer) {
            out.write_all(&buffer)?;
            return Ok((copied, queue.finish()?.digest));
        }
        if buffer.is_empty() {
            return Ok((copied, queue.finish()?.digest));
        }
        let chunk = Arc::new(buffer);
        queue.push(Arc::clone(&chunk))?;
        out.write_all(&chunk)?;
        queue.buffers.lend(chunk);
    }
}

/// Hands all of `input` to the hasher and to `sender`, until one of them has gone.
fn feed(
    mut input: impl Read,
    limit: u64,
    queue: &mut HashQueue,
    sender: SyncSender<io::Result<Arc<Vec<u8>>>>,
) {
    let mut budget = limit;
    loop {
        let mut buffer = queue.buffers.take();
        let read = fill(&mut input, &mut buffer);
        let left = budget.checked_sub(buffer.len() as u64).ok_or_else(|| io::ErrorKind::FileTooLarge.into());
        let chunk = match read.and(left) {
            Ok(_) if buffer.is_empty() => return,
            Ok(left) => {
                budget = left;
                Arc::new(buffer)
            }
            Err(error) => {
                // Whoever reads no more has an error of its own.
                drop(sender.send(Err(error)));
                return;
            }
        };
        let queued = queue.push(Arc::clone(&chunk));
        if sender.send(queued.map(|()| Arc::clone(&chunk))).is_err() {
            return;
        }
        queue.buffers.lend(chunk);
    }
}

/// Reads a chunk, the last one, or one before an error, shorter. What the buffer held is overwritten: zeroing it would cost
/// as much as copying it.
fn fill(input: &mut impl Read, buffer: &mut Vec<u8>) -> io::Result<()> {
    buffer.resize(CHUNK_BYTES, 0);
    let mut filled = 0;
    let result = loop {
        match input.read(&mut buffer[filled..]) {
            Ok(0) => break Ok(()),
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => break Err(error),
        }
        if filled == CHUNK_BYTES {
            break Ok(());
        }
    };
    buffer.truncate(filled);
    result
}

/// The other end of [`read_hashed`].
pub(super) struct ChunkReader {
    receiver: Receiver<io::Result<Arc<Vec<u8>>>>,
    chunk: Arc<Vec<u8>>,
    position: usize,
}

impl BufRead for ChunkReader {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.position == self.chunk.len() {
            self.position = 0;
            // So that its memory can be used again while this waits.
            self.chunk = Arc::default();
            // Nobody sends any more: the end.
            if let Ok(chunk) = self.receiver.recv() {
                self.chunk = chunk?;
            }
        }
        Ok(&self.chunk[self.position..])
    }

    fn consume(&mut self, amount: usize) {
        self.position = self.chunk.len().min(self.position + amount);
    }
}

impl Read for ChunkReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let length = available.len().min(buffer.len());
        buffer[..length].copy_from_slice(&available[..length]);
        self.consume(length);
        Ok(length)
    }
}

/// Writes to `inner`, hashing and counting every byte.
pub(super) struct HashingWriter<'a> {
    inner: &'a mut dyn Write,
    queue: HashQueue,
    buffer: Vec<u8>,
    written: u64,
}

impl<'a> HashingWriter<'a> {
    /// Goes on behind what `hash` has seen.
    pub(super) fn new(inner: &'a mut dyn Write, hash: Sha256) -> Self {
        let mut queue = HashQueue::new(hash);
        let buffer = queue.buffers.take();
        Self { inner, queue, buffer, written: 0 }
    }

    /// Writes the first `size` bytes of `source`; fewer are an error of kind [`io::ErrorKind::UnexpectedEof`]. Each read fills
    /// what is left of the buffer, up to where `in_place` says that the file is written, which may wait for more than it is
    /// given. Holes are not read.
    pub(super) fn copy_exactly(
        &mut self,
        source: &std::fs::File,
        size: u64,
        in_place: &mut dyn FnMut(u64) -> io::Result<u64>,
    ) -> io::Result<()> {
        let (mut done, mut known, mut data) = (0, 0, 0..0);
        while done < size {
            if self.buffer.len() >= CHUNK_BYTES {
                self.pass_on()?;
            }
            if known <= done {
                known = in_place(done)?.min(size);
            }
            if data.end <= done {
                data = next_data(source, done..known)?;
            }
            let before = self.buffer.len();
            if done < data.start {
                let room = CHUNK_BYTES - before;
                let zeros = usize::try_from(data.start - done).unwrap_or(room).min(room);
                self.buffer.resize(before + zeros, 0);
                done += zeros as u64;
                continue;
            }
            let read = match rustix::io::read(source, rustix::buffer::spare_capacity(&mut self.buffer)) {
                Err(rustix::io::Errno::INTR) => continue,
                read => read? as u64,
            };
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let taken = read.min(known.saturating_sub(done));
            self.buffer.truncate(before + usize::try_from(taken).unwrap_or_default());
            done += taken;
            if taken < read && done < size {
                // What was read too early is read again when it is in place.
                rustix::fs::seek(source, rustix::fs::SeekFrom::Start(done))?;
            }
        }
        Ok(())
    }

    /// Writes what comes out of `fed`, `size` bytes; fewer are an error of kind [`io::ErrorKind::BrokenPipe`].
    pub(super) fn pass_fed(&mut self, fed: &Fed, size: u64) -> io::Result<()> {
        self.pass_on()?;
        let mut left = size;
        while left > 0 {
            let chunk = fed.0.recv().map_err(|_| io::ErrorKind::BrokenPipe)?;
            let length = chunk.len() as u64;
            left = left.checked_sub(length).ok_or(io::ErrorKind::InvalidData)?;
            self.queue.push(Arc::clone(&chunk))?;
            self.inner.write_all(&chunk)?;
            self.written += length;
        }
        Ok(())
    }

    /// Has the hash's state kept behind all that was written so far; returns how many bytes that were.
    pub(super) fn mark(&mut self) -> io::Result<u64> {
        self.pass_on_rest()?;
        self.queue.mark()?;
        Ok(self.written)
    }

    /// Passes on what is buffered and returns how many bytes there were in all, and what came of them.
    pub(super) fn finish(mut self) -> io::Result<(u64, Hashed)> {
        self.flush()?;
        Ok((self.written, self.queue.finish()?))
    }

    /// As `pass_on`, for what need not fill a chunk.
    fn pass_on_rest(&mut self) -> io::Result<()> {
        if !self.queue.has_hashed(&self.buffer) {
            return self.pass_on();
        }
        self.inner.write_all(&self.buffer)?;
        self.written += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    fn pass_on(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let mut next = self.queue.buffers.take();
        next.clear();
        let chunk = Arc::new(std::mem::replace(&mut self.buffer, next));
        self.queue.push(Arc::clone(&chunk))?;
        self.inner.write_all(&chunk)?;
        self.written += chunk.len() as u64;
        self.queue.buffers.lend(chunk);
        Ok(())
    }
}

impl Write for HashingWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.buffer.len() + bytes.len() > CHUNK_BYTES {
            self.pass_on()?;
        }
        let length = bytes.len().min(CHUNK_BYTES);
        self.buffer.extend_from_slice(&bytes[..length]);
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.pass_on_rest()?;
        self.inner.flush()
    }
}

/// Bytes handed to the hasher at once.
const CHUNK_BYTES: usize = 128 * 1024;
/// Chunks that may wait for another thread; with those in use this bounds the memory of one stream to about 6 MiB, and
/// a thread that has to wait for a processor for some milliseconds keeps nobody waiting.
const QUEUE_CHUNKS: usize = 24;
/// Chunks of a feed that wait to be passed on.
const FED_CHUNKS: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Seek as _;

    #[test]
    fn a_read_stream_is_hashed_to_its_last_byte() {
        let bytes: Vec<u8> = (0..1_000_003_u32).map(|i| (i % 251) as u8).collect();
        let (read, digest) = read_hashed(&bytes[..], u64::MAX, |mut reader| {
            let mut read = Vec::new();
            reader.read_to_end(&mut read).at(b"")?;
            Ok(read)
        })
        .unwrap();
        assert!(read == bytes);
        assert_eq!(digest, Digest::of(&bytes));
    }

    #[test]
    fn reading_ahead_gives_all_bytes_and_the_error_behind_them() {
        let bytes: Vec<u8> = (0..700_001_u32).map(|i| (i % 251) as u8).collect();
        let mut all = Vec::new();
        read_ahead(&mut &bytes[..], |reader| reader.read_to_end(&mut all).at(b"")).unwrap();
        assert!(all == bytes);
        struct Breaks;
        impl Read for Breaks {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::ErrorKind::ConnectionReset.into())
            }
        }
        let mut before = Vec::new();
        let result = read_ahead(&mut (&bytes[..]).chain(Breaks), |reader| {
            Ok(reader.read_to_end(&mut before).unwrap_err().kind())
        });
        assert_eq!(result.unwrap(), io::ErrorKind::ConnectionReset);
        assert!(before == bytes);
        // Whoever stops early is not kept waiting.
        read_ahead(&mut io::repeat(1), |reader| reader.read_exact(&mut [0; 10]).at(b"")).unwrap();
    }

    #[test]
    fn a_written_stream_is_hashed_to_its_last_byte() {
        let bytes: Vec<u8> = (0..777_777_u32).map(|i| (i % 253) as u8).collect();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&bytes[1000..]).unwrap();
        // One byte more than is asked for.
        file.write_all(b"x").unwrap();
        file.rewind().unwrap();
        let mut out = Vec::new();
        let mut writer = HashingWriter::new(&mut out, Sha256::new());
        writer.write_all(&bytes[..1000]).unwrap();
        writer.copy_exactly(&file, bytes.len() as u64 - 1000, &mut |_| Ok(u64::MAX)).unwrap();
        let (size, hashed) = writer.finish().unwrap();
        assert_eq!(size, bytes.len() as u64);
        assert!(out == bytes);
        assert_eq!(hashed.digest, Digest::of(&bytes));
    }

    #[test]
    fn what_is_fed_is_hashed_between_what_is_written() {
        let bytes: Vec<u8> = (0..900_001_u32).map(|i| (i % 253) as u8).collect();
        let (mut feed, fed) = Feed::new();
        let fed_bytes = &bytes[1000..900_000];
        let mut out = Vec::new();
        let (size, hashed) = std::thread::scope(|scope| {
            scope.spawn(move || {
                for chunk in fed_bytes.chunks(100_001) {
                    let mut buffer = feed.buffer();
                    buffer.extend_from_slice(chunk);
                    feed.send(buffer);
                }
            });
            let mut writer = HashingWriter::new(&mut out, Sha256::new());
            writer.write_all(&bytes[..1000]).unwrap();
            writer.pass_fed(&fed, fed_bytes.len() as u64).unwrap();
            writer.write_all(&bytes[900_000..]).unwrap();
            // Whoever fed has gone.
            assert_eq!(writer.pass_fed(&fed, 1).unwrap_err().kind(), io::ErrorKind::BrokenPipe);
            writer.finish().unwrap()
        });
        assert_eq!((size, hashed.digest), (bytes.len() as u64, Digest::of(&bytes)));
        assert!(out == bytes);
    }

    #[test]
    fn states_are_kept_with_and_without_a_thread() {
        let bytes: Vec<u8> = (0..700_000_u32).map(|i| (i % 253) as u8).collect();
        for ends in [&[0, 10, 1000][..], &[10, 500_000, 500_010, 700_000]] {
            let mut out = io::sink();
            let mut writer = HashingWriter::new(&mut out, Sha256::new());
            let mut start = 0;
            for &end in ends {
                writer.write_all(&bytes[start..end]).unwrap();
                assert_eq!(writer.mark().unwrap(), end as u64);
                start = end;
            }
            let hashed = writer.finish().unwrap().1;
            let of = |state: &Sha256| Digest::from_bytes(state.clone().finalize().into());
            let expected: Vec<_> = ends.iter().map(|&end| Digest::of(&bytes[..end])).collect();
            assert_eq!(hashed.marks.iter().map(of).collect::<Vec<_>>(), expected);
            assert_eq!(hashed.digest, expected[ends.len() - 1]);
        }
    }

    #[test]
    fn holes_are_written_as_the_zeros_that_they_are() {
        use std::os::unix::fs::FileExt as _;
        const SIZE: usize = 5 << 20;
        let mut bytes = vec![0; SIZE];
        let source = tempfile::tempfile().unwrap();
        for at in [0, 1 << 20, (1 << 20) + 300_000, 3 << 20] {
            bytes[at..at + 5000].fill(b'x');
            source.write_all_at(&[b'x'; 5000], at as u64).unwrap();
        }
        source.set_len(SIZE as u64).unwrap();
        assert!(rustix::fs::fstat(&source).unwrap().st_blocks < 1000, "the file has holes");
        // As whole, and as far as it is in place.
        for step in [u64::MAX, 700_000] {
            let mut out = Vec::new();
            rustix::fs::seek(&source, rustix::fs::SeekFrom::Start(0)).unwrap();
            let mut writer = HashingWriter::new(&mut out, Sha256::new());
            writer.copy_exactly(&source, SIZE as u64, &mut |done| Ok(done.saturating_add(step))).unwrap();
            writer.finish().unwrap();
            assert!(out == bytes, "{step}");
        }
        let mut out = io::sink();
        let mut writer = HashingWriter::new(&mut out, Sha256::new());
        rustix::fs::seek(&source, rustix::fs::SeekFrom::Start(0)).unwrap();
        let too_many = writer.copy_exactly(&source, SIZE as u64 + 1, &mut |_| Ok(u64::MAX));
        assert_eq!(too_many.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn a_stream_over_its_limit_is_an_error() {
        let result = read_hashed(io::repeat(0), 1 << 20, |mut reader| {
            Ok(reader.read_to_end(&mut Vec::new()).unwrap_err().kind())
        });
        assert_eq!(result.unwrap().0, io::ErrorKind::FileTooLarge);
    }
}
