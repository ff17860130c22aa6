//! The terminal: made ready, painted on, and always given back as it was.
//!
//! Owns raw mode, the alternate screen, mouse and paste reporting. They are undone when a
//! [`Screen`] is dropped, when the program panics, and while it is stopped by job control.
//!
//! Nothing waits for the terminal. What is to be written goes to a thread of its own
//! ([`writer`]); while that is busy - a slow line, a stopped scroll - nothing is painted, and
//! afterwards only the latest state.

mod encode;
mod environment;
mod writer;

use std::io::{self, IsTerminal, Write};
use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};

use crossterm::event::{DisableBracketedPaste, EnableBracketedPaste};
use crossterm::style::Print;
use crossterm::terminal::{EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode};
use crossterm::{cursor, queue};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;

pub(crate) use encode::frame;
pub(crate) use environment::Environment;
use writer::Writer;

use crate::options::UiError;

/// Asks for presses, drags and the wheel, in a form without limits. Motion without a button is not
/// asked for: over ssh that would be a flood of nothing.
const MOUSE_ON: &str = "\x1b[?1000h\x1b[?1002h\x1b[?1006h";
const MOUSE_OFF: &str = "\x1b[?1006l\x1b[?1002l\x1b[?1000l";

/// Whether the terminal is changed now, so that a panic knows what to undo.
static CHANGED: AtomicBool = AtomicBool::new(false);

/// The screen of the terminal.
pub(crate) struct Screen {
    writer: Writer,
    /// What is on the screen.
    shown: Buffer,
    /// What will be; kept to be used again.
    next: Buffer,
    /// What is on the screen is not known any more.
    unknown: bool,
}

// === impl Screen ===

impl Screen {
    /// Makes the terminal ready.
    ///
    /// # Errors
    /// When there is none, or it cannot be drawn on.
    pub(crate) fn open(environment: &Environment) -> Result<Self, UiError> {
        if !io::stdout().is_terminal() {
            return Err(UiError::NoTerminal);
        }
        if environment.is_dumb() {
            return Err(UiError::DumbTerminal(environment.terminal_type().to_owned()));
        }
        restore_on_panic();
        let (columns, rows) = crossterm::terminal::size().map_err(UiError::Terminal)?;
        let area = Rect::new(0, 0, columns, rows);
        prepare().map_err(UiError::Terminal)?;
        let writer = Writer::start().map_err(UiError::Terminal)?;
        Ok(Self { writer, shown: Buffer::empty(area), next: Buffer::empty(area), unknown: true })
    }

    /// Columns and rows.
    pub(crate) fn size(&self) -> (u16, u16) {
        (self.next.area.width, self.next.area.height)
    }

    /// The terminal has another size now.
    pub(crate) fn resize(&mut self, columns: u16, rows: u16) {
        let area = Rect::new(0, 0, columns, rows);
        self.next.resize(area);
        self.shown.resize(area);
        self.unknown = true;
    }

    /// What is on the screen is not known any more: the next painting writes all of it.
    pub(crate) fn forget(&mut self) {
        self.unknown = true;
    }

    /// Whether the terminal has taken everything.
    pub(crate) fn is_idle(&self) -> bool {
        self.writer.is_idle()
    }

    /// Waits until the terminal has taken everything.
    ///
    /// # Errors
    /// When the terminal is gone.
    pub(crate) async fn idle(&self) -> io::Result<()> {
        self.writer.idle().await
    }

    /// Shows what `paint` paints. Only differences are written.
    pub(crate) fn draw<T>(&mut self, paint: impl FnOnce(&mut Buffer) -> T) -> T {
        self.next.reset();
        let told = paint(&mut self.next);
        if self.unknown {
            self.shown.reset();
        }
        let bytes = frame(&self.shown, &self.next, self.unknown);
        self.unknown = false;
        if !bytes.is_empty() {
            self.writer.write(bytes);
        }
        std::mem::swap(&mut self.shown, &mut self.next);
        told
    }

    /// What is on the screen.
    pub(crate) fn shown(&self) -> &Buffer {
        &self.shown
    }

    /// Writes a sequence that leaves the screen as it is.
    pub(crate) fn send(&mut self, sequence: String) {
        self.writer.write(sequence.into_bytes());
    }

    /// Gives the terminal back for a while.
    pub(crate) fn leave(&mut self) {
        self.writer.flush();
        restore();
    }

    /// Takes the terminal again. Its size may have changed meanwhile.
    ///
    /// # Errors
    /// When the terminal is gone.
    pub(crate) fn enter(&mut self) -> io::Result<()> {
        prepare()?;
        let (columns, rows) = crossterm::terminal::size()?;
        self.resize(columns, rows);
        Ok(())
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.leave();
    }
}

fn prepare() -> io::Result<()> {
    enable_raw_mode()?;
    CHANGED.store(true, Ordering::SeqCst);
    let mut out = io::stdout();
    queue!(out, EnterAlternateScreen, Print(MOUSE_ON), EnableBracketedPaste, cursor::Hide)?;
    out.flush()
}

/// Undoes what [`prepare`] did, once. A terminal that is gone needs nothing undone.
fn restore() {
    if !CHANGED.swap(false, Ordering::SeqCst) {
        return;
    }
    let mut out = io::stdout();
    let _ = queue!(out, DisableBracketedPaste, Print(MOUSE_OFF), LeaveAlternateScreen, cursor::Show);
    let _ = out.flush();
    let _ = disable_raw_mode();
}

/// A panic anywhere in the program gives the terminal back before it is reported.
fn restore_on_panic() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        let report = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            restore();
            report(info);
        }));
    });
}
