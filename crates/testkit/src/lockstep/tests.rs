//! The oracle itself: that it sees differences, and none where there are none.

#![allow(clippy::unwrap_used)]
use super::*;
