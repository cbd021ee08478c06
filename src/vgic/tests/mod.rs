//! What a guest may rely on.
