//! Where the person is, and the way back.

use crate::options::View;

/// Views one can go back through.
const DEEPEST: usize = 16;

/// Where the person is, and came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Navigation {
    /// The way; never empty, the view that is shown is the last.
    way: Vec<View>,
}

// === impl Navigation ===

impl Navigation {
    /// At the beginning of a way.
    pub(crate) fn at(view: View) -> Self {
        Self { way: vec![view] }
    }

    /// The view that is shown.
    pub(crate) fn view(&self) -> View {
        self.way.last().copied().unwrap_or_default()
    }

    /// The way to it, itself included.
    pub(crate) fn crumbs(&self) -> &[View] {
        &self.way
    }

    /// Goes to a view as one looks around: the way begins anew.
    pub(crate) fn jump(&mut self, view: View) {
        self.way = vec![view];
    }

    /// Goes deeper, so that one can come back.
    pub(crate) fn enter(&mut self, view: View) {
        if self.view() == view {
            return;
        }
        if self.way.len() == DEEPEST {
            self.way.remove(0);
        }
        self.way.push(view);
    }

    /// Goes back; `false` when this is where the way began.
    pub(crate) fn back(&mut self) -> bool {
        if self.way.len() == 1 {
            return false;
        }
        self.way.pop();
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_a_way_back() {
        let mut navigation = Navigation::at(View::Overview);
        navigation.enter(View::Actions);
        navigation.enter(View::Action);
        navigation.enter(View::Action);
        assert_eq!(navigation.crumbs(), [View::Overview, View::Actions, View::Action]);
        assert!(navigation.back() && navigation.back() && !navigation.back());
        assert_eq!(navigation.view(), View::Overview);
        for _ in 0..100 {
            navigation.enter(View::Actions);
            navigation.enter(View::Action);
        }
        assert_eq!(navigation.crumbs().len(), DEEPEST);
        navigation.jump(View::Logs);
        assert!(!navigation.back());
    }
}
