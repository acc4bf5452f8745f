//! What the explorer shows: which paths, in which order, with which sums. Pure: no terminal.

use crate::look::Picture;
use acetate_layer::Kind;
use acetate_stack::survey::{Fate, Part};

/// What is listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    All,
    Only(State),
    Wasted,
}

/// By what the entries of a directory are sorted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    Name,
    Size,
    Waste,
}

/// What there is to tell of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// The chosen layer has nothing to do with it.
    None,
    /// It is as it is below.
    Same,
    Added,
    Changed,
    Deleted,
}

/// A line of the tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) entry: usize,
    pub(super) depth: usize,
}

/// The picture, and how it is looked at.
#[derive(Debug)]
pub(super) struct Model<'a> {
    pub(super) picture: &'a Picture,
    children: Vec<Vec<usize>>,
    /// The layer whose doing is shown; all layers together if none.
    pub(super) chosen: Option<usize>,
    pub(super) mode: Mode,
    pub(super) order: Order,
    pub(super) query: String,
    open: Vec<bool>,
    kept: Vec<bool>,
    /// Bytes of what is listed at and below each path, and how many of them are wasted.
    own: Vec<u64>,
    waste: Vec<u64>,
    states: Vec<State>,
    pub(super) rows: Vec<Row>,
    /// Which row the cursor is on.
    pub(super) cursor: usize,
}

impl<'a> Model<'a> {
    pub(super) fn new(picture: &'a Picture) -> Model<'a> {
        let count = picture.survey.entries.len();
        let mut open = vec![false; count];
        open[0] = true;
        let mut model = Model {
            picture,
            children: picture.survey.children(),
            chosen: None,
            mode: Mode::All,
            order: Order::Name,
            query: String::new(),
            open,
            kept: Vec::new(),
            own: Vec::new(),
            waste: Vec::new(),
            states: Vec::new(),
            rows: Vec::new(),
            cursor: 0,
        };
        model.refresh();
        model
    }

    /// The entry that the cursor is on.
    pub(super) fn current(&self) -> Option<usize> {
        self.rows.get(self.cursor).map(|row| row.entry)
    }

    pub(super) fn size(&self, entry: usize) -> (u64, u64) {
        (self.own[entry], self.waste[entry])
    }

    pub(super) fn state(&self, entry: usize) -> State {
        self.states[entry]
    }

    /// Whether an entry can be unfolded, and is.
    pub(super) fn folding(&self, entry: usize) -> Option<bool> {
        self.children[entry].iter().any(|child| self.kept[*child]).then(|| self.open[entry])
    }

    /// Finds anew what is listed.
    pub(super) fn refresh(&mut self) {
        let entries = &self.picture.survey.entries;
        let count = entries.len();
        (self.kept, self.own, self.waste) = (vec![false; count], vec![0; count], vec![0; count]);
        self.states = (0..count).map(|entry| self.state_of(entry)).collect();
        let query = self.query.to_lowercase();
        let hits: Vec<bool> = (0..count).map(|number| number > 0 && self.matches(number, &query)).collect();
        // What is below a directory that is found is found, too.
        let mut found = hits.clone();
        for number in 1..count {
            found[number] |= found[entries[number].parent];
        }
        // What is below a directory comes after it: sums go up from the end.
        for number in (1..count).rev() {
            let (used, lost) = self.bytes_of(number);
            let is_wanted = match self.mode {
                Mode::All => self.states[number] != State::None,
                Mode::Only(state) => self.states[number] == state,
                Mode::Wasted => lost > 0,
            };
            if is_wanted && found[number] {
                self.kept[number] = true;
                self.own[number] += used;
                self.waste[number] += lost;
            }
            let parent = entries[number].parent;
            if self.kept[number] {
                self.kept[parent] = true;
                self.own[parent] += self.own[number];
                self.waste[parent] += self.waste[number];
                if !query.is_empty() && (hits[number] || self.open[number]) {
                    self.open[parent] = true;
                }
            }
        }
        self.list();
    }

    fn matches(&self, entry: usize, query: &str) -> bool {
        if query.is_empty() {
            return true;
        }
        let text = if query.contains('/') { self.picture.path(entry) } else { self.picture.name(entry) };
        text.to_lowercase().contains(query)
    }

    /// Whether a part was shown before layer `above` came over it.
    fn shown_below(part: &Part, above: usize) -> bool {
        part.kind.is_some()
            && match part.fate {
                Fate::Hidden { by, .. } => by <= above,
                _ => true,
            }
    }

    fn state_of(&self, entry: usize) -> State {
        let parts = &self.picture.survey.entries[entry].parts;
        let Some(chosen) = self.chosen else {
            let hides = parts.iter().any(|part| part.kind.is_some() && part.fate.is_hidden());
            let is_shown = self.picture.survey.entries[entry].shown().is_some();
            return match (is_shown, hides) {
                (true, true) => State::Changed,
                (false, true) => State::Deleted,
                (_, false) => State::Same,
            };
        };
        let mine = parts.iter().find(|part| part.layer == chosen);
        let below = parts.iter().find(|part| part.layer > chosen && Self::shown_below(part, chosen));
        match (mine.map(|part| (part.kind, part.opaque)), below.map(|part| part.kind)) {
            (Some((Some(_), _)), None) => State::Added,
            (Some((Some(Kind::Dir), false)), Some(Some(Kind::Dir))) => State::Same,
            (Some((Some(_), _)), Some(_)) => State::Changed,
            (Some((None, _)), _) => State::Deleted,
            (None, _) if parts.iter().any(|part| hides(part, chosen)) => State::Deleted,
            (None, _) => State::None,
        }
    }

    /// The bytes of a path itself that are listed, and how many of them are wasted.
    fn bytes_of(&self, entry: usize) -> (u64, u64) {
        let parts = &self.picture.survey.entries[entry].parts;
        let (mut used, mut lost) = (0, 0);
        for part in parts.iter().filter(|part| part.from.is_none() || self.chosen.is_none()) {
            match self.chosen {
                None if part.fate.is_hidden() && part.from.is_none() => lost += part.bytes,
                None if matches!(part.fate, Fate::Shown | Fate::Part) => used += part.bytes,
                Some(chosen) if part.layer == chosen => {
                    used += part.bytes;
                    lost += if part.fate.is_hidden() { part.bytes } else { 0 };
                }
                Some(chosen) if hides(part, chosen) && self.states[entry] == State::Deleted => {
                    used += part.bytes;
                }
                _ => {}
            }
        }
        (used, lost)
    }

    /// The rows: what is kept and not folded away. The cursor stays on its entry if that is among them.
    fn list(&mut self) {
        let current = self.current();
        self.rows.clear();
        let mut todo = vec![(self.sorted(0), 0)];
        while let Some((entries, depth)) = todo.last_mut() {
            let Some(entry) = entries.pop() else {
                todo.pop();
                continue;
            };
            let depth = *depth;
            self.rows.push(Row { entry, depth });
            if self.open[entry] {
                todo.push((self.sorted(entry), depth + 1));
            }
        }
        let found = current.and_then(|entry| self.rows.iter().position(|row| row.entry == entry));
        self.cursor = found.unwrap_or(0);
    }

    /// What is kept of a directory, the first at the end.
    fn sorted(&self, entry: usize) -> Vec<usize> {
        let mut found: Vec<usize> =
            self.children[entry].iter().copied().filter(|child| self.kept[*child]).collect();
        match self.order {
            Order::Name => {}
            Order::Size => found.sort_by_key(|entry| std::cmp::Reverse(self.own[*entry])),
            Order::Waste => found.sort_by_key(|entry| std::cmp::Reverse(self.waste[*entry])),
        }
        found.reverse();
        found
    }

    /// Unfolds the entry under the cursor, or goes to what is below it.
    pub(super) fn enter(&mut self) {
        let Some(entry) = self.current() else { return };
        match self.folding(entry) {
            Some(true) => self.to(self.cursor + 1),
            Some(false) => self.fold(entry, true),
            None => {}
        }
    }

    /// Folds the entry under the cursor, or goes to the directory above it.
    pub(super) fn leave(&mut self) {
        let Some(entry) = self.current() else { return };
        if self.folding(entry) == Some(true) {
            self.fold(entry, false);
            return;
        }
        let parent = self.picture.survey.entries[entry].parent;
        if let Some(row) = self.rows.iter().position(|row| row.entry == parent) {
            self.cursor = row;
        }
    }

    /// Folds or unfolds the entry under the cursor.
    pub(super) fn toggle(&mut self) {
        if let Some(entry) = self.current()
            && let Some(open) = self.folding(entry)
        {
            self.fold(entry, !open);
        }
    }

    /// Folds or unfolds everything.
    pub(super) fn all(&mut self, open: bool) {
        self.open.fill(open);
        self.open[0] = true;
        self.list();
    }

    fn fold(&mut self, entry: usize, open: bool) {
        self.open[entry] = open;
        self.list();
    }

    /// Puts the cursor on a row, or the last one.
    pub(super) fn to(&mut self, row: usize) {
        self.cursor = row.min(self.rows.len().saturating_sub(1));
    }

    /// Chooses a layer, counted with "all" as 0.
    pub(super) fn choose(&mut self, which: usize) {
        let which = which.min(self.picture.labels.len());
        self.chosen = which.checked_sub(1);
        self.refresh();
    }
}

/// Whether a layer is the first to hide a part.
fn hides(part: &Part, layer: usize) -> bool {
    part.kind.is_some() && matches!(part.fate, Fate::Hidden { by, .. } if by == layer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::look::Label;
    use acetate_stack::How;
    use acetate_stack::survey::{Entry, Survey, Totals};

    const SHOWN: Fate = Fate::Shown;

    /// Two layers: `a` (10, over 7), `d/x` (5 below, deleted with `d`), `new` (1).
    fn picture() -> Picture {
        let part = |layer, kind, bytes, fate| Part { layer, kind, opaque: false, bytes, from: None, fate };
        let hidden = |at, how| Fate::Hidden { by: 0, at, how };
        let (file, dir) = (Some(Kind::File), Some(Kind::Dir));
        let entry = |name: &str, parent, parts| Entry { name: name.as_bytes().to_vec(), parent, parts };
        let entries = vec![
            entry("", 0, vec![part(0, dir, 0, SHOWN), part(1, dir, 0, Fate::Part)]),
            entry("a", 0, vec![part(0, file, 10, SHOWN), part(1, file, 7, hidden(1, How::Object))]),
            entry("d", 0, vec![part(0, None, 0, SHOWN), part(1, dir, 0, hidden(2, How::Whiteout))]),
            entry("x", 2, vec![part(1, file, 5, hidden(2, How::Whiteout))]),
            entry("new", 0, vec![part(0, file, 1, SHOWN)]),
        ];
        let label = |name: &str| Label { name: name.into(), origin: String::new(), digest: String::new() };
        let survey = Survey { entries, layers: vec![Totals::default(); 2] };
        Picture { title: String::new(), about: Vec::new(), labels: vec![label("2"), label("1")], survey }
    }

    fn rows(model: &Model<'_>) -> Vec<(String, State, (u64, u64))> {
        let row = |row: &Row| (model.picture.path(row.entry), model.state(row.entry), model.size(row.entry));
        model.rows.iter().map(row).collect()
    }

    #[test]
    fn all_layers_and_each_alone() {
        let picture = picture();
        let mut model = Model::new(&picture);
        model.all(true);
        let expected = [
            ("/a", State::Changed, (10, 7)),
            ("/d/", State::Deleted, (0, 5)),
            ("/d/x", State::Deleted, (0, 5)),
            ("/new", State::Same, (1, 0)),
        ];
        assert_eq!(rows(&model), expected.map(|(path, state, size)| (path.to_owned(), state, size)));
        model.choose(1);
        let expected = [
            ("/a", State::Changed, (10, 0)),
            ("/d/", State::Deleted, (5, 0)),
            ("/d/x", State::Deleted, (5, 0)),
            ("/new", State::Added, (1, 0)),
        ];
        assert_eq!(rows(&model), expected.map(|(path, state, size)| (path.to_owned(), state, size)));
        model.choose(2);
        let added: Vec<State> = model.rows.iter().map(|row| model.state(row.entry)).collect();
        assert_eq!(added, [State::Added; 3]);
    }

    #[test]
    fn a_search_unfolds_what_it_finds() {
        let picture = picture();
        let mut model = Model::new(&picture);
        assert_eq!(model.rows.len(), 3);
        model.query = "X".into();
        model.refresh();
        let paths: Vec<String> = rows(&model).into_iter().map(|(path, ..)| path).collect();
        assert_eq!(paths, ["/d/", "/d/x"]);
        model.query = "d/".into();
        model.refresh();
        assert_eq!(model.rows.len(), 2);
        model.query = "nowhere".into();
        model.refresh();
        assert_eq!((model.rows.len(), model.current()), (0, None));
    }

    #[test]
    fn the_cursor_stays_where_it_can() {
        let picture = picture();
        let mut model = Model::new(&picture);
        model.to(99);
        assert_eq!(model.current(), Some(4));
        model.mode = Mode::Wasted;
        model.refresh();
        assert_eq!(model.current(), Some(1));
        model.to(1);
        model.enter();
        model.enter();
        assert_eq!(model.current(), Some(3));
        model.leave();
        model.leave();
        assert_eq!((model.current(), model.rows.len()), (Some(2), 2));
        model.order = Order::Waste;
        model.refresh();
        assert_eq!(model.rows.first().map(|row| row.entry), Some(1));
    }
}
