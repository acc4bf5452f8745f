//! The ratios as a picture: an SVG that needs nothing but itself, for light and dark pages.

use std::fmt::Write;

/// One line of the picture.
#[derive(Debug)]
pub struct Bar {
    /// The workload.
    pub name: String,
    /// For each system its time divided by the reference's; `None` if it has none.
    pub ratios: Vec<Option<f64>>,
}

/// Widths and heights in pixels.
const LABELS: f64 = 130.0;
const PLOT: f64 = 560.0;
const MARGIN: f64 = 14.0;
const LINE: f64 = 19.0;
const TOP: f64 = 74.0;
/// The scale is logarithmic and ends here on both sides.
const LEAST: f64 = 0.05;
const MOST: f64 = 64.0;
/// Where the scale has lines.
const TICKS: [f64; 10] = [0.06, 0.12, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0];
/// A colour that can be told from its neighbours by everybody, on white and on black, for each system.
const COLOURS: [&str; 4] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7"];

/// Draws `bars`. `systems` names the ratios of each, `title` and `subtitle` stand above.
pub fn svg(title: &str, subtitle: &str, systems: &[&str], bars: &[Bar]) -> String {
    let bottom = TOP + LINE * bars.len() as f64;
    let (width, height) = (LABELS + PLOT + 2.0 * MARGIN, bottom + 34.0);
    let mut svg = String::new();
    // Writing to a String cannot fail.
    let mut put = |text: String| {
        let _infallible = writeln!(svg, "{text}");
    };
    put(format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" \
         height=\"{height}\" role=\"img\" aria-label=\"{}\" font-family=\"sans-serif\" font-size=\"12\">",
        escape(title)
    ));
    put("<style>text{fill:#24292f}.grid{stroke:#d0d7de}.one{stroke:#57606a}.back{fill:#fff}@media\
         (prefers-color-scheme:dark){text{fill:#e6edf3}.grid{stroke:#30363d}.one{stroke:#8b949e}.back{fill:#0d1117}}\
         </style>"
        .into());
    put(format!("<rect class=\"back\" width=\"{width}\" height=\"{height}\"/>"));
    put(format!(
        "<text x=\"{MARGIN}\" y=\"20\" font-size=\"15\" font-weight=\"bold\">{}</text>",
        escape(title)
    ));
    put(format!("<text x=\"{MARGIN}\" y=\"38\">{}</text>", escape(subtitle)));
    let mut left = MARGIN;
    for (system, colour) in systems.iter().zip(COLOURS) {
        put(format!("<circle cx=\"{}\" cy=\"53\" r=\"5\" fill=\"{colour}\"/>", left + 5.0));
        put(format!("<text x=\"{}\" y=\"57\">{}</text>", left + 15.0, escape(system)));
        left += 34.0 + 7.0 * system.len() as f64;
    }
    for tick in TICKS {
        let (x, class) = (place(tick), if tick == 1.0 { "one" } else { "grid" });
        put(format!("<line class=\"{class}\" x1=\"{x:.1}\" y1=\"{TOP}\" x2=\"{x:.1}\" y2=\"{bottom}\"/>"));
        put(format!("<text x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">{tick}</text>", bottom + 16.0));
    }
    for (number, bar) in bars.iter().enumerate() {
        let y = TOP + LINE * (number as f64 + 0.5);
        put(format!(
            "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text>",
            MARGIN + LABELS - 8.0,
            y + 4.0,
            escape(&bar.name)
        ));
        for ((ratio, colour), system) in bar.ratios.iter().zip(COLOURS).zip(systems) {
            let Some(ratio) = ratio else { continue };
            put(format!(
                "<line x1=\"{:.1}\" y1=\"{y}\" x2=\"{:.1}\" y2=\"{y}\" stroke=\"{colour}\" stroke-opacity=\"0.35\" \
                 stroke-width=\"3\"/><circle cx=\"{:.1}\" cy=\"{y}\" r=\"5\" fill=\"{colour}\"><title>{}: {} takes \
                 {ratio:.2} times as long</title></circle>",
                place(1.0),
                place(*ratio),
                place(*ratio),
                escape(&bar.name),
                escape(system),
            ));
        }
    }
    put("</svg>".into());
    svg
}

/// Where a ratio is on the scale.
fn place(ratio: f64) -> f64 {
    let share = (ratio.clamp(LEAST, MOST) / LEAST).ln() / (MOST / LEAST).ln();
    MARGIN + LABELS + PLOT * share
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_ratio_is_a_dot_at_its_place() {
        let bars = [
            Bar { name: "a<b".into(), ratios: vec![Some(2.0), None] },
            Bar { name: "c".into(), ratios: vec![Some(1.0), Some(1e9)] },
        ];
        let svg = svg("Title & more", "below", &["acetate", "other"], &bars);
        assert_eq!(svg.matches("<circle cx").count(), 2 + 3);
        assert!(svg.contains("a&lt;b") && svg.contains("Title &amp; more") && svg.ends_with("</svg>\n"));
        assert!(svg.contains(&format!("cx=\"{:.1}\"", place(2.0))));
        // What is off the scale is at its end.
        assert!(svg.contains(&format!("cx=\"{:.1}\"", MARGIN + LABELS + PLOT)));
        assert!(place(1.0) < place(2.0));
    }
}
