//! Compressed streams.

use bytes::Bytes;

use super::input::Input;
use crate::cas::compression::{CompressionError, Decoder, STEP, compress, decompress};

/// Whatever comes in, no more comes out than was announced, in pieces of at most [`STEP`]; how the bytes are cut
/// makes no difference; and bytes that were compressed here come back.
///
/// # Panics
/// When that does not hold.
pub fn zstd(data: &[u8]) {
    let mut input = Input(data);
    let announced = u64::from(input.word() >> input.below(32));
    let cut = 1 + input.below(64);
    let whole = decode(&[input.0], announced);
    let pieces: Vec<&[u8]> = input.0.chunks(cut).collect();
    let pieces = decode(&pieces, announced);
    match (&whole, &pieces) {
        (Ok(whole), Ok(pieces)) => assert!(whole == pieces, "other bytes come out of pieces"),
        (Err(_), Err(_)) => {}
        _ => panic!("whole: {:?}, in pieces of {cut}: {:?}", whole.is_ok(), pieces.is_ok()),
    }
    let at_once = decompress(Bytes::copy_from_slice(input.0), announced);
    assert_eq!(at_once.as_deref().ok(), whole.as_deref().ok());

    let compressed = compress(input.0).expect("there is memory");
    let length = input.0.len() as u64;
    assert_eq!(decode(&[&compressed], length).expect("what was compressed here is valid"), input.0);
    if length > 0 {
        let short = decode(&[&compressed], length - 1);
        assert_eq!(short, Err(CompressionError::TooLong { announced: length - 1 }));
    }
}

fn decode(pieces: &[&[u8]], announced: u64) -> Result<Vec<u8>, CompressionError> {
    let mut decoder = Decoder::new(announced)?;
    let mut all = Vec::new();
    for piece in pieces {
        let mut input = Bytes::copy_from_slice(piece);
        while let Some(out) = decoder.step(&mut input)? {
            assert!(!out.is_empty() && out.len() <= STEP, "a piece of {} bytes", out.len());
            all.extend_from_slice(&out);
            assert!(all.len() as u64 <= announced, "{} bytes of {announced}", all.len());
        }
        assert!(input.is_empty(), "input was left");
    }
    decoder.finish()?;
    Ok(all)
}
