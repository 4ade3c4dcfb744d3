//! Options of an event.

#![no_main]

libfuzzer_sys::fuzz_target!(|json: &str| postbell::properties::options(json));
