//! `/metrics`: the numbers of the node in the text format of Prometheus (0.0.4).
//!
//! They are those of `farmhand status`, so nothing is counted twice, and a scrape costs what a status costs.

use std::fmt::Write;

use farmhand_proto::control::machine::State;
use farmhand_proto::control::{Execution, GetStatusResponse, Replication, Storage};

use super::counts::Counts;
use crate::activity::Moved;

/// The type of the document.
pub(super) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The document under construction.
#[derive(Default)]
struct Document(String);

/// The document.
pub(super) fn text(status: &GetStatusResponse, moved: Moved, counts: &Counts) -> String {
    let mut document = Document::default();
    document.node(status);
    document.execution(&status.execution.unwrap_or_default());
    if let Some(storage) = &status.storage {
        document.storage(storage);
        storage.replication.iter().for_each(|replication| document.copies(replication));
    }
    let directions = [("uploaded", moved.uploaded), ("downloaded", moved.downloaded)];
    let of_clients = directions.map(|(name, bytes)| (vec![("direction", name.to_owned())], bytes as f64));
    document.metric(
        "client_bytes_total",
        "counter",
        "Bytes of blobs that clients sent and took.",
        of_clients,
    );
    let requests = counts.all().into_iter().map(|(method, status, count)| {
        (vec![("method", method.to_owned()), ("code", status.to_string())], count as f64)
    });
    document.metric("http_requests_total", "counter", "Plain HTTP requests that were answered.", requests);
    document.0
}

// === impl Document ===

impl Document {
    fn node(&mut self, status: &GetStatusResponse) {
        let node = status.node.clone().unwrap_or_default();
        let labels = vec![("version", node.version), ("machine", node.name)];
        self.metric("build_info", "gauge", "The program, and the machine it runs on.", [(labels, 1.0)]);
        let uptime = node.uptime.map_or(0.0, |uptime| uptime.seconds as f64 + f64::from(uptime.nanos) / 1e9);
        self.one("uptime_seconds", "gauge", "Time since the node was started.", uptime);
        let states = [
            State::Active,
            State::Yielding,
            State::Draining,
            State::Paused,
            State::Lost,
            State::Connecting,
            State::Refused,
            State::Incompatible,
        ];
        let machines = states.map(|state| {
            let name = state.as_str_name().trim_start_matches("STATE_").to_ascii_lowercase();
            let count = status.machines.iter().filter(|machine| machine.state() == state).count();
            (vec![("state", name)], count as f64)
        });
        self.metric("machines", "gauge", "Machines of the farm, this one included.", machines);
        let this = status.machines.iter().find(|machine| machine.is_self).cloned().unwrap_or_default();
        self.one("slots", "gauge", "Actions that run at once on this machine.", this.slots as f64);
        self.one("slots_busy", "gauge", "Actions that run on this machine.", this.busy as f64);
    }

    fn execution(&mut self, execution: &Execution) {
        let Execution { queued, running, executed, cached, failed, errors, hits, lookups, .. } = *execution;
        self.one("actions_queued", "gauge", "Actions that wait for a slot.", queued as f64);
        self.one("actions_running", "gauge", "Actions of clients of this machine that run.", running as f64);
        let ends = [("executed", executed), ("cached", cached), ("failed", failed), ("error", errors)];
        let ends = ends.map(|(end, count)| (vec![("end", end.to_owned())], count as f64));
        let help = "Actions by their end; those that failed were executed too.";
        self.metric("actions_total", "counter", help, ends);
        let help = "Look-ups in the action cache.";
        self.one("action_cache_lookups_total", "counter", help, lookups as f64);
        let help = "Look-ups in the action cache that found a result.";
        self.one("action_cache_hits_total", "counter", help, hits as f64);
    }

    fn storage(&mut self, storage: &Storage) {
        let gauges = [
            ("store_bytes", "Bytes of the store on disk.", storage.used_bytes),
            ("store_budget_bytes", "Bytes the store may use.", storage.budget_bytes),
            ("store_leased_bytes", "Bytes that must not be evicted now.", storage.leased_bytes),
            ("store_blobs", "Blobs in the store.", storage.blobs),
            ("store_action_results", "Results in the action cache.", storage.action_results),
            ("store_pinned_results", "Results pinned by a person.", storage.pinned),
        ];
        gauges.iter().for_each(|(name, help, value)| self.one(name, "gauge", help, *value as f64));
        let counters = [
            ("store_evictions_total", "Blobs evicted.", storage.evictions),
            ("store_damaged_total", "Blobs and results dropped because they were damaged.", storage.damaged),
        ];
        counters.iter().for_each(|(name, help, value)| self.one(name, "counter", help, *value as f64));
    }

    fn copies(&mut self, copies: &Replication) {
        let gauges = [
            ("copies_owed", "Copies that are to be made.", copies.owed_copies),
            ("copies_owed_bytes", "Bytes of the copies that are to be made.", copies.owed_bytes),
            ("entries_sole", "Entries that perhaps no other machine has.", copies.sole_entries),
        ];
        gauges.iter().for_each(|(name, help, value)| self.one(name, "gauge", help, *value as f64));
        let counters = [
            ("copies_sent_total", "Copies made on other machines.", copies.sent_copies),
            ("copies_sent_bytes_total", "Bytes of the copies made on other machines.", copies.sent_bytes),
            ("fetched_total", "Entries read from other machines.", copies.fetched_entries),
            ("fetched_bytes_total", "Bytes read from other machines.", copies.fetched_bytes),
        ];
        counters.iter().for_each(|(name, help, value)| self.one(name, "counter", help, *value as f64));
    }

    fn one(&mut self, name: &str, kind: &str, help: &str, value: f64) {
        self.metric(name, kind, help, [(Vec::new(), value)]);
    }

    /// A metric with its samples: labels and value of each.
    fn metric(
        &mut self,
        name: &str,
        kind: &str,
        help: &str,
        samples: impl IntoIterator<Item = (Vec<(&'static str, String)>, f64)>,
    ) {
        let out = &mut self.0;
        let mut line = |arguments: std::fmt::Arguments<'_>| {
            out.write_fmt(arguments).expect("invariant: a String takes every write");
        };
        line(format_args!("# HELP farmhand_{name} {help}\n# TYPE farmhand_{name} {kind}\n"));
        for (labels, value) in samples {
            let labels: Vec<_> =
                labels.iter().map(|(label, text)| format!("{label}=\"{}\"", escaped(text))).collect();
            let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
            line(format_args!("farmhand_{name}{labels} {value}\n"));
        }
    }
}

/// The value of a label as the format wants it.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use farmhand_proto::control::Node;
    use http::{Method, StatusCode};

    use super::*;

    #[test]
    fn every_line_is_of_the_format() {
        let counts = Counts::default();
        counts.note(&Method::GET, StatusCode::OK);
        counts.note(&Method::GET, StatusCode::OK);
        counts.note(&Method::PATCH, StatusCode::METHOD_NOT_ALLOWED);
        let status = GetStatusResponse {
            node: Some(Node { name: "a\"b\\c\nd".into(), version: "1".into(), ..Default::default() }),
            storage: Some(Storage {
                used_bytes: 1 << 40,
                replication: Some(Replication::default()),
                ..Default::default()
            }),
            ..Default::default()
        };
        let text = text(&status, Moved { uploaded: 3, downloaded: 4 }, &counts);
        let mut kinds = std::collections::HashSet::new();
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').unwrap();
                assert!(kinds.insert(name) && ["gauge", "counter"].contains(&kind), "{line}");
                assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
            } else if !line.starts_with("# HELP ") {
                let (sample, value) = line.rsplit_once(' ').unwrap();
                assert!(kinds.contains(sample.split('{').next().unwrap()), "{line}");
                value.parse::<f64>().unwrap();
            }
        }
        assert!(
            text.contains("farmhand_build_info{version=\"1\",machine=\"a\\\"b\\\\c\\nd\"} 1\n"),
            "{text}"
        );
        assert!(text.contains("farmhand_http_requests_total{method=\"GET\",code=\"200\"} 2\n"), "{text}");
        assert!(text.contains("farmhand_http_requests_total{method=\"other\",code=\"405\"} 1\n"), "{text}");
        assert!(text.contains("farmhand_client_bytes_total{direction=\"downloaded\"} 4\n"), "{text}");
        assert!(text.contains("farmhand_store_bytes 1099511627776\n"), "{text}");
    }
}
