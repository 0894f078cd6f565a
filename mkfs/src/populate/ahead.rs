//! Reading a stream on a thread of its own: it is unpacked while what came before is put in place.

use std::io::Read;
use std::sync::mpsc::{Receiver, sync_channel};

use anyhow::Result;

/// Bytes of a piece.
const PIECE: usize = 1 << 18;
/// Pieces that may wait.
const WAITING: usize = 8;

/// What a thread reads, piece by piece.
struct Pieces {
    from: Receiver<std::io::Result<Vec<u8>>>,
    piece: Vec<u8>,
    at: usize,
}

impl Read for Pieces {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        if self.at == self.piece.len() {
            match self.from.recv() {
                Ok(piece) => self.piece = piece?,
                // The thread has come to the end.
                Err(_) => return Ok(0),
            }
            self.at = 0;
        }
        let rest = self.piece.get(self.at..).unwrap_or_default();
        let len = rest.len().min(buf.len());
        if let (Some(to), Some(from)) = (buf.get_mut(..len), rest.get(..len)) {
            to.copy_from_slice(from);
        }
        self.at += len;
        Ok(len)
    }
}

/// Does some work on a stream that another thread reads ahead.
pub(super) fn reading<T>(
    mut stream: Box<dyn Read + Send>,
    work: impl FnOnce(&mut dyn Read) -> Result<T>,
) -> Result<T> {
    std::thread::scope(|scope| {
        let (to, from) = sync_channel(WAITING);
        scope.spawn(move || {
            loop {
                let mut piece = Vec::with_capacity(PIECE);
                let read = stream.by_ref().take(PIECE as u64).read_to_end(&mut piece);
                // An error comes behind what could be read before it.
                let ended = read.is_err() || piece.is_empty();
                if !piece.is_empty() && to.send(Ok(piece)).is_err() {
                    return;
                }
                if let Err(error) = read {
                    let _ = to.send(Err(error));
                }
                if ended {
                    return;
                }
            }
        });
        let (piece, at) = (Vec::new(), 0);
        work(&mut Pieces { from, piece, at })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_comes_whole_with_its_error_behind() {
        let bytes: Vec<u8> = (0..3_000_001u32).map(|n| n.to_le_bytes()[1]).collect();
        let stream = std::io::Cursor::new(bytes.clone()).chain(Broken);
        let (read, failed) = reading(Box::new(stream), |reader| {
            let mut read = Vec::new();
            let failed = reader.read_to_end(&mut read).is_err();
            Ok((read, failed))
        })
        .unwrap();
        assert!(read == bytes && failed);
        // Whoever has read enough does not wait for the rest.
        let endless = std::io::repeat(7);
        reading(Box::new(endless), |reader| {
            Ok(reader.read_exact(&mut [0; 10])?)
        })
        .unwrap();
    }

    struct Broken;

    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
            Err(std::io::Error::other("broken"))
        }
    }
}
