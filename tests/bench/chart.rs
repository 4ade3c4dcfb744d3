//! The report as a picture: how much of each goal is reached.

use std::error::Error;
use std::path::Path;

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::figure::{Figure, Goal};

/// Bars end here: how far beyond its goal something is does not matter any more.
const MOST: f64 = 3.0;

const ROW: i32 = 26;
const TEXT: i32 = 620;
const BARS: i32 = 420;
const MARGIN: i32 = 40;

const REACHED: RGBColor = RGBColor(46, 125, 50);
const MISSED: RGBColor = RGBColor(198, 40, 40);

/// One bar for each figure that has a goal, and a line where the goals are.
pub(crate) fn draw(figures: &[Figure], file: &Path) -> Result<(), Box<dyn Error>> {
    let figures: Vec<&Figure> = figures.iter().filter(|figure| figure.goal.is_some()).collect();
    let height = MARGIN * 2 + ROW * i32::try_from(figures.len())?;
    let size = (u32::try_from(TEXT + BARS + MARGIN)?, u32::try_from(height)?);
    let page = SVGBackend::new(file, size).into_drawing_area();
    page.fill(&WHITE)?;
    let text = ("sans-serif", 13).into_font();
    let right = text.clone().color(&BLACK).pos(Pos::new(HPos::Right, VPos::Center));
    let left = text.color(&BLACK).pos(Pos::new(HPos::Left, VPos::Center));
    let across = |share: f64| TEXT + (share.clamp(0.0, MOST) / MOST * f64::from(BARS)) as i32;
    for (row, figure) in figures.iter().enumerate() {
        let top = MARGIN + ROW * i32::try_from(row)?;
        let share = match figure.goal {
            Some(Goal::AtLeast(least)) => figure.judged() / least,
            Some(Goal::AtMost(most)) => most / figure.judged(),
            None => continue,
        };
        let colour = if figure.missed_by().is_some() { MISSED } else { REACHED };
        page.draw(&Rectangle::new([(TEXT, top + 5), (across(share), top + ROW - 5)], colour.filled()))?;
        let middle = top + ROW / 2;
        page.draw(&Text::new(format!("{}: {}", figure.work, figure.what), (TEXT - 10, middle), right.clone()))?;
        page.draw(&Text::new(format!("{share:.2}"), (across(share) + 6, middle), left.clone()))?;
    }
    page.draw(&PathElement::new(
        [(across(1.0), MARGIN - 5), (across(1.0), height - MARGIN + 5)],
        BLACK.stroke_width(1),
    ))?;
    page.draw(&Text::new("goal", (across(1.0) - 12, MARGIN - 14), left.clone()))?;
    page.draw(&Text::new("each bar: how much of its goal is reached", (TEXT, height - MARGIN / 2), left))?;
    page.present()?;
    Ok(())
}
