//! Fuzz targets: for everything that parses bytes from outside, one function that takes any bytes and
//! panics when a promise of that parser does not hold.
//!
//! Compiled for fuzzing and for tests only. `tests/fuzz` calls these under libFuzzer; the tests below
//! replay its corpus on any toolchain, so what was found once stays found. Parsers that are private to
//! their module have a small `fuzzing` door there; the promises stand here.

mod assets;
mod chunking;
mod config;
mod copies;
mod history;
mod input;
mod leases;
mod merkle;
mod message;
mod names;
mod peers;
mod pieces;
mod stored;
mod trust;
mod workers;
mod zstd;

pub use assets::{asset_archive, asset_pack, asset_request};
pub use chunking::chunking;
pub use config::config;
pub use copies::copies_messages;
pub use history::history_record;
pub use leases::lease;
pub use merkle::{directory, tree};
pub use message::{message, request_metadata, sandbox_wire};
pub use names::{http_request, path, resource_name};
pub use peers::peers;
pub use pieces::read_pieces;
pub use stored::{index_record, pack_record};
pub use trust::{farm_key, join_messages};
pub use workers::work_response;
pub use zstd::zstd;

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    /// Runs a target on no bytes and on all of its corpus.
    fn replay(name: &str, target: fn(&[u8])) {
        target(&[]);
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(name);
        let mut inputs: Vec<_> = fs::read_dir(&corpus).unwrap().map(|entry| entry.unwrap().path()).collect();
        inputs.sort();
        assert!(!inputs.is_empty(), "{} is empty", corpus.display());
        for input in inputs {
            // Shown when the target panics.
            println!("{}", input.display());
            target(&fs::read(&input).unwrap());
        }
    }

    macro_rules! replay_each {
        ($($target:ident)*) => {
            $(#[test]
            fn $target() {
                replay(stringify!($target), super::$target);
            })*

            #[test]
            fn every_target_is_replayed_and_every_corpus_has_a_target() {
                let mut known = vec![$(stringify!($target).to_owned()),*];
                known.sort();
                let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz");
                for (directory, suffix) in [("corpus", ""), ("targets", ".rs")] {
                    let entries = fs::read_dir(fuzz.join(directory)).unwrap();
                    let mut found: Vec<_> = entries
                        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                        .map(|name| name.strip_suffix(suffix).unwrap_or(&name).to_owned())
                        .collect();
                    found.sort();
                    assert_eq!(found, known, "{directory}");
                }
            }
        };
    }

    replay_each! {
        asset_archive asset_pack asset_request chunking config copies_messages directory farm_key
        history_record http_request index_record join_messages lease message
        pack_record path peers read_pieces request_metadata resource_name sandbox_wire tree
        work_response zstd
    }
}
