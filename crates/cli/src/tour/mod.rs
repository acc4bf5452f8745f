//! The tour: what it shows ([`steps`](fn@steps)), where ([`Scratch`]) and how ([`Show`]).

mod scratch;
mod show;
mod steps;

pub(crate) use scratch::Scratch;
pub(crate) use show::Show;
pub(crate) use steps::{Ends, Step, steps};
