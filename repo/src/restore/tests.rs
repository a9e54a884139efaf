//! Restoring from memory: trees of every kind, hostile ones too, compared with what then stands in the target.

mod hostile;
mod property;
mod store;
mod usual;
