#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| packmule_fuzz::protocol::wire(bytes));
