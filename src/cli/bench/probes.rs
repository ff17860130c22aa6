//! The benchmarks by name, each in the file of its subject.

use super::super::error::CliError;
use super::Bench;
use super::figure::Figure;

mod actions;
mod blobs;
mod cache;

mod roots;
mod scheduler;
mod streams;
mod watched;

use streams::Door;

/// A benchmark by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Probe {
    Action,
    ParallelActions,
    Root,
    StreamWrite,
    StreamRead,
    UnixStreamWrite,
    UnixStreamRead,
    SmallStreamWrite,
    SmallStreamRead,
    BatchWrite,
    BatchRead,
    FindMissing,
    CacheHits,
    ExecuteHits,
    Watched,
    Scheduler,
}

/// What a benchmark needs besides the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Need {
    /// The same server on a Unix socket.
    UnixSocket,
    /// Its control API.
    ControlSocket,
}

// === impl Probe ===

impl Probe {
    pub(super) const ALL: [Self; 16] = [
        Self::Action,
        Self::ParallelActions,
        Self::Root,
        Self::StreamWrite,
        Self::StreamRead,
        Self::UnixStreamWrite,
        Self::UnixStreamRead,
        Self::SmallStreamWrite,
        Self::SmallStreamRead,
        Self::BatchWrite,
        Self::BatchRead,
        Self::FindMissing,
        Self::CacheHits,
        Self::ExecuteHits,
        Self::Watched,
        Self::Scheduler,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Action => "action",
            Self::ParallelActions => "parallel-actions",
            Self::Root => "root",
            Self::StreamWrite => "stream-write",
            Self::StreamRead => "stream-read",
            Self::UnixStreamWrite => "unix-stream-write",
            Self::UnixStreamRead => "unix-stream-read",
            Self::SmallStreamWrite => "small-stream-write",
            Self::SmallStreamRead => "small-stream-read",
            Self::BatchWrite => "batch-write",
            Self::BatchRead => "batch-read",
            Self::FindMissing => "find-missing",
            Self::CacheHits => "cache-hits",
            Self::ExecuteHits => "execute-hits",
            Self::Watched => "watched",
            Self::Scheduler => "scheduler",
        }
    }

    /// Those with one of `filter` in their names; all if there is none.
    pub(super) fn chosen(filter: &[String]) -> Vec<Self> {
        let is_chosen = |probe: &Self| {
            filter.is_empty() || filter.iter().any(|part| probe.name().contains(part.as_str()))
        };
        Self::ALL.into_iter().filter(is_chosen).collect()
    }

    /// What it cannot be run without.
    pub(super) fn need(self) -> Option<Need> {
        match self {
            Self::UnixStreamWrite | Self::UnixStreamRead => Some(Need::UnixSocket),
            Self::Watched => Some(Need::ControlSocket),
            _ => None,
        }
    }

    pub(super) async fn measure(self, bench: &Bench) -> Result<Vec<Figure>, CliError> {
        let figure = match self {
            Self::Action => return actions::latency(bench).await,
            Self::ParallelActions => actions::rate(bench).await,
            Self::Root => return roots::latencies(bench).await,
            Self::StreamWrite => streams::write(bench, Door::Tcp).await,
            Self::StreamRead => streams::read(bench, Door::Tcp).await,
            Self::UnixStreamWrite => streams::write(bench, Door::Unix).await,
            Self::UnixStreamRead => streams::read(bench, Door::Unix).await,
            Self::SmallStreamWrite => streams::write_small(bench).await,
            Self::SmallStreamRead => streams::read_small(bench).await,
            Self::BatchWrite => blobs::batch_write(bench).await,
            Self::BatchRead => blobs::batch_read(bench).await,
            Self::FindMissing => blobs::find_missing(bench).await,
            Self::CacheHits => cache::hits(bench).await,
            Self::ExecuteHits => cache::execute_hits(bench).await,
            Self::Watched => watched::rate(bench).await,
            Self::Scheduler => return scheduler::figures(bench.time).await,
        };
        Ok(vec![figure?])
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn filters_choose_by_part_of_a_name() {
        let chosen = |filter: &[&str]| {
            let filter: Vec<String> = filter.iter().map(ToString::to_string).collect();
            Probe::chosen(&filter).len()
        };
        assert_eq!(
            [chosen(&[]), chosen(&["unix"]), chosen(&["hits", "action"]), chosen(&["x!"])],
            [16, 2, 4, 0]
        );
    }

    #[test]
    fn every_benchmark_has_a_name_of_its_own() {
        let names: HashSet<_> = Probe::ALL.map(Probe::name).into_iter().collect();
        assert_eq!(names.len(), Probe::ALL.len());
    }
}
