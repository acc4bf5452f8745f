//! End-to-end tests on real mounts.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod attackers;
mod bare;
mod change;
mod containers;
mod cuts;
mod documents;
mod drivers;
mod engines;
mod extended;
mod guides;
mod history;
mod idmapped;
mod images;
mod kills;
mod layers;
mod lifecycle;
mod links;
mod load;
mod lockstep;
mod look;
mod matrix;
mod mount8;
mod nested;
mod owners;
mod packages;
mod permissions;
mod pressure;
mod proxy;
mod real;
mod registry;
mod requests;
mod revalidate;
mod rootless;
mod run;
mod space;
mod store;
mod suites;
mod takeover;
mod tools;
mod tries;
mod vm;
mod volatile;
