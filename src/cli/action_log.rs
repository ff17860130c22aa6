//! `farmhand action DIGEST log`: what an action wrote, or writes.

use std::collections::VecDeque;
use std::io::{self, IsTerminal, Write};

use farmhand_proto::client::Client;
use farmhand_proto::control::read_output_request::Stream;
use farmhand_proto::control::{ReadOutputRequest, ReadOutputResponse};

use super::error::CliError;
use super::harmless::Harmless;

/// Bytes at the end that are searched for lines first.
const WINDOW: i64 = 64 << 10;

/// What of the output is wanted
#[derive(Debug, clap::Args)]
pub(super) struct LogArgs {
    /// What it wrote to stderr, in place of stdout
    #[arg(long)]
    stderr: bool,
    /// Go on with what it writes, until it ends
    #[arg(long, short)]
    follow: bool,
    /// Only the last lines
    #[arg(long, value_name = "LINES")]
    tail: Option<usize>,
    /// On a terminal too, print the bytes as they are: they may do anything to it
    #[arg(long)]
    raw: bool,
}

/// Where the bytes go.
struct Sink {
    out: io::Stdout,
    /// Set for a terminal.
    harmless: Option<Harmless>,
}

/// Prints what the action `digest`, or the operation of that name, wrote.
pub(super) async fn run(mut control: Client, digest: String, args: LogArgs) -> Result<(), CliError> {
    let stream = if args.stderr { Stream::Stderr } else { Stream::Stdout };
    let whole = ReadOutputRequest { operation: digest, stream: stream.into(), offset: 0, follow: false };
    let offset = match args.tail {
        Some(lines) => tail_offset(&mut control, &whole, lines).await?,
        None => 0,
    };
    let request = ReadOutputRequest { offset, follow: args.follow, ..whole };
    let mut pieces = control.read_output(request).await?.into_inner();
    let mut sink = Sink::new(args.raw);
    let (mut position, mut ended) = (None, false);
    while let Some(piece) = pieces.message().await? {
        if position.is_some_and(|position| piece.offset < position) {
            eprintln!("note: the command was started again");
        }
        position = Some(piece.offset + piece.data.len() as u64);
        ended = piece.ended;
        if !sink.write(&piece.data)? {
            return Ok(());
        }
    }
    sink.finish()?;
    if args.follow && !ended {
        return Err(CliError::new("the node ended before the action did"));
    }
    Ok(())
}

/// Where the last `lines` lines begin.
async fn tail_offset(control: &mut Client, whole: &ReadOutputRequest, lines: usize) -> Result<i64, CliError> {
    let mut window = WINDOW;
    loop {
        let request = ReadOutputRequest { offset: -window, ..whole.clone() };
        let mut pieces = control.read_output(request).await?.into_inner();
        let mut starts = LineStarts::new(lines);
        while let Some(piece) = pieces.message().await? {
            starts.take(&piece);
        }
        if let Some(offset) = starts.offset() {
            return Ok(i64::try_from(offset).unwrap_or(i64::MAX));
        }
        window = window.saturating_mul(8);
    }
}

/// The places where the last lines begin, found in pieces of a text.
struct LineStarts {
    wanted: usize,
    starts: VecDeque<u64>,
    /// Where the text begins, and ends.
    from: Option<u64>,
    end: u64,
    at_start: bool,
}

// === impl LineStarts ===

impl LineStarts {
    fn new(wanted: usize) -> Self {
        Self { wanted, starts: VecDeque::new(), from: None, end: 0, at_start: false }
    }

    fn take(&mut self, piece: &ReadOutputResponse) {
        if self.from.is_none_or(|_| piece.offset < self.end) {
            // The first piece, or one of a command that was started again.
            *self = Self { from: Some(piece.offset), ..Self::new(self.wanted) };
            self.at_start = piece.offset == 0;
        }
        for (offset, byte) in (piece.offset..).zip(&piece.data) {
            if self.at_start {
                self.starts.push_back(offset);
                if self.starts.len() > self.wanted {
                    self.starts.pop_front();
                }
            }
            self.at_start = *byte == b'\n';
        }
        self.end = piece.offset + piece.data.len() as u64;
    }

    /// Where the lines wanted begin; `None` if more of the text has to be looked at.
    fn offset(&self) -> Option<u64> {
        match (self.wanted, self.from) {
            (0, _) => Some(self.end),
            (_, None | Some(0)) => Some(self.starts.front().copied().unwrap_or(0)),
            (wanted, Some(_)) => self.starts.front().copied().filter(|_| self.starts.len() == wanted),
        }
    }
}

// === impl Sink ===

impl Sink {
    fn new(raw: bool) -> Self {
        let out = io::stdout();
        let harmless = (out.is_terminal() && !raw).then(Harmless::default);
        Self { out, harmless }
    }

    /// Writes a piece at once. False: nobody reads any more.
    fn write(&mut self, data: &[u8]) -> Result<bool, CliError> {
        let text;
        let data = match &mut self.harmless {
            Some(harmless) => {
                text = harmless.take(data);
                text.as_bytes()
            }
            None => data,
        };
        self.print(data)
    }

    fn finish(mut self) -> Result<(), CliError> {
        let rest = self.harmless.take().map(Harmless::finish).unwrap_or_default();
        self.print(rest.as_bytes()).map(drop)
    }

    fn print(&self, data: &[u8]) -> Result<bool, CliError> {
        let mut out = self.out.lock();
        match out.write_all(data).and_then(|()| out.flush()) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
            Err(error) => Err(CliError::new(format!("cannot write to stdout: {error}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offset(lines: usize, from: u64, text: &str) -> Option<u64> {
        let mut starts = LineStarts::new(lines);
        let mut at = from;
        for data in text.as_bytes().chunks(2) {
            starts.take(&ReadOutputResponse { offset: at, data: data.to_vec(), ended: false });
            at += data.len() as u64;
        }
        starts.offset()
    }

    #[test]
    fn the_last_lines_are_found_or_more_is_asked_for() {
        assert_eq!(offset(2, 0, "one\ntwo\nthree\n"), Some(4));
        assert_eq!(offset(2, 0, "one\ntwo\nthree"), Some(4));
        assert_eq!(offset(9, 0, "one\ntwo\n"), Some(0));
        assert_eq!(offset(0, 0, "one\ntwo\n"), Some(8));
        assert_eq!(offset(1, 0, ""), Some(0));
        assert_eq!(offset(2, 100, "ne\ntwo\nthree\n"), Some(103));
        assert_eq!(offset(3, 100, "ne\ntwo\nthree\n"), None, "the first line may be a part of one");
        assert_eq!(offset(2, 0, "\n\n\n"), Some(1));
    }
}
