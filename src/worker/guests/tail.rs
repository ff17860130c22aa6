//! [`Tail`]: what a running command wrote since the last look.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use farmhand_proto::peer;

/// Bytes of output in one message.
const PIECE: usize = 64 << 10;

/// The output of a running command, from its beginning.
pub(super) struct Tail {
    stdout: File,
    stderr: File,
    buffer: Vec<u8>,
}

// === impl Tail ===

impl Tail {
    /// Follows stdout and stderr.
    pub(super) fn open([stdout, stderr]: [&Path; 2]) -> io::Result<Self> {
        Ok(Self { stdout: File::open(stdout)?, stderr: File::open(stderr)?, buffer: vec![0; PIECE] })
    }

    /// The next piece, if there is more. What cannot be read is told with the result.
    pub(super) fn read(&mut self) -> Option<peer::Output> {
        let Self { stdout, stderr, buffer } = self;
        for (file, is_stderr) in [(stdout, false), (stderr, true)] {
            if let Ok(length @ 1..) = file.read(buffer) {
                return Some(peer::Output { is_stderr, data: buffer[..length].to_vec() });
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;
    use std::io::Write;

    use super::*;

    #[test]
    fn everything_comes_in_pieces_as_it_is_written() {
        let directory = tempfile::tempdir().unwrap();
        let paths = ["out", "err"].map(|name| directory.path().join(name));
        let mut files =
            paths.each_ref().map(|path| OpenOptions::new().create_new(true).append(true).open(path).unwrap());
        let mut tail = Tail::open([&paths[0], &paths[1]]).unwrap();
        assert!(tail.read().is_none());
        files[0].write_all(&vec![b'x'; PIECE + 1]).unwrap();
        files[1].write_all(b"oh").unwrap();
        let told: Vec<_> = std::iter::from_fn(|| tail.read()).map(|o| (o.is_stderr, o.data.len())).collect();
        assert_eq!(told, [(false, PIECE), (false, 1), (true, 2)]);
        files[0].write_all(b"more").unwrap();
        assert_eq!(tail.read().unwrap().data, b"more");
    }
}
