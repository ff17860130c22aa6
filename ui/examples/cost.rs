//! Prints what the dashboard costs on a made-up farm:
//! `cargo run -p farmhand-ui --profile profiling --example cost`.

use farmhand_ui::bench::{Load, measure};

fn main() {
    let load = Load::default();
    println!(
        "{} queued, {} running, {} machines, {} changes/s in {} messages/s, {}x{}",
        load.queued, load.running, load.machines, load.changes, load.messages, load.screen.0, load.screen.1
    );
    println!("{:<26} {:>7} {:>10} {:>10} {:>10} {:>9}", "view", "core", "frame", "worst", "key", "bytes/s");
    measure(load, |cost| {
        let millis = |length: std::time::Duration| format!("{:.2} ms", length.as_secs_f64() * 1e3);
        println!(
            "{:<26} {:>6.2}% {:>10} {:>10} {:>10} {:>9}",
            cost.view,
            cost.core * 100.0,
            millis(cost.frame.0),
            millis(cost.frame.1),
            millis(cost.key),
            cost.bytes
        );
    });
}
