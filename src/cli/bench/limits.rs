//! What this machine can do at most, measured without a node.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use tokio::time::Instant;

use super::super::error::{CliError, Explain};
use super::load::Samples;
use crate::digest::{DigestFunction, Hasher};

/// Bytes written at once.
const PIECE: usize = 256 << 10;

/// Connections, and processes, at once.
const PARALLEL: usize = 8;

/// Measures the limits: again each time, since a limit means something only beside a figure of the
/// same moment.
#[derive(Debug)]
pub(super) struct Limits {
    time: Duration,
}

impl Limits {
    /// Half of `time` is for each.
    pub(super) fn new(time: Duration) -> Self {
        Self { time: time / 2 }
    }

    /// Bytes a second that one core hashes with SHA-256.
    pub(super) fn hash_rate(&self) -> f64 {
        let piece = vec![7; PIECE];
        let mut hasher = Hasher::new(DigestFunction::Sha256);
        let start = Instant::now();
        while hasher.size() == 0 || start.elapsed() < self.time {
            hasher.update(&piece);
        }
        hasher.size() as f64 / start.elapsed().as_secs_f64()
    }

    /// Bytes a second through one loopback TCP connection.
    pub(super) fn socket_rate(&self) -> Result<f64, CliError> {
        socket_rate(self.time).explain("cannot measure loopback TCP")
    }

    /// Round trips of one byte a second, over several loopback connections at once.
    pub(super) fn round_trip_rate(&self) -> Result<f64, CliError> {
        parallel(|| round_trips(self.time)).explain("cannot measure loopback round trips")
    }

    /// Times to start and reap `true`.
    pub(super) fn spawn(&self) -> Result<Samples, CliError> {
        let mut samples = Samples::default();
        let timed = || {
            let begin = Instant::now();
            spawn()?;
            samples.add(begin.elapsed());
            Ok(())
        };
        for_time(self.time, timed).explain("cannot start a process")?;
        Ok(samples)
    }

    /// Starts of `true` a second, several at once.
    pub(super) fn spawn_rate(&self) -> Result<f64, CliError> {
        parallel(|| for_time(self.time, spawn)).explain("cannot start processes")
    }
}

fn spawn() -> io::Result<()> {
    Command::new("true").stdin(Stdio::null()).stdout(Stdio::null()).status().map(drop)
}

/// How often a second `work` can be done, one after the other; it is done once at least.
fn for_time(time: Duration, mut work: impl FnMut() -> io::Result<()>) -> io::Result<f64> {
    let start = Instant::now();
    let mut done = 0_u32;
    while done == 0 || start.elapsed() < time {
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

fn socket_rate(time: Duration) -> io::Result<f64> {
    let (mut client, mut server) = pair()?;
    let reader = thread::spawn(move || {
        let mut piece = vec![0; PIECE];
        while server.read(&mut piece).is_ok_and(|read| read > 0) {}
    });
    let piece = vec![7; PIECE];
    let rate = for_time(time, || client.write_all(&piece))?;
    drop(client);
    reader.join().map_err(|_| io::Error::other("the reading thread panicked"))?;
    Ok(rate * PIECE as f64)
}

fn round_trips(time: Duration) -> io::Result<f64> {
    let (mut client, mut server) = pair()?;
    let echo = thread::spawn(move || {
        let mut byte = [0];
        while server.read(&mut byte).is_ok_and(|read| read > 0) && server.write_all(&byte).is_ok() {}
    });
    let mut byte = [1];
    let rate = for_time(time, || {
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
    fn every_limit_is_a_number_above_zero() {
        let limits = Limits::new(Duration::from_millis(2));
        let rates = [
            limits.hash_rate(),
            limits.socket_rate().unwrap(),
            limits.round_trip_rate().unwrap(),
            limits.spawn().unwrap().p50(),
            limits.spawn_rate().unwrap(),
        ];
        assert!(rates.iter().all(|rate| rate.is_finite() && *rate > 0.0), "{rates:?}");
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
