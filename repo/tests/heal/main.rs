//! Damage and failures, and what check, rebuild, mend and the next backup make of them.

mod checks;
mod failures;
mod log;
mod matrix;
mod site;
