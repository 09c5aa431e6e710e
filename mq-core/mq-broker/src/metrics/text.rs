//! Families of figures as OpenMetrics text.

use std::borrow::Cow;
use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use super::{Family, Kind, Labels, Value};

#[derive(Debug)]
struct Families(Vec<Family>);

impl Collector for Families {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        for family in self.0.iter().filter(|family| !family.rows.is_empty()) {
            let kind = match family.kind {
                Kind::Counter => MetricType::Counter,
                Kind::Gauge => MetricType::Gauge,
                Kind::Histogram => MetricType::Histogram,
            };
            let mut metric = encoder.encode_descriptor(family.name, family.help, None, kind)?;
            for (labels, value) in &family.rows {
                let mut row = metric.encode_family(labels)?;
                match value {
                    Value::Number(value) if family.kind == Kind::Counter => {
                        row.encode_counter::<NoLabelSet, _, u64>(value, None)?;
                    }
                    Value::Number(value) => row.encode_gauge(&i64::try_from(*value).unwrap_or(i64::MAX))?,
                    Value::Distribution(told) => {
                        row.encode_histogram::<NoLabelSet>(told.sum, told.count(), &told.buckets, None)?;
                    }
                }
            }
        }
        Ok(())
    }
}

/// `node` stands at every row.
pub(super) fn print(node: Labels, families: Vec<Family>) -> String {
    let labels = node.into_iter().map(|(name, value)| (Cow::Borrowed(name), Cow::Owned(value)));
    let mut registry = Registry::with_labels(labels);
    registry.register_collector(Box::new(Families(families)));
    let mut out = String::new();
    text::encode(&mut out, &registry).expect("a text takes any write");
    out
}
