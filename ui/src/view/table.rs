//! Tables: a line of titles one can click to sort, and rows of which only those seen are painted.

use std::ops::Range;

use ratatui::layout::Rect;

use crate::canvas::{Canvas, Hit};
use crate::model::filter::Filter;
use crate::model::list::{ListId, ListState};
use crate::sanitize;
use crate::theme::Role;

/// One column.
#[derive(Clone, Copy, Debug)]
pub(super) struct Column {
    /// Its title; empty for a column of signs.
    pub(super) title: &'static str,
    /// Cells it takes; of one that grows, the least.
    pub(super) width: u16,
    /// Its share of the cells that are left; 0 for none.
    pub(super) grow: u16,
    /// Numbers stand at the right.
    pub(super) right: bool,
    /// Cells the table must have for the column to be shown.
    pub(super) from: u16,
    /// Its number among those one can sort by.
    pub(super) sort: Option<usize>,
}

/// Columns as they lie on the screen.
pub(super) struct Layout {
    /// Number of the column, first cell, cells.
    places: Vec<(usize, u16, u16)>,
}

/// A row being painted.
pub(super) struct Row<'a, 'b> {
    canvas: &'a mut Canvas<'b>,
    columns: &'a [Column],
    layout: &'a Layout,
    area: Rect,
}

// === impl Column ===

impl Column {
    /// A column of text.
    pub(super) const fn text(title: &'static str, width: u16) -> Self {
        Self { title, width, grow: 0, right: false, from: 0, sort: None }
    }

    /// A column of numbers.
    pub(super) const fn number(title: &'static str, width: u16) -> Self {
        Self { right: true, ..Self::text(title, width) }
    }

    /// It takes what is left.
    pub(super) const fn grow(self, grow: u16) -> Self {
        Self { grow, ..self }
    }

    /// It is shown when the table has that many cells.
    pub(super) const fn from(self, from: u16) -> Self {
        Self { from, ..self }
    }

    /// One can sort by it.
    pub(super) const fn sort(self, number: usize) -> Self {
        Self { sort: Some(number), ..self }
    }
}

// === impl Layout ===

impl Layout {
    /// Lays the columns out over `area`.
    pub(super) fn of(columns: &[Column], area: Rect) -> Self {
        let shown: Vec<_> =
            columns.iter().enumerate().filter(|(_, column)| area.width >= column.from).collect();
        let fixed: u16 = shown.iter().map(|(_, column)| column.width + 1).sum::<u16>().saturating_sub(1);
        let parts: u16 = shown.iter().map(|(_, column)| column.grow).sum();
        let mut spare = area.width.saturating_sub(fixed);
        let mut parts_left = parts;
        let mut x = area.x;
        let mut places = Vec::with_capacity(shown.len());
        for (number, column) in shown {
            let more = if column.grow == 0 { 0 } else { spare * column.grow / parts_left.max(1) };
            parts_left -= column.grow;
            spare -= more;
            let width = (column.width + more).min(area.right().saturating_sub(x));
            places.push((number, x, width));
            x = (x + width + 1).min(area.right());
        }
        Self { places }
    }
}

/// Paints a table: titles in the first line of `area`, rows in those below. `paint` gets the number
/// of each row that is seen.
pub(super) fn draw(
    canvas: &mut Canvas<'_>,
    area: Rect,
    id: ListId,
    state: &ListState,
    columns: &[Column],
    len: usize,
    mut paint: impl FnMut(usize, &mut Row<'_, '_>),
) {
    if area.is_empty() {
        return;
    }
    let body = Rect { y: area.y + 1, height: area.height - 1, ..area };
    let bar = u16::from(len > usize::from(body.height));
    // One cell at the left for the cursor, so that the choice is seen without colour.
    let inner = Rect { x: area.x + 1, width: area.width.saturating_sub(1 + 2 * bar), ..area };
    let layout = Layout::of(columns, inner);
    titles(canvas, Rect { height: 1, ..inner }, id, state, columns, &layout);
    let sortable = columns.iter().filter_map(|column| column.sort).max().map_or(0, |last| last + 1);
    let rows = canvas.window(id, state, body, len, sortable);
    if bar > 0 {
        scroll_bar(canvas, Rect { x: area.right() - 1, width: 1, ..body }, &rows, len);
    }
    for (line, number) in rows.enumerate() {
        let area = Rect { y: body.y + line as u16, height: 1, ..inner };
        paint(number, &mut Row { canvas, columns, layout: &layout, area });
        if number == state.selected.min(len.saturating_sub(1)) {
            cursor(canvas, Rect { x: body.x, width: body.width, ..area });
        }
    }
}

/// Paints a table that is only looked at: nothing is chosen, and what does not fit is told as a number.
pub(super) fn draw_plain(
    canvas: &mut Canvas<'_>,
    area: Rect,
    columns: &[Column],
    len: usize,
    mut paint: impl FnMut(usize, &mut Row<'_, '_>),
) {
    if area.is_empty() {
        return;
    }
    let inner = Rect { x: area.x + 1, width: area.width.saturating_sub(1), height: 1, ..area };
    let layout = Layout::of(columns, inner);
    for &(number, x, width) in &layout.places {
        let column = &columns[number];
        let cells = sanitize::width(column.title) as u16;
        let at = if column.right { x + width.saturating_sub(cells) } else { x };
        canvas.text(at, area.y, width, column.title, Role::Title);
    }
    let lines = usize::from(area.height - 1);
    let shown = if len > lines { lines.saturating_sub(1) } else { len };
    for number in 0..shown {
        let area = Rect { y: area.y + 1 + number as u16, ..inner };
        paint(number, &mut Row { canvas, columns, layout: &layout, area });
    }
    if shown < len && lines > 0 {
        let text = format!("and {} more", len - shown);
        canvas.text(inner.x, area.bottom() - 1, inner.width, &text, Role::Dim);
    }
}

/// Which part of a list is seen.
fn scroll_bar(canvas: &mut Canvas<'_>, area: Rect, rows: &Range<usize>, len: usize) {
    let height = usize::from(area.height);
    let length = (rows.len() * height / len.max(1)).clamp(1, height.max(1));
    let room = height - length.min(height);
    let hidden = len - rows.len();
    let start = (rows.start * room + hidden / 2).checked_div(hidden).unwrap_or(0);
    for line in 0..height {
        let (sign, role) = match (start..start + length).contains(&line) {
            true => (canvas.glyphs.bar_full, Role::Border),
            false => (canvas.glyphs.vertical, Role::Empty),
        };
        canvas.text(area.x, area.y + line as u16, 1, sign, role);
    }
}

/// Marks the chosen row, by a sign and by a tint.
pub(super) fn cursor(canvas: &mut Canvas<'_>, line: Rect) {
    let sign = canvas.glyphs.cursor;
    canvas.text(line.x, line.y, 1, sign, Role::Focus);
    canvas.tint(line, Role::Selected);
}

fn titles(
    canvas: &mut Canvas<'_>,
    area: Rect,
    id: ListId,
    state: &ListState,
    columns: &[Column],
    layout: &Layout,
) {
    for &(number, x, width) in &layout.places {
        let column = &columns[number];
        let sorted = state.sort.filter(|sort| column.sort == Some(sort.column));
        let mark = match sorted {
            Some(sort) if sort.descending => canvas.glyphs.descending,
            Some(_) => canvas.glyphs.ascending,
            None => "",
        };
        let title = format!("{}{mark}", column.title);
        let cells = sanitize::width(&title) as u16;
        let at = if column.right { x + width.saturating_sub(cells) } else { x };
        canvas.text(at, area.y, width, &title, if sorted.is_some() { Role::Key } else { Role::Title });
        if let Some(sort) = column.sort {
            canvas.hit(Rect { x, y: area.y, width: width.max(1), height: 1 }, Hit::Column(id, sort));
        }
    }
}

// === impl Row ===

impl<'b> Row<'_, 'b> {
    /// Whether column `number` is shown, so that its text need not be made otherwise.
    pub(super) fn has(&self, number: usize) -> bool {
        self.layout.places.iter().any(|place| place.0 == number)
    }

    /// Cells of column `number`; 0 when it is not shown.
    pub(super) fn width(&self, number: usize) -> u16 {
        self.place(number).map_or(0, |place| place.width)
    }

    /// Where column `number` lies.
    pub(super) fn place(&self, number: usize) -> Option<Rect> {
        let place = self.layout.places.iter().find(|place| place.0 == number)?;
        Some(Rect { x: place.1, width: place.2, y: self.area.y, height: 1 })
    }

    /// The canvas, for what is more than text.
    pub(super) fn canvas(&mut self) -> &mut Canvas<'b> {
        self.canvas
    }

    /// Writes into column `number`.
    pub(super) fn cell(&mut self, number: usize, text: &str, role: Role) {
        let style = self.canvas.theme.style(role);
        self.styled(number, text, style);
    }

    /// Writes into column `number`, in a style of its own.
    pub(super) fn styled(&mut self, number: usize, text: &str, style: ratatui::style::Style) {
        let Some(place) = self.place(number) else { return };
        let cells = (sanitize::width(text) as u16).min(place.width);
        let x = if self.columns[number].right { place.right() - cells } else { place.x };
        self.canvas.styled(x, place.y, place.width, text, style);
    }

    /// Marks what `filter` finds in what column `number` shows.
    pub(super) fn mark(&mut self, number: usize, text: &str, filter: &Filter) {
        let Some(place) = self.place(number) else { return };
        let shown = sanitize::cut_middle(text, usize::from(place.width), self.canvas.glyphs.ellipsis);
        if let Some(found) = filter.find(&shown) {
            let (before, width) = (sanitize::width(&shown[..found.start]), sanitize::width(&shown[found]));
            let found = Rect { x: place.x + before as u16, width: width as u16, ..place };
            self.canvas.tint(found.intersection(place), Role::Match);
        }
    }

    /// Writes into column `number` what is best cut in its middle: targets and paths.
    pub(super) fn path(&mut self, number: usize, text: &str, role: Role) {
        let width = usize::from(self.width(number));
        let ellipsis = self.canvas.glyphs.ellipsis;
        let text = sanitize::cut_middle(text, width, ellipsis).into_owned();
        self.cell(number, &text, role);
    }
}
