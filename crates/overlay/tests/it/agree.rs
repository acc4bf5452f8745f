//! Runs one sequence of operations on a subject and on the model.

use std::collections::BTreeMap;

use crate::model::Model;
use crate::op::Op;
use crate::stack::{Stack, show};
use crate::view::Subject;

/// Applies `ops` one by one; after each the outcome, the whole tree and the inode numbers have to be the model's. So
/// has the tree after a remount. The error says where they part.
pub fn run(stack: &Stack, ops: &[Op], subject: &mut impl Subject) -> Result<(), String> {
    let mut model = Model::over(stack);
    let mut numbers = Numbers::default();
    compare(&model, subject, &mut numbers, "at first")?;
    for (at, op) in ops.iter().enumerate() {
        let (expected, got) = (model.apply(op), subject.apply(op));
        if expected != got {
            return Err(format!("op {at}: {op:?}\n  should be {expected:?}\n  is        {got:?}"));
        }
        compare(&model, subject, &mut numbers, &format!("after op {at}: {op:?}"))?;
    }
    subject.remount();
    compare(&model, subject, &mut numbers, "after a remount")
}

fn compare(
    model: &Model,
    subject: &mut impl Subject,
    numbers: &mut Numbers,
    when: &str,
) -> Result<(), String> {
    if let Some(difference) = model.walk().difference(&subject.walk()) {
        return Err(format!("{when}: the trees differ\n{difference}"));
    }
    numbers.check(model, subject).map_err(|error| format!("{when}: {error}"))
}

/// Inode numbers seen so far: an object keeps its number for life.
#[derive(Default)]
struct Numbers(BTreeMap<usize, u64>);

impl Numbers {
    fn check(&mut self, model: &Model, subject: &mut impl Subject) -> Result<(), String> {
        let numbers = subject.numbers();
        for (path, object) in model.identities() {
            let (Some(object), Some(number)) = (object, numbers.get(&path)) else { continue };
            let known = self.0.entry(object).or_insert(*number);
            if known != number {
                return Err(format!("the inode number of {} was {known} and is {number}", show(&path)));
            }
        }
        Ok(())
    }
}
