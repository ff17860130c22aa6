//! How the overview looks: machines beside graphs, builds beside what runs and waits, and what
//! happened. On a narrow screen what stands beside goes below, and on a low one the last goes.

mod boxes;

use ratatui::layout::Rect;

use super::cache;
use crate::canvas::{Canvas, Hit};
use crate::model::Model;
use crate::model::copies;
use crate::model::farm::BuildRow;
use crate::model::overview::Pane;
use crate::options::View;
use crate::theme::Role;

/// Cells from which on there are two columns.
const WIDE: u16 = 72;

/// The boxes as they lie on the screen; an empty one is not shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Plan {
    machines: Rect,
    graphs: Rect,
    builds: Rect,
    queue: Rect,
    events: Rect,
    copies: Rect,
}

/// Lines of what runs and waits in a text that is printed.
const PRINTED: usize = 20;

/// Paints it.
pub(super) fn draw(model: &Model, canvas: &mut Canvas<'_>, area: Rect) {
    let builds = model.farm().builds.active(model.node_now());
    let area = trouble(model, canvas, area);
    let plan = Plan::of(area, model.farm().machines.len(), builds.len());
    paint(model, canvas, plan, &builds);
}

/// The last line of `area` says what is amiss with the copies, for as long as it is; what is left of `area`.
fn trouble(model: &Model, canvas: &mut Canvas<'_>, area: Rect) -> Rect {
    let Some((text, role)) = copies::trouble(model.farm()).filter(|_| area.height > 8) else { return area };
    let line = Rect { y: area.bottom() - 1, height: 1, ..area };
    let sign = if role == Role::Bad { canvas.glyphs.alarm } else { canvas.glyphs.retried };
    canvas.text(line.x + 1, line.y, 1, sign, role);
    canvas.text(line.x + 3, line.y, line.width.saturating_sub(4), &text, role);
    canvas.hit(line, Hit::View(View::Cache));
    Rect { height: area.height - 1, ..area }
}

/// Paints what is printed: no choice, no events, and all machines and builds.
pub(super) fn draw_text(model: &Model, canvas: &mut Canvas<'_>, area: Rect) {
    let builds = model.farm().builds.active(model.node_now());
    let plan = Plan::of_text(model, area);
    paint(model, canvas, plan, &builds);
    if plan.copies.height > 0 {
        cache::copies::summary(model, canvas, plan.copies);
    }
}

/// Lines of that.
pub(super) fn height_of_text(model: &Model, width: u16) -> u16 {
    let plan = Plan::of_text(model, Rect::new(0, 0, width, u16::MAX / 2));
    plan.builds.bottom().max(plan.queue.bottom()).max(plan.copies.bottom())
}

fn paint(model: &Model, canvas: &mut Canvas<'_>, plan: Plan, builds: &[&BuildRow]) {
    boxed(model, canvas, plan.machines, Some(Pane::Machines), "Machines", boxes::machines);
    boxed(model, canvas, plan.graphs, None, &boxes::graph_title(model, plan.graphs.width), boxes::graphs);
    let title = format!("Builds {}", builds.len());
    boxed(model, canvas, plan.builds, Some(Pane::Builds), &title, |model, canvas, area| {
        boxes::builds(model, canvas, area, builds);
    });
    boxed(model, canvas, plan.queue, Some(Pane::Queue), &boxes::queue_title(model), boxes::queue);
    boxed(model, canvas, plan.events, Some(Pane::Events), "Events", boxes::events);
}

// === impl Plan ===

impl Plan {
    /// Boxes over `area`, each one line for its title and as many as what it holds is worth.
    fn of(area: Rect, machines: usize, builds: usize) -> Self {
        let lines = |count: usize| u16::try_from(count).unwrap_or(u16::MAX).saturating_add(1);
        let height = area.height;
        // Graphs want some height, and machines are never so many that nothing else is seen.
        let top = lines(machines).clamp((height / 3).max(5), (height * 2 / 5).max(5)).min(height);
        if area.width < WIDE {
            let share = (height / 3).max(3);
            return Self::stacked(area, lines(machines).min(share), lines(builds).min(share));
        }
        let rest = height - top;
        let middle = lines(builds).max(rest * 2 / 3).min(rest.saturating_sub(3)).max(rest.min(3));
        Self::beside(area, top, middle, rest - middle)
    }

    /// Two columns of two boxes, and one below them, of these heights.
    fn beside(area: Rect, top: u16, middle: u16, bottom: u16) -> Self {
        let left = area.width * 11 / 20;
        let row = |y: u16, height: u16| {
            let both = Rect { y: area.y + y, height, ..area };
            let left_box = Rect { width: left, ..both };
            (left_box, Rect { x: area.x + left + 1, width: area.width - left - 1, ..both })
        };
        let (machines, graphs) = row(0, top);
        let (builds, queue) = row(top, middle);
        let events = Rect { y: area.y + top + middle, height: bottom, ..area };
        Self { machines, graphs, builds, queue, events, copies: Rect::default() }
    }

    /// Boxes as high as what they hold.
    fn of_text(model: &Model, area: Rect) -> Self {
        let lines = |count: usize| u16::try_from(count).unwrap_or(u16::MAX / 8).saturating_add(1);
        let farm = model.farm();
        let (queued, running, _) = farm.ops.counts();
        let builds = farm.builds.active(model.node_now()).len().max(1);
        let machines = lines(farm.machines.len());
        let queue = lines((queued + running).clamp(1, PRINTED));
        let mut plan = if area.width < WIDE {
            let height = machines + lines(builds) + queue;
            Self::stacked(Rect { height, ..area }, machines, lines(builds))
        } else {
            let (top, middle) = (machines.max(6), lines(builds).max(queue));
            Self::beside(area, top, middle, 0)
        };
        if farm.machines.len() > 1 && copies::told(farm).is_some() {
            let y = plan.builds.bottom().max(plan.queue.bottom());
            plan.copies = Rect { y, height: machines + 1, ..area };
        }
        plan
    }

    /// One below the other, as far as there is room.
    fn stacked(area: Rect, machines: u16, builds: u16) -> Self {
        let mut y = area.y;
        let mut take = |wanted: u16| {
            let height = wanted.min(area.bottom().saturating_sub(y));
            let place = Rect { y, height, ..area };
            y += height;
            place
        };
        let (machines, builds) = (take(machines), take(builds));
        let queue = take(area.height.saturating_sub(machines.height + builds.height));
        Self { machines, builds, queue, ..Self::default() }
    }
}

/// A title line with the box below it.
fn boxed(
    model: &Model,
    canvas: &mut Canvas<'_>,
    area: Rect,
    pane: Option<Pane>,
    title: &str,
    paint: impl FnOnce(&Model, &mut Canvas<'_>, Rect),
) {
    if area.is_empty() {
        return;
    }
    let focus = pane == Some(model.overview.pane);
    let line = canvas.glyphs.horizontal.repeat(usize::from(area.width));
    canvas.text(area.x, area.y, area.width, &line, if focus { Role::Focus } else { Role::Border });
    canvas.text(area.x + 1, area.y, area.width.saturating_sub(2), &format!(" {title} "), Role::Title);
    if let Some(pane) = pane {
        canvas.hit(Rect { height: 1, ..area }, Hit::List(pane.list()));
    }
    paint(model, canvas, Rect { y: area.y + 1, height: area.height - 1, ..area });
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn boxes_lie_within_and_apart(width in 0..200_u16, height in 0..80_u16, machines in 0..60_usize, builds in 0..60_usize) {
            let area = Rect::new(3, 2, width, height);
            let plan = Plan::of(area, machines, builds);
            let boxes = [plan.machines, plan.graphs, plan.builds, plan.queue, plan.events];
            let shown: Vec<_> = boxes.into_iter().filter(|place| !place.is_empty()).collect();
            for (at, place) in shown.iter().enumerate() {
                prop_assert_eq!(area.intersection(*place), *place);
                for other in &shown[..at] {
                    prop_assert!(place.intersection(*other).is_empty(), "{:?} {:?}", place, other);
                }
            }
        }
    }
}
