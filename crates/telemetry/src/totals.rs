//! The figures of this process, for itself: what its agent reports to the controller.

use crate::metric::{Metric, recorder_handle};

/// The counters and gauges of this process, at one moment. Histograms and per-tag figures are left out.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Totals(Vec<Sample>);

#[derive(Debug, Clone, PartialEq)]
struct Sample {
    name: String,
    labels: String,
    value: f64,
}

impl Totals {
    /// As they are now. It takes some hundred microseconds: not for a path of data.
    #[must_use]
    pub fn now() -> Self {
        Self::parse(&recorder_handle().render())
    }

    /// Reads what `/metrics` shows.
    fn parse(text: &str) -> Self {
        let sample = |line: &str| {
            let (series, value) = line.rsplit_once(' ')?;
            let (name, labels) = series.split_once('{').unwrap_or((series, ""));
            Some(Sample {
                name: name.to_owned(),
                labels: labels.trim_end_matches('}').to_owned(),
                value: value.parse().ok()?,
            })
        };
        Self(text.lines().filter(|line| !line.starts_with('#')).filter_map(sample).collect())
    }

    /// The sum of a metric over all its labels; 0 if nothing was counted.
    #[must_use]
    pub fn sum<H, const N: usize>(&self, metric: &Metric<H, N>) -> f64 {
        self.0.iter().filter(|sample| sample.name == metric.entry().name).map(|sample| sample.value).sum()
    }

    /// One series: the metric with these labels; 0 where it was never counted.
    #[must_use]
    pub fn of<H, const N: usize>(&self, metric: &Metric<H, N>, labels: [&str; N]) -> f64 {
        let names = metric.entry().labels.iter().zip(labels);
        let labels = names.map(|(name, label)| format!("{name}=\"{label}\"")).collect::<Vec<_>>().join(",");
        let wanted = |sample: &&Sample| sample.name == metric.entry().name && sample.labels == labels;
        self.0.iter().find(wanted).map_or(0.0, |sample| sample.value)
    }

    /// The values of a metric by its label, for metrics with one.
    #[must_use]
    pub fn by_label<H>(&self, metric: &Metric<H, 1>) -> Vec<(String, f64)> {
        let of = |sample: &Sample| {
            let (_, quoted) = sample.labels.split_once("=\"")?;
            Some((quoted.strip_suffix('"')?.to_owned(), sample.value))
        };
        self.0.iter().filter(|sample| sample.name == metric.entry().name).filter_map(of).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names;

    #[test]
    fn figures_are_read_back() {
        let text = "# HELP weir_log_bytes x\nweir_log_bytes{group=\"a\"} 3\nweir_log_bytes{group=\"b\"} 4.5\n\
                    weir_forward_acks_total 7\nweir_log_bytes_more 9\n";
        let totals = Totals::parse(text);
        assert_eq!(totals.sum(&names::LOG_BYTES), 7.5);
        assert_eq!(totals.sum(&names::FORWARD_ACKS_TOTAL), 7.0);
        assert_eq!(totals.sum(&names::SINK_EDGES), 0.0);
        let by_label = totals.by_label(&names::LOG_BYTES);
        assert_eq!(by_label, [("a".to_owned(), 3.0), ("b".to_owned(), 4.5)]);
    }
}
