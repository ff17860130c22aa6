use std::time::Duration;

use futures_util::TryStreamExt;
use tokio::time::advance;
use tokio_util::sync::CancellationToken;

use super::created::{Created, MOST_BYTES, MOST_STREAMS};
use super::*;

fn created() -> (Created, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    (Created::new(directory.path().to_owned()), directory)
}

async fn all(streams: &Created, id: &str, at: u64) -> Vec<u8> {
    let pieces = streams.read(id, at, CancellationToken::new()).unwrap();
    pieces.try_collect::<Vec<Bytes>>().await.unwrap().concat()
}

#[test]
fn ids_of_runs_are_read_as_they_were_written() {
    let uuid = "6ba7b810-9dad-11d1-80b4-00c04fd430c8";
    assert_eq!(parse_id(&format!("{uuid}-3-stdout")), Some((uuid, 3, Which::Stdout)));
    assert_eq!(parse_id(&format!("{uuid}-12-stderr")), Some((uuid, 12, Which::Stderr)));
    for id in
        [uuid, "stdout", "-stdout", "a-x-stdout", &format!("{uuid}-3-stdin"), &format!("{uuid}-stdout-3")]
    {
        assert!(parse_id(id).is_none(), "{id}");
    }
}

#[tokio::test]
async fn many_readers_see_the_same_bytes_wherever_they_join() {
    let (streams, _directory) = created();
    let (id, token) = streams.create().unwrap();
    let data: Vec<u8> = (0..300_000_u32).map(|number| (number % 251) as u8).collect();
    let write = async {
        let mut at = 0;
        for piece in data.chunks(7000) {
            at = streams.append(&id, &token, at, piece.to_vec(), false).await.unwrap();
            tokio::task::yield_now().await;
        }
        streams.append(&id, &token, at, Vec::new(), true).await.unwrap();
    };
    let (_, first, middle, behind) =
        tokio::join!(write, all(&streams, &id, 0), all(&streams, &id, 1234), all(&streams, &id, 299_999));
    assert!(first == data && middle == data[1234..] && behind == data[299_999..]);
    assert!(all(&streams, &id, 0).await == data, "also afterwards");
    assert!(all(&streams, &id, 300_000).await.is_empty());
    let beyond = streams.read(&id, 300_001, CancellationToken::new());
    assert!(matches!(beyond.err(), Some(LogError::Offset(300_001))));
    assert_eq!(streams.written(&id, &token).unwrap(), (300_000, true));
}

#[tokio::test]
async fn committed_bytes_stand_and_a_finished_stream_takes_no_more() {
    let (streams, _directory) = created();
    let (id, token) = streams.create().unwrap();
    assert_eq!(streams.append(&id, &token, 0, b"abc".to_vec(), false).await.unwrap(), 3);
    for offset in [0, 2, 4] {
        let refused = streams.append(&id, &token, offset, b"x".to_vec(), false).await;
        assert!(matches!(refused, Err(LogError::Gap { expected: 3, .. })), "{refused:?}");
    }
    let stranger = streams.append(&id, "guessed", 3, b"x".to_vec(), false).await;
    assert!(matches!(stranger, Err(LogError::NotFound(_))));
    assert_eq!(streams.append(&id, &token, 3, b"d".to_vec(), true).await.unwrap(), 4);
    let late = streams.append(&id, &token, 4, b"e".to_vec(), false).await;
    assert!(matches!(late, Err(LogError::Finished)));
    assert_eq!(all(&streams, &id, 0).await, b"abcd");
}

#[tokio::test(start_paused = true)]
async fn streams_end_by_themselves_and_are_forgotten_later() {
    let (streams, _directory) = created();
    let (finished, token) = streams.create().unwrap();
    let (abandoned, _) = streams.create().unwrap();
    streams.append(&finished, &token, 0, b"x".to_vec(), true).await.unwrap();
    advance(Duration::from_secs(599)).await;
    assert_eq!(all(&streams, &finished, 0).await, b"x");
    advance(Duration::from_secs(2)).await;
    let read = |id: &str| streams.read(id, 0, CancellationToken::new());
    assert!(matches!(read(&finished).err(), Some(LogError::NotFound(_))));
    assert!(read(&abandoned).is_ok());
    advance(Duration::from_secs(3600)).await;
    assert!(all(&streams, &abandoned, 0).await.is_empty(), "it was finished");
    advance(Duration::from_secs(601)).await;
    assert!(read(&abandoned).is_err());
}

#[tokio::test]
async fn streams_are_bounded_in_number_and_bytes() {
    let (streams, _directory) = created();
    let (id, token) = streams.create().unwrap();
    let piece = vec![1; 16 << 20];
    for number in 0..4 {
        streams.append(&id, &token, number << 24, piece.clone(), false).await.unwrap();
    }
    let more = streams.append(&id, &token, MOST_BYTES, vec![1], false).await;
    assert!(matches!(more, Err(LogError::TooLong)));
    for _ in 1..MOST_STREAMS {
        streams.create().unwrap();
    }
    assert!(matches!(streams.create(), Err(LogError::TooMany)));
    streams.append(&id, &token, MOST_BYTES, Vec::new(), true).await.unwrap();
    streams.create().unwrap();
    assert!(streams.read(&id, 0, CancellationToken::new()).is_err(), "the one that had ended made room");
}
