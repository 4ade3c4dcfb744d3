//! Breadth-first search over every state that a model can reach, then backwards from the states in which the work is
//! done.
//!
//! Not the `stateright` crate: what matters most here is that the work can still be done from every state, which is a
//! question about the whole graph. Its `eventually` looks at one path at a time and passes over cycles, of which a
//! protocol that tries again is full; and its web server cannot be left out.

use std::collections::HashMap;
use std::fmt::{self, Debug};
use std::hash::{BuildHasherDefault, Hash, Hasher};

/// A protocol, as states and the steps between them.
pub(crate) trait Model {
    type State: Copy + Eq + Hash + Debug;
    type Step: Copy + Debug;
    type Property: Copy + Eq + Debug;

    /// What is broken where the work cannot be done any more.
    const CAN_COMPLETE: Self::Property;

    fn start(&self) -> Self::State;

    /// Every step that can be taken from here, and where it leads.
    fn steps(&self, state: &Self::State, found: &mut Vec<(Self::Step, Self::State)>);

    /// What this state breaks.
    fn broken(&self, state: &Self::State) -> Option<Self::Property>;

    /// Whether nothing is left to do.
    fn is_complete(&self, state: &Self::State) -> bool;

    /// Whether this step may be relied on to get the work done: not a fault, nor what people do, nor chance.
    fn helps(&self, step: Self::Step) -> bool;
}

/// A search that has seen everything and found nothing wrong.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Explored {
    pub(crate) states: usize,
    pub(crate) steps: usize,
}

/// The shortest way to a state that breaks a property.
pub(crate) struct CounterExample<M: Model> {
    pub(crate) property: M::Property,
    pub(crate) trace: Vec<(Option<M::Step>, M::State)>,
}

/// Explores the whole model, or stops at the first broken property.
pub(crate) fn explore<M: Model>(model: &M) -> Result<Explored, CounterExample<M>> {
    let start = model.start();
    let mut states = vec![start];
    let mut parents = vec![0];
    let mut known = HashMap::with_hasher(BuildHasherDefault::<Fold>::default());
    known.insert(start, 0);
    let mut helpful = Vec::new();
    let mut steps = 0;
    let mut found = Vec::new();
    let mut at = 0;
    while at < states.len() {
        if let Some(property) = model.broken(&states[at]) {
            return Err(CounterExample { property, trace: trace(model, &states, &parents, at) });
        }
        model.steps(&states[at], &mut found);
        steps += found.len();
        for (step, state) in found.drain(..) {
            let next = *known.entry(state).or_insert_with(|| {
                states.push(state);
                parents.push(index(at));
                index(states.len() - 1)
            });
            if model.helps(step) {
                helpful.push((index(at), next));
            }
        }
        at += 1;
    }
    match first_stuck(model, &states, helpful) {
        None => Ok(Explored { states: states.len(), steps }),
        Some(stuck) => Err(CounterExample { property: M::CAN_COMPLETE, trace: trace(model, &states, &parents, stuck) }),
    }
}

/// The state closest to the start from which no helpful steps lead to the end.
fn first_stuck<M: Model>(model: &M, states: &[M::State], mut helpful: Vec<(u32, u32)>) -> Option<usize> {
    helpful.sort_unstable_by_key(|(_, to)| *to);
    let mut can: Vec<bool> = states.iter().map(|state| model.is_complete(state)).collect();
    let mut reached: Vec<u32> = (0..index(states.len())).filter(|state| can[*state as usize]).collect();
    while let Some(to) = reached.pop() {
        let first = helpful.partition_point(|step| step.1 < to);
        for (from, _) in helpful[first..].iter().take_while(|step| step.1 == to) {
            if !std::mem::replace(&mut can[*from as usize], true) {
                reached.push(*from);
            }
        }
    }
    can.iter().position(|can| !can)
}

fn trace<M: Model>(model: &M, states: &[M::State], parents: &[u32], end: usize) -> Vec<(Option<M::Step>, M::State)> {
    let mut way = vec![end];
    while way[way.len() - 1] != 0 {
        way.push(parents[way[way.len() - 1]] as usize);
    }
    way.reverse();
    let mut trace = vec![(None, states[0])];
    for pair in way.windows(2) {
        let mut found = Vec::new();
        model.steps(&states[pair[0]], &mut found);
        // The names of the steps are not kept: there are many times more of them than of states.
        let step = found.into_iter().find(|(_, state)| *state == states[pair[1]]);
        trace.push((step.map(|(step, _)| step), states[pair[1]]));
    }
    trace
}

/// Explores a model in which nothing is to be found.
pub(crate) fn assert_holds<M: Model>(name: &str, model: &M) {
    match explore(model) {
        Ok(Explored { states, steps }) => println!("{name}: {states} states, {steps} steps"),
        Err(found) => panic!("{name}: {found:?}"),
    }
}

/// Explores a model with something wrong in it.
pub(crate) fn assert_breaks<M: Model>(model: &M, mutation: impl Debug, property: M::Property) {
    match explore(model) {
        Ok(Explored { states, .. }) => panic!("{mutation:?} goes unnoticed in {states} states"),
        Err(found) if found.property != property => panic!("{mutation:?} does not break {property:?}: {found:?}"),
        Err(found) => println!("{mutation:?} breaks {property:?} in {} steps", found.trace.len() - 1),
    }
}

fn index(at: usize) -> u32 {
    u32::try_from(at).unwrap()
}

impl<M: Model> Debug for CounterExample<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:?} is broken by", self.property)?;
        for step in self.trace.iter().filter_map(|(step, _)| *step) {
            writeln!(f, "    {step:?}")?;
        }
        writeln!(f, "{:#?}", self.trace[self.trace.len() - 1].1)?;
        Ok(())
    }
}

/// A hash as cheap as the many small fields of a state need it.
#[derive(Default)]
struct Fold(u64);

impl Hasher for Fold {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u8(&mut self, value: u8) {
        self.write_u64(u64::from(value));
    }

    fn write_isize(&mut self, value: isize) {
        self.write_u64(value.cast_unsigned() as u64);
    }

    fn write_usize(&mut self, value: usize) {
        self.write_u64(value as u64);
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = (self.0.rotate_left(5) ^ value).wrapping_mul(0x517c_c1b7_2722_0a95);
    }

    fn finish(&self) -> u64 {
        // The table takes the bits from both ends.
        self.0 ^ (self.0 >> 29)
    }
}
