//! Made-up farms for tests.
