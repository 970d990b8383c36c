//! Answers for all filters at once. Imports its siblings only.

use std::collections::HashMap;

use super::{Filter, FilterLimits};
use crate::event::Event;

/// One distinct filter of a [`Matcher`], whoever holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClassId(pub u32);

impl ClassId {
    /// Its place in a table by class.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

#[derive(Debug)]
struct Class {
    filter: Filter,
    holders: u32,
}

/// The distinct filters of one loop, counted.
#[derive(Debug, Default)]
pub struct Matcher {
    classes: Vec<Option<Class>>,
    free: Vec<u32>,
    ids: HashMap<Filter, u32>,
}

impl Matcher {
    /// An empty one; no filter may go beyond these limits.
    pub fn new(_limits: FilterLimits) -> Self {
        Self::default()
    }

    /// Adds a holder of this filter.
    pub fn insert(&mut self, filter: &Filter) -> ClassId {
        if let Some(&id) = self.ids.get(filter) {
            if let Some(class) = &mut self.classes[id as usize] {
                class.holders += 1;
            }
            return ClassId(id);
        }
        let id = self.free.pop().unwrap_or_else(|| {
            self.classes.push(None);
            self.classes.len() as u32 - 1
        });
        self.classes[id as usize] = Some(Class { filter: filter.clone(), holders: 1 });
        self.ids.insert(filter.clone(), id);
        ClassId(id)
    }

    /// Takes one holder away; the class goes with the last. Answers whether it went.
    pub fn remove(&mut self, id: ClassId) -> bool {
        let Some(place) = self.classes.get_mut(id.0 as usize) else { return false };
        let Some(class) = place else { return false };
        class.holders -= 1;
        if class.holders > 0 {
            return false;
        }
        self.ids.remove(&class.filter);
        *place = None;
        self.free.push(id.0);
        true
    }

    /// Clears `out` and fills it with the classes that want the event, each once, in no order.
    pub fn matches(&mut self, event: &Event, out: &mut Vec<ClassId>) {
        out.clear();
        for (id, class) in self.classes.iter().enumerate() {
            if class.as_ref().is_some_and(|class| class.filter.matches(event)) {
                out.push(ClassId(id as u32));
            }
        }
    }

    /// How many distinct filters there are.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes held, about.
    pub fn memory_bytes(&self) -> usize {
        self.classes.capacity() * size_of::<Option<Class>>() + self.ids.capacity() * 32
    }
}
