//! From samples to medians, ratios and their geometric means; as a table and as JSON.

use std::fmt::Write;

use serde_json::{Map, Value, json};

use crate::Measured;
use crate::plot::{self, Bar};
use crate::system::System;
use crate::workload::Workload;

/// What was measured of one workload.
#[derive(Debug)]
pub struct Row {
    /// The workload.
    pub name: &'static str,
    what: &'static str,
    /// Seconds, per system and round.
    pub samples: Vec<Vec<f64>>,
    /// Steps that the workload counted.
    pub work: Option<u64>,
    /// System by number, and what went wrong.
    pub failures: Vec<(usize, String)>,
}

/// What was measured.
#[derive(Debug)]
pub struct Report {
    fs: &'static str,
    rounds: u32,
    /// In a user namespace.
    rootless: bool,
    /// Without an upper layer.
    read_only: bool,
    systems: Vec<&'static str>,
    /// Seconds that mounting took, per system.
    mounts: Vec<Vec<f64>>,
    /// The most memory that a server had at the end of a workload, in bytes, per system.
    memory: Vec<Option<u64>>,
    /// One row per workload.
    pub rows: Vec<Row>,
}

/// The system that ratios are of.
const SUBJECT: &str = "acetate";
/// The system that everything is drawn against.
const REFERENCE: &str = "kernel";

impl Report {
    /// An empty report.
    pub fn new(
        fs: &'static str,
        rounds: u32,
        rootless: bool,
        systems: &[System],
        workloads: &[&'static Workload],
    ) -> Self {
        let row = |workload: &&'static Workload| Row {
            name: workload.name,
            what: workload.what,
            samples: vec![Vec::new(); systems.len()],
            work: None,
            failures: Vec::new(),
        };
        Self {
            fs,
            rounds,
            rootless,
            read_only: false,
            systems: systems.iter().map(System::name).collect(),
            mounts: vec![Vec::new(); systems.len()],
            memory: vec![None; systems.len()],
            rows: workloads.iter().map(row).collect(),
        }
    }

    /// The same of mounts without an upper layer, if so.
    #[must_use]
    pub fn of_read_only(self, read_only: bool) -> Self {
        Self { read_only, ..self }
    }

    /// Notes how long a system took to mount and what memory its server had.
    pub fn note_mount(&mut self, column: usize, measured: &Measured) {
        self.mounts[column].push(measured.mount_seconds);
        self.memory[column] = self.memory[column].max(measured.memory);
    }

    /// The ratios to the kernel's overlayfs as a picture.
    pub fn svg(&self) -> String {
        let reference = self.systems.iter().position(|name| *name == REFERENCE);
        let shown: Vec<usize> = (0..self.systems.len()).filter(|column| Some(*column) != reference).collect();
        let systems: Vec<&str> = shown.iter().map(|column| self.systems[*column]).collect();
        let ratio = |row: &Row, column: usize| {
            Some(median(&row.samples[column])? / median(row.samples.get(reference?)?)?)
        };
        let bar = |row: &Row| Bar {
            name: row.name.to_owned(),
            ratios: shown.iter().map(|column| ratio(row, *column)).collect(),
        };
        let uname = rustix::system::uname();
        let release = uname.release().to_string_lossy();
        let subtitle = format!(
            "layers on {}{}, medians of {}, Linux {}, {} processors; 1 is the kernel's overlayfs, left is faster",
            self.fs,
            self.where_text(),
            rounds_text(self.rounds),
            // What a distribution appends says nothing to others.
            release.split('-').next().unwrap_or_default(),
            std::thread::available_parallelism().map_or(0, usize::from),
        );
        let bars: Vec<Bar> = self.rows.iter().map(bar).collect();
        plot::svg("Times of overlay filesystems", &subtitle, &systems, &bars)
    }

    fn where_text(&self) -> &'static str {
        match (self.rootless, self.read_only) {
            (false, false) => "",
            (true, false) => " in a user namespace",
            (false, true) => ", none to write to",
            (true, true) => " in a user namespace, none to write to",
        }
    }

    /// The systems that Acetate is compared with, by number; empty if it was not measured.
    fn references(&self) -> Vec<usize> {
        match self.subject() {
            Some(subject) => (0..self.systems.len()).filter(|column| *column != subject).collect(),
            None => Vec::new(),
        }
    }

    fn subject(&self) -> Option<usize> {
        let whole = self.systems.iter().position(|name| *name == SUBJECT);
        whole.or_else(|| self.systems.iter().position(|name| name.starts_with(SUBJECT)))
    }

    /// Acetate's median divided by that of `reference`; `None` unless both have one.
    fn ratio(&self, row: &Row, reference: usize) -> Option<f64> {
        Some(median(&row.samples[self.subject()?])? / median(&row.samples[reference])?)
    }

    fn mean_ratio(&self, reference: usize) -> Option<f64> {
        let ratios: Vec<f64> = self.rows.iter().filter_map(|row| self.ratio(row, reference)).collect();
        geometric_mean(&ratios)
    }

    /// The report for people.
    pub fn table(&self) -> String {
        let references = self.references();
        let mut header = vec!["workload".to_owned()];
        header.extend(self.systems.iter().map(|name| format!("{name} ms")));
        let subject = self.subject().map_or(SUBJECT, |column| self.systems[column]);
        header.extend(references.iter().map(|column| format!("{subject}/{}", self.systems[*column])));
        let mut lines = vec![header];
        for row in &self.rows {
            let mut line = vec![row.name.to_owned()];
            line.extend(row.samples.iter().map(|samples| match median(samples) {
                Some(seconds) => format!("{:.1}", seconds * 1e3),
                None => "failed".into(),
            }));
            line.extend(references.iter().map(|column| ratio_text(self.ratio(row, *column))));
            lines.push(line);
        }
        if !references.is_empty() {
            let mut last = vec!["geometric mean".to_owned()];
            last.extend(self.systems.iter().map(|_| String::new()));
            last.extend(references.iter().map(|column| ratio_text(self.mean_ratio(*column))));
            lines.push(last);
        }
        let mut text = align(&lines);
        // A String takes any text; writing to it cannot fail.
        let _ = writeln!(
            text,
            "\nLayers on {}{}, medians of {}{}",
            self.fs,
            self.where_text(),
            rounds_text(self.rounds),
            if references.is_empty() { "." } else { "; a ratio below 1 means that Acetate is faster." }
        );
        for (column, name) in self.systems.iter().enumerate() {
            let Some(seconds) = median(&self.mounts[column]) else { continue };
            let memory = self.memory[column]
                .map(|bytes| format!(", memory up to {:.1} MiB", bytes as f64 / 1048576.0));
            let _ =
                writeln!(text, "{name}: mounted in {:.1} ms{}", seconds * 1e3, memory.unwrap_or_default());
        }
        text
    }

    /// The report for programs; schema acetate-bench/1.
    pub fn json(&self) -> Value {
        let references = self.references();
        let ratios = |of: &dyn Fn(usize) -> Option<f64>| -> Map<String, Value> {
            references.iter().map(|column| (self.systems[*column].to_owned(), json!(of(*column)))).collect()
        };
        let rows: Vec<Value> = self
            .rows
            .iter()
            .map(|row| {
                let systems: Map<String, Value> = self
                    .systems
                    .iter()
                    .zip(&row.samples)
                    .map(|(name, samples)| {
                        ((*name).to_owned(), json!({ "median_s": median(samples), "samples_s": samples }))
                    })
                    .collect();
                let failures: Vec<Value> = row
                    .failures
                    .iter()
                    .map(|(column, why)| json!({ "system": self.systems[*column], "why": why }))
                    .collect();
                json!({
                    "name": row.name,
                    "what": row.what,
                    "systems": systems,
                    "acetate_to": ratios(&|column| self.ratio(row, column)),
                    "failures": failures,
                })
            })
            .collect();
        json!({
            "schema": "acetate-bench/1",
            "fs": self.fs,
            "rounds": self.rounds,
            "rootless": self.rootless,
            "read_only": self.read_only,
            "cpus": std::thread::available_parallelism().map_or(0, usize::from),
            "kernel": rustix::system::uname().release().to_string_lossy(),
            "workloads": rows,
            "mount_s": self.systems.iter().zip(&self.mounts)
                .map(|(name, samples)| ((*name).to_owned(), json!(median(samples)))).collect::<Map<_, _>>(),
            "memory_bytes": self.systems.iter().zip(&self.memory)
                .map(|(name, bytes)| ((*name).to_owned(), json!(bytes))).collect::<Map<_, _>>(),
            "acetate_to_geometric_mean": ratios(&|column| self.mean_ratio(column)),
        })
    }
}

/// The middle sample, or the mean of the two in the middle; `None` without samples.
pub(crate) fn median(samples: &[f64]) -> Option<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let upper = *sorted.get(sorted.len() / 2)?;
    if sorted.len() % 2 == 1 {
        return Some(upper);
    }
    Some((sorted[sorted.len() / 2 - 1] + upper) / 2.0)
}

fn geometric_mean(ratios: &[f64]) -> Option<f64> {
    let logs: f64 = ratios.iter().map(|ratio| ratio.ln()).sum();
    (!ratios.is_empty()).then(|| (logs / ratios.len() as f64).exp())
}

fn rounds_text(rounds: u32) -> String {
    if rounds == 1 { "1 round".into() } else { format!("{rounds} rounds") }
}

fn ratio_text(ratio: Option<f64>) -> String {
    ratio.map_or_else(|| "-".into(), |ratio| format!("{ratio:.2}"))
}

/// Columns side by side: the first to the left, the others to the right.
fn align(lines: &[Vec<String>]) -> String {
    let columns = lines.first().map_or(0, Vec::len);
    let widths: Vec<usize> =
        (0..columns).map(|i| lines.iter().map(|line| line[i].len()).max().unwrap_or(0)).collect();
    let mut text = String::new();
    for line in lines {
        let cells = line.iter().zip(&widths).enumerate().map(|(i, (cell, width))| match i {
            0 => format!("{cell:<width$}"),
            _ => format!("{cell:>width$}"),
        });
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn report() -> Report {
        let row = |name, samples: [&[f64]; 2]| Row {
            name,
            what: "",
            samples: samples.iter().map(|s| s.to_vec()).collect(),
            work: None,
            failures: Vec::new(),
        };
        Report {
            fs: "tmpfs",
            rounds: 3,
            rootless: false,
            read_only: false,
            systems: vec!["kernel", "acetate"],
            mounts: vec![vec![], vec![0.002]],
            memory: vec![None, Some(3 << 20)],
            rows: vec![
                row("slower", [&[0.010, 0.001, 0.020], &[0.040, 0.030, 0.050]]),
                row("faster", [&[0.004, 0.004], &[0.003, 0.001]]),
                row("broken", [&[], &[1.0]]),
            ],
        }
    }

    #[test]
    fn medians_ratios_and_means() {
        let expected = "\
workload        kernel ms  acetate ms  acetate/kernel
slower               10.0        40.0            4.00
faster                4.0         2.0            0.50
broken             failed      1000.0               -
geometric mean                                   1.41

Layers on tmpfs, medians of 3 rounds; a ratio below 1 means that Acetate is faster.
acetate: mounted in 2.0 ms, memory up to 3.0 MiB
";
        assert_eq!(report().table(), expected);
    }

    #[test]
    fn json_has_the_same_numbers() {
        let json = report().json();
        assert_eq!(json["schema"], "acetate-bench/1");
        assert_eq!(json["workloads"][0]["acetate_to"]["kernel"], 4.0);
        assert_eq!(json["workloads"][1]["systems"]["acetate"]["median_s"], 0.002);
        assert_eq!(json["workloads"][2]["acetate_to"]["kernel"], Value::Null);
        assert_eq!(json["mount_s"]["acetate"], 0.002);
        assert_eq!(
            (&json["memory_bytes"]["kernel"], &json["memory_bytes"]["acetate"]),
            (&Value::Null, &json!(3 << 20))
        );
    }
}
