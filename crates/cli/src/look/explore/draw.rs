//! What the explorer looks like.

use super::model::{Mode, Order, State};
use super::{Explorer, Focus};
use crate::look::table::percent;
use crate::out::size;
use acetate_layer::Kind;
use acetate_stack::survey::Fate;
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, BorderType, Clear, Paragraph};

/// Columns of the list of layers, as long as there is room.
const LAYER_COLUMNS: u16 = 40;
/// Rows of what is told of the path under the cursor.
const DETAIL_ROWS: u16 = 8;
const BAR_CELLS: usize = 10;

const HELP: [(&str, &str); 12] = [
    ("↑ ↓ PgUp PgDn Home End", "move"),
    ("→ ←", "unfold, fold; into, out of a directory"),
    ("Enter Space", "unfold or fold"),
    ("e  f", "unfold all, fold all"),
    ("Tab", "layers, files"),
    ("[  ]", "the layer above, below"),
    ("/", "search names; with a slash, paths"),
    ("a  c  d", "only what was added, changed, deleted"),
    ("w", "only what is wasted"),
    ("s", "sort by name, size, waste"),
    ("Esc", "no search, no filter"),
    ("q  Ctrl-C", "end"),
];

/// Colours, unless the user wants none (no-color.org).
fn colour(style: Style, colour: Color) -> Style {
    if std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty()) { style } else { style.fg(colour) }
}

fn plain(of: Color) -> Style {
    colour(Style::new(), of)
}

fn dim() -> Style {
    Style::new().add_modifier(Modifier::DIM)
}

fn bold() -> Style {
    Style::new().add_modifier(Modifier::BOLD)
}

pub(super) fn draw(frame: &mut Frame<'_>, explorer: &mut Explorer<'_>) {
    let area = frame.area();
    let details = if area.height >= 20 { DETAIL_ROWS } else { 0 };
    let [head, body, detail, foot] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Min(3),
        Constraint::Length(details),
        Constraint::Length(1),
    ])
    .areas(area);
    let columns = if area.width >= 90 { LAYER_COLUMNS } else { (area.width / 3).min(LAYER_COLUMNS) };
    let [left, right] = Layout::horizontal([Constraint::Length(columns), Constraint::Min(10)]).areas(body);
    frame.render_widget(Paragraph::new(title(explorer)), head);
    layers(frame, explorer, left);
    tree(frame, explorer, right);
    if details > 0 {
        frame.render_widget(Paragraph::new(detail_lines(explorer)).block(block(" Path ", false)), detail);
    }
    frame.render_widget(Paragraph::new(keys(explorer)), foot);
    if explorer.shows_help {
        help(frame, area);
    }
}

fn block(title: &str, is_focus: bool) -> Block<'_> {
    let style = if is_focus { plain(Color::Cyan) } else { dim() };
    let title = Span::styled(title, if is_focus { bold() } else { Style::new() });
    Block::bordered().border_type(BorderType::Rounded).border_style(style).title(title)
}

fn title(explorer: &Explorer<'_>) -> Line<'static> {
    let picture = explorer.model.picture;
    let survey = &picture.survey;
    let score = survey.efficiency().score();
    let good = if score >= 0.95 { Color::Green } else { Color::Red };
    Line::from(vec![
        Span::styled(format!(" {} ", picture.title), bold()),
        Span::raw(format!(" {} in {} layers  ", size(survey.bytes()), survey.layers.len())),
        Span::styled(format!("{} wasted  ", size(survey.wasted_bytes())), plain(Color::Red)),
        Span::raw("efficiency "),
        Span::styled(format!("{} %", percent(score)), plain(good)),
    ])
}

fn layers(frame: &mut Frame<'_>, explorer: &Explorer<'_>, area: Rect) {
    let model = &explorer.model;
    let survey = &model.picture.survey;
    let largest = survey.layers.iter().map(|layer| layer.bytes).max().unwrap_or(0).max(1);
    let rows = usize::from(area.height.saturating_sub(2));
    let at = model.chosen.map_or(0, |chosen| chosen + 1);
    let first = at.saturating_sub(rows.saturating_sub(1));
    let line = |which: usize| {
        let Some(layer) = which.checked_sub(1) else {
            let all = format!("{:>6} {:>11} ", "all", size(survey.bytes()));
            return styled(vec![Span::raw(all), Span::styled("all layers together", dim())], at == 0);
        };
        let (label, totals) = (&model.picture.labels[layer], &survey.layers[layer]);
        let cells = (totals.bytes as f64 / largest as f64 * BAR_CELLS as f64).round() as usize;
        let share = totals.wasted_bytes as f64 / totals.bytes.max(1) as f64;
        let wasted = (share * cells as f64).round() as usize;
        let spans = vec![
            Span::raw(format!("{:>6} {:>11} ", cut(&label.name, 6), size(totals.bytes))),
            Span::styled("█".repeat(cells - wasted), plain(Color::Cyan)),
            Span::styled("▒".repeat(wasted), plain(Color::Red)),
            Span::raw(" ".repeat(BAR_CELLS + 1 - cells)),
            Span::styled(label.origin.clone(), dim()),
        ];
        styled(spans, at == which)
    };
    let lines: Vec<Line<'_>> = (first..=model.picture.labels.len()).take(rows).map(line).collect();
    let title = " Layers, topmost first ";
    frame.render_widget(Paragraph::new(lines).block(block(title, explorer.focus == Focus::Layers)), area);
}

/// A line, in reverse if the cursor is on it.
fn styled(spans: Vec<Span<'_>>, is_current: bool) -> Line<'_> {
    let line = Line::from(spans);
    if is_current { line.style(Style::new().add_modifier(Modifier::REVERSED)) } else { line }
}

fn tree(frame: &mut Frame<'_>, explorer: &mut Explorer<'_>, area: Rect) {
    let rows = usize::from(area.height.saturating_sub(3));
    explorer.height = rows.max(1);
    let model = &explorer.model;
    if model.cursor < explorer.top {
        explorer.top = model.cursor;
    } else if model.cursor >= explorer.top + explorer.height {
        explorer.top = model.cursor + 1 - explorer.height;
    }
    let top = explorer.top.min(model.rows.len().saturating_sub(1));
    let mut lines =
        vec![Line::styled(format!("{:>11} {:>11}  {:>6}   NAME", "SIZE", "WASTED", "LAYER"), dim())];
    let shown = (top..model.rows.len()).take(rows);
    lines.extend(shown.map(|row| entry_line(explorer, row)));
    if model.rows.is_empty() {
        lines.push(Line::styled("  nothing here is like that", dim()));
    }
    let what = match model.mode {
        Mode::All => "",
        Mode::Only(State::Added) => ", added only",
        Mode::Only(State::Changed) => ", changed only",
        Mode::Only(_) => ", deleted only",
        Mode::Wasted => ", wasted only",
    };
    let order = match model.order {
        Order::Name => "",
        Order::Size => ", by size",
        Order::Waste => ", by waste",
    };
    let layer = match model.chosen {
        None => "all layers".to_owned(),
        Some(layer) => format!("layer {}", model.picture.labels[layer].name),
    };
    let title = format!(" Files of {layer}{what}{order} ");
    frame.render_widget(Paragraph::new(lines).block(block(&title, explorer.focus == Focus::Tree)), area);
}

fn entry_line<'a>(explorer: &Explorer<'a>, row: usize) -> Line<'a> {
    let model = &explorer.model;
    let row_of = model.rows[row];
    let entry = &model.picture.survey.entries[row_of.entry];
    let (own, waste) = model.size(row_of.entry);
    let holder = entry.shown().or_else(|| entry.parts.first());
    let layer = holder.map(|part| cut(&model.picture.labels[part.layer].name, 6)).unwrap_or_default();
    let (letter, style) = match model.state(row_of.entry) {
        State::Added => ("A", plain(Color::Green)),
        State::Changed => ("C", plain(Color::Yellow)),
        State::Deleted => ("D", plain(Color::Red)),
        State::Same | State::None => (" ", Style::new()),
    };
    let sign = match model.folding(row_of.entry) {
        Some(true) => "▾ ",
        Some(false) => "▸ ",
        None => "  ",
    };
    let is_dir = entry.kind() == Some(Kind::Dir);
    let name = format!("{}{}", model.picture.name(row_of.entry), if is_dir { "/" } else { "" });
    let name_style = if letter == "D" {
        style
    } else if is_dir {
        bold()
    } else {
        Style::new()
    };
    let wasted = if waste > 0 { size(waste) } else { "-".to_owned() };
    let spans = vec![
        Span::raw(format!("{:>11} ", size(own))),
        Span::styled(format!("{wasted:>11}"), if waste > 0 { plain(Color::Red) } else { dim() }),
        Span::styled(format!("  {layer:>6} "), dim()),
        Span::styled(format!("{letter} "), style),
        Span::raw(format!("{}{sign}", "  ".repeat(row_of.depth))),
        Span::styled(name, name_style),
    ];
    styled(spans, row == model.cursor && explorer.focus != Focus::Layers)
}

/// What each layer holds at the path under the cursor.
fn detail_lines<'a>(explorer: &Explorer<'a>) -> Vec<Line<'a>> {
    let picture = explorer.model.picture;
    let Some(entry) = explorer.model.current() else { return Vec::new() };
    let mut lines = vec![Line::styled(picture.path(entry), bold())];
    for part in &picture.survey.entries[entry].parts {
        let kind = match part.kind {
            None => "whiteout",
            Some(Kind::Dir) if part.opaque => "opaque directory",
            Some(kind) => kind.name(),
        };
        let (fate, style) = match part.fate {
            Fate::Shown if part.kind.is_none() => ("hides what lies below".into(), plain(Color::Red)),
            Fate::Hidden { .. } => (picture.fate(part.fate), plain(Color::Red)),
            Fate::Shown => (picture.fate(part.fate), plain(Color::Green)),
            _ => (picture.fate(part.fate), Style::new()),
        };
        let bytes = if part.kind == Some(Kind::File) { size(part.bytes) } else { String::new() };
        let name = cut(&picture.labels[part.layer].name, 8);
        lines.push(Line::from(vec![
            Span::raw(format!("{name:>8}  {kind:16}  {bytes:>11}  ")),
            Span::styled(fate, style),
        ]));
    }
    lines
}

fn keys<'a>(explorer: &Explorer<'a>) -> Line<'a> {
    if explorer.focus == Focus::Search || !explorer.model.query.is_empty() {
        let cursor = if explorer.focus == Focus::Search { "▏" } else { "" };
        return Line::from(vec![
            Span::styled(" / ", bold()),
            Span::raw(format!("{}{cursor}", explorer.model.query)),
            Span::styled(
                format!("   {} rows   Enter: to the tree   Esc: all again", explorer.model.rows.len()),
                dim(),
            ),
        ]);
    }
    let keys = [
        ("↑↓", "move"),
        ("→←", "unfold"),
        ("Tab", "layers"),
        ("/", "search"),
        ("a c d w", "filter"),
        ("s", "sort"),
        ("?", "help"),
        ("q", "end"),
    ];
    let spans = keys.into_iter().flat_map(|(key, word)| {
        [Span::styled(format!(" {key} "), bold()), Span::styled(format!("{word}  "), dim())]
    });
    Line::from_iter(spans)
}

fn help(frame: &mut Frame<'_>, area: Rect) {
    let (width, height) = (66.min(area.width), (HELP.len() as u16 + 2).min(area.height));
    let place = Rect { x: (area.width - width) / 2, y: (area.height - height) / 2, width, height };
    let line = |(key, word): &(&'static str, &'static str)| {
        Line::from(vec![Span::styled(format!(" {key:24}"), bold()), Span::raw(*word)])
    };
    let lines: Vec<Line<'_>> = HELP.iter().map(line).collect();
    frame.render_widget(Clear, place);
    frame.render_widget(Paragraph::new(lines).block(block(" Keys ", true)), place);
}

/// The begin of a text.
fn cut(text: &str, chars: usize) -> String {
    text.chars().take(chars).collect()
}
