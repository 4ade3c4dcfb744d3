//! Settings: which, and what it is given.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: (usize, &str)| postbell::properties::configuration(input.0, input.1));
