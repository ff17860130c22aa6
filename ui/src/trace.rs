//! A part of the timeline as a Chrome trace, which `chrome://tracing` and ui.perfetto.dev open.
//!
//! A process is a machine and a thread is a lane, as on the screen. A run is one complete event with
//! its stages inside of it. Times count from the beginning of the window.

use farmhand_proto::control::Sample;
use serde::Serialize;

use crate::lanes::{Lanes, Micros, Window};
use crate::model::time::Stamp;
use crate::model::{Op, OpKey};
use crate::stages::{self, Stage};

/// The file.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Trace<'a> {
    display_time_unit: &'static str,
    other_data: OtherData,
    trace_events: Vec<Event<'a>>,
}

#[derive(Serialize)]
struct OtherData {
    made_by: &'static str,
    /// Microseconds since 1970 at time 0 of the events.
    start: Micros,
}

#[derive(Serialize)]
struct Event<'a> {
    ph: &'static str,
    name: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    cat: &'a str,
    pid: usize,
    tid: usize,
    ts: Micros,
    #[serde(skip_serializing_if = "Option::is_none")]
    dur: Option<Micros>,
    #[serde(skip_serializing_if = "Option::is_none")]
    args: Option<Args<'a>>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Args<'a> {
    Name { name: &'a str },
    Counts { queued: u32, running: u32 },
    Run(Box<RunArgs<'a>>),
}

#[derive(Serialize)]
struct RunArgs<'a> {
    operation: &'a str,
    action: &'a str,
    target: &'a str,
    output: &'a str,
    invocation: &'a str,
    tool: &'a str,
    exit_code: i32,
    status_code: i32,
    attempts: u32,
    queued_us: Option<Micros>,
}

/// The trace of those of `ops` that have a lane and touch `window`, as JSON. What still runs
/// reaches to `now`.
pub(crate) fn json<'a>(
    ops: impl IntoIterator<Item = (OpKey, &'a Op)>,
    samples: impl IntoIterator<Item = &'a Sample>,
    lanes: &Lanes,
    window: Window,
    now: Micros,
) -> String {
    let machines: Vec<(&str, usize)> = lanes.machines().collect();
    let mut events = Vec::new();
    for (pid, &(machine, count)) in machines.iter().enumerate() {
        let name =
            |name, tid, of| Event { tid, args: Some(Args::Name { name: of }), ..event("M", name, pid) };
        events.push(name("process_name", 0, machine));
        events.extend((0..count).map(|lane| name("thread_name", lane + 1, "slot")));
    }
    for (key, op) in ops {
        let Some((machine, place)) = lanes.find(key) else { continue };
        let end = place.end.unwrap_or(now).max(place.start);
        if end < window.start() || place.start >= window.end() {
            continue;
        }
        let Some(pid) = machines.iter().position(|(name, _)| *name == machine) else { continue };
        run_events(&mut events, op, (pid, place.lane + 1), window.start(), place.start..end);
    }
    events.extend(samples.into_iter().filter_map(|sample| counts(sample, machines.len(), window)));
    let trace = Trace {
        display_time_unit: "ms",
        other_data: OtherData { made_by: "farmhand", start: window.start() },
        trace_events: events,
    };
    serde_json::to_string(&trace).expect("invariant: strings and numbers always become JSON")
}

/// The run, then its stages, which viewers nest because they lie inside of it.
fn run_events<'a>(
    events: &mut Vec<Event<'a>>,
    op: &'a Op,
    (pid, tid): (usize, usize),
    zero: Micros,
    time: std::ops::Range<Micros>,
) {
    let spans = stages::of_op(op);
    let queued = spans.iter().find(|span| span.stage == Stage::Queue);
    events.push(Event {
        cat: &op.mnemonic,
        tid,
        ts: time.start - zero,
        dur: Some(time.end - time.start),
        args: Some(Args::Run(Box::new(RunArgs {
            operation: &op.name,
            action: &op.digest,
            target: &op.target,
            output: &op.first_output,
            invocation: &op.invocation,
            tool: &op.tool,
            exit_code: op.exit_code,
            status_code: op.status_code,
            attempts: op.attempts,
            queued_us: queued.and_then(|span| Some(span.end? - span.start)),
        }))),
        ..event("X", op.label(), pid)
    });
    for span in spans.iter().filter(|span| span.stage != Stage::Queue) {
        let start = span.start.clamp(time.start, time.end);
        let end = span.end.unwrap_or(time.end).clamp(start, time.end);
        events.push(Event {
            cat: "stage",
            tid,
            ts: start - zero,
            dur: Some(end - start),
            ..event("X", span.stage.name(), pid)
        });
    }
}

fn counts<'a>(sample: &Sample, pid: usize, window: Window) -> Option<Event<'a>> {
    let Stamp(at) = Stamp::of(sample.at.as_ref())?;
    let is_seen = at >= window.start() && at < window.end();
    let args = Args::Counts { queued: sample.queued, running: sample.running };
    is_seen.then(|| Event { ts: at - window.start(), args: Some(args), ..event("C", "actions", pid) })
}

fn event<'a>(ph: &'static str, name: &'a str, pid: usize) -> Event<'a> {
    Event { ph, name, cat: "", pid, tid: 0, ts: 0, dur: None, args: None }
}

#[cfg(test)]
mod tests {
    use farmhand_proto::control::Operation;
    use farmhand_proto::control::operation::Stage as Progress;
    use farmhand_proto::protobuf::Timestamp;
    use serde_json::{Value, json};

    use super::*;
    use crate::lanes::Run;

    const SECOND: Micros = 1_000_000;

    fn stamp(seconds: i64) -> Option<Timestamp> {
        Some(Timestamp { seconds, nanos: 0 })
    }

    fn op(name: &str, start: i64) -> Op {
        let wire = Operation {
            name: name.into(),
            action_digest: "ab/12".into(),
            target: format!("//x:\"{name}\""),
            mnemonic: "CppCompile".into(),
            stage: Progress::Done.into(),
            queued: stamp(start - 1),
            started: stamp(start),
            command_started: stamp(start + 1),
            command_ended: stamp(start + 3),
            finished: stamp(start + 4),
            ..Default::default()
        };
        Op::of(&wire, &mut |text| text.into())
    }

    fn trace(ops: &[Op], window: Window) -> Value {
        let mut lanes = Lanes::default();
        let keyed = || ops.iter().enumerate().map(|(number, op)| (OpKey(number as u64), op));
        for (key, op) in keyed() {
            let (start, end) = (op.started.unwrap().0, op.finished.map(|end| end.0));
            lanes.place(Run { key, machine: "attic", start, end });
        }
        let samples = [Sample { at: stamp(12), queued: 3, running: 2, ..Default::default() }];
        serde_json::from_str(&super::json(keyed(), &samples, &lanes, window, 100 * SECOND)).unwrap()
    }

    #[test]
    fn a_run_holds_its_stages() {
        let trace = trace(&[op("a", 10)], Window::new(5 * SECOND, 60 * SECOND));
        let events = trace["traceEvents"].as_array().unwrap();
        assert_eq!(events[0]["args"], json!({"name": "attic"}));
        let run = &events[2];
        assert_eq!(
            (&run["ph"], &run["name"], &run["cat"]),
            (&json!("X"), &json!("//x:\"a\""), &json!("CppCompile"))
        );
        assert_eq!((&run["ts"], &run["dur"]), (&json!(5 * SECOND), &json!(4 * SECOND)));
        assert_eq!(run["args"]["queued_us"], json!(SECOND));
        let stages: Vec<_> = events[3..6]
            .iter()
            .map(|event| (event["name"].as_str().unwrap(), event["dur"].as_i64().unwrap()))
            .collect();
        assert_eq!(stages, [("inputs", SECOND), ("command", 2 * SECOND), ("outputs", SECOND)]);
        assert_eq!(events[6]["args"], json!({"queued": 3, "running": 2}));
        assert_eq!(trace["otherData"]["start"], json!(5 * SECOND));
    }

    #[test]
    fn only_the_window_is_told() {
        let trace = trace(&[op("a", 10), op("b", 80)], Window::new(70 * SECOND, 60 * SECOND));
        let runs = trace["traceEvents"].as_array().unwrap().iter();
        let names: Vec<_> =
            runs.filter(|event| event["cat"] == "CppCompile").map(|event| &event["name"]).collect();
        assert_eq!(names, [&json!("//x:\"b\"")]);
    }
}
