//! How the demo is shown: a live panel below the lines of what happened, or plain lines only.

use std::collections::VecDeque;
use std::io::{self, IsTerminal, Stdout, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use multipath_tests::interrupt::on_interrupt;
use nix::sys::termios::{LocalFlags, SetArg, Termios, tcgetattr, tcsetattr};
use ratatui::backend::CrosstermBackend;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Cell, Paragraph, Row, Sparkline, Table, Widget as _};
use ratatui::{Frame, Terminal, TerminalOptions, Viewport};

use super::meter::{Figures, PathFigures};

/// Lines of the live panel: border, now, header, three paths, sum, sparkline, drops, border.
const PANEL_HEIGHT: u16 = 11;
const BAR_WIDTH: usize = 14;
/// Time between two plain lines of figures.
const LINE_INTERVAL: Duration = Duration::from_secs(1);
/// Of lines that are no panel's.
const PLAIN_WIDTH: usize = 120;
const COLORS: [Color; 3] = [Color::Cyan, Color::Magenta, Color::Green];

/// Where the demo is shown.
pub(crate) struct View {
    started: Instant,
    is_interrupted: Arc<AtomicBool>,
    /// Absent: plain lines. The panel inside is taken by whoever closes it: the demo's end or an interrupt.
    panel: Option<Arc<Mutex<Option<Panel>>>>,
    last_line: Instant,
    now: String,
}

/// The live panel. Keys are not echoed while it is there; dropping it gives the terminal back.
struct Panel {
    terminal: Terminal<CrosstermBackend<Stdout>>,
    keyboard: Option<Termios>,
    totals: VecDeque<u64>,
    scale: Scale,
}

/// What the links can do together, Mbit/s.
#[derive(Clone, Copy)]
struct Scale {
    /// Sum of their rates.
    rate: f64,
    /// The payload that they can carry, once it is known.
    capacity: Option<f64>,
}

impl View {
    /// A panel where standard output is a terminal and `is_plain` is not asked for. `rate` is the sum of the links' rates, Mbit/s.
    pub(crate) fn open(is_plain: bool, rate: f64) -> Self {
        let is_live = !is_plain && io::stdout().is_terminal();
        // A terminal that does not answer where its cursor is can show lines only.
        let panel = if is_live { Panel::open(rate).ok() } else { None };
        let panel = panel.map(|panel| Arc::new(Mutex::new(Some(panel))));
        let is_interrupted = Arc::new(AtomicBool::new(false));
        let (interrupted, shown) = (is_interrupted.clone(), panel.clone());
        on_interrupt(move || {
            interrupted.store(true, Ordering::SeqCst);
            drop(shown.and_then(|panel| take(&panel)));
        });
        let started = Instant::now();
        Self { started, is_interrupted, panel, last_line: started, now: String::new() }
    }

    /// The process was interrupted and is about to end.
    pub(crate) fn is_interrupted(&self) -> bool {
        self.is_interrupted.load(Ordering::SeqCst)
    }

    /// Shows from now what payload the links can carry together, Mbit/s.
    pub(crate) fn set_capacity(&mut self, mbps: f64) -> Result<()> {
        self.panel.as_ref().map_or(Ok(()), |panel| {
            with(panel, |panel| {
                panel.scale.capacity = Some(mbps);
                Ok(())
            })
        })
    }

    /// Writes what happened, with the time; further lines are indented.
    pub(crate) fn tell(&mut self, text: &str) -> Result<()> {
        let time = format!("{:6.1} s  ", self.started.elapsed().as_secs_f64());
        match &self.panel {
            Some(panel) => with(panel, |panel| panel.insert(&time, text)),
            None => print(&indented(&time, text, PLAIN_WIDTH).join("\n")),
        }
    }

    /// Says what goes on from now, and writes it too.
    pub(crate) fn begin(&mut self, now: &str) -> Result<()> {
        now.lines().next().unwrap_or_default().clone_into(&mut self.now);
        self.tell(now)
    }

    /// Shows figures of the last second.
    pub(crate) fn show(&mut self, figures: &Figures) -> Result<()> {
        if let Some(panel) = &self.panel {
            let (now, seconds) = (&self.now, self.started.elapsed().as_secs());
            return with(panel, |panel| panel.draw(figures, now, seconds));
        }
        if self.last_line.elapsed() < LINE_INTERVAL {
            return Ok(());
        }
        self.last_line = Instant::now();
        let paths: Vec<String> = figures.paths.iter().map(plain).collect();
        let lost: u64 = figures.paths.iter().map(|path| path.lost).sum();
        self.tell(&format!("{:5.2} Mbit/s: {}; lost on links {lost}", figures.total(), paths.join(", ")))
    }

    /// Gives the terminal back.
    pub(crate) fn close(self) {
        drop(self.panel.and_then(|panel| take(&panel)));
    }
}

fn plain(path: &PathFigures) -> String {
    let PathFigures { uplink, health, due_share, share, mbps, .. } = path;
    let health = if health == "up" { String::new() } else { format!(" {}", health.to_uppercase()) };
    let rtt = path.rtt_ms.map(|ms| format!(", {ms:.0} ms")).unwrap_or_default();
    format!("{uplink}{health} {mbps:.2} ({:.0} of {:.0} %{rtt})", share * 100.0, due_share * 100.0)
}

/// The text in lines of at most `width` characters, all but the first indented by the width of `first`.
fn indented(first: &str, text: &str, width: usize) -> Vec<String> {
    let indent = " ".repeat(first.len());
    let options = textwrap::Options::new(width).initial_indent(&indent).subsequent_indent(&indent);
    let mut lines = textwrap::wrap(text, options).into_iter().map(String::from).collect::<Vec<_>>();
    if let Some(line) = lines.first_mut() {
        line.replace_range(..first.len(), first);
    }
    lines
}

fn print(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{text}").and_then(|()| out.flush()).context("cannot write to standard output")
}

fn take(panel: &Mutex<Option<Panel>>) -> Option<Panel> {
    panel.lock().unwrap_or_else(PoisonError::into_inner).take()
}

/// Works on the panel unless it is closed already.
fn with(panel: &Mutex<Option<Panel>>, work: impl FnOnce(&mut Panel) -> io::Result<()>) -> Result<()> {
    let mut panel = panel.lock().unwrap_or_else(PoisonError::into_inner);
    panel.as_mut().map_or(Ok(()), work).context("cannot draw on the terminal")
}

impl Panel {
    fn open(rate: f64) -> io::Result<Self> {
        let options = TerminalOptions { viewport: Viewport::Inline(PANEL_HEIGHT) };
        let terminal = Terminal::with_options(CrosstermBackend::new(io::stdout()), options)?;
        // Not raw mode: Ctrl-C has to stay a signal.
        let keyboard = tcgetattr(io::stdin()).ok();
        if let Some(mut silent) = keyboard.clone() {
            silent.local_flags.remove(LocalFlags::ECHO | LocalFlags::ICANON);
            let _ = tcsetattr(io::stdin(), SetArg::TCSANOW, &silent);
        }
        Ok(Self { terminal, keyboard, totals: VecDeque::new(), scale: Scale { rate, capacity: None } })
    }

    fn insert(&mut self, time: &str, text: &str) -> io::Result<()> {
        let width = self.terminal.size()?.width.into();
        let lines: Vec<Line<'_>> = indented(time, text, width).into_iter().map(Line::raw).collect();
        self.terminal.insert_before(lines.len() as u16, |buffer| Paragraph::new(lines).render(buffer.area, buffer))
    }

    fn draw(&mut self, figures: &Figures, now: &str, seconds: u64) -> io::Result<()> {
        self.totals.push_back((figures.total() * 100.0) as u64);
        let Self { terminal, totals, scale, .. } = self;
        terminal.draw(|frame| render(frame, figures, now, seconds, *scale, totals)).map(drop)
    }
}

impl Drop for Panel {
    fn drop(&mut self) {
        let _ = self.terminal.clear();
        let top = self.terminal.get_frame().area().as_position();
        let _ = self.terminal.set_cursor_position(top);
        let _ = self.terminal.show_cursor();
        if let Some(keyboard) = &self.keyboard {
            let _ = tcsetattr(io::stdin(), SetArg::TCSANOW, keyboard);
        }
    }
}

fn render(frame: &mut Frame<'_>, figures: &Figures, now: &str, seconds: u64, scale: Scale, totals: &mut VecDeque<u64>) {
    let Scale { rate, capacity } = scale;
    let clock = format!(" {}:{:02} ", seconds / 60, seconds % 60);
    let block = Block::bordered().title(" mpvpn demo ").title_top(Line::from(clock).right_aligned());
    let inside = block.inner(frame.area());
    frame.render_widget(block, frame.area());
    let rows = [1, 1 + COLORS.len() as u16, 1, 2, 1].map(Constraint::Length);
    let [now_row, table, sum, history, drops] = Layout::vertical(rows).areas(inside);

    frame.render_widget(Line::styled(now, Style::new().add_modifier(Modifier::BOLD)), now_row);
    paths(frame, table, figures, rate);
    let total = figures.total();
    let capacity = capacity.map(|capacity| format!(" of {capacity:.2} that the links can carry")).unwrap_or_default();
    let text = format!("{:<12}{:<35}{total:6.2}{capacity}", "payload", "");
    frame.render_widget(Line::styled(text, Style::new().add_modifier(Modifier::BOLD)), sum);
    while totals.len() > usize::from(history.width) {
        totals.pop_front();
    }
    let sparkline = Sparkline::default().data(totals.iter()).max((rate * 100.0) as u64);
    frame.render_widget(sparkline.style(Style::new().fg(Color::Blue)), history);
    let text = format!("dropped by the tunnel: {} packets in the last second", figures.dropped);
    frame.render_widget(Line::styled(text, Style::new().add_modifier(Modifier::DIM)), drops);
}

fn paths(frame: &mut Frame<'_>, area: Rect, figures: &Figures, rate: f64) {
    let header = ["path", "health", "rtt", "weight", "due", "share", "Mbit/s", "", "lost/s"];
    let widths = [11, 8, 6, 6, 5, 5, 6, BAR_WIDTH as u16, 6].map(Constraint::Length);
    let rows = figures.paths.iter().zip(COLORS).map(|(path, color)| {
        let health = if path.health == "up" {
            Span::styled("up", Style::new().fg(Color::Green))
        } else {
            Span::styled(path.health.to_uppercase(), Style::new().fg(Color::Red).add_modifier(Modifier::BOLD))
        };
        Row::new([
            Cell::from(Span::styled(path.name.as_str(), Style::new().fg(color))),
            Cell::from(health),
            Cell::from(path.rtt_ms.map(|ms| format!("{ms:3.0} ms")).unwrap_or_default()),
            Cell::from(format!("{:>6}", path.weight)),
            Cell::from(format!("{:3.0} %", path.due_share * 100.0)),
            Cell::from(format!("{:3.0} %", path.share * 100.0)),
            Cell::from(format!("{:6.2}", path.mbps)),
            Cell::from(Span::styled(bar(path.mbps / rate * 2.0), Style::new().fg(color))),
            Cell::from(format!("{:>6}", path.lost)),
        ])
    });
    let header = Row::new(header).style(Style::new().add_modifier(Modifier::DIM));
    frame.render_widget(Table::new(rows, widths).header(header), area);
}

/// A bar of eighths of a character, for 0 to 1.
fn bar(part: f64) -> String {
    let eighths = (part.clamp(0.0, 1.0) * BAR_WIDTH as f64 * 8.0).round() as usize;
    let rest = [' ', '▏', '▎', '▍', '▌', '▋', '▊', '▉'][eighths % 8];
    let full = "█".repeat(eighths / 8);
    if eighths.is_multiple_of(8) { full } else { format!("{full}{rest}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_have_eighths() {
        assert_eq!(bar(0.0), "");
        assert_eq!(bar(1.5), "█".repeat(BAR_WIDTH));
        assert_eq!(bar(0.5 + 1.0 / (BAR_WIDTH as f64 * 8.0)), format!("{}▏", "█".repeat(BAR_WIDTH / 2)));
    }

    #[test]
    fn lines_are_wrapped_behind_the_time() {
        assert_eq!(indented("1 s ", "one two\nthree", 9), ["1 s one", "    two", "    three"]);
    }
}
