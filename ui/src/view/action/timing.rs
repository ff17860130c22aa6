//! Where the time of an action went: its stages as bars, beside those of the run that made the
//! result, and of earlier runs.

use std::time::Duration;

use ratatui::layout::Rect;

use crate::canvas::Canvas;
use crate::format;
use crate::lanes::Micros;
use crate::model::action::facts as told;
use crate::model::{Model, Op, Stamp};
use crate::stages::{self, Span, Stage};
use crate::theme::Role;

/// Cells of the column of names, and of that of lengths.
const NAME: u16 = 10;
const LENGTH: u16 = 8;

/// What is still to be painted.
struct Page<'a, 'b> {
    canvas: &'a mut Canvas<'b>,
    area: Rect,
    now: Micros,
}

/// Paints it.
pub(super) fn draw(model: &Model, canvas: &mut Canvas<'_>, area: Rect) {
    let now = model.node_now().unwrap_or_default();
    let inner = Rect { x: area.x + area.width.min(1), width: area.width.saturating_sub(2), ..area };
    let mut page = Page { canvas, area: inner, now: now.0 };
    let op = told::op(model);
    match op {
        Some(op) => page.run(op),
        None => page.line("nothing is known of its run", Role::Dim),
    }
    page.result(model, op, now);
    page.earlier(model, now);
}

// === impl Page ===

impl Page<'_, '_> {
    fn line(&mut self, text: &str, role: Role) {
        if self.area.height == 0 {
            return;
        }
        self.canvas.text(self.area.x, self.area.y, self.area.width, text, role);
        self.area.y += 1;
        self.area.height -= 1;
    }

    /// The run itself, as far as it is.
    fn run(&mut self, op: &Op) {
        let spans = stages::of_op(op);
        self.line(&format!("This run: {}", told::state(op)), Role::Title);
        self.spans(&spans);
        let ran = spans.iter().find(|span| span.stage == Stage::Command).map(|span| span.length(self.now));
        if let Some(expected) = op.expected {
            let against = ran.map(|ran| format!(", {}", compared(ran, expected))).unwrap_or_default();
            self.line(&format!("expected  ~{}{against}", format::duration(expected)), Role::Dim);
        }
        if let (Some(cpu), Some(ran)) = (op.cpu_time, ran) {
            let cores = cpu.as_secs_f64() / ran.as_secs_f64().max(1e-6);
            self.line(&format!("CPU time  {}, {cores:.1} cores", format::duration(cpu)), Role::Dim);
        }
        if op.peak_memory > 0 {
            self.line(&format!("memory    {} at most", format::bytes(op.peak_memory)), Role::Dim);
        }
        if op.attempts > 1 {
            let text = format!("It was given to a machine {} times; this is the last.", op.attempts);
            self.line(&text, Role::Warn);
        }
        for (machine, reason) in &op.losses {
            self.line(&format!("lost on {machine}: {reason}"), Role::Warn);
        }
        if let Some(text) = told::ran_again(op) {
            self.line(&text, Role::Warn);
        }
    }

    /// The run that made the result, where that is another.
    fn result(&mut self, model: &Model, op: Option<&Op>, now: Stamp) {
        let loaded = model.action.loaded.as_ref();
        let result = loaded.and_then(|loaded| loaded.result.as_ref());
        let Some(metadata) = result.and_then(|result| result.execution_metadata.as_ref()) else { return };
        let spans = stages::of_metadata(metadata);
        let begun = spans.first().map(|span| span.start);
        let is_same = op.and_then(|op| op.started).is_some_and(|started| {
            begun.is_some_and(|begun| begun >= started.0 || spans.iter().any(|span| span.start >= started.0))
        });
        if spans.is_empty() || is_same {
            return;
        }
        self.line("", Role::Text);
        let ago = spans.last().and_then(|span| span.end).map(|end| format::age(now.since(Stamp(end))));
        let worker = crate::sanitize::line(&metadata.worker);
        let text = format!("The run that made the result: {worker}, {} ago", ago.unwrap_or_default());
        self.line(&text, Role::Title);
        self.spans(&spans);
    }

    /// Earlier runs, one bar each, to the same scale.
    fn earlier(&mut self, model: &Model, now: Stamp) {
        let earlier = model.action.loaded.as_ref().map_or(&[][..], |loaded| &loaded.earlier);
        let lengths: Vec<Duration> =
            earlier.iter().map(|op| op.elapsed(Some(now)).unwrap_or_default()).collect();
        let Some(longest) = lengths.iter().max().filter(|longest| !longest.is_zero()) else { return };
        self.line("", Role::Text);
        self.line("Earlier runs of the same action", Role::Title);
        for (op, length) in earlier.iter().zip(&lengths) {
            if self.area.height == 0 {
                return;
            }
            let ago = op.finished.map(|end| format!("{} ago", format::age(now.since(end))));
            let bar = self.labelled(&ago.unwrap_or_default(), *length);
            let share = length.as_secs_f64() / longest.as_secs_f64();
            let cells =
                ((f64::from(bar.width) * share).round() as u16).clamp(u16::from(bar.width > 0), bar.width);
            self.fill(Rect { width: cells, ..bar }, op.status.role());
            let machine = format!("{} {}", op.status.glyph(self.canvas.glyphs), op.machine);
            let at = bar.x + cells + 1;
            self.canvas.text(at, bar.y, bar.right().saturating_sub(at), &machine, Role::Dim);
        }
    }

    /// Stages, each with a bar at its place in the whole.
    fn spans(&mut self, spans: &[Span]) {
        let Some(whole) = stages::whole(spans, self.now) else {
            return self.line("no times were told", Role::Dim);
        };
        for span in spans {
            if self.area.height == 0 {
                return;
            }
            let bar = self.labelled(span.stage.name(), span.length(self.now));
            let cells = stages::cells(*span, &whole, bar.width, self.now);
            let place = Rect { x: bar.x + cells.start, width: cells.end - cells.start, ..bar };
            self.fill(place, role(span.stage));
        }
        let total = Duration::from_micros(u64::try_from(whole.end - whole.start).unwrap_or(0));
        self.line(&format!("{:<10}{:>8}", "all", format::duration(total)), Role::Strong);
    }

    /// Writes name and length; what is left of the line is for the bar.
    fn labelled(&mut self, name: &str, length: Duration) -> Rect {
        let line = Rect { height: 1, ..self.area };
        self.canvas.text(line.x, line.y, NAME.min(line.width), name, Role::Text);
        let x = line.x + NAME;
        let text = format!("{:>8}", format::duration(length));
        self.canvas.text(x, line.y, LENGTH.min(line.right().saturating_sub(x)), &text, Role::Dim);
        self.area.y += 1;
        self.area.height -= 1;
        let x = (x + LENGTH + 2).min(line.right());
        Rect { x, width: line.right() - x, ..line }
    }

    fn fill(&mut self, area: Rect, role: Role) {
        let full = self.canvas.glyphs.bar_full.repeat(area.width.into());
        self.canvas.text(area.x, area.y, area.width, &full, role);
    }
}

/// The look of a stage.
fn role(stage: Stage) -> Role {
    match stage {
        Stage::Queue => Role::Queued,
        Stage::Inputs => Role::Warn,
        Stage::Command => Role::Running,
        Stage::Outputs => Role::Good,
        Stage::Lookup => Role::Hit,
    }
}

/// How a length compares with what was expected.
fn compared(ran: Duration, expected: Duration) -> String {
    let times = ran.as_secs_f64() / expected.as_secs_f64().max(1e-6);
    match times {
        0.0..0.8 => format!("{:.1} times as fast", 1.0 / times.max(1e-3)),
        0.8..1.25 => "as it was".to_owned(),
        _ => format!("{times:.1} times as long"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comparisons() {
        let against = |ran| compared(Duration::from_millis(ran), Duration::from_millis(1000));
        assert_eq!(
            [against(500), against(1000), against(3000)],
            ["2.0 times as fast", "as it was", "3.0 times as long"]
        );
        assert_eq!(compared(Duration::ZERO, Duration::ZERO), "1000.0 times as fast");
    }
}
