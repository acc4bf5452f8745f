//! What an upper directory changes.
