//! How far long work is, on a terminal: a bar for each layer.

use acetate_store::Progress;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::collections::HashMap;
use std::io::IsTerminal;
use std::sync::Mutex;
use std::time::Duration;

/// Bars on stderr, if that is a terminal; else nothing.
#[derive(Debug)]
pub(crate) struct Bars {
    all: MultiProgress,
    bars: Mutex<HashMap<usize, ProgressBar>>,
}

/// What a bar of known and of unknown length looks like.
const KNOWN: &str = "{prefix:.dim} {bar:30} {bytes:>10} of {total_bytes:<10} {msg}";
const UNKNOWN: &str = "{prefix:.dim} {spinner} {bytes:>10} {msg}";

impl Bars {
    pub(crate) fn new() -> Bars {
        let wanted =
            std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
        let target = if wanted { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        Bars { all: MultiProgress::with_draw_target(target), bars: Mutex::default() }
    }

    fn with(&self, layer: usize, act: impl FnOnce(&ProgressBar)) {
        if let Ok(bars) = self.bars.lock()
            && let Some(bar) = bars.get(&layer)
        {
            act(bar);
        }
    }
}

impl Progress for Bars {
    fn begin(&self, layer: usize, label: &str, bytes: Option<u64>) {
        let Ok(mut bars) = self.bars.lock() else { return };
        // How much there is to do may turn out only after the work has begun.
        let bar = bars.entry(layer).or_insert_with(|| self.all.add(ProgressBar::new_spinner()));
        if let Some(bytes) = bytes {
            bar.set_length(bytes);
        }
        // The templates are constants; with a wrong one the default is shown.
        if let Ok(style) = ProgressStyle::with_template(if bytes.is_some() { KNOWN } else { UNKNOWN }) {
            bar.set_style(style);
        }
        bar.set_prefix(label.to_owned());
        bar.enable_steady_tick(Duration::from_millis(200));
    }

    fn advance(&self, layer: usize, bytes: u64) {
        self.with(layer, |bar| bar.inc(bytes));
    }

    fn done(&self, layer: usize, why: Option<&str>) {
        self.with(layer, |bar| bar.finish_with_message(why.unwrap_or("done").to_owned()));
    }
}
