//! What differs between boards.
