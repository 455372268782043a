//! An account bar by bar: the arithmetic of `pipeline/trading.py` on the fills of `pipeline/fills.py`, in its order.
//!
//! The order of bar i, decided at its close, fills at the open of bar i + 1 + delay. Its row of the account runs from
//! that instant to the next row's. A row is therefore complete once the next one has filled: `settle`.

use std::collections::VecDeque;

use crate::contract::Trading;
use crate::{Result, fail};

const YEAR_MS: f64 = 365.0 * 24.0 * 3600.0 * 1000.0;

/// The numbers of one closed bar that fill orders.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bar {
    /// In ms since 1970, UTC.
    pub open_time: i64,
    /// The price at which orders fill.
    pub open: f64,
    /// The price at which positions are marked.
    pub close: f64,
    /// Above 0 where the bar fills orders.
    pub volume: f64,
    /// In the quote currency.
    pub quote_volume: f64,
}

/// How a bar stands in its segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Place {
    /// Whether bars are missing before it.
    pub is_after_gap: bool,
    /// Whether it is the first of its segment with features.
    pub starts_run: bool,
}

/// The terms of trading, see `make_terms` of `pipeline/trading.py`.
#[derive(Debug, Clone, Copy)]
pub struct Terms {
    cost: f64, // fraction of the value traded
    borrow_rate: f64,
    no_trade_band: f64,
    lowest: f64,      // position: -1, or 0 where shorts are not allowed
    order_limit: f64, // change of the position per unit of quote volume
}

impl Terms {
    /// Return the terms of a contract.
    ///
    /// # Errors
    /// Orders are limited by the volume without a capital above 0.
    pub fn new(trading: &Trading) -> Result<Terms> {
        let order_limit = match (trading.max_participation, trading.capital) {
            (None, _) => f64::INFINITY,
            (Some(share), Some(capital)) if capital > 0.0 => share / capital,
            (share, capital) => {
                return fail!("trading: max_participation is {share:?}, capital {capital:?}; give a capital above 0");
            }
        };
        Ok(Terms {
            cost: (trading.fee_bps + trading.slippage_bps) / 1e4,
            borrow_rate: trading.borrow_rate,
            no_trade_band: trading.no_trade_band,
            lowest: if trading.long_only { 0.0 } else { -1.0 },
            order_limit,
        })
    }
}

/// An account as it is seen: weight, unrealized return, and bars since the entry into the present side.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct View {
    /// The value held over the capital, between -1 and 1 but for drift.
    pub position: f64,
    /// Return before costs since the entry.
    pub unrealized: f64,
    /// Rows since the entry.
    pub since: i64,
}

impl View {
    /// Return the three columns of an agent's inputs.
    pub fn to_columns(self) -> [f32; 3] {
        [self.position as f32, self.unrealized as f32, (self.since as f64).ln_1p() as f32]
    }
}

/// One account of a symbol. `observe` takes each closed bar, `order` the target that is decided at its close.
#[derive(Debug, Clone)]
pub struct Account {
    terms: Terms,
    delay: usize,
    starts_flat: bool,
    orders: VecDeque<Order>, // whose instant is still unknown, oldest first
    latest: Option<Row>,     // the latest row whose instant is known
    known: i64,              // fills since the features of this segment began; below 0, orders from before wait
    last: Option<Bar>,
}

#[derive(Debug, Clone, Copy)]
struct Order {
    target: f64,
    is_after_gap: bool,
}

/// A row: the weight after its fill, the account just before it, and its instant.
#[derive(Debug, Clone, Copy)]
struct Row {
    position: f64,
    before: View,
    price: f64,
    time: i64,
}

impl Account {
    /// Return a flat account.
    ///
    /// One that `starts_flat`, as an agent's does, knows nothing of what was held before the features of a segment
    /// began: so are agents trained.
    pub fn new(terms: Terms, delay: usize, starts_flat: bool) -> Account {
        let orders = VecDeque::with_capacity(delay + 2);
        Account { terms, delay, starts_flat, orders, latest: None, known: 0, last: None }
    }

    /// Take a closed bar, which fills the order whose turn it is; return the account as it is known at its close.
    ///
    /// That is as of the latest fill, marked at the close. Orders that wait where bars are missing lapse; what is held
    /// is held through the gap.
    pub fn observe(&mut self, bar: &Bar, place: Place) -> View {
        if let (true, Some(last)) = (place.is_after_gap, self.last) {
            while let Some(order) = self.orders.pop_front() {
                self.settle(order, None, last.close, last.open_time);
            }
        } else if self.orders.len() > self.delay
            && let Some(order) = self.orders.pop_front()
        {
            let volume = (bar.volume > 0.0).then_some(bar.quote_volume);
            let price = if volume.is_some() { bar.open } else { bar.close };
            self.settle(order, volume, price, bar.open_time);
        }
        self.last = Some(*bar);
        match self.latest {
            Some(row) if !self.starts_flat || (self.known > 0 && !place.starts_run) => {
                let mark = bar.close / row.price - 1.0;
                follow(self.earn(row.position, row.before.position, mark, 0.0), row, mark)
            }
            _ => View::default(),
        }
    }

    /// Place the order of the last bar, whose place is that of `observe`; NaN closes what is held.
    pub fn order(&mut self, target: f64, place: Place) {
        if place.starts_run {
            self.known = -(self.orders.len() as i64);
        }
        self.orders.push_back(Order { target, is_after_gap: place.is_after_gap });
    }

    /// Return the direction in which an order for `target` trades where `held` is the weight: -1, 1, or 0.
    pub fn decide(&self, target: f64, held: f64) -> i8 {
        let position = self.choose_position(target, held, f64::INFINITY);
        i8::from(position > held) - i8::from(position < held)
    }

    /// Fill an order at its instant, without `volume` where it waits, and complete the row before it.
    fn settle(&mut self, order: Order, volume: Option<f64>, price: f64, time: i64) {
        let mut before = View::default();
        if let Some(row) = self.latest
            && !(self.starts_flat && self.known == 0)
        {
            let (price_move, years) = (price / row.price - 1.0, (time - row.time) as f64 / YEAR_MS);
            before = follow(self.earn(row.position, row.before.position, price_move, years), row, price_move);
        }
        let position = match volume {
            None => before.position,
            Some(_) if order.is_after_gap => 0.0,
            Some(volume) => self.choose_position(order.target, before.position, self.limit_change(volume)),
        };
        self.latest = Some(Row { position, before, price, time });
        self.known += 1;
    }

    fn limit_change(&self, volume: f64) -> f64 {
        if self.terms.order_limit < f64::INFINITY { self.terms.order_limit * volume } else { f64::INFINITY }
    }

    fn choose_position(&self, target: f64, held: f64, max_change: f64) -> f64 {
        if target.is_nan() {
            return 0.0;
        }
        let cut = |weight: f64| smaller(larger(weight, self.terms.lowest), 1.0);
        let (inside, wanted) = (cut(held), cut(target));
        if (wanted - held).abs() <= self.terms.no_trade_band {
            return inside;
        }
        if (wanted - inside).abs() <= max_change {
            return wanted;
        }
        inside + if wanted > inside { max_change } else { -max_change }
    }

    /// Return gross and net return of a weight until the next fill.
    fn earn(&self, position: f64, held: f64, price_move: f64, years: f64) -> (f64, f64) {
        let (turnover, gross) = ((position - held).abs(), position * price_move);
        let interest = self.terms.borrow_rate * years * larger(-position, 0.0);
        (gross, gross - turnover * self.terms.cost - interest)
    }
}

/// Return the account after a row's position has earned (gross, net) over a move.
fn follow((gross, net): (f64, f64), row: Row, price_move: f64) -> View {
    if row.position == 0.0 {
        return View::default();
    }
    let is_same_side = row.before.position * row.position > 0.0;
    View {
        position: if net > -1.0 { row.position * (1.0 + price_move) / (1.0 + net) } else { 0.0 },
        unrealized: (if is_same_side { row.before.unrealized } else { 0.0 }) + gross,
        since: (if is_same_side { row.before.since } else { 0 }) + 1,
    }
}

/// Return the larger of both as Python's `max` does: the first where they are equal.
fn larger(a: f64, b: f64) -> f64 {
    if b > a { b } else { a }
}

/// Return the smaller of both as Python's `min` does: the first where they are equal.
fn smaller(a: f64, b: f64) -> f64 {
    if b < a { b } else { a }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: i64 = 60_000;

    fn make_account(delay: usize, order_limit: f64) -> Account {
        let terms = Terms { cost: 0.0, borrow_rate: 0.0, no_trade_band: 0.25, lowest: -1.0, order_limit };
        Account::new(terms, delay, false)
    }

    fn make_bar(place: i64, open: f64, close: f64, volume: f64) -> Bar {
        Bar { open_time: place * MINUTE, open, close, volume, quote_volume: volume }
    }

    fn step(account: &mut Account, bar: Bar, is_after_gap: bool, target: f64) -> f64 {
        let place = Place { is_after_gap, starts_run: false };
        let seen = account.observe(&bar, place);
        account.order(target, place);
        seen.position
    }

    #[test]
    fn an_order_fills_at_the_next_open_and_is_seen_at_that_bars_close() {
        let mut account = make_account(0, f64::INFINITY);
        assert_eq!(step(&mut account, make_bar(0, 1.0, 1.0, 1.0), false, 0.5), 0.0);
        // bought at 2, marked at 3: 0.5 · 1.5 / (1 + 0.25)
        let seen = account.observe(&make_bar(1, 2.0, 3.0, 1.0), Place::default());
        assert_eq!(seen, View { position: 0.6, unrealized: 0.25, since: 1 });
        account.order(f64::NAN, Place::default());
        assert_eq!(step(&mut account, make_bar(2, 3.0, 3.0, 1.0), false, 0.2), 0.0);
        assert_eq!(step(&mut account, make_bar(3, 3.0, 3.0, 1.0), false, 0.2), 0.0); // within the band
    }

    #[test]
    fn a_bar_without_volume_fills_nothing_and_the_next_order_replaces_it() {
        let mut account = make_account(0, f64::INFINITY);
        step(&mut account, make_bar(0, 1.0, 1.0, 1.0), false, 1.0);
        assert_eq!(step(&mut account, make_bar(1, 1.0, 1.0, 0.0), false, -0.5), 0.0);
        assert_eq!(step(&mut account, make_bar(2, 1.0, 1.0, 1.0), false, 0.0), -0.5);
    }

    #[test]
    fn what_is_held_is_held_through_a_gap_and_closed_by_the_first_order_after_it() {
        let mut account = make_account(0, f64::INFINITY);
        step(&mut account, make_bar(0, 1.0, 1.0, 1.0), false, 1.0);
        assert_eq!(step(&mut account, make_bar(1, 1.0, 1.0, 1.0), false, -1.0), 1.0);
        // the order for -1 has lapsed; what is held earns the move over the gap: 1 · 4 / (1 + 3)
        assert_eq!(step(&mut account, make_bar(9, 4.0, 4.0, 1.0), true, 1.0), 1.0);
        assert_eq!(step(&mut account, make_bar(10, 4.0, 4.0, 1.0), false, 1.0), 0.0);
        assert_eq!(step(&mut account, make_bar(11, 4.0, 4.0, 1.0), false, 1.0), 1.0);
    }

    #[test]
    fn an_account_that_starts_flat_forgets_what_was_held_before_the_features() {
        let mut account = make_account(0, f64::INFINITY);
        account.starts_flat = true;
        account.known = 1;
        step(&mut account, make_bar(0, 1.0, 1.0, 1.0), false, 1.0);
        assert_eq!(step(&mut account, make_bar(1, 1.0, 1.0, 1.0), false, f64::NAN), 1.0);
        let start = Place { is_after_gap: false, starts_run: true };
        assert_eq!(account.observe(&make_bar(2, 1.0, 1.0, 0.0), start), View::default()); // the order to close waits
        account.order(0.5, start);
        assert_eq!(step(&mut account, make_bar(3, 1.0, 1.0, 0.0), false, 0.5), 0.0);
        assert_eq!(step(&mut account, make_bar(4, 1.0, 1.0, 1.0), false, 0.5), 0.5);
    }

    #[test]
    fn a_direction_is_that_of_the_order_beyond_the_band() {
        let account = make_account(0, f64::INFINITY);
        let found =
            [(0.5, 0.0), (0.2, 0.0), (-0.5, 0.0), (f64::NAN, 0.5), (0.0, 1.5)].map(|(t, held)| account.decide(t, held));
        assert_eq!(found, [1, 0, -1, -1, -1]);
    }

    #[test]
    fn a_delay_moves_the_fill() {
        let mut account = make_account(2, f64::INFINITY);
        step(&mut account, make_bar(0, 1.0, 1.0, 1.0), false, 1.0);
        let seen: Vec<f64> = (1..4).map(|i| step(&mut account, make_bar(i, 1.0, 1.0, 1.0), false, 0.0)).collect();
        assert_eq!(seen, [0.0, 0.0, 1.0]);
    }

    #[test]
    fn an_order_takes_at_most_its_share_of_the_volume() {
        let mut account = make_account(0, 0.5);
        step(&mut account, make_bar(0, 1.0, 1.0, 1.0), false, 1.0);
        assert_eq!(step(&mut account, make_bar(1, 1.0, 1.0, 0.75), false, 1.0), 0.375);
        assert_eq!(step(&mut account, make_bar(2, 1.0, 1.0, 0.25), false, 0.0), 0.5);
    }

    #[test]
    fn terms_with_a_participation_need_a_capital() {
        let trading = Trading {
            full_position_std: 2.0,
            no_trade_band: 0.5,
            delay_bars: 0,
            long_only: true,
            fee_bps: 3.0,
            slippage_bps: 0.5,
            borrow_rate: 0.0,
            capital: Some(1e5),
            max_participation: Some(0.05),
        };
        let terms = Terms::new(&trading).unwrap();
        assert_eq!((terms.cost, terms.lowest, terms.order_limit), (3.5 / 1e4, 0.0, 0.05 / 1e5));
        assert!(Terms::new(&Trading { capital: None, ..trading }).is_err());
    }
}
