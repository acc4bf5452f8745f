//! Makes a failing script short: drops steps and layer items, then simplifies what is left.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::op::Op;
use super::script::{Body, Entry, Layer, Script, Step};

/// Returns whether a script still fails in the same way; an error ends the search.
pub type StillFails<'a> = dyn FnMut(&Script) -> Result<bool> + 'a;

/// Returns a short script for which `fails` holds, as it does for `script`.
///
/// Stops early when `budget` is used up; what was reached by then is returned.
///
/// # Errors
/// Whatever `fails` returns.
pub fn shrink(script: &Script, budget: Duration, fails: &mut StillFails<'_>) -> Result<Script> {
    let mut search = Search { best: script.clone(), end: Instant::now() + budget, fails };
    loop {
        let before = search.best.clone();
        search.drop_steps()?;
        search.drop_entries()?;
        search.simplify()?;
        if search.best == before || search.over() {
            return Ok(search.best);
        }
    }
}

struct Search<'a, 'b> {
    best: Script,
    end: Instant,
    fails: &'a mut StillFails<'b>,
}

impl Search<'_, '_> {
    fn over(&self) -> bool {
        Instant::now() >= self.end
    }

    /// Takes `candidate` if it is another script that still fails.
    fn try_candidate(&mut self, candidate: Script) -> Result<bool> {
        if candidate == self.best || self.over() || !(self.fails)(&candidate)? {
            return Ok(false);
        }
        self.best = candidate;
        Ok(true)
    }

    fn drop_steps(&mut self) -> Result<()> {
        self.drop_parts(
            |script| script.steps.len(),
            |script, range| {
                script.steps.drain(range);
            },
        )
    }

    fn drop_entries(&mut self) -> Result<()> {
        self.drop_parts(
            |script| script.entries.len(),
            |script, range| {
                script.entries.drain(range);
            },
        )
    }

    /// Drops runs of items, from the end, first half of all of them, at last single ones.
    fn drop_parts(
        &mut self,
        count: impl Fn(&Script) -> usize,
        remove: impl Fn(&mut Script, std::ops::Range<usize>),
    ) -> Result<()> {
        let mut run = count(&self.best).div_ceil(2).max(1);
        loop {
            let mut end = count(&self.best);
            while end > 0 {
                let start = end.saturating_sub(run);
                let mut candidate = self.best.clone();
                remove(&mut candidate, start..end);
                self.try_candidate(candidate)?;
                end = start;
            }
            if run == 1 {
                return Ok(());
            }
            run = run.div_ceil(2).min(run - 1);
        }
    }

    fn simplify(&mut self) -> Result<()> {
        let plain = Script { options: String::new(), ..self.best.clone() };
        self.try_candidate(plain)?;
        let dense = dense_layers(&self.best);
        self.try_candidate(dense)?;
        for index in 0..self.best.entries.len() {
            for simpler in simpler_entries(&self.best.entries[index].clone()) {
                let mut candidate = self.best.clone();
                candidate.entries[index] = merge_entry(&self.best.entries[index], &simpler);
                self.try_candidate(candidate)?;
            }
        }
        for index in 0..self.best.steps.len() {
            for change in STEP_CHANGES {
                let mut candidate = self.best.clone();
                change(&mut candidate.steps[index]);
                self.try_candidate(candidate)?;
            }
        }
        Ok(())
    }
}

/// Numbers the lower layers that have items from 1 without gaps.
fn dense_layers(script: &Script) -> Script {
    let mut used: Vec<usize> = script
        .entries
        .iter()
        .filter_map(|entry| match entry.layer {
            Layer::Lower(number) => Some(number),
            Layer::Upper => None,
        })
        .collect();
    used.sort_unstable();
    used.dedup();
    let mut dense = script.clone();
    for entry in &mut dense.entries {
        if let Layer::Lower(number) = &mut entry.layer {
            *number = used.iter().position(|known| known == number).unwrap_or(0) + 1;
        }
    }
    dense
}

/// One attribute made plain; the others are to be taken from the current best.
enum Simpler {
    WithoutXattr(Vec<u8>),
    Mode,
    Uid,
    Gid,
    Mtime,
    Body(Body),
}

fn simpler_entries(entry: &Entry) -> Vec<Simpler> {
    let mut all: Vec<Simpler> =
        entry.xattrs.iter().map(|(name, _)| Simpler::WithoutXattr(name.clone())).collect();
    all.extend([Simpler::Mode, Simpler::Uid, Simpler::Gid, Simpler::Mtime]);
    match &entry.body {
        Body::File { .. } => all.push(Simpler::Body(Body::File { data: Vec::new(), size: 0 })),
        Body::Symlink(_) => all.push(Simpler::Body(Body::Symlink(b"x".to_vec()))),
        Body::Fifo | Body::Socket | Body::Char(..) | Body::Block(..) | Body::Link(_) => {
            all.push(Simpler::Body(Body::File { data: Vec::new(), size: 0 }));
        }
        Body::Dir | Body::Whiteout => {}
    }
    all
}

fn merge_entry(entry: &Entry, simpler: &Simpler) -> Entry {
    let mut entry = entry.clone();
    let plain = Entry::plain(entry.layer, &entry.path, entry.body.clone());
    match simpler {
        Simpler::WithoutXattr(name) => entry.xattrs.retain(|(known, _)| known != name),
        Simpler::Mode => entry.mode = plain.mode,
        Simpler::Uid => entry.uid = 0,
        Simpler::Gid => entry.gid = 0,
        Simpler::Mtime => entry.mtime = plain.mtime,
        Simpler::Body(body) => entry.body = body.clone(),
    }
    entry
}

/// Changes that make a step plainer where they apply.
const STEP_CHANGES: [fn(&mut Step); 5] = [plain_user, plain_umask, plain_mode, fewer_flags, less_data];

fn plain_user(step: &mut Step) {
    if let Step::Run { uid, .. } = step {
        *uid = 0;
    }
}

fn plain_umask(step: &mut Step) {
    if let Step::Run { umask, .. } = step {
        *umask = 0o022;
    }
}

fn plain_mode(step: &mut Step) {
    match step {
        Step::Run { op: Op::Open { mode, .. } | Op::Mknod { mode, .. }, .. } => *mode = 0o644,
        Step::Run { op: Op::Mkdir { mode, .. }, .. } => *mode = 0o755,
        _ => {}
    }
}

fn fewer_flags(step: &mut Step) {
    if let Step::Run { op: Op::Open { flags, .. }, .. } = step {
        *flags &=
            (libc::O_ACCMODE | libc::O_TMPFILE | libc::O_CREAT | libc::O_TRUNC | libc::O_NONBLOCK) as u32;
    }
}

fn less_data(step: &mut Step) {
    if let Step::Run { op: Op::Write { data, .. }, .. } = step {
        (data.offset, data.len) = (0, 1);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn only_what_the_failure_needs_is_left() {
        let text = "options userxattr\n\
            L1 dir a mode=700 x:user.k=v\n\
            L3 file a/f data=0+100*1 uid=7\n\
            L3 file b mtime=5.0\n\
            U fifo c\n\
            run 0 000 mkdir d 700\n\
            run 1000 077 unlink a/f\n\
            run 0 022 rmdir d\n\
            check\n";
        let script = Script::parse(text).unwrap();
        let mut runs = 0;
        let mut fails = |candidate: &Script| {
            runs += 1;
            let text = candidate.to_string();
            Ok(text.contains("file a/f") && text.contains("unlink a/f"))
        };
        let short = shrink(&script, Duration::from_secs(60), &mut fails).unwrap();
        assert_eq!(short.to_string(), "L1 file a/f\nrun 0 022 unlink a/f\n");
        assert!(runs < 100, "{runs} runs");
    }
}
