//! The door of the fuzz targets to the framing of values.

/// A value as it is stored.
pub(crate) fn frame(value: &[u8]) -> Vec<u8> {
    super::frame(value)
}

/// The value in a stored one; `None` if that is damaged.
pub(crate) fn unframe(framed: &[u8]) -> Option<&[u8]> {
    super::unframe(framed).ok()
}

/// Reads the record of counts.
pub(crate) fn read_sentinel(framed: &[u8]) -> Option<(u64, u64)> {
    super::read_sentinel(framed).ok()
}
