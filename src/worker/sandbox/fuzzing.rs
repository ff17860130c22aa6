//! The door of the fuzz targets to the messages of spawners.

use std::fs::File;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::wire::{HEADER, Reply, Request};
use crate::worker::{Door, PreparedCommand};

/// Reads a message to a spawner and writes it again; `None` if it is none.
pub(crate) fn recode_request(message: &[u8]) -> Option<Vec<u8>> {
    let frame = match Request::decode(message).ok()? {
        Request::Kill => Request::kill_frame(),
        Request::StandStill(still) => Request::stand_still_frame(still),
        Request::Change(overlay) => Request::change_frame(&overlay),
        Request::Rest => Request::rest_frame(),
        Request::Run(order) => {
            let null = || File::open("/dev/null").expect("every machine has it");
            Request::run_frame(&PreparedCommand {
                arguments: order.arguments,
                environment: order.environment,
                root: order.root,
                working_directory: order.working_directory,
                stdin: None,
                stdout: null(),
                stderr: null(),
                limits: order.limits,
                network: order.network,
                ids: order.ids,
                door: order.door.map(|(socket, at)| Door { socket, at, asked: CancellationToken::new() }),
                guest: order.is_guest.then(|| watch::channel(false).1),
            })
        }
    };
    Some(frame[HEADER..].to_vec())
}

/// Reads a message of a spawner and writes it again; `None` if it is none.
pub(crate) fn recode_reply(message: &[u8]) -> Option<Vec<u8>> {
    Reply::decode(message).ok().map(|reply| reply.frame()[HEADER..].to_vec())
}
