//! The explorer of layers on a whole terminal: layers left, tree right.
//!
//! The terminal is given back however it ends: by a key, an error, a panic (ratatui's hook), or a signal, which only sets
//! a flag that the loop looks at.

mod draw;
mod model;

use super::Picture;
use crate::Exit;
use crate::error::Failure;
use model::{Mode, Model, Order, State};
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use rustix::termios::isatty;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// How long it takes at most until a signal is seen.
const TICK: Duration = Duration::from_millis(100);

/// What the keys go to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Focus {
    Layers,
    Tree,
    Search,
}

/// The explorer's state.
#[derive(Debug)]
struct Explorer<'a> {
    model: Model<'a>,
    focus: Focus,
    /// Which row of the tree is the first on the screen, and how many there are.
    top: usize,
    height: usize,
    shows_help: bool,
    ends: bool,
}

/// Explores a picture until the user or a signal ends it.
///
/// # Errors
/// Without a terminal; a terminal that fails.
pub(crate) fn run(picture: &Picture) -> Result<Exit, Failure> {
    if !isatty(rustix::stdio::stdin()) || !isatty(rustix::stdio::stdout()) {
        let hint = "use `acetate image show`, or `image show --html FILE` for a browser";
        return Err(Failure::new("explore: standard input and output are no terminal", hint));
    }
    let signal = Arc::new(AtomicUsize::new(0));
    for number in [SIGTERM, SIGHUP, SIGINT] {
        let flag = Arc::clone(&signal);
        signal_hook::flag::register_usize(number, flag, number.unsigned_abs() as usize)
            .map_err(|error| Failure::io("listen for signals", &error))?;
    }
    let failed = |error: std::io::Error| Failure::io("terminal", &error);
    // From here on the hook of ratatui gives the terminal back before a panic is told.
    let mut terminal = ratatui::try_init().map_err(failed)?;
    let result = explore(&mut terminal, picture, &signal);
    ratatui::try_restore().map_err(failed)?;
    result.map_err(failed)?;
    match signal.load(Ordering::Relaxed) {
        0 => Ok(Exit::Done),
        number => Ok(Exit::Status(u8::try_from(128 + number).unwrap_or(u8::MAX))),
    }
}

fn explore(
    terminal: &mut ratatui::DefaultTerminal,
    picture: &Picture,
    signal: &AtomicUsize,
) -> std::io::Result<()> {
    let mut explorer = Explorer::new(picture);
    while !explorer.ends && signal.load(Ordering::Relaxed) == 0 {
        terminal.draw(|frame| draw::draw(frame, &mut explorer))?;
        // Until something happens there is nothing new to draw; a change of the terminal's size is an event.
        while signal.load(Ordering::Relaxed) == 0 {
            match event::poll(TICK) {
                Ok(false) => continue,
                Ok(true) => {}
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            }
            if let Event::Key(key) = event::read()? {
                explorer.press(key);
            }
            break;
        }
    }
    Ok(())
}

impl<'a> Explorer<'a> {
    fn new(picture: &'a Picture) -> Explorer<'a> {
        let model = Model::new(picture);
        Explorer { model, focus: Focus::Tree, top: 0, height: 1, shows_help: false, ends: false }
    }

    /// A key was pressed.
    fn press(&mut self, key: KeyEvent) {
        if key.kind == KeyEventKind::Release {
            return;
        }
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            // Ctrl-C is a key like others in this mode.
            self.ends |= matches!(key.code, KeyCode::Char('c' | 'd'));
            return;
        }
        if std::mem::take(&mut self.shows_help) {
            return;
        }
        match self.focus {
            Focus::Search => self.type_key(key.code),
            Focus::Layers => self.layer_key(key.code),
            Focus::Tree => self.tree_key(key.code),
        }
    }

    fn type_key(&mut self, code: KeyCode) {
        match code {
            KeyCode::Esc => {
                self.model.query.clear();
                self.focus = Focus::Tree;
            }
            KeyCode::Enter | KeyCode::Down | KeyCode::Tab => {
                self.focus = Focus::Tree;
                return;
            }
            KeyCode::Backspace => drop(self.model.query.pop()),
            KeyCode::Char(letter) => self.model.query.push(letter),
            _ => return,
        }
        self.model.refresh();
    }

    fn layer_key(&mut self, code: KeyCode) {
        let at = self.model.chosen.map_or(0, |chosen| chosen + 1);
        match code {
            KeyCode::Up | KeyCode::Char('k') => self.model.choose(at.saturating_sub(1)),
            KeyCode::Down | KeyCode::Char('j') => self.model.choose(at + 1),
            KeyCode::Home => self.model.choose(0),
            KeyCode::End => self.model.choose(usize::MAX),
            KeyCode::Enter | KeyCode::Right | KeyCode::Char('l') => self.focus = Focus::Tree,
            other => self.any_key(other),
        }
    }

    fn tree_key(&mut self, code: KeyCode) {
        let page = self.height.saturating_sub(1).max(1);
        let at = self.model.cursor;
        match code {
            KeyCode::Up | KeyCode::Char('k') => self.model.to(at.saturating_sub(1)),
            KeyCode::Down | KeyCode::Char('j') => self.model.to(at + 1),
            KeyCode::PageUp => self.model.to(at.saturating_sub(page)),
            KeyCode::PageDown => self.model.to(at + page),
            KeyCode::Home | KeyCode::Char('g') => self.model.to(0),
            KeyCode::End | KeyCode::Char('G') => self.model.to(usize::MAX),
            KeyCode::Right | KeyCode::Char('l') => self.model.enter(),
            KeyCode::Left | KeyCode::Char('h') => self.model.leave(),
            KeyCode::Enter | KeyCode::Char(' ') => self.model.toggle(),
            other => self.any_key(other),
        }
    }

    /// Keys that mean the same everywhere.
    fn any_key(&mut self, code: KeyCode) {
        let at = self.model.chosen.map_or(0, |chosen| chosen + 1);
        match code {
            KeyCode::Char('q') => self.ends = true,
            KeyCode::Char('?') => self.shows_help = true,
            KeyCode::Tab | KeyCode::BackTab => {
                self.focus = if self.focus == Focus::Tree { Focus::Layers } else { Focus::Tree };
            }
            KeyCode::Char('/') => self.focus = Focus::Search,
            KeyCode::Esc => {
                self.model.query.clear();
                self.model.mode = Mode::All;
                self.model.refresh();
            }
            KeyCode::Char('[') => self.model.choose(at.saturating_sub(1)),
            KeyCode::Char(']') => self.model.choose(at + 1),
            KeyCode::Char('e') => self.model.all(true),
            KeyCode::Char('f') => self.model.all(false),
            KeyCode::Char('a') => self.filter(Mode::Only(State::Added)),
            KeyCode::Char('c') => self.filter(Mode::Only(State::Changed)),
            KeyCode::Char('d') => self.filter(Mode::Only(State::Deleted)),
            KeyCode::Char('w') => self.filter(Mode::Wasted),
            KeyCode::Char('s') => {
                self.model.order = match self.model.order {
                    Order::Name => Order::Size,
                    Order::Size => Order::Waste,
                    Order::Waste => Order::Name,
                };
                self.model.refresh();
            }
            _ => {}
        }
    }

    /// Lists only what is of one kind; all again, if it did.
    fn filter(&mut self, mode: Mode) {
        self.model.mode = if self.model.mode == mode { Mode::All } else { mode };
        self.model.refresh();
    }
}
