//! `WatchLog`: the last lines of the log, then what follows.

use std::sync::Arc;

use farmhand_proto::control::log_line::Level as WireLevel;
use farmhand_proto::control::{LogLine, WatchLogRequest, WatchLogResponse};
use farmhand_proto::time::timestamp;
use futures_util::stream;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};
use tracing::Level;

use super::{ControlService, Replies};
use crate::telemetry::{Line, Recent};

/// Lines of a message: with the longest texts it stays below the limit of messages.
const PAGE: usize = 200;

/// One caller's way through the log. It holds a page at a time: who is slow misses lines.
struct Reader {
    recent: Arc<Recent>,
    news: watch::Receiver<u64>,
    after: u64,
    level: Level,
    follow: bool,
    stop: CancellationToken,
}

impl ControlService {
    pub(super) async fn watch_log(
        &self,
        request: Request<WatchLogRequest>,
    ) -> Result<Response<Replies<WatchLogResponse>>, Status> {
        let request = request.into_inner();
        let recent = Arc::clone(&self.log);
        let reader = Reader {
            news: recent.subscribe(),
            recent,
            after: request.after,
            level: level_of(request.level()),
            follow: request.follow,
            stop: self.scheduler.stopping().clone(),
        };
        let pages = stream::unfold(reader, |mut reader| async move {
            let page = reader.next().await?;
            Some((Ok(page), reader))
        });
        Ok(Response::new(Box::pin(pages)))
    }
}

// === impl Reader ===

impl Reader {
    async fn next(&mut self) -> Option<WatchLogResponse> {
        loop {
            self.news.mark_unchanged();
            let (lines, next) = self.recent.after(self.after, self.level, PAGE);
            self.after = next;
            if !lines.is_empty() {
                return Some(WatchLogResponse { lines: lines.iter().map(|line| to_wire(line)).collect() });
            }
            if !self.follow {
                return None;
            }
            tokio::select! {
                news = self.news.changed() => news.ok()?,
                () = self.stop.cancelled() => return None,
            }
        }
    }
}

fn level_of(level: WireLevel) -> Level {
    match level {
        WireLevel::Unspecified | WireLevel::Trace => Level::TRACE,
        WireLevel::Debug => Level::DEBUG,
        WireLevel::Info => Level::INFO,
        WireLevel::Warn => Level::WARN,
        WireLevel::Error => Level::ERROR,
    }
}

fn to_wire(line: &Line) -> LogLine {
    let level = match line.level {
        Level::TRACE => WireLevel::Trace,
        Level::DEBUG => WireLevel::Debug,
        Level::INFO => WireLevel::Info,
        Level::WARN => WireLevel::Warn,
        Level::ERROR => WireLevel::Error,
    };
    LogLine {
        at: Some(timestamp(line.at)),
        level: level.into(),
        module: line.module.clone().into_owned(),
        text: line.text.clone(),
        sequence: line.sequence,
    }
}
