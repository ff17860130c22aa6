//! What views paint on: cells, looks by role, and what the painting tells back.
//!
//! Drawing changes no state. What it finds out - which row is under which cell, how many rows of a
//! list fitted - is collected in [`Drawn`] and handed to the model afterwards.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;
use unicode_segmentation::UnicodeSegmentation;

use crate::glyphs::Glyphs;
use crate::keymap::Act;
use crate::logtext::Size;
use crate::model::{ListId, ListState};
use crate::options::View;
use crate::sanitize;
use crate::theme::{Role, Theme};

/// A screen being painted.
pub(crate) struct Canvas<'a> {
    /// The cells.
    pub(crate) buffer: &'a mut Buffer,
    /// Looks by role.
    pub(crate) theme: &'a Theme,
    /// Signs.
    pub(crate) glyphs: &'static Glyphs,
    /// What the painting tells.
    pub(crate) drawn: Drawn,
}

/// What a painting tells the model.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Drawn {
    /// What the mouse hits where; later ones lie over earlier ones.
    pub(crate) hits: Vec<(Rect, Hit)>,
    /// What was seen of lists.
    pub(crate) viewports: Vec<Viewport>,
    /// Columns and rows of the text that is read, where one is.
    pub(crate) text: Option<Size>,
}

/// What can be hit with the mouse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hit {
    /// Nothing: covers what lies below.
    Nothing,
    /// A view's name.
    View(View),
    /// What a key would do.
    Act(Act),
    /// A list, for the wheel.
    List(ListId),
    /// A row of a list, by its number.
    Row(ListId, usize),
    /// The title of a column of a list, by its number.
    Column(ListId, usize),
    /// A tab of the view that is shown, by its number.
    Tab(usize),
    /// The lanes of the timeline, for dragging and for what lies under the pointer.
    Lanes,
}

/// What was seen of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Viewport {
    /// Which one.
    pub(crate) list: ListId,
    /// First row that was seen.
    pub(crate) offset: usize,
    /// Rows that fitted.
    pub(crate) height: usize,
    /// Rows there are.
    pub(crate) len: usize,
    /// Columns one can sort by.
    pub(crate) columns: usize,
}

// === impl Canvas ===

impl<'a> Canvas<'a> {
    /// A canvas over `buffer`.
    pub(crate) fn new(buffer: &'a mut Buffer, theme: &'a Theme, glyphs: &'static Glyphs) -> Self {
        Self { buffer, theme, glyphs, drawn: Drawn::default() }
    }

    /// Writes `text` from `x` on, cut to `cells`; the cells it took.
    pub(crate) fn text(&mut self, x: u16, y: u16, cells: u16, text: &str, role: Role) -> u16 {
        self.styled(x, y, cells, text, self.theme.style(role))
    }

    /// [`text`](Self::text) in a style of its own. The style lies over what is there.
    pub(crate) fn styled(&mut self, x: u16, y: u16, cells: u16, text: &str, style: Style) -> u16 {
        let cells = cells.min(self.buffer.area.right().saturating_sub(x));
        if y < self.buffer.area.top() || y >= self.buffer.area.bottom() || x < self.buffer.area.left() {
            return 0;
        }
        if text.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
            return self.plain(x, y, cells, text, style);
        }
        let text = sanitize::cut(text, usize::from(cells), self.glyphs.ellipsis);
        let mut at = x;
        for letter in text.graphemes(true) {
            let width = sanitize::width(letter) as u16;
            if width == 0 || letter.contains(char::is_control) || at + width > x + cells {
                continue;
            }
            self.letter(at, y, letter, width, style);
            at += width;
        }
        at - x
    }

    /// [`styled`](Self::styled) at the right end of `area`'s first row.
    pub(crate) fn text_right(&mut self, area: Rect, text: &str, role: Role) -> u16 {
        let cells = (sanitize::width(text) as u16).min(area.width);
        self.text(area.right() - cells, area.y, cells, text, role)
    }

    /// Fills `area` with spaces in the look of `role`.
    pub(crate) fn fill(&mut self, area: Rect, role: Role) {
        let style = self.theme.style(role);
        let area = area.intersection(self.buffer.area);
        for y in area.top()..area.bottom() {
            for x in area.left()..area.right() {
                self.buffer[(x, y)].reset();
                self.buffer[(x, y)].set_style(style);
            }
        }
    }

    /// Lays the look of `role` over `area`.
    pub(crate) fn tint(&mut self, area: Rect, role: Role) {
        let style = self.theme.style(role);
        if style != Style::new() {
            self.buffer.set_style(area.intersection(self.buffer.area), style);
        }
    }

    /// Tells what the mouse hits in `area`.
    pub(crate) fn hit(&mut self, area: Rect, hit: Hit) {
        self.drawn.hits.push((area.intersection(self.buffer.area), hit));
    }

    /// The rows of a list that are to be seen in `area`, and tells the model and the mouse of them.
    pub(crate) fn window(
        &mut self,
        id: ListId,
        state: &ListState,
        area: Rect,
        len: usize,
        columns: usize,
    ) -> std::ops::Range<usize> {
        let height = usize::from(area.height);
        let rows = state.window(height, len);
        self.drawn.viewports.push(Viewport { list: id, offset: rows.start, height, len, columns });
        self.hit(area, Hit::List(id));
        for (line, row) in rows.clone().enumerate() {
            let line = Rect { y: area.y + line as u16, height: 1, ..area };
            self.hit(line, Hit::Row(id, row));
        }
        rows
    }

    /// [`styled`](Self::styled) for text of which every byte is a letter of one cell.
    fn plain(&mut self, x: u16, y: u16, cells: u16, text: &str, style: Style) -> u16 {
        let fits = usize::from(cells);
        let shown = if text.len() > fits { &text[..fits.saturating_sub(1)] } else { text };
        let mut at = x;
        for i in 0..shown.len() {
            self.letter(at, y, &shown[i..=i], 1, style);
            at += 1;
        }
        if text.len() > fits && cells > 0 {
            self.letter(at, y, self.glyphs.ellipsis, 1, style);
            at += 1;
        }
        at - x
    }

    /// Sets one letter. The second cell of a wide one is emptied, as terminals expect.
    fn letter(&mut self, x: u16, y: u16, letter: &str, width: u16, style: Style) {
        self.buffer[(x, y)].set_symbol(letter).set_style(style);
        for covered in x + 1..(x + width).min(self.buffer.area.right()) {
            self.buffer[(covered, y)].reset();
        }
    }
}

// === impl Drawn ===

impl Drawn {
    /// What lies at that cell.
    pub(crate) fn at(&self, x: u16, y: u16) -> Option<Hit> {
        let hit = self.hits.iter().rev().find(|(area, _)| area.contains((x, y).into()))?;
        (hit.1 != Hit::Nothing).then_some(hit.1)
    }

    /// The list at that cell.
    pub(crate) fn list_at(&self, x: u16, y: u16) -> Option<ListId> {
        let under = self.hits.iter().rev().filter(|(area, _)| area.contains((x, y).into()));
        let mut uncovered = under.map(|(_, hit)| *hit).take_while(|hit| *hit != Hit::Nothing);
        uncovered.find_map(|hit| match hit {
            Hit::List(list) | Hit::Row(list, _) | Hit::Column(list, _) => Some(list),
            _ => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::glyphs::UNICODE;
    use crate::options::ColourDepth;

    fn painted(cells: u16, text: &str) -> (String, u16) {
        let theme = Theme::standard(ColourDepth::None);
        let mut buffer = Buffer::empty(Rect::new(0, 0, 8, 1));
        let mut canvas = Canvas::new(&mut buffer, &theme, &UNICODE);
        let taken = canvas.text(0, 0, cells, text, Role::Text);
        (buffer.content.iter().map(|cell| cell.symbol()).collect(), taken)
    }

    #[test]
    fn text_is_cut_to_its_cells() {
        assert_eq!(painted(5, "abc"), ("abc     ".into(), 3));
        assert_eq!(painted(5, "abcdef"), ("abcd…   ".into(), 5));
        assert_eq!(painted(50, "abcdefghij"), ("abcdefg…".into(), 8));
        assert_eq!(painted(0, "abc"), ("        ".into(), 0));
        assert_eq!(painted(4, "木木木"), ("木 …     ".into(), 3));
    }

    #[test]
    fn what_lies_above_is_hit() {
        let drawn = Drawn {
            hits: vec![
                (Rect::new(0, 0, 8, 4), Hit::List(ListId::Builds)),
                (Rect::new(0, 1, 8, 1), Hit::Row(ListId::Builds, 5)),
                (Rect::new(4, 0, 4, 4), Hit::Nothing),
            ],
            ..Drawn::default()
        };
        assert_eq!(drawn.at(0, 1), Some(Hit::Row(ListId::Builds, 5)));
        assert_eq!((drawn.at(5, 1), drawn.list_at(5, 1)), (None, None));
        assert_eq!(drawn.list_at(0, 1), Some(ListId::Builds));
    }
}
