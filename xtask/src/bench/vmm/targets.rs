//! What was promised of our own figures, and whether they keep it.

use super::super::{Measured, figure, median};

/// Work and the most that its figure may be.
const TARGETS: [(&str, f64); 6] = [
    ("boot", 1480.0),
    ("boot-default-cmdline", 980.0),
    ("restore", 14.0),
    ("snapshot", 300.0),
    ("rss-mib", 4.0),
    ("private-dirty-mib", 2.5),
];

/// A line for each promise: kept, missed and by how much, or not measured.
pub(crate) fn verdicts(measured: &[Measured]) -> String {
    TARGETS
        .iter()
        .map(|(work, limit)| {
            let row = measured.iter().find(|row| row.work == *work);
            let Some(value) = row.map(|row| median(&row.ours)) else {
                return format!("{work}: not measured; promised <= {}\n", figure(*limit));
            };
            let verdict = if value <= *limit {
                "kept".to_owned()
            } else {
                format!("missed by {:.1} %", (value / limit - 1.0) * 100.0)
            };
            format!(
                "{work}: {} <= {}: {verdict}\n",
                figure(value),
                figure(*limit)
            )
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn a_promise_is_kept_missed_or_not_measured() {
        let row = |work: &str, value| Measured {
            work: work.to_owned(),
            unit: "Minstr",
            ours: vec![value],
            peers: BTreeMap::new(),
        };
        let text = verdicts(&[row("boot", 1480.0), row("snapshot", 330.0)]);
        assert!(text.contains("boot: 1480 <= 1480: kept\n"), "{text}");
        assert!(
            text.contains("snapshot: 330 <= 300: missed by 10.0 %\n"),
            "{text}"
        );
        assert!(text.contains("restore: not measured"), "{text}");
    }
}
