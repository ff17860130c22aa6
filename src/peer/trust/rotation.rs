//! A new key for the whole farm: what throws a lost machine out.
//!
//! The machine where a person asks for it makes the key, writes it down, hands it to the members it is
//! linked to, and then takes it itself. Certificates of the old key are worth nothing from then on. Who
//! was not there must join again.

use async_trait::async_trait;

use super::{FarmKey, FarmTag, Trust, TrustError};
use crate::peer::MachineId;
use crate::tasks::Tasks;

/// The other machines of the farm, as far as this one is in touch with them.
#[async_trait]
pub trait Fellows: Send + Sync + 'static {
    /// Those that are known, linked or not, without this one.
    fn list(&self) -> Vec<Fellow>;

    /// Hands a new key to those of `to` that are linked. Those that have it now.
    async fn hand_on(&self, key: &FarmKey, to: &[MachineId]) -> Vec<MachineId>;
}

/// Another machine of the farm.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fellow {
    /// Who it is.
    pub id: MachineId,
    /// What it says it is called.
    pub name: String,
}

/// There are no others.
pub struct Alone;

/// What became of everybody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rotation {
    /// The farm, now.
    pub tag: FarmTag,
    /// Have the new key.
    pub have: Vec<Fellow>,
    /// Must join again.
    pub missed: Vec<Fellow>,
    /// Were left out.
    pub without: Vec<Fellow>,
}

/// Why the old key holds.
#[derive(Debug, thiserror::Error)]
pub enum RotateError {
    /// No member is called so.
    #[error("no other machine of the farm is called {0:?}")]
    Unknown(String),
    /// Several are.
    #[error("several machines of the farm are called {0:?}; name one by its id")]
    Ambiguous(String),
    /// Another new key is on its way.
    #[error("the farm gets a new key already; see what came of that first")]
    Busy,
    /// The new one cannot be kept.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// Writing it down failed as nothing should.
    #[error("cannot keep the key: {0}")]
    Panicked(String),
}

#[async_trait]
impl Fellows for Alone {
    fn list(&self) -> Vec<Fellow> {
        Vec::new()
    }

    async fn hand_on(&self, _: &FarmKey, _: &[MachineId]) -> Vec<MachineId> {
        Vec::new()
    }
}

/// Gives the farm a new key, but not those who are named in `without`: by their names, or ids, or the
/// beginnings of ids.
///
/// # Errors
/// [`RotateError`]; the old key holds then. A failure of the very last step is the exception: the
/// others have the new key by then, and this machine must join them.
pub async fn rotate(
    trust: &Trust,
    fellows: &dyn Fellows,
    without: &[String],
    tasks: &Tasks,
) -> Result<Rotation, RotateError> {
    let _permit = trust.begin_rotation().ok_or(RotateError::Busy)?;
    let all = fellows.list();
    let without = without.iter().map(|text| named(&all, text)).collect::<Result<Vec<_>, _>>()?;
    let is_out = |fellow: &Fellow| without.iter().any(|out| out.id == fellow.id);
    let (without, stay): (Vec<_>, Vec<_>) = all.into_iter().partition(is_out);

    let key = FarmKey::generate();
    let (owned, staged) = (trust.clone(), key.clone());
    let staged = blocking(tasks, move || owned.stage(staged)).await?;
    let to: Vec<_> = stay.iter().map(|fellow| fellow.id).collect();
    let told = fellows.hand_on(&key, &to).await;
    let shared = !told.is_empty();
    blocking(tasks, move || staged.commit(shared)).await?;

    let (have, missed): (Vec<_>, Vec<_>) = stay.into_iter().partition(|fellow| told.contains(&fellow.id));
    let tag = key.tag();
    let [have_count, missed_count, without_count] = [have.len(), missed.len(), without.len()];
    tracing::info!(farm = tag.farm(), have_count, missed_count, without_count, "the farm has a new key");
    Ok(Rotation { tag, have, missed, without })
}

async fn blocking<T: Send + 'static>(
    tasks: &Tasks,
    work: impl FnOnce() -> Result<T, TrustError> + Send + 'static,
) -> Result<T, RotateError> {
    let done = tasks.spawn_blocking(work).await;
    done.map_err(|panic| RotateError::Panicked(panic.to_string()))?.map_err(RotateError::Trust)
}

fn named(all: &[Fellow], text: &str) -> Result<Fellow, RotateError> {
    let by_name: Vec<_> = all.iter().filter(|fellow| fellow.name == text).collect();
    let by_id = || all.iter().filter(|fellow| const_hex::encode(fellow.id.bytes()).starts_with(text));
    let found = if by_name.is_empty() { by_id().filter(|_| text.len() >= 8).collect() } else { by_name };
    match found[..] {
        [] => Err(RotateError::Unknown(text.to_owned())),
        [fellow] => Ok(fellow.clone()),
        _ => Err(RotateError::Ambiguous(text.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::peer::trust::testing::trust;

    /// Hands keys to those that are there.
    struct Linked {
        all: Vec<Fellow>,
        there: Vec<MachineId>,
        given: Mutex<Vec<(MachineId, FarmKey)>>,
    }

    #[async_trait]
    impl Fellows for Linked {
        fn list(&self) -> Vec<Fellow> {
            self.all.clone()
        }

        async fn hand_on(&self, key: &FarmKey, to: &[MachineId]) -> Vec<MachineId> {
            let told: Vec<_> = to.iter().copied().filter(|id| self.there.contains(id)).collect();
            self.given.lock().unwrap().extend(told.iter().map(|id| (*id, key.clone())));
            told
        }
    }

    fn fellow(number: u8, name: &str) -> Fellow {
        Fellow { id: MachineId::new([number; 32]), name: name.to_owned() }
    }

    fn linked() -> Linked {
        let all = vec![fellow(1, "attic"), fellow(2, "cellar"), fellow(3, "twin"), fellow(4, "twin")];
        let there = [1, 2, 3].map(|number| MachineId::new([number; 32])).to_vec();
        Linked { all, there, given: Mutex::default() }
    }

    #[tokio::test]
    async fn a_new_key_goes_to_all_that_are_there_but_those_left_out() {
        let (trust, fellows) = (trust(&FarmKey::generate()), linked());
        let old = trust.key();
        let without = ["cellar".to_owned(), "03030303".to_owned()];
        let rotation = rotate(&trust, &fellows, &without, &Tasks::default()).await.unwrap();
        assert_eq!(rotation.have, [fellow(1, "attic")]);
        assert_eq!(rotation.missed, [fellow(4, "twin")]);
        assert_eq!(rotation.without, [fellow(2, "cellar"), fellow(3, "twin")]);
        assert_ne!(trust.key(), old);
        assert_eq!(rotation.tag, trust.tag());
        assert!(trust.is_shared());
        assert_eq!(*fellows.given.lock().unwrap(), [(MachineId::new([1; 32]), trust.key())]);
    }

    #[tokio::test]
    async fn nothing_is_handed_on_unless_it_is_clear_who_is_left_out() {
        let (trust, fellows) = (trust(&FarmKey::generate()), linked());
        let old = trust.key();
        for text in ["twin", "nobody", "0303", ""] {
            let refused = rotate(&trust, &fellows, &[text.to_owned()], &Tasks::default()).await;
            assert!(refused.is_err(), "{text}");
        }
        assert_eq!(trust.key(), old);
        assert!(fellows.given.lock().unwrap().is_empty());
    }

    #[tokio::test]
    async fn nothing_is_handed_on_when_the_key_cannot_be_kept() {
        let directory = tempfile::tempdir().unwrap();
        let trust = Trust::open(&directory.path().join("farm"), None).unwrap();
        std::fs::remove_dir_all(directory.path()).unwrap();
        let fellows = linked();
        let refused = rotate(&trust, &fellows, &[], &Tasks::default()).await;
        assert!(matches!(refused, Err(RotateError::Trust(TrustError::Io { .. }))));
        assert!(fellows.given.lock().unwrap().is_empty());
    }

    #[tokio::test]
    async fn one_new_key_at_a_time() {
        let trust = trust(&FarmKey::generate());
        let permit = trust.begin_rotation();
        let refused = rotate(&trust, &Alone, &[], &Tasks::default()).await;
        assert!(matches!(refused, Err(RotateError::Busy)));
        drop(permit);
        assert!(rotate(&trust, &Alone, &[], &Tasks::default()).await.is_ok());
    }

    #[tokio::test]
    async fn alone_everybody_else_must_join_again() {
        let trust = trust(&FarmKey::generate());
        let rotation = rotate(&trust, &Alone, &[], &Tasks::default()).await.unwrap();
        assert_eq!(rotation.tag, trust.tag());
        assert!(rotation.have.is_empty() && rotation.missed.is_empty());
        assert!(!trust.is_shared());
    }
}
