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

/// Finds a property that fails, and prints the way there; `None` when every state was visited and none fails.
pub fn counterexample<M>(name: &str, model: M) -> Option<(&'static str, usize)>
where
    M: Model + Send + Sync + 'static,
    M::State: Clone + std::fmt::Debug + std::hash::Hash + PartialEq + Send + Sync,
    M::Action: Clone + std::fmt::Debug + PartialEq + Send + Sync,
{
    let begun = Instant::now();
    let checker = model.checker().finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
    let took = begun.elapsed().as_secs_f32();
    let states = checker.unique_state_count();
    let properties = checker.model().properties();
    let failed = properties
        .iter()
        .filter(|property| property.expectation == stateright::Expectation::Always)
        .find_map(|property| {
            checker.discovery(property.name).map(|path| (property.name, path.into_actions()))
        });
    let Some((property, actions)) = failed else {
        assert!(checker.is_done(), "{name}: not all states were visited");
        println!("{name}: no counterexample in {states} states, {took:.1} s");
        return None;
    };
    println!("{name}: {property} fails after {} steps, {states} states, {took:.1} s", actions.len());
    println!("    {actions:?}");
    Some((property, actions.len()))
}
