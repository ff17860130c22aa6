//! Lists: what is chosen, what is seen, and by what it is sorted. The same for all views.

use std::ops::{Index, IndexMut, Range};

use crate::canvas::Viewport;

/// A list of some view.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum ListId {
    /// Overview: machines.
    OverviewMachines,
    /// Overview: builds.
    OverviewBuilds,
    /// Overview: what runs and waits.
    OverviewQueue,
    /// Overview: events.
    OverviewEvents,
    /// The builds.
    Builds,
    /// The actions.
    Actions,
    /// Action: rows or lines of the tab that is shown.
    Action,
    /// Timeline: lanes.
    Timeline,
    /// The machines.
    Machines,
    /// Cache: kinds of actions.
    Cache,
    /// Cache: machines with what they have of the copies.
    Copies,
    /// The log.
    Logs,
    /// Over all: the help page, and lists to choose from.
    Modal,
}

/// Lists there are.
const LISTS: usize = ListId::Modal as usize + 1;

/// By which column, and in which direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sort {
    /// Number of the column.
    pub(crate) column: usize,
    /// The greatest first.
    pub(crate) descending: bool,
}

/// What is chosen and seen of a list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ListState {
    /// The row that is chosen.
    pub(crate) selected: usize,
    /// First row that was seen.
    pub(crate) offset: usize,
    /// Rows that fitted when it was last drawn.
    pub(crate) height: usize,
    /// Rows there were then.
    pub(crate) len: usize,
    /// Columns one can sort by.
    pub(crate) columns: usize,
    /// Sorted by the person; unset leaves the order to the view.
    pub(crate) sort: Option<Sort>,
}

/// All lists.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Lists([ListState; LISTS]);

// === impl ListState ===

impl ListState {
    /// Moves the selection by `rows`.
    pub(crate) fn step(&mut self, rows: isize) {
        self.select(self.selected.saturating_add_signed(rows));
    }

    /// Moves the selection by `pages`.
    pub(crate) fn page(&mut self, pages: isize) {
        let height = self.height.saturating_sub(1).max(1);
        self.step(pages.saturating_mul(isize::try_from(height).unwrap_or(1)));
    }

    /// Chooses a row; the last one when there are fewer.
    pub(crate) fn select(&mut self, row: usize) {
        self.selected = row.min(self.len.saturating_sub(1));
    }

    /// Scrolls by `rows`, and takes the selection along as far as it would leave the window.
    pub(crate) fn scroll(&mut self, rows: isize) {
        let last = self.len.saturating_sub(self.height);
        self.offset = self.offset.saturating_add_signed(rows).min(last);
        let window = self.offset..self.offset + self.height.max(1);
        self.select(self.selected.clamp(window.start, window.end - 1));
    }

    /// The list has `len` rows now.
    pub(crate) fn resize(&mut self, len: usize) {
        self.len = len;
        self.select(self.selected);
    }

    /// The rows to be seen of `len` in a window of `height`, so that the chosen one is among them.
    pub(crate) fn window(&self, height: usize, len: usize) -> Range<usize> {
        let selected = self.selected.min(len.saturating_sub(1));
        let lowest = (selected + 1).saturating_sub(height);
        let offset = self.offset.clamp(lowest, selected.max(lowest)).min(len.saturating_sub(height));
        offset..(offset + height).min(len)
    }

    /// Sorts by a column; by the same one again turns it round.
    pub(crate) fn sort_by(&mut self, column: usize) {
        let descending = match self.sort {
            Some(sort) if sort.column == column => !sort.descending,
            _ => false,
        };
        self.sort = Some(Sort { column, descending });
    }

    /// Sorts by the next column; after the last one the order is left to the view.
    pub(crate) fn sort_next(&mut self) {
        let next = self.sort.map_or(0, |sort| sort.column + 1);
        self.sort = (next < self.columns).then_some(Sort { column: next, descending: false });
    }

    /// Turns the order round.
    pub(crate) fn reverse(&mut self) {
        if let Some(sort) = &mut self.sort {
            sort.descending = !sort.descending;
        }
    }
}

// === impl Lists ===

impl Lists {
    /// Takes what a painting found out.
    pub(crate) fn seen(&mut self, viewport: &Viewport) {
        let state = &mut self[viewport.list];
        state.offset = viewport.offset;
        state.height = viewport.height;
        state.columns = viewport.columns;
        state.resize(viewport.len);
    }
}

impl Index<ListId> for Lists {
    type Output = ListState;

    fn index(&self, id: ListId) -> &ListState {
        &self.0[id as usize]
    }
}

impl IndexMut<ListId> for Lists {
    fn index_mut(&mut self, id: ListId) -> &mut ListState {
        &mut self.0[id as usize]
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_window_follows_the_selection() {
        let mut state = ListState { len: 100, height: 10, ..Default::default() };
        state.page(1);
        assert_eq!((state.selected, state.window(10, 100)), (9, 0..10));
        state.step(1);
        assert_eq!(state.window(10, 100), 1..11);
        state.select(1000);
        assert_eq!(state.window(10, 100), 90..100);
        state.offset = 90;
        state.scroll(-5);
        assert_eq!((state.selected, state.offset), (94, 85));
    }

    #[test]
    fn columns_take_turns() {
        let mut state = ListState { columns: 2, ..Default::default() };
        state.sort_next();
        state.sort_next();
        assert_eq!(state.sort, Some(Sort { column: 1, descending: false }));
        state.sort_by(1);
        assert_eq!(state.sort, Some(Sort { column: 1, descending: true }));
        state.sort_next();
        assert_eq!(state.sort, None);
    }

    proptest! {
        #[test]
        fn windows_hold_the_selection(
            selected in 0..200_usize, offset in 0..200_usize, height in 0..50_usize, len in 0..200_usize,
        ) {
            let state = ListState { selected, offset, ..Default::default() };
            let window = state.window(height, len);
            prop_assert!(window.end <= len && window.len() <= height);
            if height > 0 && len > 0 {
                prop_assert!(window.contains(&selected.min(len - 1)), "{:?}", window);
                prop_assert_eq!(window.len(), height.min(len));
            }
        }
    }
}
