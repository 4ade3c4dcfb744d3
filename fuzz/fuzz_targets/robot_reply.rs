//! What a robot answers: status, Retry-After, body.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: (u16, Option<u64>, &[u8])| {
    let (status, rest, body) = input;
    postbell::properties::robot_reply(status, rest, body);
});
