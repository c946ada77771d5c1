//! Waiting for something to become true, with a limit.

use std::time::{Duration, Instant};

/// Asks `condition` every few milliseconds until it holds.
///
/// # Panics
/// When it does not hold within `limit`; the message names `what`.
pub fn wait_until(what: &str, limit: Duration, mut condition: impl FnMut() -> bool) {
    assert!(
        wait_for(limit, || condition().then_some(())).is_some(),
        "waited {} s in vain for {what}",
        limit.as_secs_f32()
    );
}

/// Asks `probe` every few milliseconds until it gives a value; `None` when the limit passes first.
pub fn wait_for<T>(limit: Duration, mut probe: impl FnMut() -> Option<T>) -> Option<T> {
    let begin = Instant::now();
    let mut pause = Duration::from_millis(2);
    loop {
        if let Some(value) = probe() {
            return Some(value);
        }
        if begin.elapsed() >= limit {
            return None;
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(25));
    }
}
