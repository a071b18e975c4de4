//! Runs a model to its end. Each takes one core; the test run has as many under way as there are cores, which is faster
//! than many workers on one model.

use std::time::Instant;

use stateright::{Checker, HasDiscoveries, Model};

/// Whether the larger bounds are asked for: `TANIST_MODEL=large`.
pub fn large() -> bool {
    std::env::var("TANIST_MODEL").is_ok_and(|bounds| bounds == "large")
}

/// Visits every state and prints how many there are.
///
/// # Panics
/// When a property fails anywhere, or when something that has to be possible never happens.
pub fn exhaust<M>(name: &str, model: M) -> usize
where
    M: Model + Send + Sync + 'static,
    M::State: Clone + std::fmt::Debug + std::hash::Hash + PartialEq + Send + Sync,
    M::Action: Clone + std::fmt::Debug + PartialEq + Send + Sync,
{
    let begun = Instant::now();
    let checker = model.checker().spawn_bfs().join();
    let states = checker.unique_state_count();
    println!(
        "{name}: {states} states, {} steps deep, {:.1} s",
        checker.max_depth(),
        begun.elapsed().as_secs_f32()
    );
    assert!(checker.is_done(), "{name}: not all states were visited");
    checker.assert_properties();
    states
}

/// Makes the property fail and prints the way there; `None` when every state was visited and it holds in all.
///
/// # Panics
/// When the model has no such property.
pub fn counterexample<M>(name: &str, model: M, property: &str) -> Option<usize>
where
    M: Model + Send + Sync + 'static,
    M::State: Clone + std::fmt::Debug + std::hash::Hash + PartialEq + Send + Sync,
    M::Action: Clone + std::fmt::Debug + PartialEq + Send + Sync,
{
    let begun = Instant::now();
    let property = model
        .properties()
        .iter()
        .map(|each| each.name)
        .find(|each| each.starts_with(property))
        .unwrap_or_else(|| panic!("{name}: no property {property}"));
    let failure = HasDiscoveries::AnyOf([property].into());
    let checker = model.checker().finish_when(failure).spawn_bfs().join();
    let took = begun.elapsed().as_secs_f32();
    let states = checker.unique_state_count();
    let Some(path) = checker.discovery(property) else {
        assert!(checker.is_done(), "{name}: not all states were visited");
        println!("{name}: {property}: holds in all {states} states, {took:.1} s");
        return None;
    };
    let actions = path.into_actions();
    println!("{name}: {property}: fails after {} steps, {states} states, {took:.1} s", actions.len());
    println!("    {actions:?}");
    Some(actions.len())
}
