//! The hot paths of the engine, over layers in memory: what the server itself takes for a request, without the kernel,
//! the waking of threads, and the filesystems below.
//!
//! `cargo bench -p acetate-bench`.

use acetate_layer::mem::{MemLayer, Put};
use acetate_layer::{FsId, work};
use acetate_overlay::{Caller, Config, Entry, NodeId, OpenFlags, Overlay, Room, Stack};
use anyhow::{Context, Result};
use divan::Bencher;
use divan::counter::ItemsCount;

const ROOT: Caller = Caller { uid: 0, gid: 0, umask: 0o022 };
/// Files in the directory of each layer.
const FILES: usize = 1000;

fn main() {
    divan::main();
}

/// An overlay of so many lower layers; each has `dir` with files of its own.
fn overlay(layers: usize) -> Result<Overlay<MemLayer>> {
    let mut lowers = Vec::new();
    for number in 0..layers {
        let lower = MemLayer::new(FsId(1))?;
        for file in 0..FILES {
            lower.put(format!("dir/file-{number}-{file}").as_bytes(), Put::file(&[b'x'; 4096]))?;
        }
        lowers.push(lower);
    }
    let mut upper = MemLayer::new(FsId(2))?;
    let staging = work::prepare(&upper, &upper.workdir().clone(), 0, &[])?;
    upper.set_work(staging);
    let stack = Stack { upper: Some(upper), lowers, data: Vec::new() };
    Ok(Overlay::new(stack, Config::default(), Box::new(|_, _| {}))?)
}

fn known(overlay: &Overlay<MemLayer>, parent: NodeId, name: &str) -> Result<Entry> {
    overlay.lookup(parent, name.as_bytes())?.with_context(|| format!("no {name}"))
}

/// Runs `work`; a benchmark of something that fails tells nothing.
fn bench<T>(bencher: Bencher<'_, '_>, mut work: impl FnMut() -> Result<T>) {
    bencher.bench_local(|| work().unwrap_or_else(|error| fail(&error)));
}

/// Ends a benchmark that cannot run.
fn fail(error: &anyhow::Error) -> ! {
    eprintln!("engine: {error:#}");
    std::process::exit(1)
}

fn prepared(layers: usize) -> (Overlay<MemLayer>, NodeId) {
    let made = || -> Result<_> {
        let overlay = overlay(layers)?;
        let dir = known(&overlay, NodeId::ROOT, "dir")?.node;
        Ok((overlay, dir))
    };
    made().unwrap_or_else(|error| fail(&error))
}

#[divan::bench(args = [1, 25])]
fn lookup_of_a_known_name(bencher: Bencher<'_, '_>, layers: usize) {
    let (overlay, dir) = prepared(layers);
    let name = format!("file-{}-7", layers - 1);
    bench(bencher, || known(&overlay, dir, &name));
}

/// In the lowest layer, below all others.
#[divan::bench(args = [1, 25])]
fn lookup_of_a_new_name(bencher: Bencher<'_, '_>, layers: usize) {
    let (overlay, dir) = prepared(layers);
    let name = format!("file-{}-7", layers - 1);
    bench(bencher, || {
        let entry = known(&overlay, dir, &name)?;
        overlay.forget(entry.node, 1);
        Ok(())
    });
}

#[divan::bench(args = [1, 25])]
fn lookup_of_a_missing_name(bencher: Bencher<'_, '_>, layers: usize) {
    let (overlay, dir) = prepared(layers);
    bench(bencher, || Ok(overlay.lookup(dir, b"missing")?));
}

#[divan::bench]
fn attributes(bencher: Bencher<'_, '_>) {
    let (overlay, dir) = prepared(1);
    let file = known(&overlay, dir, "file-0-7").unwrap_or_else(|error| fail(&error)).node;
    bench(bencher, || Ok(overlay.getattr(file, None)?));
}

#[divan::bench]
fn open_read_and_release(bencher: Bencher<'_, '_>) {
    let (overlay, dir) = prepared(1);
    let file = known(&overlay, dir, "file-0-7").unwrap_or_else(|error| fail(&error)).node;
    let mut buffer = [0; 4096];
    bench(bencher, || {
        let handle = overlay.open(file, OpenFlags::READ)?;
        let count = overlay.read(handle, 0, &mut buffer)?;
        overlay.release(handle);
        Ok(count)
    });
}

#[divan::bench]
fn create_and_unlink(bencher: Bencher<'_, '_>) {
    let (overlay, dir) = prepared(1);
    bench(bencher, || {
        let (entry, handle) = overlay.create(dir, b"new", 0o644, OpenFlags::READ_WRITE, &ROOT)?;
        overlay.release(handle);
        overlay.unlink(dir, b"new")?;
        overlay.forget(entry.node, 1);
        Ok(())
    });
}

/// The listing that is at hand, entry by entry.
#[divan::bench(args = [1, 25])]
fn list_again(bencher: Bencher<'_, '_>, layers: usize) {
    let (overlay, dir) = prepared(layers);
    bench(bencher.counter(ItemsCount::new(layers * FILES)), || list(&overlay, dir));
}

/// The listing of a directory that has changed: all layers are read and merged.
#[divan::bench(args = [1, 25])]
fn merge_and_list(bencher: Bencher<'_, '_>, layers: usize) {
    let (overlay, dir) = prepared(layers);
    bench(bencher.counter(ItemsCount::new(layers * FILES)), || {
        let made = overlay.mkdir(dir, b"new", 0o755, &ROOT)?;
        let count = list(&overlay, dir)?;
        overlay.rmdir(dir, b"new")?;
        overlay.forget(made.node, 1);
        Ok(count)
    });
}

fn list(overlay: &Overlay<MemLayer>, dir: NodeId) -> Result<usize> {
    let mut count = 0;
    overlay.readdir(dir, 0, &mut |_| {
        count += 1;
        Room::Taken
    })?;
    Ok(count)
}
