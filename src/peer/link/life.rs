//! Signs of life: when bytes came last over a connection, and what the other machine's clock shows.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use tokio::io::{AsyncRead, AsyncWrite, BufReader, ReadBuf};
use tokio::time::{Instant, sleep, sleep_until};

use super::SILENCE;

/// How much later one looks again, before a machine is given up: this one may have slept.
const SECOND_LOOK: Duration = Duration::from_millis(100);

/// Bytes that are read at once.
const AHEAD: usize = 64 << 10;

/// Messages after which the best sight of the other clock is looked for anew.
const SIGHTS: u32 = 30;

/// When bytes came last over a connection. Clones are the same.
#[derive(Clone, Debug)]
pub struct Pulse(Arc<PulseInner>);

#[derive(Debug)]
struct PulseInner {
    start: Instant,
    /// Milliseconds after the start.
    last: AtomicU64,
}

/// A socket whose reads are told to a [`Pulse`]. It reads ahead: TLS asks for 4 KiB at a time.
#[derive(Debug)]
pub struct Pulsed<S> {
    socket: BufReader<S>,
    pulse: Pulse,
}

/// The other end of a link as this one sees it.
#[derive(Debug)]
pub struct Life {
    pulse: Pulse,
    /// Time from a hello to the answer.
    round_trip: Option<Duration>,
    /// How far its clock is ahead, in microseconds.
    ahead: AtomicI64,
    sights: Mutex<Sights>,
}

/// What messages told of the other clock. One that was on its way for longer makes it look further behind
/// than it is, so the greatest is the best.
#[derive(Debug, Default)]
struct Sights {
    best: Option<i64>,
    next: Option<i64>,
    count: u32,
}

// === impl Pulse ===

impl Pulse {
    /// Of a connection that is made now.
    pub fn start() -> Self {
        Self(Arc::new(PulseInner { start: Instant::now(), last: AtomicU64::new(0) }))
    }

    fn beat(&self) {
        let millis = u64::try_from(self.0.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.0.last.store(millis, Ordering::Relaxed);
    }

    /// When bytes came last.
    pub fn last(&self) -> Instant {
        self.0.start + Duration::from_millis(self.0.last.load(Ordering::Relaxed))
    }

    /// Returns when nothing has come for too long.
    pub(super) async fn stops(&self) {
        loop {
            sleep_until(self.last() + SILENCE).await;
            if self.last().elapsed() >= SILENCE {
                // What came while this machine slept is read first.
                sleep(SECOND_LOOK).await;
                if self.last().elapsed() >= SILENCE {
                    return;
                }
            }
        }
    }
}

// === impl Pulsed ===

impl<S: AsyncRead> Pulsed<S> {
    /// `socket`, with the pulse it has from now on.
    pub fn new(socket: S) -> (Self, Pulse) {
        let (pulse, socket) = (Pulse::start(), BufReader::with_capacity(AHEAD, socket));
        (Self { socket, pulse: pulse.clone() }, pulse)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Pulsed<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.socket).poll_read(context, buffer);
        if buffer.filled().len() > before {
            self.pulse.beat();
        }
        polled
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Pulsed<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(context, data)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write_vectored(context, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(context)
    }
}

// === impl Life ===

impl Life {
    /// Of a connection with this pulse; `round_trip` is how long its hello took.
    pub(super) fn new(pulse: Pulse, round_trip: Option<Duration>) -> Self {
        Self { pulse, round_trip, ahead: AtomicI64::new(0), sights: Mutex::default() }
    }

    /// Its pulse.
    pub fn pulse(&self) -> &Pulse {
        &self.pulse
    }

    /// Time from a hello to the answer; `None` where this machine did not ask.
    pub fn round_trip(&self) -> Option<Duration> {
        self.round_trip
    }

    /// How far the clock of the other machine is ahead, in microseconds; negative if it is behind.
    pub fn clock_ahead(&self) -> i64 {
        self.ahead.load(Ordering::Relaxed)
    }

    /// The clock of the other machine shows `theirs` while that of this one shows `mine`.
    pub(super) fn see_clock(&self, theirs: SystemTime, mine: SystemTime) {
        let ahead = match theirs.duration_since(mine) {
            Ok(ahead) => micros(ahead),
            Err(behind) => -micros(behind.duration()),
        };
        let mut sights = self.sights.lock().unwrap_or_else(PoisonError::into_inner);
        self.ahead.store(sights.add(ahead), Ordering::Relaxed);
    }
}

fn micros(length: Duration) -> i64 {
    i64::try_from(length.as_micros()).unwrap_or(i64::MAX)
}

// === impl Sights ===

impl Sights {
    /// Takes in one more, and gives the best of late.
    fn add(&mut self, ahead: i64) -> i64 {
        self.next = self.next.max(Some(ahead));
        self.count += 1;
        if self.count >= SIGHTS {
            *self = Self { best: self.next, next: None, count: 0 };
        }
        let best = self.best.max(self.next).unwrap_or(ahead);
        self.best = Some(best);
        best
    }
}

/// Returns when `pulse` has stopped, or `limit` is over.
pub(super) async fn until_silent(pulse: &Pulse, limit: Duration) -> &'static str {
    tokio::select! {
        () = pulse.stops() => "it was silent for 3 s",
        () = sleep(limit) => "it said nothing, though it is there",
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn bytes_keep_a_pulse_going() {
        let (mut far, near) = duplex(100);
        let (mut socket, pulse) = Pulsed::new(near);
        let mut buffer = [0; 10];
        for _ in 0..4 {
            sleep(Duration::from_secs(2)).await;
            far.write_all(b"x").await.unwrap();
            assert_eq!(socket.read(&mut buffer).await.unwrap(), 1);
        }
        let before = Instant::now();
        pulse.stops().await;
        assert!(before.elapsed() >= SILENCE && before.elapsed() < 2 * SILENCE);
        assert_eq!(pulse.last(), before);
    }

    #[tokio::test(start_paused = true)]
    async fn what_says_nothing_ends_too() {
        let pulse = Pulse::start();
        let words = until_silent(&pulse, Duration::from_secs(1)).await;
        assert!(words.contains("said nothing"), "{words}");
    }

    #[tokio::test]
    async fn the_quickest_message_tells_the_clock_best() {
        let life = Life::new(Pulse::start(), None);
        let mine = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
        let ahead = |late: u64| mine + Duration::from_millis(500 - late);
        for late in [7, 2, 40, 9] {
            life.see_clock(ahead(late), mine);
        }
        assert_eq!(life.clock_ahead(), 498_000);
        // A clock that was set back is noticed after a while.
        for _ in 0..2 * SIGHTS {
            life.see_clock(mine - Duration::from_secs(5), mine);
        }
        assert_eq!(life.clock_ahead(), -5_000_000);
    }
}
