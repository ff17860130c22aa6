//! Trees of inputs and outputs.

use farmhand_proto::control::directory_entry::Kind;
use ratatui::layout::Rect;

use crate::canvas::Canvas;
use crate::format;
use crate::model::action::tree::{Node, NodeId, Progress, TreeRow};
use crate::model::action::{Tab, Tree};
use crate::model::{ListId, Model};
use crate::theme::Role;
use crate::view::table::{self, Column, Row};

/// The columns.
const COLUMNS: &[Column] = &[
    Column::text("Name", 20).grow(1),
    Column::number("Size", 9),
    Column::number("Files", 6).from(56),
    Column::text("State", 12),
];
const NAME: usize = 0;
const SIZE: usize = 1;
const FILES: usize = 2;
const STATE: usize = 3;

/// Paints the tree of the tab that is shown.
pub(super) fn draw(model: &Model, canvas: &mut Canvas<'_>, area: Rect) {
    let Some(tree) = model.action.tree() else { return };
    if tree.rows().is_empty() {
        return nothing(model, canvas, area);
    }
    let state = model.lists[ListId::Action];
    let below = area.height.min(1);
    let list = Rect { height: area.height - below, ..area };
    table::draw(canvas, list, ListId::Action, &state, COLUMNS, tree.rows().len(), |number, row| {
        match tree.rows()[number] {
            TreeRow::Node(id) => node_row(tree, id, row),
            TreeRow::Rest(id) => rest_row(tree.node(id), row),
        }
    });
    let chosen = tree.rows().get(state.selected.min(tree.rows().len() - 1));
    if let Some(TreeRow::Node(id)) = chosen {
        let text = format!("{}  {}", tree.path(*id), tree.node(*id).digest);
        canvas.text(area.x + 1, list.bottom(), area.width.saturating_sub(2), &text, Role::Dim);
    }
}

fn nothing(model: &Model, canvas: &mut Canvas<'_>, area: Rect) {
    let action = &model.action;
    let words = match (&action.loaded, action.tab) {
        (None, _) => "nothing is known of it yet",
        _ if action.tree().is_some_and(|tree| tree.filter().is_some()) => {
            "nothing that was read fits the filter"
        }
        (Some(loaded), Tab::Inputs) if loaded.action.is_none() => "the Action is not stored any more",
        (Some(_), Tab::Inputs) => "it has no inputs",
        (Some(loaded), _) if loaded.result.is_none() => "there is no result yet",
        (Some(_), _) => "it made nothing",
    };
    canvas.text(area.x + 1, area.y, area.width.saturating_sub(1), words, Role::Dim);
}

fn node_row(tree: &Tree, id: NodeId, row: &mut Row<'_, '_>) {
    let node = tree.node(id);
    let glyphs = row.canvas().glyphs;
    let sign = match (node.is_directory(), node.is_open) {
        (true, true) => glyphs.open,
        (true, false) => glyphs.closed,
        (false, _) => " ",
    };
    let indent = "  ".repeat(usize::from(node.depth.min(40)));
    let end = match node.kind {
        Kind::Directory => "/".to_owned(),
        Kind::Symlink => format!(" {} {}", glyphs.arrow, node.target),
        Kind::File if node.is_executable => "*".to_owned(),
        _ => String::new(),
    };
    let (words, role) = state(node);
    let name_role = match node.kind {
        Kind::Directory => Role::Key,
        _ if role == Role::Bad => Role::Bad,
        _ => Role::Text,
    };
    row.cell(NAME, &format!("{indent}{sign} {}{end}", node.name), name_role);
    let is_sized = node.kind == Kind::File || node.is_directory() && node.files.is_some();
    if is_sized {
        row.cell(SIZE, &format::bytes(node.bytes), Role::Dim);
    }
    if let Some(files) = node.files.filter(|_| node.is_directory()) {
        row.cell(FILES, &format::count(files), Role::Dim);
    }
    row.cell(STATE, words, role);
}

/// Whether its blob is there.
fn state(node: &Node) -> (&'static str, Role) {
    match (node.kind, node.is_stored) {
        (Kind::Unspecified, _) => ("not made", Role::Bad),
        (_, false) => ("not stored", Role::Bad),
        (Kind::Symlink, true) => ("link", Role::Dim),
        (_, true) => ("stored", Role::Dim),
    }
}

fn rest_row(node: &Node, row: &mut Row<'_, '_>) {
    let indent = "  ".repeat(usize::from(node.depth.min(40)) + 1);
    let ellipsis = row.canvas().glyphs.ellipsis;
    let (words, role) = match &node.progress {
        Progress::Unread | Progress::Asked => ("reading".to_owned(), Role::Dim),
        Progress::Read(_) => ("more; enter reads on".to_owned(), Role::Key),
        Progress::Failed(reason) => (reason.clone(), Role::Bad),
    };
    row.cell(NAME, &format!("{indent}{ellipsis} {words}"), role);
}
