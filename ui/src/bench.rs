//! What the dashboard costs, measured on a made-up stream: a queue of ten thousand, sixty-four slots,
//! and so many changes a second.
//!
//! Everything is counted that a dashboard does with a stream: decoding, applying, painting, and
//! turning the picture into bytes for the terminal. Sockets and the terminal itself are not. Times are
//! those of the processor, so that other programs do not count.

use std::time::Duration;

use farmhand_proto::control::machine::State;
use farmhand_proto::control::operation::Stage;
use farmhand_proto::control::{self, WatchResponse};
use farmhand_proto::protobuf::Timestamp;
use prost::Message as _;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use rustix::time::{ClockId, clock_gettime};

use crate::canvas::Canvas;
use crate::glyphs::Glyphs;
use crate::message::{FeedEvent, Message};
use crate::model::{Model, Rights};
use crate::options::{ColourDepth, View};
use crate::terminal::frame;
use crate::theme::Theme;
use crate::update::update;
use crate::view;

/// What is made up.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Actions that wait.
    pub queued: usize,
    /// Actions that run.
    pub running: usize,
    /// Machines.
    pub machines: usize,
    /// Changes a second: an action came, began or ended.
    pub changes: usize,
    /// Messages a second these come in.
    pub messages: usize,
    /// Seconds of such a stream.
    pub seconds: usize,
    /// Columns and rows of the screen.
    pub screen: (u16, u16),
}

/// What one view cost under that.
#[derive(Clone, Debug)]
pub struct Cost {
    /// The view, and what of it was shown.
    pub view: String,
    /// Share of one core it kept busy.
    pub core: f64,
    /// Applying a message, painting the change and encoding it: the middle, and the worst.
    pub frame: (Duration, Duration),
    /// From a key that moves the selection to the bytes for the terminal: the worst.
    pub key: Duration,
    /// Bytes written to the terminal a second.
    pub bytes: usize,
}

/// The stream: a farm that goes on.
struct Stream {
    load: Load,
    /// Name of the next action to come, to begin, and to end.
    next: (u64, u64, u64),
    position: u64,
    millis: u64,
}

// === impl Load ===

impl Default for Load {
    fn default() -> Self {
        Self {
            queued: 10_000,
            running: 64,
            machines: 50,
            changes: 500,
            messages: 5,
            seconds: 20,
            screen: (200, 50),
        }
    }
}

/// Measures every view under `load`, and tells of each as soon as it is known.
pub fn measure(load: Load, mut tell: impl FnMut(&Cost)) {
    let mut stream = Stream::new(load);
    let snapshot = stream.snapshot().encode_to_vec();
    let count = load.seconds * load.messages;
    let messages: Vec<_> = (0..count).map(|_| stream.changes().encode_to_vec()).collect();
    let cases: [(View, &str, &str); 9] = [
        (View::Overview, "", ""),
        (View::Builds, "", ""),
        (View::Actions, "", ""),
        (View::Actions, " sorted by target", ":sort target\n"),
        (View::Actions, " filtered", "/lib 7\n"),
        (View::Timeline, "", ""),
        (View::Machines, "", ""),
        (View::Cache, "", ""),
        (View::Logs, "", ""),
    ];
    for (view, what, keys) in cases {
        let mut cost = case(load, view, keys, &snapshot, &messages);
        cost.view = format!("{}{what}", view.title());
        tell(&cost);
    }
}

fn case(load: Load, view: View, keys: &str, snapshot: &[u8], messages: &[Vec<u8>]) -> Cost {
    let theme = Theme::standard(ColourDepth::True);
    let model = Model::new(theme, Glyphs::of(false), Rights::default(), view);
    let area = Rect::new(0, 0, load.screen.0, load.screen.1);
    let mut screen =
        Painted { model, shown: Buffer::empty(area), next: Buffer::empty(area), now: Duration::ZERO };
    screen.hear(snapshot);
    screen.paint();
    for c in keys.chars() {
        let code =
            if c == '\n' { crossterm::event::KeyCode::Enter } else { crossterm::event::KeyCode::Char(c) };
        screen.apply(Message::Key(code.into()));
    }
    screen.paint();
    let mut frames = Vec::with_capacity(messages.len());
    let (mut bytes, mut key) = (0, Duration::ZERO);
    for message in messages {
        let began = cpu_time();
        screen.hear(message);
        bytes += screen.paint();
        frames.push(cpu_time() - began);
        let began = cpu_time();
        screen.apply(Message::Key(crossterm::event::KeyCode::Down.into()));
        screen.paint();
        key = key.max(cpu_time() - began);
    }
    let busy: Duration = frames.iter().sum();
    frames.sort_unstable();
    let worst = frames.last().copied().unwrap_or_default();
    Cost {
        view: String::new(),
        core: busy.as_secs_f64() / load.seconds.max(1) as f64,
        frame: (frames.get(frames.len() / 2).copied().unwrap_or_default(), worst),
        key,
        bytes: bytes / load.seconds.max(1),
    }
}

/// Time this thread has had a processor.
fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs() as u32)
}

/// A dashboard without a terminal.
struct Painted {
    model: Model,
    shown: Buffer,
    next: Buffer,
    now: Duration,
}

// === impl Painted ===

impl Painted {
    fn hear(&mut self, bytes: &[u8]) {
        let message = WatchResponse::decode(bytes).expect("invariant: it was encoded here");
        self.now += Duration::from_millis(200);
        self.apply(Message::Feed(FeedEvent::Changes(Box::new(message))));
    }

    fn apply(&mut self, message: Message) {
        update(&mut self.model, message, self.now);
    }

    /// Bytes of the difference.
    fn paint(&mut self) -> usize {
        self.next.reset();
        let area = self.next.area;
        let mut canvas = Canvas::new(&mut self.next, &self.model.theme, self.model.glyphs);
        view::draw(&self.model, &mut canvas, area);
        let drawn = canvas.drawn;
        let bytes = frame(&self.shown, &self.next, false).len();
        std::mem::swap(&mut self.shown, &mut self.next);
        self.model.painted(drawn);
        bytes
    }
}

// === impl Stream ===

impl Stream {
    fn new(load: Load) -> Self {
        let running = load.running as u64;
        Self {
            load,
            next: (running + load.queued as u64, running, 0),
            position: 1,
            millis: 1_700_000_000_000,
        }
    }

    fn snapshot(&mut self) -> WatchResponse {
        let (came, began, _) = self.next;
        let running = (0..began).map(|number| self.operation(number, Stage::Running));
        let queued = (began..came).map(|number| self.operation(number, Stage::Queued));
        WatchResponse {
            snapshot: true,
            complete: true,
            node: Some(control::Node { name: "m0".into(), farm: "bench".into(), ..Default::default() }),
            operations: running.chain(queued).collect(),
            builds: (0..8).map(|number| self.build(number)).collect(),
            samples: (0..300).map(|second| self.sample(second)).collect(),
            ..self.changes_of(Vec::new())
        }
    }

    /// What changed since the message before: of three changes one action came, one began, one ended.
    fn changes(&mut self) -> WatchResponse {
        self.millis += 1000 / self.load.messages as u64;
        let mut operations = Vec::new();
        for change in 0..self.load.changes / self.load.messages {
            let (came, began, over) = self.next;
            let (number, stage) = match change % 3 {
                0 => (over, Stage::Done),
                1 => (began, Stage::Running),
                _ => (came, Stage::Queued),
            };
            operations.push(self.operation(number, stage));
            match change % 3 {
                0 => self.next.2 += 1,
                1 => self.next.1 += 1,
                _ => self.next.0 += 1,
            }
        }
        let mut message = self.changes_of(operations);
        message.builds = (0..8).map(|number| self.build(number)).collect();
        message.samples = vec![self.sample(0)];
        message
    }

    fn changes_of(&mut self, operations: Vec<control::Operation>) -> WatchResponse {
        self.position += 1;
        WatchResponse {
            position: Some(control::WatchPosition { boot_epoch: 1, sequence: self.position }),
            now: Some(self.time(0)),
            machines: (0..self.load.machines).map(|number| self.machine(number)).collect(),
            execution: Some(control::Execution {
                queued: self.load.queued as u64,
                running: self.load.running as u64,
                recent_hits: 40,
                recent_lookups: 100,
                ..Default::default()
            }),
            storage: Some(control::Storage {
                used_bytes: 1 << 34,
                budget_bytes: 1 << 36,
                ..Default::default()
            }),
            operations,
            ..Default::default()
        }
    }

    fn operation(&self, number: u64, stage: Stage) -> control::Operation {
        let machine = number % self.load.machines.max(1) as u64;
        let mut op = control::Operation {
            name: format!("operations/{number:032x}"),
            action_digest: format!("{number:064x}/142"),
            target: format!("//project/library{}:target_with_a_name_{number}", number % 97),
            mnemonic: if number.is_multiple_of(5) { "GoLink".into() } else { "CppCompile".into() },
            invocation: format!("build-{}", number % 8),
            tool: "bazel 8.1.0".into(),
            first_output: format!("bazel-out/k8-fastbuild/bin/project/library/_objs/target/{number}.o"),
            queued: Some(self.time(30_000)),
            expected: Some(farmhand_proto::time::duration(Duration::from_millis(2500))),
            ..Default::default()
        };
        op.set_stage(stage);
        if stage != Stage::Queued {
            op.machine = format!("m{machine}");
            op.started = Some(self.time(4000 + number % 1000));
            op.command_started = Some(self.time(3000 + number % 1000));
            op.attempts = 1;
        }
        if stage == Stage::Done {
            op.finished = Some(self.time(0));
            op.command_ended = Some(self.time(100));
            op.sequence = number + 1;
            op.exit_code = i32::from(number.is_multiple_of(50));
        }
        op
    }

    fn machine(&self, number: usize) -> control::Machine {
        control::Machine {
            name: format!("m{number}"),
            state: State::Active.into(),
            is_self: number == 0,
            slots: 8,
            busy: (self.load.running / self.load.machines.max(1)) as u32,
            load: Some(control::Load { cpu: (self.millis % 100) as f64 / 100.0, ..Default::default() }),
            ..Default::default()
        }
    }

    fn build(&self, number: u64) -> control::Build {
        control::Build {
            invocation: format!("build-{number}"),
            tool: "bazel 8.1.0".into(),
            user: format!("user{number}"),
            machine: format!("m{number}"),
            last_seen: Some(self.time(0)),
            queued: self.load.queued as u64 / 8,
            running: self.load.running as u64 / 8,
            executed: self.next.2 / 8,
            ..Default::default()
        }
    }

    fn sample(&self, ago: u64) -> control::Sample {
        control::Sample {
            at: Some(self.time((300 - ago.min(300)) * 1000 * u64::from(ago > 0))),
            executed: 160 + (self.millis / 1000 + ago) as u32 % 30,
            lookups: 200,
            hits: 40 + (ago % 20) as u32,
            ..Default::default()
        }
    }

    fn time(&self, millis_ago: u64) -> Timestamp {
        let millis = self.millis - millis_ago;
        Timestamp { seconds: (millis / 1000) as i64, nanos: (millis % 1000 * 1_000_000) as i32 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_view_is_measured() {
        let load =
            Load { queued: 50, machines: 4, running: 8, seconds: 1, screen: (80, 24), ..Load::default() };
        let mut views = Vec::new();
        measure(load, |cost| {
            assert!(cost.frame.0 <= cost.frame.1, "{cost:?}");
            views.push(cost.view.clone());
        });
        assert_eq!(views.len(), 9);
        assert!(views.contains(&"Actions sorted by target".to_owned()));
    }
}
