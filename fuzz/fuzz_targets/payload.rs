//! Payloads, under every template that comes with postbell.

#![no_main]

libfuzzer_sys::fuzz_target!(|json: &str| postbell::properties::payload(json));
