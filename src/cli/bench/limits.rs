//! What this machine can do at most, measured without a node.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::thread;

use tokio::time::Instant;

use super::super::error::{CliError, Explain};
use super::TIME;
use crate::digest::{DigestFunction, Hasher};

/// Bytes written at once.
const PIECE: usize = 256 << 10;

/// Connections, and processes, at once.
const PARALLEL: usize = 8;

/// The limits, each measured when it is first asked for.
#[derive(Debug, Default)]
pub(super) struct Limits {
    hash_rate: OnceLock<f64>,
    socket_rate: OnceLock<f64>,
}

impl Limits {
    /// Bytes a second that one core hashes with SHA-256.
    pub(super) fn hash_rate(&self) -> f64 {
        *self.hash_rate.get_or_init(|| {
            let piece = vec![7; PIECE];
            let mut hasher = Hasher::new(DigestFunction::Sha256);
            let start = Instant::now();
            while start.elapsed() < TIME / 2 {
                hasher.update(&piece);
            }
            hasher.size() as f64 / start.elapsed().as_secs_f64()
        })
    }

    /// Bytes a second through one loopback TCP connection.
    pub(super) fn socket_rate(&self) -> Result<f64, CliError> {
        if let Some(rate) = self.socket_rate.get() {
            return Ok(*rate);
        }
        let rate = socket_rate().explain("cannot measure loopback TCP")?;
        Ok(*self.socket_rate.get_or_init(|| rate))
    }

    /// Round trips of one byte a second, over several loopback connections at once.
    pub(super) fn round_trip_rate(&self) -> Result<f64, CliError> {
        parallel(round_trips).explain("cannot measure loopback round trips")
    }

    /// Seconds to start and reap `/bin/true`, the median.
    pub(super) fn spawn_latency(&self) -> Result<f64, CliError> {
        let mut times = Vec::new();
        let start = Instant::now();
        while start.elapsed() < TIME / 2 {
            let begin = Instant::now();
            spawn().explain("cannot start a process")?;
            times.push(begin.elapsed().as_secs_f64());
        }
        Ok(median(&mut times))
    }

    /// Starts of `/bin/true` a second, several at once.
    pub(super) fn spawn_rate(&self) -> Result<f64, CliError> {
        parallel(|| count_for(spawn)).explain("cannot start processes")
    }
}

/// The value in the middle; 0 of none.
pub(super) fn median(values: &mut [f64]) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

fn spawn() -> io::Result<()> {
    Command::new("true").stdin(Stdio::null()).stdout(Stdio::null()).status().map(drop)
}

/// How often a second `work` can be done, one after the other.
fn count_for(mut work: impl FnMut() -> io::Result<()>) -> io::Result<f64> {
    let start = Instant::now();
    let mut done = 0_u32;
    while start.elapsed() < TIME / 2 {
        work()?;
        done += 1;
    }
    Ok(f64::from(done) / start.elapsed().as_secs_f64())
}

/// The sum of what [`PARALLEL`] threads reach at once.
fn parallel(rate: impl Fn() -> io::Result<f64> + Sync) -> io::Result<f64> {
    thread::scope(|scope| {
        let threads: Vec<_> = (0..PARALLEL).map(|_| scope.spawn(&rate)).collect();
        let rates = threads.into_iter().map(|thread| {
            thread.join().unwrap_or_else(|_| Err(io::Error::other("a measuring thread panicked")))
        });
        rates.sum()
    })
}

fn pair() -> io::Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let client = TcpStream::connect(listener.local_addr()?)?;
    let (server, _) = listener.accept()?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    Ok((client, server))
}

fn socket_rate() -> io::Result<f64> {
    let (mut client, mut server) = pair()?;
    let reader = thread::spawn(move || {
        let mut piece = vec![0; PIECE];
        while server.read(&mut piece).is_ok_and(|read| read > 0) {}
    });
    let piece = vec![7; PIECE];
    let rate = count_for(|| client.write_all(&piece))?;
    drop(client);
    reader.join().map_err(|_| io::Error::other("the reading thread panicked"))?;
    Ok(rate * PIECE as f64)
}

fn round_trips() -> io::Result<f64> {
    let (mut client, mut server) = pair()?;
    let echo = thread::spawn(move || {
        let mut byte = [0];
        while server.read(&mut byte).is_ok_and(|read| read > 0) && server.write_all(&byte).is_ok() {}
    });
    let mut byte = [1];
    let rate = count_for(|| {
        client.write_all(&byte)?;
        client.read_exact(&mut byte)
    })?;
    drop(client);
    echo.join().map_err(|_| io::Error::other("the echoing thread panicked"))?;
    Ok(rate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert_eq!(median(&mut [3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&mut []), 0.0);
    }

    #[test]
    fn a_pair_is_connected() {
        let (mut client, mut server) = pair().unwrap();
        client.write_all(b"x").unwrap();
        let mut byte = [0];
        server.read_exact(&mut byte).unwrap();
        assert_eq!(&byte, b"x");
    }
}
