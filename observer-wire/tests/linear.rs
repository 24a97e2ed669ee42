//! Nothing takes more than its share of time: not long lines, not many small pieces, not what is hostile.

#![allow(
    clippy::unwrap_used,
    reason = "a test may panic anywhere, not only in a test function"
)]

mod clock;
mod shapes;

use shapes::shapes;

/// Bytes of the smaller one.
const SIZE: usize = 64 * 1024;

/// How much larger the larger one is.
const TIMES: usize = 8;

/// What `TIMES` the bytes may take at most. Quadratic they would take `TIMES` times `TIMES`; the bench command
/// has the exact ratios.
const BOUND: f64 = 3.0 * TIMES as f64;

/// The smallest of several counts, since what disturbs only adds.
const ROUNDS: usize = 3;

#[test]
fn more_bytes_take_as_much_more_time() {
    for shape in shapes() {
        let (small, large) = (shape.bytes(SIZE), shape.bytes(SIZE * TIMES));
        let time = |bytes: &[u8]| clock::time(|| shape.play(bytes));
        let best = |bytes: &[u8]| (0..ROUNDS).map(|_| time(bytes)).min().unwrap();
        let (small, large) = (best(&small), best(&large));
        let ratio = large.as_secs_f64() / small.as_secs_f64();
        println!(
            "{:<40} {small:>10.1?} {large:>10.1?} {ratio:>6.1}",
            shape.name
        );
        assert!(ratio < BOUND, "{}: {ratio:.1} times as long", shape.name);
    }
}
