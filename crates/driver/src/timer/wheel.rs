//! Many timers, of which most never fire: setting one and giving it up take constant time and leave nothing behind.

use std::cell::RefCell;
use std::task::Waker;
use std::time::{Duration, Instant};

use slab::Slab;

/// A hierarchical wheel with a slot a millisecond at the bottom; the slots of each level above are 64 times as long.
///
/// A timer is put into the level at which its time differs from now, and moves down when its slot begins. Far timers (two
/// years) wait in the last slot.
#[derive(Debug)]
pub(crate) struct Wheel {
    start: Instant,
    /// The millisecond since `start` up to which everything due has fired.
    at: u64,
    timers: Slab<Timer>,
    levels: [Slots; LEVELS],
    /// Timers that fired and whose tasks are not woken yet.
    due: Vec<Waker>,
}

#[derive(Debug)]
struct Timer {
    tick: u64,
    waker: Option<Waker>,
    /// The slot that it is in, none once it has fired.
    place: Option<Place>,
    previous: usize,
    next: usize,
}

#[derive(Clone, Copy, Debug)]
struct Place {
    level: usize,
    slot: usize,
}

/// The lists of a level.
#[derive(Debug)]
struct Slots {
    /// The first timer of each.
    heads: [usize; SLOTS],
    /// A bit for each that has any.
    occupied: u64,
}

const SLOTS: usize = 64;
const SLOT_BITS: usize = 6;
const LEVELS: usize = 6;
const LAST_TICK: u64 = (1 << (SLOT_BITS * LEVELS)) - 1;
/// No timer.
const NONE: usize = usize::MAX;

impl Wheel {
    pub(crate) fn new(start: Instant) -> Self {
        Self {
            start,
            at: 0,
            timers: Slab::new(),
            levels: std::array::from_fn(|_| Slots {
                heads: [NONE; SLOTS],
                occupied: 0,
            }),
            due: Vec::new(),
        }
    }

    /// Sets a timer; the key names it until it is [removed](Self::remove).
    pub(crate) fn insert(&mut self, at: Instant, waker: Waker) -> usize {
        let since = at.saturating_duration_since(self.start);
        let tick = since.as_nanos().div_ceil(1_000_000);
        let tick = u64::try_from(tick).unwrap_or(u64::MAX).max(self.at + 1);
        let key = self.timers.insert(Timer {
            tick,
            waker: Some(waker),
            place: None,
            previous: NONE,
            next: NONE,
        });
        self.link(key);
        key
    }

    /// Has a timer that has not fired wake another task.
    pub(crate) fn wait(&mut self, key: usize, waker: &Waker) {
        let timer = &mut self.timers[key];
        match &mut timer.waker {
            Some(current) => current.clone_from(waker),
            // Fired by a clock that was ahead of its reader's: try again with the next.
            None => {
                timer.waker = Some(waker.clone());
                timer.tick = self.at + 1;
                self.link(key);
            }
        }
    }

    pub(crate) fn remove(&mut self, key: usize) {
        self.unlink(key);
        self.timers.remove(key);
    }

    /// When something has to be done next, at the latest.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        let (_, tick) = self.next_slot()?;
        Some(self.start + Duration::from_millis(tick))
    }

    /// Moves on to `now`; who is to be woken is told by [`wake_due`](Self::wake_due).
    pub(crate) fn advance(&mut self, now: Instant) {
        let since = now.saturating_duration_since(self.start).as_millis();
        let until = u64::try_from(since).unwrap_or(u64::MAX);
        while let Some((place, begins)) = self.next_slot().filter(|(_, begins)| *begins <= until) {
            self.at = self.at.max(begins);
            self.empty(place);
        }
        self.at = self.at.max(until);
    }

    /// Wakes the tasks whose timers fired.
    pub(crate) fn wake_due(this: &RefCell<Self>) {
        let mut due = std::mem::take(&mut this.borrow_mut().due);
        due.drain(..).for_each(Waker::wake);
        this.borrow_mut().due = due;
    }

    /// Fires the timers of a slot that has begun, or moves them down.
    fn empty(&mut self, place: Place) {
        let mut next = self.levels[place.level].take(place.slot);
        while next != NONE {
            let key = next;
            let timer = &mut self.timers[key];
            next = timer.next;
            timer.place = None;
            if timer.tick <= self.at {
                self.due.extend(timer.waker.take());
            } else {
                self.link(key);
            }
        }
    }

    /// The slot that begins first, and when.
    fn next_slot(&self) -> Option<(Place, u64)> {
        let (level, slots) = self
            .levels
            .iter()
            .enumerate()
            .find(|(_, slots)| slots.occupied != 0)?;
        let slot_bits = level * SLOT_BITS;
        let current = (self.at >> slot_bits) as usize % SLOTS;
        let ahead = slots.occupied.rotate_right(current as u32).trailing_zeros();
        let slot = (current + ahead as usize) % SLOTS;
        let round = (self.at >> slot_bits) - current as u64;
        let begins = (round + (current + ahead as usize) as u64) << slot_bits;
        Some((Place { level, slot }, begins))
    }

    /// Puts a timer into its slot.
    fn link(&mut self, key: usize) {
        let tick = self.timers[key].tick;
        let wait = (tick - self.at).min(LAST_TICK - SLOTS as u64);
        let tick = self.at + wait;
        let differs = 63 - ((self.at ^ tick) | 1).leading_zeros() as usize;
        let level = (differs / SLOT_BITS).min(LEVELS - 1);
        let slot = (tick >> (level * SLOT_BITS)) as usize % SLOTS;
        let slots = &mut self.levels[level];
        let head = slots.heads[slot];
        slots.heads[slot] = key;
        slots.occupied |= 1 << slot;
        if head != NONE {
            self.timers[head].previous = key;
        }
        let timer = &mut self.timers[key];
        timer.place = Some(Place { level, slot });
        timer.previous = NONE;
        timer.next = head;
    }

    /// Takes a timer out of its slot.
    fn unlink(&mut self, key: usize) {
        let timer = &mut self.timers[key];
        let Some(place) = timer.place.take() else {
            return;
        };
        let (previous, next) = (timer.previous, timer.next);
        if next != NONE {
            self.timers[next].previous = previous;
        }
        if previous != NONE {
            self.timers[previous].next = next;
            return;
        }
        let slots = &mut self.levels[place.level];
        slots.heads[place.slot] = next;
        if next == NONE {
            slots.occupied &= !(1 << place.slot);
        }
    }
}

impl Slots {
    /// Takes the list of a slot.
    fn take(&mut self, slot: usize) -> usize {
        self.occupied &= !(1 << slot);
        std::mem::replace(&mut self.heads[slot], NONE)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::task::Wake;

    use proptest::prelude::*;

    use super::*;

    #[derive(Default)]
    struct Counter(AtomicU64);

    impl Wake for Counter {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[derive(Clone, Debug)]
    enum Op {
        Set { after_us: u64 },
        GiveUp { nth: usize },
        Pass { us: u64 },
    }

    fn ops() -> impl Strategy<Value = Vec<Op>> {
        let far = prop_oneof![
            0..100_000u64,
            0..10_000_000u64,
            0..1_000_000_000_000u64,
            Just(u64::MAX / 2_000_000)
        ];
        let op = prop_oneof![
            far.clone().prop_map(|after_us| Op::Set { after_us }),
            any::<usize>().prop_map(|nth| Op::GiveUp { nth }),
            far.prop_map(|us| Op::Pass {
                us: us % 1_000_000_000_000
            }),
        ];
        proptest::collection::vec(op, 0..100)
    }

    proptest! {
        /// Beside a sorted map: a timer fires at the first look after its time, rounded up to a millisecond, and once; and
        /// the wheel never wants to be looked at later than the first timer.
        #[test]
        fn agrees_with_a_sorted_map(ops in ops()) {
            let start = Instant::now();
            let mut now = start;
            let mut wheel = Wheel::new(start);
            let mut open: BTreeMap<usize, (Instant, Arc<Counter>)> = BTreeMap::new();
            for op in ops {
                match op {
                    Op::Set { after_us } => {
                        let counter = Arc::new(Counter::default());
                        let at = now + Duration::from_micros(after_us);
                        let key = wheel.insert(at, Waker::from(Arc::clone(&counter)));
                        open.insert(key, (at, counter));
                    }
                    Op::GiveUp { nth } => {
                        let key = open.keys().nth(nth % open.len().max(1)).copied();
                        if let Some(key) = key {
                            wheel.remove(key);
                            open.remove(&key);
                        }
                    }
                    Op::Pass { us } => {
                        now += Duration::from_micros(us);
                        wheel.advance(now);
                        let wheel_cell = RefCell::new(std::mem::replace(&mut wheel, Wheel::new(start)));
                        Wheel::wake_due(&wheel_cell);
                        wheel = wheel_cell.into_inner();
                        let elapsed = |at: Instant| (at - start).as_nanos();
                        let fired: Vec<usize> = open
                            .iter()
                            .filter(|(_, (_, counter))| counter.0.load(Ordering::Relaxed) > 0)
                            .map(|(key, _)| *key)
                            .collect();
                        for key in fired {
                            let (at, counter) = open.remove(&key).expect("it is open");
                            prop_assert_eq!(counter.0.load(Ordering::Relaxed), 1);
                            prop_assert!(at <= now);
                            wheel.remove(key);
                        }
                        for (at, _) in open.values() {
                            let ceil = elapsed(*at).div_ceil(1_000_000).max(1);
                            prop_assert!(ceil > elapsed(now) / 1_000_000, "overdue");
                        }
                    }
                }
                let first = open.values().map(|(at, _)| *at).min();
                match (first, wheel.next_due()) {
                    (Some(first), Some(due)) => prop_assert!(due <= first + Duration::from_millis(2)),
                    (None, None) => {}
                    (first, due) => prop_assert!(false, "{first:?} {due:?}"),
                }
            }
        }
    }
}
