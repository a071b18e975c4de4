//! One program per target, all from this file: the program's name says which.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| tanist_fuzz::targets::run(env!("CARGO_BIN_NAME"), input));
