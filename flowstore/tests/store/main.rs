//! The store as its users see it: nothing in here looks inside.

mod completeness;
mod damage;
mod dimension;
mod disk;
mod durability;
mod maintenance;
mod random;
mod restart;
mod round_trip;
mod safety;
mod sql;
mod support;
mod tail;
