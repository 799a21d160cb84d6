//! Throughput over time as a picture: what each path carried, one on the other, and what the flow's receiver got.

use std::path::Path;

use anyhow::{Context, Result};
use plotters::prelude::*;

use super::figures::Case;
use super::series::STEP;

const SIZE: (u32, u32) = (1000, 440);
/// Intervals that a point is the mean of.
const SMOOTH: usize = 5;
const COLORS: [RGBColor; 6] = [
    RGBColor(86, 180, 233),
    RGBColor(230, 159, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(240, 228, 66),
    RGBColor(0, 114, 178),
];

/// Draws the case's run in the middle as SVG. Without a run there is no picture.
pub(super) fn draw(case: &Case, file: &Path) -> Result<()> {
    let Some(run) = case.middle_run() else { return Ok(()) };
    let (sum, best) = case.sum_and_best();
    let end = f64::from(case.seconds);
    let layers = stacked(run.paths.iter().map(|path| smooth(&path.mbps().collect::<Vec<_>>())));
    let goodput = smooth(&run.flow.received.mbps().collect::<Vec<_>>());
    let top = layers.iter().flatten().chain(&goodput).copied().fold(sum, f64::max) * 1.08;
    let paint = || -> Result<(), DrawingAreaErrorKind<std::io::Error>> {
        let area = SVGBackend::new(file, SIZE).into_drawing_area();
        area.fill(&WHITE)?;
        let mut chart = ChartBuilder::on(&area)
            .caption(case.name(), ("sans-serif", 18))
            .margin(12)
            .x_label_area_size(36)
            .y_label_area_size(52)
            .build_cartesian_2d(0.0..end, 0.0..top)?;
        chart.configure_mesh().x_desc("seconds").y_desc("Mbit/s").light_line_style(WHITE).draw()?;
        // The highest layer first: the others cover what is theirs.
        for (number, layer) in layers.iter().enumerate().rev() {
            let color = COLORS[number % COLORS.len()];
            let link = case.profile.links[number];
            let area = AreaSeries::new(points(layer, end), 0.0, color);
            chart
                .draw_series(area)?
                .label(format!("link {number}: {} Mbit/s, {} ms (IP packets)", link.rate, link.delay))
                .legend(move |(x, y)| Rectangle::new([(x, y - 5), (x + 14, y + 5)], color.filled()));
        }
        chart
            .draw_series(LineSeries::new(points(&goodput, end), BLACK.stroke_width(2)))?
            .label("payload at the receiver")
            .legend(|(x, y)| PathElement::new([(x, y), (x + 14, y)], BLACK.stroke_width(2)));
        for (level, text) in [(sum, "sum of the single links"), (best, "best single link")] {
            let style = if text.starts_with("sum") { RED } else { RGBColor(120, 120, 120) };
            chart
                .draw_series(DashedLineSeries::new([(0.0, level), (end, level)], 6, 4, style.stroke_width(1)))?
                .label(format!("{text}: {level:.2}"))
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 14, y)], style));
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::LowerRight)
            .background_style(WHITE.mix(0.8))
            .border_style(BLACK.mix(0.3))
            .draw()?;
        area.present()
    };
    paint().with_context(|| format!("cannot draw {}", file.display()))
}

/// Each layer plus all below it.
fn stacked(paths: impl Iterator<Item = Vec<f64>>) -> Vec<Vec<f64>> {
    let mut layers: Vec<Vec<f64>> = Vec::new();
    for path in paths {
        let below = layers.last().cloned().unwrap_or_default();
        let below = below.into_iter().chain(std::iter::repeat(0.0));
        layers.push(path.into_iter().zip(below).map(|(own, below)| own + below).collect());
    }
    layers
}

/// Means of the intervals around each one.
fn smooth(values: &[f64]) -> Vec<f64> {
    let around = |index: usize| {
        let window = &values[index.saturating_sub(SMOOTH / 2)..(index + SMOOTH / 2 + 1).min(values.len())];
        window.iter().sum::<f64>() / window.len() as f64
    };
    (0..values.len()).map(around).collect()
}

/// Values in the middle of their intervals.
fn points(values: &[f64], end: f64) -> impl Iterator<Item = (f64, f64)> {
    let times = (0..).map(|index| (f64::from(index) + 0.5) * STEP);
    times.zip(values.iter().copied()).take_while(move |(at, _)| *at <= end)
}
