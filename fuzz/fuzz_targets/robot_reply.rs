//! What a robot answers: status, Retry-After, body.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: (u16, Option<u64>, &[u8])| drop(postbell::properties::robot_reply(input.0, input.1, input.2)));
