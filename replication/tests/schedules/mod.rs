//! Random schedules from seeds, see `run.rs`.
mod tmp {
    use crate::cluster::chaos::Schedule;
    use std::panic::{AssertUnwindSafe, catch_unwind};
    #[test]
    fn tmp() {
        let n: u64 = std::env::var("N").unwrap().parse().unwrap();
        let first: u64 = std::env::var("F").map(|f| f.parse().unwrap()).unwrap_or(0);
        let mut hist = std::collections::BTreeMap::new();
        let (mut events, mut ops, mut fails) = (0, 0, 0);
        for seed in first..first + n {
            let r = catch_unwind(AssertUnwindSafe(|| Schedule::of(seed, None).run(std::env::var("T").is_ok())));
            match r {
                Ok(c) => {
                    events += c.events;
                    ops += c.history.ops.len();
                    *hist.entry(c.served_after).or_insert(0) += 1;
                    if std::env::var("T").is_ok() {
                        for l in &c.trace { println!("{l}"); }
                    }
                    if let Some(f) = c.check.failure { println!("seed {seed}: {f}"); fails += 1; }
                }
                Err(_) => { println!("seed {seed}: panic"); fails += 1; }
            }
            if fails > 15 { break; }
        }
        println!("{events} events {ops} ops {hist:?}");
    }
}
