//! Finding out which compilers, interpreters and libraries actions see here, beside the work.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::interval;

use crate::platform::toolchain::{FILE, PATHS, Toolchain};
use crate::tasks::Tasks;

/// How often it is looked whether tools were replaced.
const PERIOD: Duration = Duration::from_secs(600);

/// Follows the tools of this machine, by a task of `tasks`; what was found is kept in `data_dir`. Gives their
/// fingerprint, which is empty until it is known.
pub(super) fn follow(data_dir: &Path, tasks: &Tasks) -> watch::Receiver<Arc<str>> {
    let (sender, fingerprint) = watch::channel(Arc::default());
    let (file, stop) = (data_dir.join(FILE), tasks.token().clone());
    tasks.spawn("toolchain", async move { stop.run_until_cancelled(look(file, sender)).await });
    fingerprint
}

async fn look(file: PathBuf, told: watch::Sender<Arc<str>>) {
    let mut known = Toolchain::remembered(&file);
    let mut ticks = interval(PERIOD);
    loop {
        ticks.tick().await;
        let now = Toolchain::look(&PATHS, &known).await;
        let fingerprint: Arc<str> = now.fingerprint().into();
        if now != known {
            tracing::info!(%fingerprint, "the toolchain of this machine is new");
            if let Err(error) = now.remember(&file) {
                tracing::warn!(%error, "what the tools of this machine are is not remembered");
            }
            known = now;
        }
        told.send_if_modified(|told| {
            let is_new = *told != fingerprint;
            *told = Arc::clone(&fingerprint);
            is_new
        });
    }
}
