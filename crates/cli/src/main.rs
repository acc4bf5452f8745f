//! The `acetate` command.
fn main() {}
