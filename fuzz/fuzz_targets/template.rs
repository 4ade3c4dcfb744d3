//! Templates, and payloads for them.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: (&str, &str)| postbell::properties::template(input.0, input.1));
