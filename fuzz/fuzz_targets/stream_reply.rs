//! What Redis answers to a read of the stream.

#![no_main]

libfuzzer_sys::fuzz_target!(|resp: &[u8]| postbell::properties::stream_reply(resp));
