//! How a stack of layers becomes a tree that can be used.
