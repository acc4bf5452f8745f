//! Layers as a table with bars.

use super::{Picture, Step, plain, verb};
use crate::out::{colours, size};
use acetate_stack::survey::Totals;
use std::fmt::Write as _;
use std::io::IsTerminal;

/// How wide a bar is.
const BAR_CELLS: usize = 16;
/// How much of a command fits a row where there is no terminal; `--json` has all of it.
const COMMAND_CHARS: usize = 70;
/// How many rows of waste are listed; `--json` and the page have all.
const WASTE_ROWS: usize = 10;

/// How a table is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Style {
    /// Draws bars.
    bars: bool,
    colours: bool,
    /// Columns of the terminal.
    width: Option<usize>,
}

impl Style {
    /// For standard output: bars only on a terminal.
    pub(crate) fn of_stdout() -> Style {
        let bars = std::io::stdout().is_terminal();
        let size = rustix::termios::tcgetwinsize(rustix::stdio::stdout()).ok();
        let width = size.filter(|_| bars).map(|size| usize::from(size.ws_col)).filter(|width| *width > 0);
        Style { bars, colours: colours(), width }
    }

    fn paint(self, code: &str, text: &str) -> String {
        if self.colours && !text.is_empty() { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// A bar for a layer's size among the largest, its wasted end in another colour and shape.
    fn bar(self, totals: &Totals, largest: u64) -> String {
        let cells = |bytes: u64| {
            let share = bytes as f64 / largest.max(1) as f64 * BAR_CELLS as f64;
            // Little is still something.
            if bytes > 0 { (share.round() as usize).max(1) } else { 0 }
        };
        let all = cells(totals.bytes);
        let share = totals.wasted_bytes as f64 / totals.bytes.max(1) as f64;
        let wasted = (share * all as f64).round() as usize;
        let used = self.paint("36", &"█".repeat(all - wasted));
        let waste = self.paint("31", &"▒".repeat(wasted));
        format!("{used}{waste}{}", " ".repeat(BAR_CELLS - all))
    }
}

/// The layers and the steps that changed no files, the lowest first, and what is wasted. A history is optional, and may
/// be shorter than there are layers.
pub(crate) fn of_image(picture: &Picture, history: &[Step], style: Style) -> String {
    let totals = &picture.survey.layers;
    let largest = totals.iter().map(|layer| layer.bytes).max().unwrap_or(0);
    let mut text = String::new();
    let bar_head = if style.bars { format!("{:BAR_CELLS$}  ", "") } else { String::new() };
    let head = format!(
        "{:>5}  {:12}  {bar_head}{:>10}  {:>10}  {:>8}  {:>7}  MADE BY",
        "LAYER", "ID", "SIZE", "WASTED", "FILES", "DELETED"
    );
    let fixed = head.chars().count() - "MADE BY".len();
    let room = style.width.map_or(COMMAND_CHARS, |width| width.saturating_sub(fixed).max(12));
    line(&mut text, &style.paint("1", &head));
    let mut left = (0..totals.len()).rev();
    let row = |text: &mut String, layer: Option<usize>, by: &str| {
        let by = cut(by, room);
        let Some(layer) = layer else {
            let bar = if style.bars { format!("{:BAR_CELLS$}  ", "") } else { String::new() };
            return line(text, &style.paint("2", &format!("{:>5}  {:12}  {bar}{:43}{by}", "-", "", "")));
        };
        let (label, of) = (&picture.labels[layer], &totals[layer]);
        let bar = if style.bars { format!("{}  ", style.bar(of, largest)) } else { String::new() };
        let wasted = format!("{:>10}", if of.wasted_bytes > 0 { size(of.wasted_bytes) } else { "-".into() });
        let wasted = if of.wasted_bytes > 0 { style.paint("31", &wasted) } else { wasted };
        let id = label.digest.get(7..19).unwrap_or_default();
        line(
            text,
            &format!(
                "{:>5}  {id:12}  {bar}{:>10}  {wasted}  {:>8}  {:>7}  {by}",
                label.name,
                size(of.bytes),
                of.objects,
                of.deleted
            ),
        )
    };
    for step in history {
        let layer = step.has_layer.then(|| left.next()).flatten();
        row(&mut text, layer, &plain(&step.by));
    }
    for layer in left {
        row(&mut text, Some(layer), "");
    }
    text.push('\n');
    text + &summary(picture, style)
}

/// The efficiency, and what wastes the most.
fn summary(picture: &Picture, style: Style) -> String {
    let survey = &picture.survey;
    let (all, wasted) = (survey.bytes(), survey.wasted_bytes());
    let objects: u64 = survey.layers.iter().map(|layer| layer.objects).sum();
    let share = if all == 0 { 0.0 } else { wasted as f64 / all as f64 * 100.0 };
    let mut text = String::new();
    line(
        &mut text,
        &format!(
            "{} layers, {} in {objects} objects; {} wasted ({share:.1} %): no path shows it",
            survey.layers.len(),
            size(all),
            size(wasted)
        ),
    );
    let score = survey.efficiency().score();
    let colour = if score >= 0.95 {
        "32"
    } else if score >= 0.9 {
        "33"
    } else {
        "31"
    };
    let percent = style.paint(colour, &format!("{} %", percent(score)));
    line(&mut text, &format!("efficiency {percent}, as dive counts it"));
    let waste = survey.waste();
    if waste.is_empty() {
        return text;
    }
    text.push('\n');
    line(&mut text, &style.paint("1", &format!("{:>10}  {:>8}  WHERE", "WASTED", "FILES")));
    for waste in waste.iter().take(WASTE_ROWS) {
        let names: Vec<&str> = waste.layers.iter().rev().map(|layer| &*picture.labels[*layer].name).collect();
        let by = &picture.labels[waste.by].name;
        line(
            &mut text,
            &format!(
                "{:>10}  {:>8}  {}  {}",
                size(waste.bytes),
                waste.objects,
                picture.path(waste.at),
                style.paint("2", &format!("of layer {}, {} layer {by}", names.join(", "), verb(waste.how))),
            ),
        );
    }
    if waste.len() > WASTE_ROWS {
        line(&mut text, &format!("{:>10}  {:>8}  and {} more places", "", "", waste.len() - WASTE_ROWS));
    }
    text
}

/// A score in percent with two digits, never more than it is: what is not whole is not 100.
pub(crate) fn percent(score: f64) -> String {
    format!("{:.2}", (score * 10_000.0).floor() / 100.0)
}

fn line(text: &mut String, line: &str) {
    // Writing to a String cannot fail.
    let _infallible = writeln!(text, "{}", line.trim_end());
}

/// What of a text fits.
fn cut(text: &str, chars: usize) -> String {
    if text.chars().count() <= chars {
        return text.to_owned();
    }
    text.chars().take(chars.saturating_sub(1)).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::look::Label;
    use acetate_stack::survey::{Entry, Survey};

    const PLAIN: Style = Style { bars: false, colours: false, width: None };

    fn picture(layers: &[Totals]) -> Picture {
        let label = |at: usize| Label {
            name: (at + 1).to_string(),
            origin: String::new(),
            digest: format!("sha256:{}", char::from(b'a' + at as u8).to_string().repeat(64)),
        };
        Picture {
            title: "x".into(),
            about: Vec::new(),
            labels: (0..layers.len()).rev().map(label).collect(),
            survey: Survey {
                entries: vec![Entry { name: Vec::new(), parent: 0, parts: Vec::new() }],
                layers: layers.iter().rev().copied().collect(),
            },
        }
    }

    #[test]
    fn layers_and_steps_without_one_are_in_order() {
        let step = |by: &str, has_layer| Step { by: by.to_owned(), has_layer };
        let history = [step("ADD", true), step("/bin/sh -c #(nop) ENV", false), step("RUN", true)];
        let text = of_image(&picture(&[Totals::default(); 3]), &history, PLAIN);
        let rows: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        let ends: Vec<(&str, &str)> = rows[1..5].iter().map(|row| (row[0], row[row.len() - 1])).collect();
        assert_eq!(ends, [("1", "ADD"), ("-", "ENV"), ("2", "RUN"), ("3", "0")]);
    }

    #[test]
    fn bars_are_as_long_as_layers_are_large() {
        let style = Style { bars: true, ..PLAIN };
        let totals = |bytes, wasted_bytes| Totals { bytes, wasted_bytes, ..Totals::default() };
        assert_eq!(style.bar(&totals(100, 50), 100), "████████▒▒▒▒▒▒▒▒");
        assert_eq!(style.bar(&totals(1, 0), 1000), format!("█{}", " ".repeat(15)));
        assert_eq!(style.bar(&totals(0, 0), 0), " ".repeat(BAR_CELLS));
    }

    #[test]
    fn text_fits() {
        assert_eq!(cut("abc", 3), "abc");
        assert_eq!(cut("abcd", 3), "ab…");
        assert_eq!(percent(0.99999), "99.99");
        assert_eq!(percent(1.0), "100.00");
    }
}
