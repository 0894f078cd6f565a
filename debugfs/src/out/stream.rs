//! A stream that is made on one thread and written on another, so that neither waits for the other
//! while there is work.

use std::io::{self, Write};
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::thread;

/// Bytes that are handed over at a time.
const CHUNK: usize = 1 << 20;
/// Chunks that may wait to be written.
const WAITING: usize = 4;

/// Runs `make` on a thread of its own, and writes to `out` what it writes.
///
/// # Errors
/// Those of `out`, which end `make` as well, and those of `make`.
pub(crate) fn through<T: Send>(
    out: &mut dyn Write,
    make: impl FnOnce(&mut Chunks) -> io::Result<T> + Send,
) -> io::Result<T> {
    thread::scope(|scope| {
        let (full, to_write) = mpsc::sync_channel(WAITING);
        let (empty, written) = mpsc::channel();
        let maker = scope.spawn(|| {
            let mut chunks = Chunks {
                filling: Vec::with_capacity(CHUNK),
                full,
                written,
            };
            let made = make(&mut chunks)?;
            chunks.flush()?;
            Ok(made)
        });
        // An error drops the receiver, at which the maker's next chunk fails.
        let done = to_write.into_iter().try_for_each(|mut chunk: Vec<u8>| {
            out.write_all(&chunk)?;
            chunk.clear();
            // The maker may have ended.
            let _ = empty.send(chunk);
            Ok(())
        });
        let made = maker
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        done.and_then(|()| out.flush()).and(made)
    })
}

/// What the maker writes to.
pub(crate) struct Chunks {
    filling: Vec<u8>,
    full: SyncSender<Vec<u8>>,
    /// Chunks to be used again.
    written: Receiver<Vec<u8>>,
}

impl Chunks {
    fn hand_over(&mut self) -> io::Result<()> {
        let next = self.written.try_recv();
        let next = next.unwrap_or_else(|_| Vec::with_capacity(CHUNK));
        let full = std::mem::replace(&mut self.filling, next);
        (self.full.send(full)).map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))
    }
}

impl Write for Chunks {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = CHUNK.saturating_sub(self.filling.len());
        let taken = bytes.get(..room.min(bytes.len())).unwrap_or_default();
        self.filling.extend_from_slice(taken);
        if self.filling.len() >= CHUNK {
            self.hand_over()?;
        }
        Ok(taken.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.filling.is_empty() {
            return Ok(());
        }
        self.hand_over()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_made_is_written_in_order() {
        let text: Vec<u8> = (0..=250).cycle().take(5 * CHUNK + 7).collect();
        let mut out = Vec::new();
        let made = through(&mut out, |chunks| {
            for piece in text.chunks(100_003) {
                chunks.write_all(piece)?;
            }
            Ok(5)
        });
        assert_eq!(made.unwrap(), 5);
        assert!(out == text);
    }

    /// Takes a while, and then nothing more.
    struct Full(usize);

    impl Write for Full {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 = (self.0.checked_sub(bytes.len()))
                .ok_or(io::Error::from(io::ErrorKind::StorageFull))?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn an_error_of_either_side_ends_both() {
        let endless = |chunks: &mut Chunks| -> io::Result<()> {
            loop {
                chunks.write_all(&[0; 4096])?;
            }
        };
        let error = through(&mut Full(3 * CHUNK), endless).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        let failing = |_: &mut Chunks| -> io::Result<()> { Err(io::ErrorKind::InvalidData.into()) };
        let error = through(&mut Vec::new(), failing).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }
}
