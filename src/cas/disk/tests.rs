//! Tests of the whole store, by what they break: nothing (`plain`, `copies`, `parts`), the directory (`broken`), and the
//! budget (`full`). A killed process is a copy of the directory taken while the store is open; a power
//! loss is such a copy opened on another boot.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::StreamExt;

use super::{DiskCas, DiskConfig, Host};
use crate::cas::{ByteRange, CasError, ContentAddressableStorage};
use crate::digest::{Digest, DigestFunction};

mod broken;
mod copies;
mod full;
mod parts;
mod plain;

const MIB: u64 = 1 << 20;
const START: u64 = 1_700_000_000;

/// A directory, a clock, and the settings of a store in it.
struct Place {
    root: tempfile::TempDir,
    clock: Arc<AtomicU64>,
}

impl Place {
    fn new() -> Self {
        Self { root: tempfile::tempdir().unwrap(), clock: Arc::new(AtomicU64::new(START)) }
    }

    fn path(&self) -> PathBuf {
        self.root.path().join("data")
    }

    fn pass(&self, seconds: u64) {
        self.clock.fetch_add(seconds, Ordering::Relaxed);
    }

    /// Epochs close only when asked for.
    fn config(&self, budget: u64) -> DiskConfig {
        let config =
            DiskConfig { epoch_interval: Duration::from_secs(3600), ..DiskConfig::new(self.path(), budget) };
        self.on_boot(config, "first")
    }

    fn on_boot(&self, config: DiskConfig, boot_id: &str) -> DiskConfig {
        let clock = self.clock.clone();
        let now = move || SystemTime::UNIX_EPOCH + Duration::from_secs(clock.load(Ordering::Relaxed));
        DiskConfig { host: Host::new(boot_id, now), ..config }
    }

    fn open(&self) -> DiskCas {
        open(self.config(64 * MIB))
    }

    /// What a killed process leaves: everything that was written, at this moment.
    fn killed(&self) -> Self {
        let copy = Self { clock: self.clock.clone(), ..Self::new() };
        copy_tree(&self.path(), &copy.path());
        copy
    }

    fn packs(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.path().join("packs")).unwrap();
        let mut packs: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
        packs.sort();
        packs
    }

    fn blob_path(&self, digest: &Digest) -> PathBuf {
        let hash = digest.hash_hex();
        self.path().join(format!("blobs/{}/sha256-{hash}-{}", &hash[..2], digest.size()))
    }
}

fn open(config: DiskConfig) -> DiskCas {
    DiskCas::open(config, &|_| {}).unwrap()
}

fn copy_tree(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            copy_tree(&entry.path(), &to.join(entry.file_name()));
        } else if entry.file_name() != "reserve" {
            std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
}

/// Bytes that do not compress and differ for every seed.
fn blob(seed: u64, len: usize) -> (Digest, Bytes) {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let data: Bytes = (0..len)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        })
        .collect();
    (Digest::of(DigestFunction::Sha256, &data), data)
}

async fn put(cas: &DiskCas, seed: u64, len: usize) -> Digest {
    let (digest, data) = blob(seed, len);
    cas.put(&digest, data).await.unwrap();
    digest
}

async fn is_there(cas: &DiskCas, digest: &Digest) -> bool {
    cas.find_missing(&[*digest]).await.unwrap().is_empty()
}

/// Present and whole, by every way of reading.
async fn assert_good(cas: &DiskCas, seed: u64, len: usize) {
    let (digest, data) = blob(seed, len);
    assert!(is_there(cas, &digest).await, "blob {seed} of {len} bytes is missing");
    assert_eq!(cas.get(&digest).await.unwrap(), data);
    cas.verify(&digest).unwrap();
}

async fn read_all(cas: &DiskCas, digest: &Digest) -> Result<Vec<u8>, CasError> {
    let mut stream = cas.read(digest, ByteRange::default()).await?;
    let mut all = Vec::new();
    while let Some(piece) = stream.next().await {
        all.extend_from_slice(&piece?);
    }
    Ok(all)
}

/// Changes one byte of a file, whatever its mode.
fn flip(path: &Path, at: u64) {
    use std::os::unix::fs::FileExt;
    let file = std::fs::File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x20], at).unwrap();
}
