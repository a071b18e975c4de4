//! What the benchmark found, for people, for programs, for a README.
//!
//! Owns the numbers' names and units. Never measures.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use serde::Serialize;

use super::{histogram::Histogram, load::Tally};
use crate::cli::table;

/// Latencies in microseconds.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Quantiles {
    count: u64,
    p50_us: f64,
    p99_us: f64,
    max_us: f64,
}

impl Quantiles {
    pub(super) fn of(times: &Histogram) -> Quantiles {
        let us = |time: Duration| (time.as_secs_f64() * 1e7).round() / 10.0;
        Quantiles {
            count: times.count(),
            p50_us: us(times.percentile(50)),
            p99_us: us(times.percentile(99)),
            max_us: us(times.max()),
        }
    }
}

/// The disk's own appends of 4 KiB with fsync.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Disk {
    dir: PathBuf,
    /// Before and after the load.
    before: Quantiles,
    after: Quantiles,
    /// One after the other, over both.
    per_second: f64,
    /// Between both.
    p50_us: f64,
    /// Slower p50 by faster p50: far from 1, something else used the disk, and what rests on it says little.
    drift: f64,
}

/// Two measures of a disk that nothing else uses differ by less.
const STEADY: f64 = 1.5;

impl Disk {
    /// From the times measured before and after the load, for `time` each.
    pub(super) fn new(dir: PathBuf, before: &Histogram, after: &Histogram, time: Duration) -> Disk {
        let per_second = (before.count() + after.count()) as f64 / (2.0 * time.as_secs_f64());
        let (before, after) = (Quantiles::of(before), Quantiles::of(after));
        let p50_us = (before.p50_us + after.p50_us) / 2.0;
        let drift = before.p50_us.max(after.p50_us) / before.p50_us.min(after.p50_us);
        Disk { dir, before, after, per_second, p50_us, drift }
    }
}

/// One number of connections.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Run {
    connections: usize,
    per_second: f64,
    #[serde(flatten)]
    latency: Quantiles,
    /// Group commit: writes in one transaction.
    writes_per_transaction: Option<f64>,
    /// Writes for each fsync that the disk does in the same time when asked one after the other.
    writes_per_fsync: Option<f64>,
    errors: BTreeMap<String, u64>,
}

impl Run {
    pub(super) fn new(connections: usize, tally: &Tally) -> Run {
        Run {
            connections,
            per_second: tally.per_second(),
            latency: Quantiles::of(&tally.latencies),
            writes_per_transaction: None,
            writes_per_fsync: None,
            errors: tally.errors.clone(),
        }
    }

    pub(super) fn of_writes(connections: usize, tally: &Tally) -> Run {
        Run { writes_per_transaction: tally.per_transaction(), ..Run::new(connections, tally) }
    }
}

/// One end of a reign.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Round {
    pub(super) killed: String,
    pub(super) heir: String,
    /// The longest time without an acknowledged write.
    pub(super) gap_ms: f64,
}

/// All ends of a reign.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Failover {
    /// Whether the throne was handed over; else the master was killed.
    planned: bool,
    rounds: Vec<Round>,
    min_ms: f64,
    p50_ms: f64,
    p99_ms: f64,
    max_ms: f64,
    writers: usize,
    /// All of them were found on every machine, none twice.
    acknowledged_writes: u64,
    unknown_outcomes: u64,
}

impl Failover {
    pub(super) fn new(
        planned: bool,
        rounds: Vec<Round>,
        acknowledged_writes: u64,
        unknown_outcomes: u64,
        writers: usize,
    ) -> Failover {
        let mut gaps: Vec<f64> = rounds.iter().map(|round| round.gap_ms).collect();
        gaps.sort_by(f64::total_cmp);
        // The smallest that so many per cent don't exceed.
        let rank = |percent: usize| {
            gaps.get((gaps.len() * percent).div_ceil(100).max(1) - 1).copied().unwrap_or(0.0)
        };
        let (min_ms, p50_ms, p99_ms, max_ms) = (rank(0), rank(50), rank(99), rank(100));
        Failover {
            planned,
            rounds,
            min_ms,
            p50_ms,
            p99_ms,
            max_ms,
            writers,
            acknowledged_writes,
            unknown_outcomes,
        }
    }
}

/// Everything.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Report {
    pub(super) version: &'static str,
    pub(super) system: &'static str,
    pub(super) cpus: usize,
    /// Members of the cluster, and how many hold each acknowledged write.
    pub(super) machines: usize,
    pub(super) copies: usize,
    pub(super) idempotency_keys: bool,
    pub(super) rows: u32,
    pub(super) disk: Option<Disk>,
    pub(super) loopback: Option<Quantiles>,
    /// `GET /healthz` on one connection.
    pub(super) exchange: Option<Quantiles>,
    pub(super) writes: Vec<Run>,
    pub(super) reads: Vec<Run>,
    /// p50 of a write on one connection, in units of one fsync, one round trip and one HTTP exchange together.
    pub(super) write_ratio: Option<f64>,
    pub(super) failover: Option<Failover>,
}

impl Report {
    /// Fills in what follows from the other numbers.
    pub(super) fn derive(&mut self) {
        if let Some(disk) = &self.disk {
            for run in &mut self.writes {
                run.writes_per_fsync = Some(run.per_second / disk.per_second);
            }
        }
        let alone = self.writes.iter().find(|run| run.connections == 1);
        if let (Some(alone), Some(disk), Some(loopback), Some(exchange)) =
            (alone, &self.disk, &self.loopback, &self.exchange)
        {
            self.write_ratio = Some(alone.latency.p50_us / (disk.p50_us + loopback.p50_us + exchange.p50_us));
        }
    }

    pub(super) fn text(&self) -> String {
        self.render(|title, headings, rows| format!("\n{title}\n{}", table::layout(headings, rows)))
    }

    pub(super) fn markdown(&self) -> String {
        self.render(|title, headings, rows| {
            let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
            let rule: Vec<String> = headings.iter().map(|_| "---".to_owned()).collect();
            let rows: String = rows.iter().map(|row| line(row)).collect();
            format!("\n**{title}**\n\n{}{}{rows}", line(headings), line(&rule))
        })
    }

    fn render(&self, sheet: impl Fn(&str, &[String], &[Vec<String>]) -> String) -> String {
        let mut text = format!(
            "tanist {} on {}, {} CPUs; {} machines, {} copies of each acknowledged write{}.\n",
            self.version,
            self.system,
            self.cpus,
            self.machines,
            self.copies,
            if self.idempotency_keys { "; with idempotency keys" } else { "" }
        );
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        let probes = self.probes();
        if !probes.is_empty() {
            let headings = words(&["what the computer itself does", "p50 µs", "p99 µs", "max µs"]);
            text += &sheet("The measure", &headings, &probes);
        }
        for (title, runs) in
            [("Writes, one row each", &self.writes), ("Strong reads, one row each", &self.reads)]
        {
            if runs.is_empty() {
                continue;
            }
            let mut headings = words(&["connections", "per second", "p50 ms", "p99 ms", "max ms"]);
            let grouped = runs.iter().any(|run| run.writes_per_transaction.is_some());
            let synced = runs.iter().any(|run| run.writes_per_fsync.is_some());
            headings.extend(words(if grouped { &["per transaction"] } else { &[] }));
            headings.extend(words(if synced { &["by fsync rate"] } else { &[] }));
            headings.push("errors".to_owned());
            let rows: Vec<Vec<String>> = runs.iter().map(|run| run.cells(grouped, synced)).collect();
            text += &sheet(title, &headings, &rows);
        }
        if let Some(ratio) = self.write_ratio {
            text += &format!(
                "\nA write on one connection takes {ratio:.2} times one fsync, round trip and HTTP exchange.\n"
            );
        }
        if let Some(disk) = self.disk.as_ref().filter(|disk| disk.drift > STEADY) {
            text += &format!(
                "\nThe disk was {:.1} times as fast before or after: something else used it. What is put in relation to fsync says little; repeat on a quiet machine.\n",
                disk.drift
            );
        }
        if let Some(failover) = &self.failover {
            let headings = words(&[
                if failover.planned { "handovers" } else { "kills" },
                "min ms",
                "p50 ms",
                "p99 ms",
                "max ms",
                "acknowledged",
                "lost",
                "twice",
                "unknown",
            ]);
            let mut row = vec![failover.rounds.len().to_string()];
            row.extend(
                [failover.min_ms, failover.p50_ms, failover.p99_ms, failover.max_ms]
                    .map(|ms| format!("{ms:.0}")),
            );
            // A lost or doubled one would have been an error.
            row.extend(
                [failover.acknowledged_writes, 0, 0, failover.unknown_outcomes]
                    .map(|count| count.to_string()),
            );
            text += &sheet(
                if failover.planned {
                    "Longest time without an acknowledged write when the throne is handed over"
                } else {
                    "Longest time without an acknowledged write when the master is killed"
                },
                &headings,
                &[row],
            );
        }
        text
    }

    fn probes(&self) -> Vec<Vec<String>> {
        let row = |name: &str, times: &Quantiles| {
            let mut row = vec![name.to_owned()];
            row.extend([times.p50_us, times.p99_us, times.max_us].map(|us| format!("{us:.0}")));
            row
        };
        let mut rows = vec![];
        if let Some(disk) = &self.disk {
            rows.push(row("append 4 KiB + fsync, before", &disk.before));
            rows.push(row("append 4 KiB + fsync, after", &disk.after));
        }
        if let Some(loopback) = &self.loopback {
            rows.push(row("round trip over loopback", loopback));
        }
        if let Some(exchange) = &self.exchange {
            rows.push(row("HTTP exchange (GET /healthz)", exchange));
        }
        rows
    }
}

impl Run {
    fn cells(&self, grouped: bool, synced: bool) -> Vec<String> {
        let ms = |us: f64| format!("{:.2}", us / 1000.0);
        let optional = |value: Option<f64>| value.map(|value| format!("{value:.1}")).unwrap_or_default();
        let mut cells = vec![self.connections.to_string(), format!("{:.0}", self.per_second)];
        cells.extend([self.latency.p50_us, self.latency.p99_us, self.latency.max_us].map(ms));
        if grouped {
            cells.push(optional(self.writes_per_transaction));
        }
        if synced {
            cells.push(optional(self.writes_per_fsync));
        }
        let errors: Vec<String> =
            self.errors.iter().map(|(error, count)| format!("{count} × {error}")).collect();
        cells.push(if errors.is_empty() { "0".to_owned() } else { errors.join(", ") });
        cells
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round(gap_ms: f64) -> Round {
        Round { killed: "pc-1".into(), heir: "pc-2".into(), gap_ms }
    }

    #[test]
    fn failover_quantiles_are_by_rank() {
        let failover = Failover::new(false, (1..=20).rev().map(f64::from).map(round).collect(), 9, 0, 4);
        assert_eq!(
            (failover.min_ms, failover.p50_ms, failover.p99_ms, failover.max_ms),
            (1.0, 10.0, 20.0, 20.0)
        );
        let none = Failover::new(true, vec![], 0, 0, 4);
        assert_eq!((none.min_ms, none.max_ms), (0.0, 0.0));
    }

    #[test]
    fn ratios_follow_from_the_measures_of_the_same_run() {
        let times = |us: u64| {
            let mut times = Histogram::default();
            times.record(Duration::from_micros(us));
            times
        };
        let tally = Tally { latencies: times(3000), time: Duration::from_secs(1), ..Tally::default() };
        let mut report = Report {
            version: "1",
            system: "linux",
            cpus: 2,
            machines: 3,
            copies: 2,
            idempotency_keys: false,
            rows: 1,
            disk: Some(Disk::new("d".into(), &times(1000), &times(1000), Duration::from_millis(1))),
            loopback: Some(Quantiles::of(&times(200))),
            exchange: Some(Quantiles::of(&times(300))),
            writes: vec![Run::of_writes(1, &tally)],
            reads: vec![],
            write_ratio: None,
            failover: None,
        };
        report.derive();
        assert_eq!(report.write_ratio, Some(2.0));
        assert_eq!(report.writes[0].writes_per_fsync, Some(0.001));
        assert!(!report.text().contains("something else used it"), "{}", report.text());
        assert!(report.text().contains("takes 2.00 times"), "{}", report.text());
        report.disk = Some(Disk::new("d".into(), &times(1000), &times(4000), Duration::from_millis(1)));
        assert!(report.text().contains("4.0 times as fast before or after"), "{}", report.text());
        assert!(report.markdown().contains("| 1 | 1 | 3.00 | 3.00 | 3.00 |"), "{}", report.markdown());
    }
}
